//! Starting a process without copying the page tables of this one, and ending it.
//!
//! `fork` copies the page tables of its caller, and write-protects what they map: a host of 3 GiB
//! stands still for it. The child made here shares the memory instead, while the thread that made
//! it is suspended, until it becomes the program (`CLONE_VM | CLONE_VFORK`, as `posix_spawn` does
//! it). `posix_spawn` itself knows no parent's death signal, no working directory of old C
//! libraries, and no CPUs.
//!
//! # What the child may do
//!
//! It runs in the memory of a process with many threads, any of which may hold any lock. So it
//! makes system calls, and nothing else: it allocates nothing, locks nothing, formats nothing and
//! does not panic. What it needs was prepared before ([`Plan`], [`Instructions`]). All signals are
//! blocked in it until every handler of this process is gone, since a handler would run in this
//! process's memory. The C library's `errno` is that of the thread that is suspended, which does
//! not read it. Why it could not go on it writes where its parent reads it: the parent is resumed
//! after that.
//!
//! Some emulators make a `fork` of it all the same (valgrind, qemu's user mode): the parent goes on
//! at once, and sees nothing of what the child writes. Then the child tells it through a pipe.
//! There is one until a child was seen to share the memory.

#![allow(unsafe_code, reason = "clone, and what a child does before it becomes a program")]

use super::placement::{Placement, Wanted};
use super::signals::{block_all_signals, set_signal_mask};
use crate::base::sync::{Ordering, PlainBool};
use crate::os::fork::Origin;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A process to be started: all that the child needs.
#[derive(Debug)]
pub(super) struct Plan {
    /// The files that are tried as the program, one after the other.
    pub(super) paths: Vec<CString>,
    /// Its arguments, its name first.
    pub(super) arguments: Vec<CString>,
    /// Its environment: `NAME=value`.
    pub(super) environment: Vec<CString>,
    /// Its working directory, if it is not this process's.
    pub(super) directory: Option<CString>,
    /// Its standard input, output and error. All of them above 2.
    pub(super) stdio: [OwnedFd; 3],
    /// What it inherits under the number that it has here, which is above 2.
    pub(super) inherited: Option<OwnedFd>,
    pub(super) wanted: Wanted,
}

/// What could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The kernel makes no process.
    Clone,
    /// This process ended meanwhile.
    Parent,
    /// No process group, or no descriptors.
    Setup,
    /// The CPUs, the nice value or the policy that were asked for.
    Placement,
    /// The working directory cannot be entered.
    Directory,
    /// The program cannot be executed.
    Exec,
}

/// What could not be done, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) errno: Errno,
}

impl Failure {
    const LEN: usize = 3;
    const STEPS: [Step; 6] =
        [Step::Clone, Step::Parent, Step::Setup, Step::Placement, Step::Directory, Step::Exec];

    /// As it goes through the pipe.
    fn to_bytes(self) -> [u8; Self::LEN] {
        let [low, high, ..] = self.errno.raw_os_error().to_le_bytes();
        [self.step as u8, low, high]
    }

    fn from_bytes([step, low, high]: [u8; Self::LEN]) -> Self {
        let step = Self::STEPS.into_iter().find(|known| *known as u8 == step);
        let errno = Errno::from_raw_os_error(i32::from(u16::from_le_bytes([low, high])));
        Self { step: step.unwrap_or(Step::Setup), errno }
    }
}

/// A [`Plan`] as the child reads it. It lies on the stack of the thread that is suspended.
struct Instructions<'a> {
    paths: &'a [CString],
    /// Ends with a null pointer, as does the environment.
    arguments: *const *const c_char,
    /// The arguments of a shell that runs a script without a first line: `sh`, a place for the
    /// path, the program's arguments, a null pointer.
    script: &'a mut [*const c_char],
    environment: *const *const c_char,
    directory: Option<&'a CStr>,
    stdio: [c_int; 3],
    inherited: Option<BorrowedFd<'a>>,
    placement: &'a Placement,
    parent: Pid,
    /// Where the failure is told, if the memory may not be shared.
    report: Option<OwnedFd>,
    /// Whether the child has run, and shares this memory.
    ran: bool,
    failure: Option<Failure>,
}

/// Whether a child has shared the memory of this process: all others do, too.
static SHARES: PlainBool = PlainBool::new(false);

/// A pipe for the failure, if it is needed.
fn report() -> Result<Option<(OwnedFd, OwnedFd)>, Errno> {
    // Relaxed: nothing else goes by it. One pipe too many does no harm.
    if SHARES.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let (from, to) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // Not one of those that the child replaces.
    Ok(Some((from, rustix::io::fcntl_dupfd_cloexec(to, 3)?)))
}

/// What a child that shares no memory tells. Waits until it has executed the program or ended.
fn told(from: &OwnedFd) -> Option<Failure> {
    let mut bytes = [0; Failure::LEN];
    loop {
        match rustix::io::read(from, &mut bytes) {
            // So short a text comes as a whole.
            Ok(Failure::LEN) => return Some(Failure::from_bytes(bytes)),
            Err(Errno::INTR) => {}
            _ => return None,
        }
    }
}

/// Bytes of the child's stack. It calls system calls, a few levels deep: 4 KiB are used.
const STACK: usize = 64 << 10;

/// Starts a process. It is the leader of a group of its own, and is killed when the thread that
/// calls this ends.
pub(super) fn start(plan: &Plan) -> Result<Child, Failure> {
    let placement = Placement::of_the_process(&plan.wanted);
    let report = report().map_err(|errno| Failure { step: Step::Clone, errno })?;
    let (told_by, report) = report.unzip();
    let pointers = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(&plan.arguments), pointers(&plan.environment));
    let mut script = vec![c"/bin/sh".as_ptr(), ptr::null()];
    script.extend(arguments.iter().skip(1));
    let mut instructions = Instructions {
        paths: &plan.paths,
        arguments: arguments.as_ptr(),
        script: &mut script,
        environment: environment.as_ptr(),
        directory: plan.directory.as_deref(),
        stdio: plan.stdio.each_ref().map(AsRawFd::as_raw_fd),
        inherited: plan.inherited.as_ref().map(AsFd::as_fd),
        placement: &placement,
        parent: rustix::process::getpid(),
        report,
        ran: false,
        failure: None,
    };
    let mut stack = vec![MaybeUninit::<u128>::uninit(); STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end;
    let mut pidfd: c_int = -1;
    let shared = &raw mut instructions;
    let unblocked = block_all_signals();
    // SAFETY: the child runs `child` on a stack of its own, that grows down from `top` and outlives
    // it: this thread is suspended until the child has executed a program or ended (CLONE_VFORK).
    // So do `instructions`, and all that they point to. Nothing else touches them meanwhile. The
    // child shares memory with other threads (CLONE_VM) and does what the module's documentation
    // allows. No handler runs in it, since all signals are blocked.
    let pid = unsafe {
        libc::clone(
            child,
            top.cast::<c_void>(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD,
            shared.cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
    set_signal_mask(&unblocked);
    drop(stack);
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(Failure { step: Step::Clone, errno });
    };
    if pidfd < 0 {
        // A kernel before 5.2 does not know the flag. The child has not been waited for by us; it
        // ends by itself at the latest when this thread does.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        return Err(Failure { step: Step::Clone, errno: Errno::NOSYS });
    }
    // SAFETY: the kernel has just made it, for this call.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let mut child = Child { pid, pidfd: Arc::new(pidfd), origin: Origin::here(), ended: None };
    // SAFETY: a place in `instructions`, which are still there.
    let ran = unsafe { &raw const (*shared).ran };
    // SAFETY: as above.
    let failure = unsafe { &raw const (*shared).failure };
    // SAFETY: the child is past its last write: this thread goes on after that. Read as memory that
    // somebody else has written.
    let ran = unsafe { ran.read_volatile() };
    // SAFETY: as above.
    let failure = unsafe { failure.read_volatile() };
    let failure = match told_by {
        Some(told_by) if !ran => {
            drop(instructions.report.take());
            told(&told_by)
        }
        _ => failure,
    };
    if ran {
        // Relaxed: see `report`.
        SHARES.store(true, Ordering::Relaxed);
    }
    match failure {
        None => Ok(child),
        Some(failure) => {
            child.wait(WaitIdOptions::EXITED);
            Err(failure)
        }
    }
}

/// The child's `main`. Where it returns it ends, with this status.
extern "C" fn child(instructions: *mut c_void) -> c_int {
    // SAFETY: what `start` passed, which is suspended; nobody else has a reference to it now.
    let instructions = unsafe { &mut *instructions.cast::<Instructions<'_>>() };
    instructions.ran = true;
    let failure = instructions.become_program();
    instructions.failure = Some(failure);
    if let Some(report) = &instructions.report {
        let _ = rustix::io::write(report, &failure.to_bytes());
    }
    127
}

impl Instructions<'_> {
    /// Returns only if it fails.
    fn become_program(&mut self) -> Failure {
        match self.prepare() {
            Ok(()) => Failure { step: Step::Exec, errno: self.execute() },
            Err(failure) => failure,
        }
    }

    fn prepare(&self) -> Result<(), Failure> {
        let failed = |step| move |errno| Failure { step, errno };
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(failed(Step::Setup))?;
        // The parent may have died before the call. In a pid namespace of its own, the child's
        // parent has no number; it has one if another process has adopted the child.
        if rustix::process::getppid().is_some_and(|parent| parent != self.parent) {
            return Err(Failure { step: Step::Parent, errno: Errno::SRCH });
        }
        rustix::process::setpgid(None, None).map_err(failed(Step::Setup))?;
        forget_handlers();
        for (number, fd) in (0..).zip(self.stdio) {
            // SAFETY: the child's table of descriptors is its own; nobody uses its first three.
            if unsafe { libc::dup2(fd, number) } < 0 {
                return Err(Failure { step: Step::Setup, errno: last_errno() });
            }
        }
        if let Some(inherited) = self.inherited {
            rustix::io::fcntl_setfd(inherited, rustix::io::FdFlags::empty())
                .map_err(failed(Step::Setup))?;
        }
        self.placement.apply().map_err(failed(Step::Placement))?;
        if let Some(directory) = self.directory {
            rustix::process::chdir(directory).map_err(failed(Step::Directory))?;
        }
        set_signal_mask(&self.placement.blocked);
        Ok(())
    }

    /// As `execvp` does it. Why it failed.
    fn execute(&mut self) -> Errno {
        let mut worst = Errno::NOENT;
        for path in self.paths {
            // SAFETY: a string and two arrays of strings that end with a null pointer.
            unsafe { libc::execve(path.as_ptr(), self.arguments, self.environment) };
            match last_errno() {
                Errno::NOEXEC => {
                    if let Some(place) = self.script.get_mut(1) {
                        *place = path.as_ptr();
                    }
                    let script = self.script.as_ptr();
                    // SAFETY: as above.
                    unsafe { libc::execve(c"/bin/sh".as_ptr(), script, self.environment) };
                    return Errno::NOEXEC;
                }
                // Another one may do; but this is more than that there is none.
                Errno::ACCESS => worst = Errno::ACCESS,
                Errno::NOENT | Errno::NOTDIR if self.paths.len() > 1 => {}
                errno => return errno,
            }
        }
        worst
    }
}

/// The reason of a system call's failure that went through the C library. Without allocation.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Every signal that this process handles does what it does by default. Those that it ignores stay
/// ignored, but for two: a program that waits for its children would miss them with SIGCHLD
/// ignored, and one that writes into a pipe relies on SIGPIPE.
fn forget_handlers() {
    for signal in 1..=64 {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: `action` has room for what is written to it.
        if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } != 0 {
            // The C library keeps two for itself, which nobody sends to this child.
            continue;
        }
        // SAFETY: zeroes are a valid action, and the call has written another one over them.
        let mut action = unsafe { action.assume_init() };
        let default = action.sa_sigaction == libc::SIG_DFL;
        let ignored = action.sa_sigaction == libc::SIG_IGN;
        if default || (ignored && ![libc::SIGCHLD, libc::SIGPIPE].contains(&signal)) {
            continue;
        }
        action.sa_sigaction = libc::SIG_DFL;
        action.sa_flags = 0;
        // SAFETY: `action` is valid. The child's table of actions is its own.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

/// A process that was started here. Clones are the same process; one of them waits for it.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    origin: Origin,
    /// How it ended, once it was waited for; of one that another part of this program has waited
    /// for, or nobody can, that is not known.
    ended: Option<Option<ExitStatus>>,
}

impl Child {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Becomes readable when the process has ended, whether or not it was waited for.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The same, for longer than a borrow.
    pub(super) fn shared_pidfd(&self) -> Arc<OwnedFd> {
        self.pidfd.clone()
    }

    /// Whether this process has started it, and is no forked child of that.
    pub(super) fn is_ours(&self) -> bool {
        self.origin.is_here()
    }

    /// Kills it and its group, whether or not it has ended itself. Does not wait.
    pub(super) fn kill(&self) {
        // It may have left its group.
        let leader = rustix::process::pidfd_send_signal(self.pidfd(), Signal::KILL);
        let group = self.kill_group();
        // A kernel before 6.9 knows no groups by a pidfd; a seccomp profile may refuse the call.
        let unknown = |result| matches!(result, Err(Errno::INVAL | Errno::NOSYS | Errno::PERM));
        if (unknown(leader) || unknown(group)) && self.has_its_number() {
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Whether nobody has waited for it yet, so that its number, which is that of its group, is no
    /// other's.
    fn has_its_number(&self) -> bool {
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.ended.is_none() && rustix::process::waitid(WaitId::PidFd(self.pidfd()), peek).is_ok()
    }

    /// Kills the group that was made for it. The kernel knows it by the pidfd, not by its number:
    /// no other group is meant, even when the process has been waited for.
    fn kill_group(&self) -> Result<(), Errno> {
        const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
        let info = ptr::null::<libc::siginfo_t>();
        // SAFETY: a descriptor that is open, a signal, no further information, and a flag.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                info,
                PIDFD_SIGNAL_PROCESS_GROUP,
            )
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// Waits for it, if it has ended; how it has, as far as that can be known.
    pub(super) fn status(&mut self) -> Option<ExitStatus> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        self.ended.flatten()
    }

    fn wait(&mut self, options: WaitIdOptions) {
        while self.ended.is_none() {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd()), options) {
                Ok(Some(status)) => {
                    let by_signal = status.terminating_signal();
                    let core = if status.dumped() { 0x80 } else { 0 };
                    // As `waitpid` has it.
                    let raw = match (status.exit_status(), by_signal) {
                        (Some(code), _) => Some((code & 0xff) << 8),
                        (None, Some(signal)) => Some(signal | core),
                        (None, None) => None,
                    };
                    self.ended = Some(raw.map(ExitStatus::from_raw));
                }
                Ok(None) => return,
                Err(Errno::INTR) => {}
                // Somebody else has waited for it, or SIGCHLD is ignored.
                Err(_) => self.ended = Some(None),
            }
        }
    }
}

/// Whether `fd` becomes readable, or hangs up, within `time`.
pub(super) fn readable(fd: impl AsFd, time: Duration) -> bool {
    let until = Instant::now().checked_add(time);
    loop {
        let left = match until {
            _ if time.is_zero() => Some(Duration::ZERO),
            Some(until) => Some(until.saturating_duration_since(Instant::now())),
            None => None,
        };
        let left = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
