//! What a role forbids itself, as a container or a service manager would.

#![allow(unsafe_code, reason = "prctl, mlockall, setuid")]

/// A system call that is refused, or one use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its name. A use of it has a name of its own.
    pub name: &'static str,
    number: libc::c_long,
    /// Which argument must have which value, for a use of it.
    argument: Option<(u32, u32)>,
}

const fn call(name: &'static str, number: libc::c_long) -> Call {
    Call { name, number, argument: None }
}

/// The calls that a sleep, shared memory, a handshake or a worker needs.
pub const CALLS: &[Call] = &[
    call("futex_waitv", libc::SYS_futex_waitv),
    call("futex", libc::SYS_futex),
    call("eventfd2", libc::SYS_eventfd2),
    call("epoll_create1", libc::SYS_epoll_create1),
    call("epoll_ctl", libc::SYS_epoll_ctl),
    call("epoll_pwait", libc::SYS_epoll_pwait),
    call("timerfd_create", libc::SYS_timerfd_create),
    call("memfd_create", libc::SYS_memfd_create),
    call("fallocate", libc::SYS_fallocate),
    call("flock", libc::SYS_flock),
    call("pidfd_open", libc::SYS_pidfd_open),
    call("pidfd_send_signal", libc::SYS_pidfd_send_signal),
    call("membarrier", libc::SYS_membarrier),
    call("accept4", libc::SYS_accept4),
    call("mincore", libc::SYS_mincore),
    call("pwritev", libc::SYS_pwritev),
    // Since Linux 6.5; `libc` does not name it everywhere.
    call("cachestat", 451),
    call("ppoll", libc::SYS_ppoll),
    Call { name: "SO_PEERPIDFD", number: libc::SYS_getsockopt, argument: Some((2, 77)) },
    Call { name: "MADV_POPULATE_READ", number: libc::SYS_madvise, argument: Some((2, 22)) },
    Call { name: "MADV_POPULATE_WRITE", number: libc::SYS_madvise, argument: Some((2, 23)) },
];

/// What pools of workers need.
const OF_POOLS: &[Call] = &[call("pwritev2", libc::SYS_pwritev2), call("clone3", libc::SYS_clone3)];

/// From now on this call fails with `errno` in this thread and those that it starts.
///
/// # Panics
/// If there is no such call in [`CALLS`] or among those of pools, or the kernel has no filters.
pub fn refuse(name: &str, errno: i32) {
    refuse_in(name, errno, 0);
}

/// As [`refuse`], in all threads of this process.
///
/// # Panics
/// As [`refuse`].
pub fn refuse_everywhere(name: &str, errno: i32) {
    refuse_in(name, errno, libc::SECCOMP_FILTER_FLAG_TSYNC);
}

fn refuse_in(name: &str, errno: i32, flags: libc::c_ulong) {
    const NUMBER: u32 = 0;
    let call = CALLS.iter().chain(OF_POOLS).find(|call| call.name == name).expect(name);
    #[allow(clippy::cast_possible_truncation, reason = "codes of 16 bits")]
    let step =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let end = libc::BPF_RET | libc::BPF_K;
    let number = u32::try_from(call.number).expect("a small number");
    let mut program = vec![step(load, NUMBER, 0, 0)];
    match call.argument {
        None => program.push(step(equal, number, 0, 1)),
        Some((index, value)) => {
            program.push(step(equal, number, 0, 3));
            // The low half of the argument.
            program.push(step(load, 16 + 8 * index, 0, 0));
            program.push(step(equal, value, 0, 1));
        }
    }
    program.push(step(end, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(), 0, 0));
    program.push(step(end, libc::SECCOMP_RET_ALLOW, 0, 0));
    let len = u16::try_from(program.len()).expect("short");
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let set = if flags == 0 {
        // As valgrind knows it.
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the kernel copies the program, which lives until then.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) }.into()
    } else {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) }
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Closes all descriptors but the standard ones, as hosts do that become daemons.
///
/// # Panics
/// If the kernel has no `close_range` (5.9).
pub fn close_everything() {
    // SAFETY: whoever owns one of them finds it closed, and no file is opened any more here that
    // could get its number.
    assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }, 0, "close_range");
}

/// This process becomes an ordinary user, without any capability.
///
/// # Panics
/// If it is not root.
pub fn become_user(uid: u32) {
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::setresgid(uid, uid, uid) }, 0, "setresgid takes root");
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::setresuid(uid, uid, uid) }, 0, "setresuid takes root");
}

/// All memory that is mapped from now on is locked, and only so many bytes may be.
///
/// # Panics
/// If the kernel refuses that.
pub fn lock_memory(limit: u64) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Memlock, Rlimit { current: Some(limit), maximum: Some(limit) })
        .expect("lowered");
    // SAFETY: a number only; what is mapped is locked.
    assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0, "mlockall");
}

/// No descriptor beyond this number can be opened from now on.
///
/// # Panics
/// If the kernel refuses that.
pub fn limit_descriptors(limit: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum }).expect("set");
}
