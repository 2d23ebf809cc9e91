//! The `copal` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    copal::cli::main(std::env::args_os())
}
