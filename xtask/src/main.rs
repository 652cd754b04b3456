//! `cargo xtask`: the tasks of work on Ringbell under one name.
//!
//! [`tasks`] lists them. Most start a program of the repository and pass their arguments on
//! ([`programs`]); [`width`] and [`lines`] look at the source files ([`files`]).

mod files;
mod lines;
mod output;
mod programs;
mod tasks;
mod width;

use std::path::Path;
use std::process::ExitCode;
use tasks::Request;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let repository =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of this package");
    let done = match tasks::request(&arguments) {
        Ok(Request::Help(text)) => output::print(&text).map(|()| ExitCode::SUCCESS),
        Ok(Request::Run(task, arguments)) => (task.run)(repository, arguments),
        Err(problem) => {
            eprintln!("xtask: {problem}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|problem| {
        eprintln!("xtask: {problem}");
        ExitCode::FAILURE
    })
}
