//! Core dumps: shared memory lies in them as it was mapped, and notes say what ended the process.

pub(crate) mod notes;

use crate::Unattachable;
use crate::handle::Handle;
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
        |why: &dyn std::fmt::Display| Unattachable(format!("{}: {why}", path.display()));
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
