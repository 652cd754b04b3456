//! Text of others on its way to a terminal: names, paths, messages. Others choose it, so it may
//! hold what a terminal obeys (escape sequences) or what turns its words round (bidi overrides).
//! All of that is made visible here: `\x1b`, `\u{202e}`.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether a terminal shows this character and does nothing else with it.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            // Soft hyphen, letter marks, characters without width, overrides of the direction,
            // separators, invisible operators, the mark of byte order, annotations, tags.
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

fn push(out: &mut String, c: char) {
    let _ = match c {
        c if is_harmless(c) => out.write_char(c),
        c if c.is_ascii() => write!(out, "\\x{:02x}", u32::from(c)),
        c => write!(out, "\\u{{{:x}}}", u32::from(c)),
    };
}

/// Bytes that are meant as text.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut out, c));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// A path.
pub(crate) fn of_path(path: &Path) -> String {
    of_bytes(path.as_os_str().as_bytes())
}

/// A name.
pub(crate) fn of_str(text: &str) -> String {
    of_bytes(text.as_bytes())
}

/// A message of several lines.
pub(crate) fn of_lines(text: &str) -> String {
    text.split('\n').map(of_str).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d6_what_a_terminal_obeys_is_made_visible() {
        let cases: [(&[u8], &str); 7] = [
            (b"/run/app.sock", "/run/app.sock"),
            (b"\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
            (b"a\r\nb\tc\x7f", "a\\x0d\\x0ab\\x09c\\x7f"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("\u{202e}kcos\u{2066}\u{200f}".as_bytes(), "\\u{202e}kcos\\u{2066}\\u{200f}"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("Stra\u{df}e \u{4e2d}".as_bytes(), "Stra\u{df}e \u{4e2d}"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(of_bytes(bytes), shown);
        }
        assert_eq!(of_lines("a\nb\x1b"), "a\nb\\x1b");
    }
}
