//! A process that says lines in pieces of any size, and what these lines are.

use crate::pattern::Chance;
use crate::process::Arguments;
use std::io::Write;

/// How many lines a process says.
const LINES: u64 = 3000;
/// Longest line in bytes.
const LONGEST: u64 = 40_000;

/// The lines of a seed, each with its line break; the last one may have none.
#[must_use]
pub fn lines(seed: u64) -> Vec<Vec<u8>> {
    let mut chance = Chance::new(seed);
    let mut lines: Vec<Vec<u8>> = (0..LINES)
        .map(|_| {
            let length = match chance.below(16) {
                0 => 0,
                1 => chance.below(LONGEST),
                _ => chance.below(200),
            };
            let mut line: Vec<u8> = (0..length).map(|_| letter(&mut chance)).collect();
            line.extend_from_slice(if chance.below(4) == 0 { b"\r\n" } else { b"\n" });
            line
        })
        .collect();
    if chance.below(2) == 0 {
        lines.push((0..=chance.below(LONGEST)).map(|_| letter(&mut chance)).collect());
    }
    lines
}

fn letter(chance: &mut Chance) -> u8 {
    match chance.below(64) {
        // Inside of a line it is a character like any other.
        0 => b'\r',
        number => b' ' + u8::try_from(number).expect("below 64"),
    }
}

/// The line without its line break: of both kinds, or of `\n` alone.
#[must_use]
pub fn without_break(line: &[u8], both: bool) -> &[u8] {
    match line.strip_suffix(b"\n") {
        Some(rest) if both => rest.strip_suffix(b"\r").unwrap_or(rest),
        Some(rest) => rest,
        None => line,
    }
}

/// Says the lines of the argument `seed`, in pieces that have nothing to do with their breaks.
pub fn chatter(arguments: &Arguments) {
    let seed = arguments.number("seed");
    let mut chance = Chance::new(!seed);
    let bytes = lines(seed).concat();
    let mut left = &bytes[..];
    let mut output = std::io::stdout().lock();
    while !left.is_empty() {
        let most = [1, 10, 300, 5000, 70_000][usize::try_from(chance.below(5)).expect("small")];
        let piece = usize::try_from(chance.below(most) + 1).expect("small").min(left.len());
        // The stream of std would keep what comes after the last line break.
        if output.write_all(&left[..piece]).and_then(|()| output.flush()).is_err() {
            return;
        }
        left = &left[piece..];
        if chance.below(8) == 0 {
            std::thread::yield_now();
        }
    }
}
