//! Which pages of a file exist, asked without touching any, and without a lock that a peer could
//! hold.

#![allow(unsafe_code, reason = "mincore and cachestat through libc")]

use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// Whether all pages of a range of a mapping are in memory. `there` has room for a byte of each
/// page.
pub(crate) fn all_in_memory(
    address: *const u8,
    bytes: usize,
    there: &mut [u8],
) -> Result<bool, Errno> {
    let pages = bytes.div_ceil(rustix::param::page_size());
    let there = there.get_mut(..pages).ok_or(Errno::INVAL)?;
    // SAFETY: reads nothing at the address. `there` has room for a byte of each page.
    if unsafe { libc::mincore(address.cast_mut().cast(), bytes, there.as_mut_ptr()) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(there.iter().all(|page| page & 1 != 0))
}

/// Since Linux 6.5; the number is the same on all architectures that Rust knows.
const CACHESTAT: libc::c_long = 451;

/// How many pages of a range of a memfd are allocated, in memory or swapped out; `None` if the
/// kernel does not tell.
pub(crate) fn allocated_pages(fd: impl AsFd, from: u64, len: u64) -> Option<u64> {
    // `struct cachestat_range`: offset and length. `struct cachestat`: pages in the cache, dirty
    // ones, those under writeback, evicted ones, those evicted recently.
    let range = [from, len];
    let mut counts = [0u64; 5];
    let (range, to) = (range.as_ptr(), counts.as_mut_ptr());
    // SAFETY: both structures are those of this call, and live as long as it takes.
    let result = unsafe { libc::syscall(CACHESTAT, fd.as_fd().as_raw_fd(), range, to, 0) };
    let [cached, _, _, evicted, _] = counts;
    (result == 0).then(|| cached.saturating_add(evicted))
}
