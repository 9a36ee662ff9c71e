//! The `lunar-agent` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    lunar_agent::cli::main()
}
