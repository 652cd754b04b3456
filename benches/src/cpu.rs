//! CPU time that a process has used, all its threads together.
#![allow(
    unsafe_code,
    reason = "no safe crate offers clock_getcpuclockid, the clock of another process"
)]

use std::io;
use std::time::Duration;

/// The CPU-time clock of one process, or of two that do one job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(libc::clockid_t, Option<libc::clockid_t>);

impl CpuClock {
    /// The clock of the process `pid`, which may be another one.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        let mut clock = 0;
        // SAFETY: the call writes one clockid_t to the address of a local of that type.
        let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        if error == 0 { Ok(Self(clock, None)) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// The clock of this process.
    pub(crate) fn own() -> Self {
        Self(libc::CLOCK_PROCESS_CPUTIME_ID, None)
    }

    /// The time of this process and of that of another clock together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0, Some(other.0))
    }

    /// CPU time used so far, exact to the nanosecond even while the process runs elsewhere.
    pub(crate) fn read(&self) -> io::Result<Duration> {
        let other = self.1.map_or(Ok(Duration::ZERO), Self::read_one)?;
        Ok(Self::read_one(self.0)? + other)
    }

    fn read_one(clock: libc::clockid_t) -> io::Result<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes one timespec to the address of a local of that type.
        let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
        let nanos = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
        Ok(Duration::new(seconds, nanos))
    }
}
