//! How a task ends, and what it prints.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// The end of a task: a status, or the reason why it could not do its work.
pub(crate) type Outcome = Result<ExitCode, String>;

/// Writes to standard output. It is no error that its reader has seen enough.
pub(crate) fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}
