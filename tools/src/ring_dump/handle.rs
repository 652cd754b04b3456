//! A segment that is read where it lies.

use crate::aside::{self, PATIENCE};
use crate::image::Image;
use ringbell::inspect::{self, Segment, Unreadable};
use ringbell::layout::{self, SegmentKind};
use ringbell::sync::{Ordering, PlainBool};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

/// Reads until it has all, or there is no more.
fn read_all(file: &File, at: u64, to: &mut [u8]) -> usize {
    let mut have = 0;
    while have < to.len() {
        match file.read_at(&mut to[have..], at + have as u64) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    have
}

/// The bytes of a segment, wherever they are.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) file: Arc<File>,
    /// Where it begins in the file.
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) inode: u64,
    pub(crate) seals: Option<u32>,
    pub(crate) page: u64,
    pub(crate) found: String,
    /// What it was made as: the name of a memfd is its maker's, and never changes.
    made: Option<String>,
    /// Of the memory of a process, which can make a reader wait: whether it did.
    stuck: Option<Arc<PlainBool>>,
}

/// Whether a segment that was made under a name may be of this kind. Who may write it can write
/// what it says of itself.
pub(crate) fn is_made_as(made: Option<&str>, kind: SegmentKind) -> bool {
    made.is_none_or(|made| made == inspect::name_of(kind))
}

impl Handle {
    /// A memfd.
    pub(crate) fn memfd(file: File, found: String) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let made = link.ok().and_then(|link| {
            let name = link.to_str()?.strip_prefix("/memfd:")?;
            Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
        });
        Ok(Self {
            made,
            base: 0,
            size: metadata.len(),
            inode: metadata.ino(),
            seals: rustix::fs::fcntl_get_seals(file.as_fd()).ok().map(|seals| seals.bits()),
            page: metadata.blksize(),
            file: Arc::new(file),
            found,
            stuck: None,
        })
    }

    /// A range of the memory of a process.
    pub(crate) fn memory(file: Arc<File>, base: u64, size: u64, inode: u64, found: String) -> Self {
        let stuck = Some(Arc::new(PlainBool::new(false)));
        Self { stuck, ..Self::range(file, base, size, inode, found) }
    }

    /// Whether a read was given up, since the process kept it waiting.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.as_ref().is_some_and(|stuck| stuck.load(Ordering::Relaxed))
    }

    /// A range of a file: of a core dump.
    pub(crate) fn range(file: Arc<File>, base: u64, size: u64, inode: u64, found: String) -> Self {
        let page = rustix::param::page_size() as u64;
        Self { file, base, size, inode, seals: None, page, found, made: None, stuck: None }
    }

    /// Copies up to `length` bytes at `from`; fewer where it ends, or cannot be read.
    pub(crate) fn read(&self, from: u64, length: u64) -> Vec<u8> {
        let length = length.min(self.size.saturating_sub(from)).min(layout::MAX_CAPACITY);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let have = self.read_into(from, &mut bytes);
        bytes.truncate(have);
        bytes
    }

    /// The same into a place that is there; how many it was.
    pub(crate) fn read_into(&self, from: u64, to: &mut [u8]) -> usize {
        let Some(stuck) = &self.stuck else {
            return read_all(&self.file, self.base + from, to);
        };
        // Relaxed: a hint that saves waiting once more.
        if stuck.load(Ordering::Relaxed) {
            return 0;
        }
        let (file, at) = (self.file.clone(), self.base + from);
        let mut bytes = vec![0; to.len()];
        let read = move || {
            let have = read_all(&file, at, &mut bytes);
            bytes.truncate(have);
            bytes
        };
        let Some(bytes) = aside::within(PATIENCE, read) else {
            stuck.store(true, Ordering::Relaxed);
            return 0;
        };
        to[..bytes.len()].copy_from_slice(&bytes);
        bytes.len()
    }

    /// A word of its control page.
    pub(crate) fn word(&self, at: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read_into(at as u64, &mut bytes) == bytes.len()).then(|| u64::from_le_bytes(bytes))
    }

    /// The control page, decoded, if it is a segment in use.
    pub(crate) fn decode(&self) -> Option<Segment> {
        let segment = inspect::decode(&self.read(0, layout::CONTROL as u64)).ok()?;
        is_made_as(self.made.as_deref(), segment.identity().kind).then_some(segment)
    }

    /// The version of the layout, if it is a segment in use, of this version or another one.
    pub(crate) fn layout(&self) -> Option<u32> {
        match inspect::decode(&self.read(0, layout::CONTROL as u64)) {
            Ok(segment) => Some(segment.identity().version),
            Err(Unreadable::Version(version)) => Some(version),
            Err(_) => None,
        }
    }

    pub(crate) fn kind(control: &[u8]) -> Option<SegmentKind> {
        inspect::decode(control).ok().map(|segment| segment.identity().kind)
    }

    pub(crate) fn has_ring(control: &[u8]) -> bool {
        matches!(Self::kind(control), Some(SegmentKind::Request | SegmentKind::Response))
    }

    /// A copy of the control page; of a status segment or a bell, of all of it. Of what is not in
    /// use, or is none, there is nothing more to know.
    /// `left` is how much of that may still be copied.
    pub(crate) fn image(&self, left: &mut u64) -> Image {
        let mut control = self.read(0, layout::CONTROL as u64);
        if matches!(Self::kind(&control), Some(SegmentKind::Status | SegmentKind::Bell)) {
            control.extend(self.read(layout::CONTROL as u64, (*left).min(1 << 22)));
            *left -= control.len().saturating_sub(layout::CONTROL) as u64;
        }
        Image {
            found: self.found.clone(),
            made: self.made.clone(),
            inode: self.inode,
            size: self.size,
            seals: self.seals,
            page: self.page,
            control,
            ..Image::default()
        }
    }
}
