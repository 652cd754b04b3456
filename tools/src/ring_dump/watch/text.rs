//! Words for the screen.

use ratatui::text::Span;
use rustix::time::{ClockId, clock_gettime};
use std::borrow::Cow;

/// Whether a character changes more than its own place: control characters, those that turn the
/// direction of text, those without a width.
fn is_harmful(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Text of others, harmless.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if text.contains(is_harmful) {
        Cow::Owned(text.replace(is_harmful, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// The time of day: `12:03:04`.
#[allow(unsafe_code, reason = "localtime_r")]
pub(super) fn clock() -> String {
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    // SAFETY: all-zero bytes are a valid `tm`: numbers, and a pointer that may be null.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both references live through the call. It may read the environment, which nothing in
    // this program changes.
    let done = unsafe { libc::localtime_r(&raw const now, &raw mut parts) };
    if done.is_null() {
        return "--:--:--".into();
    }
    format!("{:02}:{:02}:{:02}", parts.tm_hour, parts.tm_min, parts.tm_sec)
}

/// Columns that a character takes.
fn columns(char: char) -> usize {
    if char.is_ascii() { 1 } else { Span::raw(char.encode_utf8(&mut [0; 4]).to_owned()).width() }
}

/// Lines of at most `width` columns, broken between words where that is possible.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut long = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let wide: usize = word.chars().map(columns).sum();
        if long != 0 && long + 1 + wide > width {
            lines.push(std::mem::take(&mut line));
            long = 0;
        }
        if long != 0 {
            line.push(' ');
            long += 1;
        }
        for char in word.chars() {
            // In the midst of a word that is longer than a line.
            if long != 0 && long + columns(char) > width {
                lines.push(std::mem::take(&mut line));
                long = 0;
            }
            line.push(char);
            long += columns(char);
        }
    }
    if long != 0 || lines.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_harmful_is_left() {
        assert_eq!(plain("a b ä 漢"), "a b ä 漢");
        assert_eq!(
            plain("\x1b]0;t\x07\u{9b}31m\u{202e}x\u{200b}"),
            "\u{fffd}]0;t\u{fffd}\u{fffd}31m\u{fffd}x\u{fffd}"
        );
    }

    #[test]
    fn lines_are_broken_between_words_and_never_too_long() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a /run/a/path/of/it b", 8), ["a", "/run/a/p", "ath/of/i", "t b"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("漢字漢字", 5), ["漢字", "漢字"]);
        for width in 0..20 {
            let text = "the server (pid 4711) is stopped by a-word-that-is-longer";
            let lines = wrap(text, width);
            assert!(lines.iter().all(|line| line.chars().count() <= width.max(1)), "{lines:?}");
            let all = |text: &str| text.replace(' ', "");
            assert_eq!(all(&lines.concat()), all(text));
        }
    }

    #[test]
    fn a_time_of_day_has_eight_characters() {
        let clock = clock();
        assert!(clock.len() == 8 && clock.split(':').count() == 3, "{clock}");
    }
}
