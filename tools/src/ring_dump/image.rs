//! A copy of a segment.

use serde::{Deserialize, Serialize};

/// A copy of one segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Where it was found: `fd 7`, an address, a file.
    pub(crate) found: String,
    /// What it was made as, if that is known: the name of its memfd.
    #[serde(default)]
    pub(crate) made: Option<String>,
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

    /// Empty, with the length as capacity's stand-in: the one who reads the file fills it.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let length = u64::deserialize(from)?;
        Ok(length.to_le_bytes().to_vec())
    }
}
