//! The notes of a core dump (64 bits, little-endian): which process it was, and what ended it.
//!
//! Sources: core(5), `struct elf_prstatus` and `struct elf_prpsinfo` in `linux/elfcore.h`,
//! `fill_files_note` in the kernel's `fs/binfmt_elf.c`, sigaction(2). Any bytes are taken. This
//! file needs nothing of the program but serde: the fuzz target `core_notes` is made of it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One status for each thread; the first is that of the thread that was ended.
const PRSTATUS: u32 = 1;
/// Name and numbers of the process.
const PRPSINFO: u32 = 3;
/// The `siginfo_t` of the signal.
const SIGINFO: u32 = 0x5349_4749;
/// The mapped files.
const FILE: u32 = 0x4649_4c45;

/// Threads whose numbers are kept.
const THREADS: usize = 1024;
/// Mappings that are looked at.
const MAPPINGS: usize = 1 << 20;
/// Segments that are remembered.
const SEGMENTS: usize = 200_000;
/// How the names of segments begin, as files.
const PREFIX: &[u8] = b"/memfd:ringbell:";

/// What the notes say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Notes {
    /// The process, by its number in its own pid namespace; 0 if no note says so.
    pub(crate) pid: u32,
    /// Its name, at most 16 bytes of it.
    pub(crate) name: String,
    /// Its user.
    pub(crate) uid: u32,
    /// The signal at which it was dumped; 0 if there was none.
    pub(crate) signal: u32,
    /// How the signal came about: `si_code`.
    pub(crate) code: i32,
    /// The address of a fault.
    pub(crate) address: Option<u64>,
    /// The process that sent the signal.
    pub(crate) sender: Option<u32>,
    /// Threads by number, the one that was ended first. At most 1024 of them.
    pub(crate) threads: Vec<u32>,
    /// How many threads there were.
    pub(crate) thread_count: u64,
    /// Where segments of Ringbell were mapped from their beginning on.
    #[serde(skip)]
    pub(crate) segments: BTreeSet<u64>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Takes bytes from the front, and what fills them up to a multiple of 4.
fn take<'a>(bytes: &mut &'a [u8], length: u32) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?;
    let (own, rest) = bytes.split_at_checked(length)?;
    *bytes = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
    Some(own)
}

/// What is printable of a name that ends with the first zero byte.
fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let name = String::from_utf8_lossy(&bytes[..end]);
    name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl Notes {
    /// Adds what the notes of one segment of the file say. Ends where they make no sense.
    pub(crate) fn add(&mut self, mut bytes: &[u8]) {
        while let (Some(name), Some(length), Some(kind)) =
            (word(bytes, 0), word(bytes, 4), word(bytes, 8))
        {
            bytes = &bytes[12..];
            let Some(owner) = take(&mut bytes, name) else { return };
            let Some(note) = take(&mut bytes, length) else { return };
            if owner.strip_suffix(b"\0").unwrap_or(owner) == b"CORE" {
                self.note(kind, note);
            }
        }
    }

    fn note(&mut self, kind: u32, note: &[u8]) {
        match kind {
            PRSTATUS => self.thread(note),
            PRPSINFO => {
                self.uid = word(note, 16).unwrap_or(0);
                self.pid = word(note, 24).unwrap_or(0);
                self.name = name(note.get(40..56).unwrap_or_default());
            }
            SIGINFO => self.signal(note),
            FILE => self.files(note),
            _ => {}
        }
    }

    fn thread(&mut self, note: &[u8]) {
        let Some(thread) = word(note, 32) else { return };
        if self.thread_count == 0 && self.signal == 0 {
            // `pr_cursig`, 16 bits.
            self.signal = word(note, 12).unwrap_or(0) & 0xffff;
        }
        self.thread_count += 1;
        if self.threads.len() < THREADS {
            self.threads.push(thread);
        }
    }

    /// `siginfo_t`: signal, errno, code, then an address or a process.
    fn signal(&mut self, note: &[u8]) {
        // Behind that of the thread that was ended, debuggers write one for each other thread.
        if self.thread_count > 1 {
            return;
        }
        let (Some(signal), Some(code)) = (word(note, 0), word(note, 8)) else { return };
        if signal == 0 {
            return;
        }
        self.signal = signal;
        self.code = code.cast_signed();
        // By the kernel for a fault: SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV. With the code 128
        // there is no address: an instruction used one that none can be.
        let has_address = matches!(signal, 4 | 5 | 7 | 8 | 11) && self.code > 0 && self.code != 128;
        self.address = long(note, 16).filter(|_| has_address);
        self.sender = word(note, 16).filter(|_| self.code <= 0);
    }

    /// How many, size of a page; start, end and offset in pages of each; then their names.
    fn files(&mut self, note: &[u8]) {
        let Some(count) = long(note, 0) else { return };
        // A count that the note is too short for is none.
        let Some(length) = usize::try_from(count).ok().and_then(|count| count.checked_mul(24))
        else {
            return;
        };
        let Some((ranges, names)) = note.get(16..).and_then(|note| note.split_at_checked(length))
        else {
            return;
        };
        let mappings = ranges.chunks_exact(24).zip(names.split(|byte| *byte == 0));
        for (range, name) in mappings.take(MAPPINGS) {
            let (Some(start), Some(offset)) = (long(range, 0), long(range, 16)) else { return };
            if offset == 0 && name.starts_with(PREFIX) && self.segments.len() < SEGMENTS {
                self.segments.insert(start);
            }
        }
    }
}
