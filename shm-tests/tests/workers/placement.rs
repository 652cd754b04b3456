//! Where workers run: as the process, not as the thread that first made a pool.

use crate::{echoes, lines, settings};
use ringbell::WorkerCommand;
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use rustix::thread::CpuSet;

/// What /proc says of a task: its CPUs, its blocked signals, its nice value and its policy.
fn placement(task: &str) -> [String; 4] {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{task}/{file}")).expect("the task lives")
    };
    let status = read("status");
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
        line.trim().to_owned()
    };
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split_whitespace().collect();
    // The state is field 3: nice is 19, the policy 41.
    [of("Cpus_allowed_list:"), of("SigBlk:"), fields[16].to_owned(), fields[38].to_owned()]
}

fn block(signal: libc::c_int) {
    // SAFETY: all-zero bytes are an empty set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: the set is valid; only this thread is concerned.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Its first pool is made by a thread that is pinned to one CPU, nice, and blocks a signal.
pub(crate) fn pinned_host(_: &Arguments) {
    block(libc::SIGUSR2);
    let main = std::process::id().to_string();
    let own = placement(&main);
    let pinning = std::thread::spawn(|| {
        let mut one = CpuSet::new();
        one.set(0);
        rustix::thread::sched_setaffinity(None, &one).expect("CPU 0");
        rustix::process::setpriority_process(None, 5).expect("nicer");
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: of this thread, and valid.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) };
        block(libc::SIGUSR1);
        let pool = lines(WorkerCommand::new("cat"), settings(0, 2));
        echoes(&mut pool.acquire().expect("a cat"), "hello");
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        (placement(&format!("self/task/{thread}")), pool)
    });
    let (pinned, pool) = pinning.join().expect("no panic");
    assert!(own.iter().zip(&pinned).all(|(own, pinned)| own != pinned), "{own:?} {pinned:?}");
    let mut cat = pool.acquire().expect("a cat");
    echoes(&mut cat, "hello");
    assert_eq!(placement(&cat.id().to_string()), own);
    let chosen = WorkerCommand::new("cat").cpus([1]).nice(7).blocked_signals([libc::SIGUSR1]);
    let pool = lines(chosen, settings(0, 1));
    let mut cat = pool.acquire().expect("a cat");
    echoes(&mut cat, "hello");
    let [cpus, blocked, nice, _] = placement(&cat.id().to_string());
    assert_eq!((&*cpus, &*blocked, &*nice), ("1", "0000000000000200", "7"));
    say("done");
}

pub(crate) fn w10_workers_are_placed_as_the_process_is() -> Ran {
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        return Ran::Skipped("there is one CPU".into());
    }
    let mut host = Start::role("pinned_host").start();
    host.expect("done");
    host.succeed();
    done!("CPUs, nice value, policy and blocked signals; and three of them chosen")
}
