//! `lunar-simulations`: runs whole fleets of the production cores in virtual time.
//!
//! Owns the command line. Main invariant: the report of a run follows from scenario and seed alone; progress and times
//! go to standard error. Exit codes tell broken, stuck, refused and crashed apart.

// The library is pure; this program is its shell: it reads files, looks at the clock and prints.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout, clippy::print_stderr)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main().into()
}
