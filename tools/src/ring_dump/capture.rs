//! What was copied of a target: bytes, processes, times. The same whether it is live, a saved file
//! or a core dump.
//!
//! A saved file: `RINGSAVE`, version u32, length of the header u32, the header as JSON, then the
//! bytes of all images one behind the other (all little-endian). Lengths in the header say where
//! each ends. Version 2 says where it was taken, and what a core dump says; version 1 is read.

use crate::core_dump::Dump;
use crate::handle::Handle;
use crate::image::Image;
use crate::process::Process;
use crate::sockets::Listening;
use crate::who::Named;
use crate::{Failure, Unattachable, text};
use ringbell::inspect::Unreadable;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// First bytes of a saved file.
pub(crate) const MAGIC: &[u8; 8] = b"RINGSAVE";
/// Version of this format. Older ones are read, newer ones are refused.
pub(crate) const VERSION: u32 = 2;
/// Longest header that is read.
const MAX_HEADER: u32 = 64 << 20;
/// Bytes before the header.
const PREAMBLE: u64 = 16;
/// Most moments that are read.
const MOST_TAKES: usize = 16;
/// Most images of one moment that are read.
const MOST_IMAGES: usize = 200_000;

/// All segments of a target, copied one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Take {
    /// When it began: CLOCK_MONOTONIC, ns.
    pub(crate) at_ns: u64,
    /// The same by the calendar: ms since 1970.
    pub(crate) unix_ms: u64,
    /// The segments.
    pub(crate) images: Vec<Image>,
    /// Processes that the segments name, by their numbers here.
    pub(crate) processes: Vec<Process>,
    /// Which processes these are. A segment that is not in here names its process as it is numbered
    /// here.
    #[serde(default)]
    pub(crate) named: Vec<Named>,
    /// Sessions that have no segments, if the server said so.
    pub(crate) sockets: Option<u64>,
}

/// The machine on which something was captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Its name.
    pub(crate) name: String,
    /// Differs from one start of the machine to the next.
    pub(crate) boot: String,
}

impl Host {
    /// This machine.
    pub(crate) fn here() -> Self {
        let read = |name: &str| {
            let path = format!("/proc/sys/kernel/{name}");
            std::fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().into())
        };
        Self { name: read("hostname"), boot: read("random/boot_id") }
    }
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
    /// The same with what is at these paths.
    #[serde(default)]
    pub(crate) listening: Vec<Listening>,
    /// The moments, in order.
    pub(crate) takes: Vec<Take>,
    /// Where it was taken; unknown of a core dump, and of files of version 1.
    #[serde(default)]
    pub(crate) host: Option<Host>,
    /// What a core dump says beside its segments.
    #[serde(default)]
    pub(crate) dump: Option<Dump>,
    /// Whether it was read from a saved file.
    #[serde(skip)]
    pub(crate) saved: bool,
    /// Bytes of the file, and how many it would have, if it is cut.
    #[serde(skip)]
    pub(crate) cut: Option<(u64, u64)>,
}

impl Capture {
    /// What was seen of a live target.
    pub(crate) fn live(
        target: String,
        origin: Origin,
        listening: Vec<Listening>,
        takes: Vec<Take>,
    ) -> Self {
        let sockets = listening.iter().map(|one| one.path.clone()).collect();
        let host = Some(Host::here());
        Self {
            target,
            origin,
            sockets,
            listening,
            takes,
            host,
            dump: None,
            saved: false,
            cut: None,
        }
    }

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

    /// A file is somebody's, and so are the names in it: they go to terminals.
    fn make_plain(&mut self) {
        let plain = |text: &mut String| *text = text::of_str(text);
        plain(&mut self.target);
        self.sockets.iter_mut().for_each(plain);
        self.listening.iter_mut().for_each(|one| plain(&mut one.path));
        for take in &mut self.takes {
            take.images.iter_mut().for_each(|image| plain(&mut image.found));
            for process in &mut take.processes {
                plain(&mut process.name);
                process.threads.seen.iter_mut().for_each(|thread| plain(&mut thread.name));
            }
        }
    }

    /// Makes a file of it, which is there whole or not at all; of what was there before, the last
    /// stays until then. A pipe or a device is written to as it is. Only its owner may read it:
    /// it contains what passed through the rings.
    pub(crate) fn save(&mut self, path: &Path) -> Result<(), Failure> {
        let is_other = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
        if is_other {
            let file = open_other(path)?;
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

    /// Reads one from the bytes of a file, whatever they are. Of a file that is cut the moments
    /// that are there; at least one segment of one of them has to be.
    pub(crate) fn read(file: &[u8]) -> Result<Self, String> {
        let size = file.len() as u64;
        let word = |at: usize| {
            let bytes = file.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or(cut(size, PREAMBLE, false))
        };
        if !file.starts_with(MAGIC) {
            let is_cut = MAGIC.starts_with(file);
            let why = || "it was not saved by ring-dump".into();
            return Err(if is_cut { cut(size, PREAMBLE, false) } else { why() });
        }
        let version = word(8)?;
        if version > VERSION {
            return Err(format!("it is newer: version {version}, this program knows {VERSION}"));
        }
        if version == 0 {
            return Err("it has version 0, which there is not".into());
        }
        let length = word(12)?;
        if length > MAX_HEADER {
            return Err(format!("its header would have {length} bytes"));
        }
        let mut bytes = &file[16..];
        let header = bytes.get(..length as usize);
        let header = header.ok_or(cut(size, PREAMBLE + u64::from(length), false))?;
        bytes = &bytes[length as usize..];
        let mut capture: Self = serde_json::from_slice(header)
            .map_err(|error| format!("its header is damaged: {error}"))?;
        if capture.takes.len() > MOST_TAKES
            || capture.takes.iter().any(|take| take.images.len() > MOST_IMAGES)
        {
            return Err("its header is damaged: more segments than any process has".into());
        }
        capture.make_plain();
        let mut whole = PREAMBLE + u64::from(length);
        for blob in capture.blobs() {
            let length = blob.as_slice().try_into().map_or(0, u64::from_le_bytes);
            whole = whole.saturating_add(length);
            let have = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
            let (own, rest) = bytes.split_at(have);
            *blob = own.to_vec();
            bytes = rest;
        }
        if whole > size {
            capture.keep_what_is_there();
            if capture.takes.is_empty() {
                return Err(cut(size, whole, true));
            }
            capture.cut = Some((size, whole));
        }
        Ok(capture)
    }

    /// Leaves out segments of which not even the control page is there, and moments without any.
    fn keep_what_is_there(&mut self) {
        for take in &mut self.takes {
            take.images.retain(|image| image.control.len() >= ringbell::layout::CONTROL);
        }
        self.takes
            .retain(|take| take.images.iter().any(|image| Handle::kind(&image.control).is_some()));
    }

    /// Reads a saved file.
    pub(crate) fn load(path: &Path) -> Result<Self, Unattachable> {
        let unreadable =
            |why: String| Unattachable(format!("{} cannot be read: {why}", text::of_path(path)));
        let bytes = read_file(path).map_err(|error| unreadable(error.to_string()))?;
        let mut capture = Self::read(&bytes).map_err(unreadable)?;
        capture.saved = true;
        match capture.foreign_layout() {
            Some(version) => Err(Unattachable(format!(
                "{}: {}: {}",
                path.display(),
                capture.target,
                foreign_layout(version)
            ))),
            None => Ok(capture),
        }
    }

    /// The version of the layout, if it is another one, and all segments are of such.
    pub(crate) fn foreign_layout(&self) -> Option<u32> {
        let mut foreign = None;
        for image in &self.last().images {
            match ringbell::inspect::decode(&image.control) {
                Ok(_) => return None,
                Err(Unreadable::Version(version)) => foreign = Some(version),
                Err(_) => {}
            }
        }
        foreign
    }

    /// The last moment, which is the one to look at.
    pub(crate) fn last(&self) -> &Take {
        static NOTHING: std::sync::LazyLock<Take> = std::sync::LazyLock::new(Take::default);
        self.takes.last().unwrap_or(&NOTHING)
    }
}

/// What is said of a file that is cut too short to be shown.
fn cut(have: u64, whole: u64, exact: bool) -> String {
    let least = if exact { "" } else { "at least " };
    format!("it is cut: {have} of {least}{whole} bytes")
}

/// What is said of segments of another version of the layout.
pub(crate) fn foreign_layout(version: u32) -> String {
    let known = ringbell::layout::LAYOUT_VERSION;
    let which = if version > known { "newer" } else { "older" };
    format!("its segments are {which}: layout version {version}, this program knows {known}")
}

/// Longest file that is read. One has the bytes of a few looks, each of at most 1 GiB.
const MOST_FILE: u64 = 4 << 30;

/// All of a plain file. What took its place meanwhile keeps nobody waiting.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MOST_FILE {
        return Err(std::io::Error::other("it is no plain file of at most 4 GiB"));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(PREAMBLE).read_to_end(&mut bytes)?;
    // Of another one the first bytes are enough to say so.
    if bytes.starts_with(MAGIC) {
        file.take(MOST_FILE).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Opens a pipe or a device to write to. Not what belongs to somebody else, who would read what
/// passed through the rings; and without waiting for somebody who reads.
fn open_other(path: &Path) -> Result<std::fs::File, Failure> {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let (opened, named) = (file.metadata()?, std::fs::symlink_metadata(path)?);
    let me = rustix::process::geteuid().as_raw();
    if opened.is_file() || (named.uid() != me && named.uid() != 0) {
        return Err("it is another user's".into());
    }
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - rustix::fs::OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::process::State;

    fn a_capture() -> Capture {
        let image = Image {
            found: "fd 3".into(),
            made: Some("ringbell:status".into()),
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
            named: Vec::new(),
            sockets: None,
        };
        Capture {
            target: "t".into(),
            origin: Origin::Process,
            sockets: vec!["/s".into()],
            listening: Vec::new(),
            takes: vec![take.clone(), take],
            host: Some(Host::here()),
            dump: Some(Dump { cut: Some((3, 4)), ..Dump::default() }),
            saved: false,
            cut: None,
        }
    }

    #[test]
    fn what_is_saved_is_read() {
        let mut bytes = Vec::new();
        a_capture().write(&mut bytes).unwrap();
        assert_eq!(Capture::read(&bytes), Ok(a_capture()));
    }

    #[test]
    fn d6_names_in_a_file_are_made_plain() {
        let mut bytes = Vec::new();
        let evil = || "\x1b]0;owned\x07\u{202e}".to_owned();
        let mut capture = a_capture();
        capture.target = evil();
        capture.sockets = vec![evil()];
        capture.takes[1].images[0].found = evil();
        capture.takes[1].processes[0].name = evil();
        capture.write(&mut bytes).unwrap();
        let read = format!("{:?}", Capture::read(&bytes).unwrap());
        assert_eq!(read.matches(r"\\x1b]0;owned\\x07\\u{202e}").count(), 4, "{read}");
    }

    #[test]
    fn a_file_that_is_cut_or_damaged_gives_an_error_or_what_is_left() {
        let mut bytes = Vec::new();
        a_capture().write(&mut bytes).unwrap();
        let end = bytes.len() - 300;
        for cut in 0..bytes.len() {
            // None of its images is a segment.
            let why = Capture::read(&bytes[..cut]).unwrap_err();
            assert!(why.starts_with(&format!("it is cut: {cut} of ")), "{why}");
            assert_eq!(why.contains(&format!(" of {} bytes", bytes.len())), cut >= end, "{why}");
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
        let newer = [&MAGIC[..], &3u32.to_le_bytes(), &2u32.to_le_bytes(), b"{}"].concat();
        let why = Capture::read(&newer).unwrap_err();
        assert_eq!(why, "it is newer: version 3, this program knows 2");
    }

    fn with_header(header: &str) -> Result<Capture, String> {
        let length = u32::try_from(header.len()).unwrap();
        let file = [&MAGIC[..], &2u32.to_le_bytes(), &length.to_le_bytes(), header.as_bytes()];
        Capture::read(&file.concat())
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused() {
        let image = |length: u64| {
            format!(
                r#"{{"found":"","inode":0,"size":0,"seals":null,"page":0,"control":{length},"body":0,"after":0}}"#
            )
        };
        let header = |images: String| {
            format!(
                r#"{{"target":"t","origin":"core","sockets":[],"takes":[{{"at_ns":0,"unix_ms":0,"images":[{images}],"processes":[],"sockets":null}}]}}"#
            )
        };
        let why = with_header(&header(image(1 << 60))).unwrap_err();
        assert!(why.contains(&format!(" of {} bytes", (1u64 << 60) + why_length(&image, &header))));
        let many = with_header(&header(vec![image(0); MOST_IMAGES + 1].join(","))).unwrap_err();
        assert_eq!(many, "its header is damaged: more segments than any process has");
    }

    fn why_length(image: &impl Fn(u64) -> String, header: &impl Fn(String) -> String) -> u64 {
        PREAMBLE + header(image(1 << 60)).len() as u64
    }
}
