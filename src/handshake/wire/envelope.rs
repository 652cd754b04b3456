//! What every message begins with, whatever the version: a header of 16 bytes.
//!
//! It stays as it is for ever. So each side can read who speaks, and refuse it with a reason that
//! the other side can read (`wire.rs` says which bytes behind the header are frozen, too).

/// First eight bytes of every handshake message: `RINGHELO`.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"RINGHELO");
/// The version of the header. It never changes: what changes is [`super::VERSIONS`].
const HEADER_VERSION: u16 = 1;
/// Size of a header in bytes.
pub(crate) const HEADER: usize = 16;
/// Longest body that is read at all.
pub(crate) const MAX_BODY: usize = 4096;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum MessageKind {
    Hello = 1,
    Welcome = 2,
    Fallback = 3,
    Reject = 4,
    /// Descriptors for an inspector.
    Segments = 5,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not the magic number: another protocol.
    Magic,
    /// Another version of the header, or a Hello of versions that this library does not speak.
    Version,
    /// An answer in this version of the session protocol, which this library does not speak.
    Speaks(u16),
    /// Anything else that cannot be.
    Content,
}

/// A checked header: what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: MessageKind,
    /// Length of the body in bytes, at most [`MAX_BODY`].
    pub(crate) length: usize,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Result<Self, Malformed> {
        let at = Reader(bytes);
        if at.u64(0) != MAGIC {
            return Err(Malformed::Magic);
        }
        if at.u16(14) != HEADER_VERSION {
            return Err(Malformed::Version);
        }
        let kind = match at.u16(12) {
            1 => MessageKind::Hello,
            2 => MessageKind::Welcome,
            3 => MessageKind::Fallback,
            4 => MessageKind::Reject,
            5 => MessageKind::Segments,
            _ => return Err(Malformed::Content),
        };
        match usize::try_from(at.u32(8)) {
            Ok(length) if length <= MAX_BODY => Ok(Self { kind, length }),
            _ => Err(Malformed::Content),
        }
    }
}

/// Reads little-endian fields. The caller has checked the length.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

/// Writes a message: header first, then fields one after the other.
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    #[allow(clippy::cast_possible_truncation, reason = "bodies are shorter than MAX_BODY")]
    pub(super) fn new(kind: MessageKind, length: usize) -> Self {
        let mut writer = Self(Vec::with_capacity(HEADER + length));
        writer.u64(MAGIC).u32(length as u32).u16(kind as u16).u16(HEADER_VERSION);
        writer
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
}
