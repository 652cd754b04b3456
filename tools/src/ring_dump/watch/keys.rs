//! What was typed, out of the bytes that a terminal sends.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Escape,
    Tab,
    BackTab,
    Backspace,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl-L: draw everything anew.
    Redraw,
}

/// Takes whole keys off the front of `bytes`. What may be the beginning of one stays, unless
/// nothing more has come for a while (`late`): then it is what it is.
pub(super) fn parse(bytes: &mut Vec<u8>, late: bool) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some((length, key)) = first(&bytes[at..], late) else { break };
        at += length.max(1);
        keys.extend(key);
    }
    bytes.drain(..at);
    keys
}

/// The first key and its length. `None` if it is not whole.
fn first(bytes: &[u8], late: bool) -> Option<(usize, Option<Key>)> {
    let key = match bytes[0] {
        0x1b => return escape(bytes, late),
        b'\r' | b'\n' => Some(Key::Enter),
        b'\t' => Some(Key::Tab),
        0x08 | 0x7f => Some(Key::Backspace),
        0x0c => Some(Key::Redraw),
        0..0x20 => None,
        lead => return character(bytes, lead, late),
    };
    Some((1, key))
}

fn character(bytes: &[u8], lead: u8, late: bool) -> Option<(usize, Option<Key>)> {
    let length = match lead {
        0..0x80 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf8 => 4,
        _ => return Some((1, None)),
    };
    let Some(whole) = bytes.get(..length) else { return late.then_some((1, None)) };
    let text = std::str::from_utf8(whole).ok();
    match text.and_then(|text| text.chars().next()) {
        Some(char) => Some((length, Some(Key::Char(char)))),
        None => Some((1, None)),
    }
}

fn escape(bytes: &[u8], late: bool) -> Option<(usize, Option<Key>)> {
    match bytes.get(1) {
        None => late.then_some((1, Some(Key::Escape))),
        Some(b'O') => match bytes.get(2) {
            None => late.then_some((2, None)),
            Some(last) => Some((3, named(*last, b""))),
        },
        Some(b'[') => {
            let end = bytes[2..].iter().position(|byte| (0x40..=0x7e).contains(byte));
            match end {
                Some(end) => Some((end + 3, named(bytes[end + 2], &bytes[2..end + 2]))),
                // Longer than any key: rubbish.
                None if bytes.len() > 32 || late => Some((bytes.len(), None)),
                None => None,
            }
        }
        // Escape, and then something else.
        Some(_) => Some((1, Some(Key::Escape))),
    }
}

/// The key that ends with a byte and has parameters before it.
fn named(last: u8, parameters: &[u8]) -> Option<Key> {
    let number = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
    match (last, number) {
        (b'A', _) => Some(Key::Up),
        (b'B', _) => Some(Key::Down),
        (b'H', _) | (b'~', b"1" | b"7") => Some(Key::Home),
        (b'F', _) | (b'~', b"4" | b"8") => Some(Key::End),
        (b'Z', _) => Some(Key::BackTab),
        (b'~', b"5") => Some(Key::PageUp),
        (b'~', b"6") => Some(Key::PageDown),
        (b'M', _) => Some(Key::Enter),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], late: bool) -> (Vec<Key>, usize) {
        let mut bytes = bytes.to_vec();
        let keys = parse(&mut bytes, late);
        (keys, bytes.len())
    }

    #[test]
    fn keys_are_told_apart() {
        use Key::*;
        let cases: [(&[u8], &[Key]); 12] = [
            (b"q", &[Char('q')]),
            (b"\x1b[A\x1b[B\x1bOA", &[Up, Down, Up]),
            (b"\x1b[5~\x1b[6~", &[PageUp, PageDown]),
            (b"\x1b[H\x1b[1~\x1bOH\x1b[7~", &[Home, Home, Home, Home]),
            (b"\x1b[F\x1b[4~\x1b[8~", &[End, End, End]),
            (b"\t\x1b[Z\r\x7f", &[Tab, BackTab, Enter, Backspace]),
            (b"\x1b[1;5A", &[Up]),
            (b"\x1bq", &[Escape, Char('q')]),
            ("ä€".as_bytes(), &[Char('ä'), Char('€')]),
            (b"\xff\x80a", &[Char('a')]),
            (b"\x00\x01a", &[Char('a')]),
            (b"\x1b[200~", &[]),
        ];
        for (bytes, keys) in cases {
            assert_eq!(all(bytes, false), (keys.to_vec(), 0), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_not_whole_waits_for_its_end() {
        for bytes in [&b"\x1b"[..], b"\x1b[", b"\x1b[5", b"\x1bO", &"€".as_bytes()[..2]] {
            assert_eq!(all(bytes, false), (vec![], bytes.len()), "{bytes:?}");
            assert_eq!(all(bytes, true).1, 0, "{bytes:?}");
        }
        assert_eq!(all(b"\x1b", true).0, [Key::Escape]);
    }

    #[test]
    fn any_bytes_come_to_an_end() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                assert_eq!(all(&[first, second, 0x1b, first, b'['], true).1, 0);
            }
        }
    }
}
