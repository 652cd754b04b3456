//! What strace wrote: one call after the other, by the time at which they matter to others.

use std::collections::HashMap;
use std::ops::Range;

/// A system call.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its name.
    pub(crate) name: String,
    /// All of it, as strace wrote it: name, arguments, result.
    pub(crate) text: String,
}

/// The calls of all threads.
///
/// A call that another thread interrupts in the trace is two lines: its beginning, which ends with
/// `<unfinished ...>`, and `<... NAME resumed>` with its rest. What frees a descriptor or an
/// address counts from its beginning: another thread may get the same one before strace writes the
/// end.
pub(crate) fn parse(text: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or(("", line));
        let rest = rest.trim_start();
        if let Some(beginning) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(thread, beginning);
            if frees(beginning) {
                calls.push(Call::new(beginning));
            }
            continue;
        }
        let whole = match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, end)) => {
                let beginning = begun.remove(thread).unwrap_or_default();
                if frees(beginning) {
                    continue;
                }
                format!("{beginning}{end}")
            }
            None => rest.to_owned(),
        };
        // Others are about signals and ends.
        let name = |(name, _): (&str, &str)| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if whole.split_once('(').is_some_and(name) {
            calls.push(Call::new(&whole));
        }
    }
    calls
}

fn frees(call: &str) -> bool {
    call.starts_with("close(") || call.starts_with("munmap(")
}

impl Call {
    fn new(text: &str) -> Self {
        let name = text.split_once('(').map_or(text, |(name, _)| name);
        Self { name: name.to_owned(), text: text.to_owned() }
    }

    /// Its arguments, without the result. Between them strace pads to a column.
    fn arguments(&self) -> &str {
        self.text.rsplit_once(" = ").map_or(&*self.text, |(arguments, _)| arguments.trim_end())
    }

    /// Its result.
    fn result(&self) -> &str {
        self.text.rsplit_once(" = ").map_or("", |(_, result)| result)
    }

    /// Whether it did what it was to do.
    pub(crate) fn succeeded(&self) -> bool {
        !self.result().is_empty() && !self.result().starts_with("-1")
    }

    /// The descriptor that it made.
    pub(crate) fn made(&self) -> Option<i32> {
        let result = self.result();
        let end = result.find(|c: char| !c.is_ascii_digit()).unwrap_or(result.len());
        result[..end].parse().ok()
    }

    /// The segments that its arguments name: descriptor and kind of each.
    pub(crate) fn memfds(&self) -> Vec<(i32, String)> {
        const NAME: &str = "</memfd:ringbell:";
        let arguments = self.arguments();
        let mut found = Vec::new();
        for (at, _) in arguments.match_indices(NAME) {
            let before = &arguments[..at];
            let digits = before.len() - before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            let kind = &arguments[at + NAME.len()..];
            let kind = &kind[..kind.find(['>', ' ']).unwrap_or(kind.len())];
            if let Ok(fd) = before[before.len() - digits..].parse() {
                found.push((fd, kind.to_owned()));
            }
        }
        found
    }

    /// The addresses among its arguments.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        let arguments = self.arguments();
        let address = |at: usize| {
            let digits = &arguments[at + 2..];
            let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
            u64::from_str_radix(&digits[..end], 16).ok()
        };
        arguments.match_indices("0x").filter_map(|(at, _)| address(at)).collect()
    }

    /// What an `mmap` mapped.
    pub(crate) fn mapped(&self) -> Option<Range<u64>> {
        let from = u64::from_str_radix(self.result().strip_prefix("0x")?, 16).ok()?;
        let len: u64 = self.arguments().split(", ").nth(1)?.parse().ok()?;
        Some(from..from + len)
    }
}
