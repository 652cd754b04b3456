//! What is going on, on one line of a terminal. It is drawn between trials only, never while
//! something is measured, and not at all where standard error is no terminal.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// Columns of the narrowest terminal that matters.
const COLUMNS: usize = 79;

/// The line.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
    total: usize,
    done: usize,
    begun: Instant,
}

impl Progress {
    /// Of so many trials at most.
    pub(crate) fn new(total: usize) -> Self {
        Self { is_shown: stderr().is_terminal(), total, done: 0, begun: Instant::now() }
    }

    /// Another trial is about to begin.
    pub(crate) fn next(&mut self, what: &str) {
        self.done += 1;
        if self.is_shown {
            // \x1b[K clears what is left of the line.
            let line = line(self.done, self.total, self.begun.elapsed(), what);
            let _ = write!(stderr(), "\r{line}\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn line(done: usize, total: usize, elapsed: Duration, what: &str) -> String {
    let (minutes, seconds) = (elapsed.as_secs() / 60, elapsed.as_secs() % 60);
    let line = format!("{done}/{total} {minutes}:{seconds:02} {what}");
    line.chars().take(COLUMNS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits() {
        let line = line(3, 120, Duration::from_secs(75), &"x".repeat(200));
        assert!(line.starts_with("3/120 1:15 xxx") && line.len() == COLUMNS, "{line}");
    }
}
