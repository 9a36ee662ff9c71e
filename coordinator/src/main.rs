//! The `lunar-coordinator` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    lunar_coordinator::cli::main()
}
