//! Errors as sentences for the terminal.

use std::fmt::Display;
use std::path::Path;

/// What is wrong with a path. It is named once, whether or not the error names it.
pub(crate) fn of(path: &Path, error: &impl Display) -> String {
    let (text, path) = (error.to_string(), path.display().to_string());
    if text.contains(&path) { text } else { format!("{path}: {text}") }
}

/// One line without control characters, which could steer the terminal: they are escaped.
pub(crate) fn line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_once() {
        let path = Path::new("/a/b");
        assert_eq!(of(path, &"no server listens at /a/b"), "no server listens at /a/b");
        assert_eq!(of(path, &"refused"), "/a/b: refused");
    }

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(line("/a\n\u{1b}[2Jb \u{e9}"), "/a\\n\\u{1b}[2Jb \u{e9}");
    }
}
