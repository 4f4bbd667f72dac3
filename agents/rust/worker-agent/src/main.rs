//! The agent that hashes and compresses files.

mod capacity;
mod compress;
mod worker;

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    match capacity::asked() {
        Ok(capacity) => {
            tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
            worker::agent(capacity).run()
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(capacity::USAGE)
        }
    }
}
