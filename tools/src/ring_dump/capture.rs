//! What was copied of a target: bytes, processes, times. The same whether it is live, a saved file
//! or a core dump.
//!
//! A saved file: `RINGSAVE`, version u32, length of the header u32, the header as JSON, then the
//! bytes of all images one behind the other (all little-endian). Lengths in the header say where
//! each ends.

use crate::process::Process;
use crate::{Failure, Unattachable};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::Path;

/// First bytes of a saved file.
pub(crate) const MAGIC: &[u8; 8] = b"RINGSAVE";
/// Version of this format. A file of another version is refused.
pub(crate) const VERSION: u32 = 1;
/// Longest header that is read.
const MAX_HEADER: u32 = 64 << 20;

/// A copy of one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Where it was found: `fd 7`, an address, a file.
    pub(crate) found: String,
    /// What tells it from other segments of the same target; 0 if nothing does.
    pub(crate) inode: u64,
    /// Size of the segment in bytes, as the kernel says.
    pub(crate) size: u64,
    /// Its seals, bits of `F_GET_SEALS`, if they can be known.
    pub(crate) seals: Option<u32>,
    /// Bytes of a page of it.
    pub(crate) page: u64,
    /// The control page, and all of a segment without a ring.
    #[serde(with = "length")]
    pub(crate) control: Vec<u8>,
    /// The ring, if it was copied: behind the control page.
    #[serde(with = "length")]
    pub(crate) body: Vec<u8>,
    /// The control page once more, after the ring was copied.
    #[serde(with = "length")]
    pub(crate) after: Vec<u8>,
}

impl Image {
    /// Control page and ring in one piece, as the decoder takes them.
    pub(crate) fn whole(&self) -> Vec<u8> {
        [&self.control[..], &self.body].concat()
    }
}

/// Bytes stand behind the header: in it stands how many.
mod length {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        bytes.len().serialize(to)
    }

    /// Empty, with the length as capacity's stand-in: [`super::Capture::read`] fills it.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let length = u64::deserialize(from)?;
        Ok(length.to_le_bytes().to_vec())
    }
}

/// All segments of a target, copied one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Take {
    /// When it began: CLOCK_MONOTONIC, ns.
    pub(crate) at_ns: u64,
    /// The same by the calendar: ms since 1970.
    pub(crate) unix_ms: u64,
    /// The segments.
    pub(crate) images: Vec<Image>,
    /// Processes that the segments name.
    pub(crate) processes: Vec<Process>,
    /// Sessions that have no segments, if the server said so.
    pub(crate) sockets: Option<u64>,
}

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// A server at a socket.
    Socket,
    /// A process.
    Process,
    /// A core dump.
    Core,
}

/// One target at several moments, usually two; the last one is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Capture {
    /// What was looked at.
    pub(crate) target: String,
    /// What kind of target it was.
    pub(crate) origin: Origin,
    /// Where the server listens, as far as known.
    pub(crate) sockets: Vec<String>,
    /// The moments, in order.
    pub(crate) takes: Vec<Take>,
}

impl Capture {
    fn blobs(&mut self) -> impl Iterator<Item = &mut Vec<u8>> {
        self.takes
            .iter_mut()
            .flat_map(|take| &mut take.images)
            .flat_map(|image| [&mut image.control, &mut image.body, &mut image.after])
    }

    /// Writes it to a file.
    pub(crate) fn write(&mut self, to: &mut impl Write) -> Result<(), Failure> {
        let header = serde_json::to_vec(self)?;
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_le_bytes())?;
        to.write_all(&u32::try_from(header.len())?.to_le_bytes())?;
        to.write_all(&header)?;
        for blob in self.blobs() {
            to.write_all(blob)?;
        }
        Ok(to.flush()?)
    }

    /// Makes a file of it, which is there whole or not at all; of what was there before, the last
    /// stays until then. A pipe or a device is written to as it is. Only its owner may read it:
    /// it contains what passed through the rings.
    pub(crate) fn save(&mut self, path: &Path) -> Result<(), Failure> {
        let is_other = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
        if is_other {
            let file = std::fs::OpenOptions::new().write(true).open(path)?;
            return self.write(&mut std::io::BufWriter::new(file));
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Mode 0600.
        let mut file = tempfile::Builder::new().prefix(".ring-dump-").tempfile_in(directory)?;
        self.write(&mut std::io::BufWriter::new(file.as_file_mut()))?;
        file.persist(path)?;
        Ok(())
    }

    /// Reads one from the bytes of a file, whatever they are.
    pub(crate) fn read(mut bytes: &[u8]) -> Result<Self, String> {
        let mut magic = [0; 8];
        let mut word = [0; 4];
        let cut = |_| "it is cut off".to_owned();
        bytes.read_exact(&mut magic).map_err(cut)?;
        if magic != *MAGIC {
            return Err("it was not saved by ring-dump".into());
        }
        bytes.read_exact(&mut word).map_err(cut)?;
        let version = u32::from_le_bytes(word);
        if version != VERSION {
            return Err(format!("it has version {version}; this program knows {VERSION}"));
        }
        bytes.read_exact(&mut word).map_err(cut)?;
        let length = u32::from_le_bytes(word);
        if length > MAX_HEADER {
            return Err(format!("its header would have {length} bytes"));
        }
        let header = bytes.get(..length as usize).ok_or("it is cut off in its header")?;
        bytes = &bytes[length as usize..];
        let mut capture: Self = serde_json::from_slice(header)
            .map_err(|error| format!("its header is damaged: {error}"))?;
        for blob in capture.blobs() {
            let length = blob.as_slice().try_into().map_or(0, u64::from_le_bytes);
            // What is missing at the end is missing: the rest is still good.
            let have = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
            let (own, rest) = bytes.split_at(have);
            *blob = own.to_vec();
            bytes = rest;
        }
        Ok(capture)
    }

    /// Reads a saved file.
    pub(crate) fn load(path: &Path) -> Result<Self, Unattachable> {
        let unreadable =
            |why: String| Unattachable(format!("{} cannot be read: {why}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        Self::read(&bytes).map_err(unreadable)
    }

    /// The last moment, which is the one to look at.
    pub(crate) fn last(&self) -> &Take {
        static NOTHING: std::sync::LazyLock<Take> = std::sync::LazyLock::new(Take::default);
        self.takes.last().unwrap_or(&NOTHING)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::process::State;

    fn a_capture() -> Capture {
        let image = Image {
            found: "fd 3".into(),
            inode: 5,
            size: 6,
            seals: Some(7),
            page: 4096,
            control: vec![1; 100],
            body: vec![2; 50],
            after: vec![],
        };
        let process = Process {
            pid: 9,
            state: State::Stopped,
            name: "n".into(),
            started_ns: 1,
            busy: true,
            threads: crate::threads::Threads::default(),
        };
        let take = Take {
            at_ns: 1,
            unix_ms: 2,
            images: vec![image],
            processes: vec![process],
            sockets: None,
        };
        Capture {
            target: "t".into(),
            origin: Origin::Process,
            sockets: vec!["/s".into()],
            takes: vec![take.clone(), take],
        }
    }

    #[test]
    fn what_is_saved_is_read() {
        let mut bytes = Vec::new();
        a_capture().write(&mut bytes).unwrap();
        assert_eq!(Capture::read(&bytes), Ok(a_capture()));
    }

    #[test]
    fn a_file_that_is_cut_or_damaged_gives_an_error_or_what_is_left() {
        let mut bytes = Vec::new();
        a_capture().write(&mut bytes).unwrap();
        for cut in 0..bytes.len() {
            if let Ok(capture) = Capture::read(&bytes[..cut]) {
                assert_eq!(capture.takes.len(), 2);
            }
        }
        for at in 0..bytes.len() {
            for bit in [1, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                let _ = Capture::read(&changed);
            }
        }
        let huge = [&MAGIC[..], &1u32.to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
        assert!(Capture::read(&huge).is_err());
    }
}
