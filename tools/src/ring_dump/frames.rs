//! The records that are in rings.

use crate::capture::Capture;
use crate::cli::{Choice, Which};
use crate::decoded::{Decoded, RingImage, rings};
use crate::export;
use crate::report::JSON_VERSION;
use crate::style::{BAD, DIM, END, HEAD, WARN};
use ringbell::inspect::{Record, Ring, intact, lap_start};
use ringbell::layout::{Kind, code, flag};
use serde::Serialize;
use std::fmt::Write;

/// A record, as it is printed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Frame {
    /// Of what is printed as JSON.
    version: u32,
    /// Of the session.
    #[serde(serialize_with = "export::hex")]
    generation: u64,
    #[serde(serialize_with = "export::decimal")]
    pub(crate) session: u64,
    ring: Which,
    /// Where it begins, in bytes since the start of the ring.
    #[serde(serialize_with = "export::decimal")]
    pub(crate) position: u64,
    /// Bytes that it takes.
    size: u64,
    /// By name; `null` if there is no such kind.
    kind: Option<String>,
    /// The names of its flags.
    flags: Vec<&'static str>,
    /// As it travels.
    code: u16,
    /// Of an error, what the application gave.
    application_code: Option<u16>,
    #[serde(serialize_with = "export::decimal")]
    call: u64,
    /// Length of its body: extensions and payload.
    length: u32,
    /// Length of the whole message, in a first fragment.
    total: Option<u64>,
    deadline_ns: Option<u64>,
    stamp_ns: Option<u64>,
    /// Whether the consumer had given its space back.
    released: bool,
    /// What is wrong with it.
    pub(crate) flaw: Option<String>,
    /// Whether it may have been overwritten while it was copied.
    torn: bool,
    /// Bytes of payload.
    payload_bytes: usize,
    /// The first of them, in hexadecimal.
    #[serde(rename = "payload", serialize_with = "hexadecimal")]
    bytes: Vec<u8>,
}

fn hexadecimal<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex(bytes, ""))
}

/// Bytes in hexadecimal, something behind each.
fn hex(bytes: &[u8], behind: &str) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 15)]);
    let mut out = String::with_capacity(bytes.len() * (2 + behind.len()));
    for byte in bytes {
        out.push(digit(byte >> 4));
        out.push(digit(*byte));
        out.push_str(behind);
    }
    out
}

const FLAGS: [(u8, &str); 5] = [
    (flag::MORE, "more"),
    (flag::CONTINUED, "continued"),
    (flag::ABORT, "abort"),
    (flag::DEADLINE, "deadline"),
    (flag::STAMP, "stamp"),
];

/// Where a record is from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) generation: u64,
    pub(crate) session: u64,
    pub(crate) ring: Which,
}

impl Frame {
    pub(crate) fn of(
        record: &Record<'_>,
        origin: Origin,
        max_bytes: usize,
        released: bool,
        torn: bool,
    ) -> Self {
        let shown = &record.payload[..record.payload.len().min(max_bytes)];
        let kind = record.header.kind().and_then(|kind| match serde_json::to_value(kind) {
            Ok(serde_json::Value::String(name)) => Some(name),
            _ => None,
        });
        let flags = record.header.flags();
        Self {
            version: JSON_VERSION,
            generation: origin.generation,
            session: origin.session,
            ring: origin.ring,
            position: record.position,
            size: record.size,
            kind,
            flags: FLAGS
                .iter()
                .filter(|(bit, _)| flags & bit != 0)
                .map(|(_, name)| *name)
                .collect(),
            code: record.header.code(),
            application_code: (record.header.kind() == Some(Kind::Error))
                .then(|| record.header.code().checked_sub(code::APPLICATION))
                .flatten(),
            call: record.call,
            length: record.header.length(),
            total: record.total,
            deadline_ns: record.deadline,
            stamp_ns: record.stamp,
            released,
            flaw: record.flaw.map(|flaw| flaw.to_string()),
            torn,
            payload_bytes: record.payload.len(),
            bytes: shown.to_vec(),
        }
    }

    /// A line about the record, and lines with its payload.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let kind = self.kind.as_deref().unwrap_or("?");
        let mut notes = String::new();
        if !self.flags.is_empty() {
            let _ = write!(notes, "  {}", self.flags.join(","));
        }
        match self.application_code {
            Some(code) => drop(write!(notes, "  application code {code}")),
            None if self.code != 0 => drop(write!(notes, "  code {}", self.code)),
            None => {}
        }
        for (name, value) in
            [("total", self.total), ("deadline", self.deadline_ns), ("sent", self.stamp_ns)]
        {
            if let Some(value) = value {
                let _ = write!(notes, "  {name} {value}");
            }
        }
        let style = match () {
            () if self.flaw.is_some() => format!("{BAD}"),
            () if self.released => format!("{DIM}"),
            () => String::new(),
        };
        let _ = writeln!(
            out,
            "{style}{:>12}  {kind:<11} call {:<20} {:>7} B{notes}{END}",
            self.position, self.call, self.payload_bytes
        );
        if let Some(flaw) = &self.flaw {
            let _ = writeln!(out, "              {BAD}{flaw}{END}");
        }
        if self.torn {
            let _ = writeln!(out, "              {WARN}overwritten while it was copied{END}");
        }
        for (index, line) in self.bytes.chunks(16).enumerate() {
            let hex = hex(line, " ");
            let ascii: String = line
                .iter()
                .map(|&byte| if (32..127).contains(&byte) { byte as char } else { '.' })
                .collect();
            let _ =
                writeln!(out, "              {DIM}{:04x}{END}  {hex:<48} |{ascii}|", index * 16);
        }
        let left = self.payload_bytes - self.bytes.len();
        if left != 0 && !self.bytes.is_empty() {
            let _ = writeln!(out, "              {DIM}and {left} B more{END}");
        }
        out
    }
}

/// One ring and what is in it.
#[derive(Debug)]
pub(crate) struct Listing {
    origin: Origin,
    head: u64,
    tail: u64,
    consistent: bool,
    pub(crate) frames: Vec<Frame>,
}

/// What is in the rings of a capture.
pub(crate) fn frames(capture: &Capture, choice: &Choice, all: bool) -> Vec<Listing> {
    let decoded = Decoded::of(capture.last());
    let mut listings = Vec::new();
    for key in
        decoded.sessions().filter(|key| choice.session.is_none_or(|session| session == key.1))
    {
        let Some(both) = rings(&decoded, key) else { continue };
        for (image, ring) in both.into_iter().zip([Which::Request, Which::Response]) {
            if choice.ring.is_none_or(|wanted| wanted == ring) {
                let origin = Origin { generation: key.0, session: key.1, ring };
                listings.push(listing(&image, origin, choice, all));
            }
        }
    }
    listings
}

fn listing(image: &RingImage<'_>, origin: Origin, choice: &Choice, all: bool) -> Listing {
    let RingImage { capacity, head, tail, head_after, tail_after, .. } = *image;
    let whole = image.image.whole();
    let mut frames = Vec::new();
    let good = |position| intact(capacity, position, head_after, tail_after);
    let wanted = |record: &Record<'_>| record.flaw.is_some() || choice.wants(record.header.kind());
    if let Some(ring) = Ring::new(&whole, capacity) {
        let start = lap_start(head, capacity);
        // The record at the start of a lap is the only one behind the head whose place is known.
        if all && start != head && good(start) {
            for record in ring.walk(start, head).filter(wanted) {
                frames.push(Frame::of(
                    &record,
                    origin,
                    choice.max_bytes,
                    true,
                    !good(record.position),
                ));
            }
        }
        for record in ring.walk(head, tail).filter(wanted) {
            frames.push(Frame::of(
                &record,
                origin,
                choice.max_bytes,
                false,
                !good(record.position),
            ));
        }
    }
    let consistent = head == head_after && tail == tail_after;
    Listing { origin, head, tail, consistent, frames }
}

/// Whether nothing is wrong with any of them.
pub(crate) fn are_sound(listings: &[Listing]) -> bool {
    listings
        .iter()
        .flat_map(|listing| &listing.frames)
        .all(|frame| frame.flaw.is_none() || frame.torn)
}

/// For people.
pub(crate) fn text(listings: &[Listing]) -> String {
    let mut out = String::new();
    for Listing { origin, head, tail, consistent, frames } in listings {
        let which = match origin.ring {
            Which::Request => "request",
            Which::Response => "response",
        };
        let moving = if *consistent { "" } else { ", moving while it was copied" };
        let _ = writeln!(
            out,
            "{HEAD}session {} {which} ring{END}: head {head}, tail {tail}{moving}",
            origin.session
        );
        if frames.is_empty() {
            let _ = writeln!(out, "              {DIM}empty{END}");
        }
        for frame in frames {
            out += &frame.text();
        }
    }
    out
}

/// One object a line.
pub(crate) fn json(listings: &[Listing]) -> Result<String, crate::Failure> {
    let mut out = String::new();
    for frame in listings.iter().flat_map(|listing| &listing.frames) {
        out += &serde_json::to_string(frame)?;
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assemble;
    use crate::{diff, prometheus, show};

    /// Everything that is printed of a capture.
    fn print_all(capture: &Capture) -> usize {
        let choice = Choice { max_bytes: 16, ..Choice::default() };
        let listings = frames(capture, &choice, true);
        let report = assemble::report(capture);
        let printed = [
            text(&listings),
            json(&listings).unwrap(),
            show::text(&report, false),
            crate::after::header(&report, 0).unwrap_or_default(),
            show::brief(&report, true),
            prometheus::text(&report, 1),
            diff::text(&diff::diff(&report, &report)),
            serde_json::to_string(&report).unwrap(),
        ];
        printed.iter().map(String::len).sum()
    }

    #[test]
    fn no_saved_file_can_harm_what_is_printed_of_it() {
        let rounds = if cfg!(debug_assertions) { 300 } else { 20_000 };
        let saved = include_bytes!("../../tests/data/stopped.ringsave");
        let good = Capture::read(saved).unwrap();
        // With all that a dump may say beside that.
        let mut dump = crate::core_dump::Dump { cut: Some((1, 2)), ..Default::default() };
        dump.notes.pid = assemble::report(&good).servers[0].peer.pid;
        (dump.notes.signal, dump.notes.threads) = (11, vec![1, 2]);
        let good = Capture { dump: Some(dump), saved: true, ..good };
        let length = print_all(&good);
        assert!(length > 1000);
        let mut file = Vec::new();
        good.clone().write(&mut file).unwrap();
        let header = 16 + u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
        let mut read = 0;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % limit
        };
        for _ in 0..rounds {
            let mut bad = good.clone();
            for _ in 0..=below(8) {
                let take = below(bad.takes.len());
                let images = &mut bad.takes[take].images;
                let image = below(images.len());
                let image = &mut images[image];
                let blob = match below(4) {
                    0 => &mut image.body,
                    1 => &mut image.after,
                    _ => &mut image.control,
                };
                if blob.is_empty() {
                    continue;
                }
                match below(8) {
                    0 => blob.truncate(below(blob.len())),
                    // Where the words are.
                    _ => {
                        let at = 64 * below(blob.len().div_ceil(64)) + below(64).min(9);
                        let at = at.min(blob.len() - 1);
                        blob[at] = u8::try_from(below(256)).unwrap();
                    }
                }
            }
            assert!(print_all(&bad) < 100 * length);
            // The same for the header of the file.
            let mut bytes = file.clone();
            for _ in 0..=below(3) {
                bytes[below(header)] = b"0129,]}\"e-\xff"[below(11)];
            }
            bytes.truncate(if below(4) == 0 { below(file.len()) } else { file.len() });
            if let Ok(capture) = Capture::read(&bytes) {
                read += 1;
                assert!(print_all(&capture) < 100 * length);
            }
        }
        assert!(read > rounds / 20, "not all was refused at the door: {read} of {rounds}");
    }
}
