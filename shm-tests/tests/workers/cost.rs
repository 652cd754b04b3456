//! What it costs a large host to start a worker.

use crate::{lines, settings};
use ringbell::WorkerCommand;
use ringbell::pool::Settings;
use ringbell::sync::{Ordering, PlainBool, PlainU64};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, observe};
use rustix::process::Pid;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const GIB: u64 = 1 << 30;
const ROUNDS: usize = 21;
const WRITER: &str = "writer";

/// Memory of so many bytes, in small pages, touched.
fn touched(bytes: usize) -> &'static mut [u8] {
    // SAFETY: a fresh private mapping; nothing else is replaced.
    let memory = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            bytes,
            rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
            rustix::mm::MapFlags::PRIVATE,
        )
    }
    .expect("memory");
    // SAFETY: the range is the mapping just made. Without the advice the pages are larger, and
    // fewer.
    let _ = unsafe { rustix::mm::madvise(memory, bytes, rustix::mm::Advice::LinuxNoHugepage) };
    // SAFETY: zeroed, of this length, used here alone and never unmapped.
    let memory = unsafe { std::slice::from_raw_parts_mut(memory.cast::<u8>(), bytes) };
    // On a busy machine this takes its time: the test hears that it goes on.
    for part in memory.chunks_mut(PAGE << 14) {
        part.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        say("goes on");
    }
    memory
}

/// The sum of a time of the threads of this process that have such names.
fn total(time: impl Fn(Pid) -> Duration, which: impl Fn(&str) -> bool) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc").flatten();
    let chosen = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| which(name.trim_end()))
    });
    let ids = chosen.filter_map(|task| task.file_name().to_string_lossy().parse().ok());
    ids.filter_map(Pid::from_raw).map(time).sum()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Starts and ends a worker, and the same program by the standard library, in turns, while a thread
/// writes.
pub(crate) fn large_host(arguments: &Arguments) {
    let bytes = usize::try_from(arguments.number("bytes")).expect("it fits");
    let memory = touched(bytes);
    let (stop, worst) = (Arc::new(PlainBool::new(false)), Arc::new(PlainU64::new(0)));
    let writing = std::thread::Builder::new().name(WRITER.into()).spawn({
        let (stop, worst) = (stop.clone(), worst.clone());
        move || {
            let mut last = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                for page in memory.chunks_mut(PAGE) {
                    page[0] = page[0].wrapping_add(1);
                    let now = Instant::now();
                    let took = u64::try_from((now - last).as_nanos()).unwrap_or(u64::MAX);
                    // The reader sets it back; a round's worst may be lost to it, not made up.
                    if took > worst.load(Ordering::Relaxed) {
                        worst.store(took, Ordering::Relaxed);
                    }
                    last = now;
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        }
    });
    let writing = writing.expect("a thread");
    let pool = lines(WorkerCommand::new("cat"), Settings { enabled: false, ..settings(0, 1) });
    let ours = || drop(pool.acquire().expect("a cat"));
    let theirs = || {
        let piped = Stdio::piped;
        let child = Command::new("cat").stdin(piped()).stdout(piped()).stderr(piped()).spawn();
        let mut child = child.expect("a cat");
        child.kill().expect("killed");
        child.wait().expect("waited for");
    };
    // What a start takes of a CPU, in all threads but the one that writes. On the clock the writer
    // and whatever else runs on the machine count as well: who has to wait for a CPU waits for a
    // slice of the scheduler, milliseconds.
    let on_cpu = || total(observe::time_on_cpu, |name| name != WRITER);
    let writer_waits = || total(observe::time_without_cpu, |name| name == WRITER);
    let timed = |start: &dyn Fn()| {
        let (used, waited) = (on_cpu(), writer_waits());
        worst.store(0, Ordering::Relaxed);
        start();
        let took = on_cpu().saturating_sub(used);
        // The thread notes a stall once it is over.
        std::thread::sleep(Duration::from_millis(2));
        let stalled = Duration::from_nanos(worst.load(Ordering::Relaxed));
        let without = writer_waits().saturating_sub(waited);
        (took, stalled.saturating_sub(without))
    };
    timed(&ours);
    timed(&theirs);
    let (mut took, mut stalled) = ([vec![], vec![]], [vec![], vec![]]);
    for _ in 0..ROUNDS {
        for (which, start) in [&ours as &dyn Fn(), &theirs].into_iter().enumerate() {
            let (time, stall) = timed(start);
            took[which].push(time);
            stalled[which].push(stall);
        }
        say("goes on");
    }
    stop.store(true, Ordering::Relaxed);
    writing.join().expect("no panic");
    let nanoseconds = [took, stalled]
        .map(|both| both.map(|times| median(times).as_nanos().to_string()).join(" "));
    say(&format!("took {}", nanoseconds.join(" ")));
}

pub(crate) fn w12_a_large_host_starts_workers_as_std_does() -> Ran {
    let available = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = available.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let gib = (available.unwrap_or(0) * 1024 / GIB / 3).min(3);
    if gib == 0 {
        return Ran::Skipped("less than 3 GiB of memory are available".into());
    }
    let measure = || {
        let mut host = Start::role("large_host").with("bytes", gib * GIB).start();
        let took = loop {
            let line = host.hear();
            tick();
            match line.strip_prefix("took ") {
                Some(took) => break took.to_owned(),
                None => assert_eq!(line, "goes on"),
            }
        };
        let times: Vec<f64> = took.split(' ').map(|time| time.parse().expect("a time")).collect();
        host.succeed();
        tick();
        <[f64; 4]>::try_from(times).expect("four times")
    };
    // What else runs on the machine can disturb one measurement. A host that copies page tables is
    // slower by far in all of them.
    let mut tries = Vec::new();
    for _ in 0..3 {
        let [ours, theirs, our_stall, their_stall] = measure();
        let told = format!(
            "{gib} GiB: {:.2} ms, std {:.2} ms; stalls {:.2} ms, std {:.2} ms",
            ours / 1e6,
            theirs / 1e6,
            our_stall / 1e6,
            their_stall / 1e6
        );
        // A stall that is shorter than one start by std is noise of the scheduler: a host that
        // copies page tables stalls a hundred times longer.
        if ours <= 2.0 * theirs && our_stall <= (2.0 * their_stall).max(theirs) {
            return done!("{told}");
        }
        tries.push(told);
    }
    panic!("{tries:#?}");
}
