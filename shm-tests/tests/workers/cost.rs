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
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const GIB: u64 = 1 << 30;
const ROUNDS: usize = 21;
const FORKS: usize = 5;
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

/// For how long a thread, that of the file, has waited for a CPU so far.
fn delayed(schedstat: &File) -> Duration {
    let mut text = [0; 128];
    let length = rustix::io::pread(schedstat, &mut text, 0).expect("it can be read");
    let text = String::from_utf8_lossy(&text[..length]);
    let waited = text.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    Duration::from_nanos(waited.expect("a number"))
}

/// Writes to all pages, one after the other and again, until it is told to stop. In `worst` is the
/// longest pause between two of them, in ns: how long it was kept by the kernel, be it that a page
/// was copied or that the table of pages was locked. That it waited for a CPU is no part of it.
fn write_all_over(memory: &mut [u8], stop: &PlainBool, worst: &PlainU64) {
    /// Shorter ones are not looked at: to do so takes about as long.
    const PAUSE: Duration = Duration::from_micros(20);
    let schedstat = File::open("/proc/thread-self/schedstat").expect("the kernel counts");
    let mut before = delayed(&schedstat);
    let mut last = Instant::now();
    loop {
        for page in memory.chunks_mut(PAGE) {
            page[0] = page[0].wrapping_add(1);
            let now = Instant::now();
            let took = now - last;
            last = now;
            if took > PAUSE {
                let delay = delayed(&schedstat);
                let kept = took.saturating_sub(delay - before);
                before = delay;
                let kept = u64::try_from(kept.as_nanos()).unwrap_or(u64::MAX);
                // The reader sets it back; a round's worst may be lost to it, not made up.
                if kept > worst.load(Ordering::Relaxed) {
                    worst.store(kept, Ordering::Relaxed);
                }
                last = Instant::now();
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// Starts and ends a worker, and the same program by the standard library, in turns, while a thread
/// writes. Then the same program by a fork, as a measure of what the thread must not suffer.
pub(crate) fn large_host(arguments: &Arguments) {
    let bytes = usize::try_from(arguments.number("bytes")).expect("it fits");
    let memory = touched(bytes);
    let (stop, worst) = (Arc::new(PlainBool::new(false)), Arc::new(PlainU64::new(0)));
    let writing = std::thread::Builder::new().name(WRITER.into()).spawn({
        let (stop, worst) = (stop.clone(), worst.clone());
        move || write_all_over(memory, &stop, &worst)
    });
    let writing = writing.expect("a thread");
    let pool = lines(WorkerCommand::new("cat"), Settings { enabled: false, ..settings(0, 1) });
    let ours = || drop(pool.acquire().expect("a cat"));
    let spawn = |command: &mut Command| {
        let piped = Stdio::piped;
        let child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn();
        let mut child = child.expect("a cat");
        child.kill().expect("killed");
        child.wait().expect("waited for");
    };
    let theirs = || spawn(&mut Command::new("cat"));
    let by_fork = || {
        let mut command = Command::new("cat");
        // SAFETY: nothing is done. That there is something makes the standard library fork.
        spawn(unsafe { command.pre_exec(|| Ok(())) });
    };
    // What a start takes of a CPU, in all threads but the one that writes. On the clock the writer
    // and whatever else runs on the machine count as well: who has to wait for a CPU waits for a
    // slice of the scheduler, milliseconds.
    let on_cpu = || total(observe::time_on_cpu, |name| name != WRITER);
    let timed = |start: &dyn Fn()| {
        let used = on_cpu();
        worst.store(0, Ordering::Relaxed);
        start();
        let took = on_cpu().saturating_sub(used);
        // The thread notes a stall once it is over.
        std::thread::sleep(Duration::from_millis(2));
        (took, Duration::from_nanos(worst.load(Ordering::Relaxed)))
    };
    let starts: [&dyn Fn(); 3] = [&ours, &theirs, &by_fork];
    let (mut took, mut stalled) = ([const { vec![] }; 3], [const { vec![] }; 3]);
    let mut measure = |which: usize| {
        let (time, stall) = timed(starts[which]);
        took[which].push(time);
        stalled[which].push(stall);
    };
    timed(&ours);
    timed(&theirs);
    for _ in 0..ROUNDS {
        measure(0);
        measure(1);
        say("goes on");
    }
    // Last, since after a fork the thread has all pages to take back.
    for _ in 0..FORKS {
        measure(2);
        say("goes on");
    }
    stop.store(true, Ordering::Relaxed);
    writing.join().expect("no panic");
    let nanoseconds = [took, stalled]
        .map(|each| each.map(|times| median(times).as_nanos().to_string()).join(" "));
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
        <[f64; 6]>::try_from(times).expect("six times")
    };
    // What else runs on the machine can disturb one measurement. A host that copies page tables is
    // slower by far in all of them.
    let mut tries = Vec::new();
    for _ in 0..3 {
        let [ours, theirs, forked, our_stall, their_stall, forked_stall] = measure();
        let told = format!(
            "{gib} GiB: {:.2} ms, std {:.2} ms, by fork {:.2} ms; stalls {:.3} ms, std {:.3} ms, \
             by fork {:.3} ms",
            ours / 1e6,
            theirs / 1e6,
            forked / 1e6,
            our_stall / 1e6,
            their_stall / 1e6,
            forked_stall / 1e6
        );
        // What a copy of the table of pages does to the thread is seen, and far from all else: a
        // stall as short as a part of that is noise.
        let is_seen = forked_stall >= 16.0 * their_stall;
        let stalls = our_stall > (2.0 * their_stall).max(forked_stall / 16.0);
        if ours <= 2.0 * theirs && is_seen && !stalls {
            return done!("{told}");
        }
        tries.push(told);
    }
    panic!("{tries:#?}");
}
