//! The `everline` program: reads the command line and hands over to one command.
//!
//! What a server is made of stands in `everline::server::Parts::assemble`, in the order of the rooms. What
//! the operator must change is one line on stderr and exit code 2; anything else that stops a command is 1.

mod commands;

use std::io::Write;
use std::process::ExitCode;

use commands::Failure;

/// A message is some dozens of small allocations that one thread makes and another frees: with this allocator it
/// costs a quarter less processor time than with the system's (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, line) = match &failure {
                Failure::Usage(line) => (2, line),
                Failure::Failed(line) => (1, line),
            };
            // Nobody is left to tell if stderr is closed.
            let _ = writeln!(std::io::stderr(), "everline: {line}");
            ExitCode::from(code)
        }
    }
}
