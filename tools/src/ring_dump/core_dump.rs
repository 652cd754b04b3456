//! Core dumps: shared memory lies in them as it was mapped, and notes say what ended the process.

pub(crate) mod notes;

use crate::handle::Handle;
use crate::{Unattachable, text};
use notes::Notes;
use object::elf::{EM_AARCH64, EM_X86_64, ET_CORE, FileHeader64, PT_LOAD, PT_NOTE};
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use ringbell::layout;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Most program headers that are read: one for each mapping, of which a process has 65530 unless
/// the host allows more.
const MOST_HEADERS: u32 = 1 << 20;
/// Longest notes that are read. The kernel's limit on the list of files is 4 MiB.
const MOST_NOTES: u64 = 64 << 20;

/// What a dump says beside the bytes of segments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Dump {
    /// The process and what ended it.
    pub(crate) notes: Notes,
    /// Segments that were mapped and whose bytes are not in the dump.
    pub(crate) left_out: u64,
    /// Bytes of the file, and how many it would have, if it is cut.
    pub(crate) cut: Option<(u64, u64)>,
    /// When the file was last written: ms since 1970.
    pub(crate) written_ms: u64,
}

/// A mapping, in the process and in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    address: u64,
    offset: u64,
    length: u64,
}

/// Why the machine that a dump is of is not this one; `None` if it is.
fn stranger(ident: &[u8]) -> Option<String> {
    let own = if cfg!(target_arch = "x86_64") { EM_X86_64 } else { EM_AARCH64 };
    let machine = |machine: u16| match machine {
        3 => "32-bit x86".to_owned(),
        40 => "32-bit ARM".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("ELF machine {other}"),
    };
    let number = u16::from_le_bytes([ident[18], ident[19]]);
    match (ident[4], ident[5]) {
        (1, _) => Some("a dump of a 32-bit process, of which no server or client can be".into()),
        (2, 2) => Some("a dump of a big-endian machine; this program reads little-endian".into()),
        (2, 1) if number != own.0 => Some(format!(
            "a dump of another machine ({}); this program reads {}",
            machine(number),
            machine(own.0)
        )),
        (2, 1) => None,
        _ => Some("no ELF file that makes sense".into()),
    }
}

/// What is in the bytes of a dump, whatever they are.
fn parse<'a>(data: impl ReadRef<'a>) -> Result<(Dump, Vec<Range>), String> {
    let size = data.len().map_err(|()| "its length is not known")?;
    let cut = |whole: u64| format!("it is cut: {size} of at least {whole} bytes");
    let ident = data.read_bytes_at(0, 20).map_err(|()| cut(64))?;
    if ident[..4] != *b"\x7fELF" {
        return Err("no ELF file".into());
    }
    if let Some(why) = stranger(ident) {
        return Err(why);
    }
    let endian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(|error| match size {
        0..64 => cut(64),
        _ => error.to_string(),
    })?;
    if header.e_type(endian) != ET_CORE {
        return Err("an ELF file, but no core dump".into());
    }
    let count = header.phnum(endian, data).map_err(|error| error.to_string())?;
    let end = header.e_phoff(endian).saturating_add(56 * u64::from(count));
    if end > size {
        return Err(cut(end));
    }
    if count > MOST_HEADERS {
        return Err(format!("it has {count} program headers, more than any process"));
    }
    let headers = header.program_headers(endian, data).map_err(|error| error.to_string())?;
    let mut dump = Dump::default();
    let mut ranges = Vec::new();
    let mut whole = size;
    for header in headers {
        let (offset, length) = (header.p_offset(endian), header.p_filesz(endian));
        whole = whole.max(offset.saturating_add(length));
        let there = length.min(size.saturating_sub(offset));
        match header.p_type(endian) {
            PT_NOTE if there != 0 => {
                let bytes = data.read_bytes_at(offset, there.min(MOST_NOTES));
                dump.notes.add(bytes.unwrap_or_default());
            }
            PT_LOAD if there != 0 => {
                ranges.push(Range { address: header.p_vaddr(endian), offset, length: there });
            }
            _ => {}
        }
    }
    dump.cut = (whole > size).then_some((size, whole));
    // Ranges of the same bytes would have them be copied again and again.
    ranges.sort_by_key(|range| range.offset);
    let mut free = 0;
    ranges.retain(|range| {
        let is_free = range.offset >= free;
        free = if is_free { range.offset.saturating_add(range.length) } else { free };
        is_free
    });
    ranges.sort_by_key(|range| range.address);
    Ok((dump, ranges))
}

/// What a core dump says, and the segments in it. A mapping whose bytes begin like a segment is
/// one: the decoder says whether it is good.
pub(crate) fn read(path: &Path) -> Result<(Dump, Vec<Handle>), Unattachable> {
    let unattachable =
        |why: &dyn std::fmt::Display| Unattachable(format!("{}: {why}", text::of_path(path)));
    let file = File::open(path).map_err(|error| unattachable(&error))?;
    let metadata = file.metadata().map_err(|error| unattachable(&error))?;
    let cache = ReadCache::new(&file);
    let (mut dump, ranges) = parse(&cache).map_err(|why| unattachable(&why))?;
    drop(cache);
    dump.written_ms = u64::try_from(metadata.mtime()).unwrap_or(0).saturating_mul(1000)
        + u64::try_from(metadata.mtime_nsec()).unwrap_or(0) / 1_000_000;
    let file = Arc::new(file);
    let mut missing = dump.notes.segments.clone();
    let handles: Vec<_> = ranges
        .into_iter()
        .map(|Range { address, offset, length }| {
            let found = format!("in the core dump at {address:x}");
            // Also one that is not in use: what is there of it is not missing.
            if length >= layout::CONTROL as u64 {
                missing.remove(&address);
            }
            Handle::range(file.clone(), offset, length, address, found)
        })
        .filter(|handle| handle.layout().is_some())
        .collect();
    dump.left_out = missing.len() as u64;
    if handles.is_empty() {
        let why = match (dump.left_out, dump.cut) {
            (0, None) => "there are no segments of Ringbell in it (are shared mappings dumped? see coredump_filter in core(5))".into(),
            (left_out, Some((have, whole))) => format!(
                "it is cut: {have} of {whole} bytes (see `ulimit -c`), and none of its {left_out} segments of Ringbell is in it"
            ),
            (left_out, None) => format!(
                "the process had {left_out} segments of Ringbell, and their bytes were not dumped: set bit 1 (shared memory) of /proc/PID/coredump_filter, see core(5)"
            ),
        };
        return Err(unattachable(&format!("{}{why}", dump.who())));
    }
    Ok((dump, handles))
}

/// The name of a signal by its number here.
pub(crate) fn signal_name(signal: u32) -> String {
    let name = match signal {
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        11 => "SIGSEGV",
        19 => "SIGSTOP",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

impl Dump {
    /// The signal that ended the process. Debuggers dump processes that go on: none ended those.
    pub(crate) fn fatal(&self) -> Option<u32> {
        let signal = self.notes.signal;
        matches!(signal, 3..=8 | 11 | 24 | 25 | 31).then_some(signal)
    }

    /// `pid 7 (name): `, as far as known.
    fn who(&self) -> String {
        match self.notes.pid {
            0 => String::new(),
            pid => format!("pid {pid} ({}): ", self.notes.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap();
        let head = [5, length, kind].map(u32::to_le_bytes).concat();
        let mut note = [&head[..], b"CORE\0\0\0\0", body].concat();
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    fn put(bytes: &mut [u8], at: usize, word: u64, length: usize) {
        bytes[at..at + length].copy_from_slice(&word.to_le_bytes()[..length]);
    }

    /// Notes as the kernel writes them: two threads, of which the first was ended by SIGSEGV.
    fn notes() -> Vec<u8> {
        let thread = |number: u64| {
            let mut status = vec![0; 336];
            put(&mut status, 12, 11, 2);
            put(&mut status, 32, number, 4);
            note(1, &status)
        };
        let mut process = vec![0; 136];
        put(&mut process, 16, 1000, 4);
        put(&mut process, 24, 70, 4);
        process[40..49].copy_from_slice(b"na\x1bme\0xyz");
        let mut signal = vec![0; 128];
        put(&mut signal, 0, 11, 4);
        put(&mut signal, 8, 1, 4);
        put(&mut signal, 16, 0xdead_0000, 8);
        let mut files =
            [2, 4096, 0x1000, 0x3000, 0, 0x5000, 0x6000, 0].map(u64::to_le_bytes).concat();
        files.extend(b"/lib/x\0/memfd:ringbell:status (deleted)\0");
        let process = note(3, &process);
        let all = [thread(71), process, note(0x5349_4749, &signal), note(0x4649_4c45, &files)];
        [all.concat(), thread(72)].concat()
    }

    /// A dump with these notes and two mappings.
    fn dump(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + 3 * 56];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        put(&mut file, 16, 4, 2);
        put(&mut file, 18, if cfg!(target_arch = "x86_64") { 62 } else { 183 }, 2);
        put(&mut file, 20, 1, 4);
        put(&mut file, 32, 64, 8);
        put(&mut file, 52, 64, 2);
        put(&mut file, 54, 56, 2);
        put(&mut file, 56, 3, 2);
        let start = file.len() as u64;
        let ends = start + notes.len() as u64;
        for (index, (kind, offset, address, length)) in [
            (4, start, 0, notes.len() as u64),
            (1, ends, 0x1000, 100),
            (1, ends + 100, 0x5000, 8192),
        ]
        .into_iter()
        .enumerate()
        {
            let at = 64 + 56 * index;
            put(&mut file, at, kind, 4);
            put(&mut file, at + 8, offset, 8);
            put(&mut file, at + 16, address, 8);
            put(&mut file, at + 32, length, 8);
        }
        file.extend(notes);
        file.resize(file.len() + 100 + 8192, 0);
        file
    }

    #[test]
    fn notes_say_what_ended_which_process() {
        let (dump, ranges) = parse(&dump(&notes())[..]).unwrap();
        let Notes { pid, uid, signal, code, address, ref threads, .. } = dump.notes;
        assert_eq!((pid, uid, signal, code), (70, 1000, 11, 1));
        assert_eq!((address, &threads[..]), (Some(0xdead_0000), &[71, 72][..]));
        assert_eq!(dump.notes.name, "na\u{fffd}me", "it goes to terminals");
        assert_eq!(dump.notes.segments.iter().collect::<Vec<_>>(), [&0x5000]);
        assert_eq!(ranges.iter().map(|range| range.length).collect::<Vec<_>>(), [100, 8192]);
        assert_eq!((dump.cut, dump.fatal()), (None, Some(11)));
    }

    #[test]
    fn what_was_sent_has_a_sender_and_no_address() {
        let of = |signal: u64, code: i32, word: u64| {
            let mut info = vec![0; 128];
            put(&mut info, 0, signal, 4);
            put(&mut info, 8, u64::from(code.cast_unsigned()), 4);
            put(&mut info, 16, word, 8);
            let mut notes = Notes::default();
            notes.add(&note(0x5349_4749, &info));
            (notes.address, notes.sender)
        };
        assert_eq!(of(6, -6, 99), (None, Some(99)));
        assert_eq!(of(11, 0, 99), (None, Some(99)), "SIGSEGV by kill");
        assert_eq!(of(11, 128, 0), (None, None), "an address that cannot be");
        assert_eq!(of(7, 2, 0), (Some(0), None));
    }

    #[test]
    fn ranges_of_the_same_bytes_are_taken_once() {
        let mut file = dump(&notes());
        let second: [u8; 8] = file[64 + 56 + 8..][..8].try_into().unwrap();
        file[64 + 2 * 56 + 8..][..8].copy_from_slice(&second);
        assert_eq!(parse(&file[..]).unwrap().1.len(), 1);
    }

    #[test]
    fn what_is_promised_and_not_there_is_cut() {
        let whole = dump(&notes());
        for length in 0..whole.len() {
            match parse(&whole[..length]) {
                Ok((dump, _)) => {
                    assert_eq!(dump.cut, Some((length as u64, whole.len() as u64)));
                }
                Err(why) => {
                    let start = format!("it is cut: {length} of at least ");
                    assert!(length < 64 + 3 * 56 && why.starts_with(&start), "{length}: {why}");
                }
            }
        }
        let mut promises = whole.clone();
        put(&mut promises, 64 + 32, 1 << 60, 8);
        put(&mut promises, 64 + 2 * 56 + 32, u64::MAX, 8);
        let (dump, ranges) = parse(&promises[..]).unwrap();
        assert_eq!(dump.cut, Some((whole.len() as u64, u64::MAX)));
        assert!(ranges.iter().all(|range| range.length <= whole.len() as u64));
        // More program headers than there can be: their number stands in a section then.
        put(&mut promises, 56, 0xffff, 2);
        assert!(parse(&promises[..]).is_err());
    }

    #[test]
    fn no_dump_does_harm() {
        let rounds = if cfg!(debug_assertions) { 20_000 } else { 300_000 };
        let good = dump(&notes());
        let ends = good.len() - 8292;
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap() % limit
        };
        let mut understood = 0;
        for _ in 0..rounds {
            let mut bad = good.clone();
            for _ in 0..=below(6) {
                let at = below(ends);
                bad[at] = [0, 1, 0x7f, 0xff][below(4)];
            }
            if below(8) == 0 {
                bad.truncate(below(good.len()));
            }
            if let Ok((dump, ranges)) = parse(&bad[..]) {
                understood += usize::from(dump.notes.pid == 70);
                let bytes: u64 = ranges.iter().map(|range| range.length).sum();
                assert!(bytes <= bad.len() as u64);
                assert!(dump.notes.threads.len() < bad.len() && dump.notes.segments.len() < 100);
            }
        }
        assert!(understood > rounds / 8, "not all was refused at the door: {understood}");
    }
}
