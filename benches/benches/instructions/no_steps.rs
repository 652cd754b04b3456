//! In place of `steps` on architectures without a trap flag that a program can set for itself.

use std::io;

/// Why single steps cannot be counted.
pub(crate) fn try_steps() -> Result<(), String> {
    Err("they are known to count on x86_64 only".to_owned())
}

pub(crate) fn begin() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn end() -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}
