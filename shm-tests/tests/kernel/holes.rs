//! P12: a client maps what it may write many thousand times and punches holes in it. A load from a
//! hole, and each lock of that file, waits for the punch.

#![allow(unsafe_code, reason = "the scheduling class has no safe interface")]

use crate::beside::{Measure, in_turns, is_going, is_not_reached};
use crate::users::{become_the_user, name, only_one_user, open_server};
use ringbell::memory::Window;
use ringbell::sync::{Ordering, PlainBool};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start};
use ringbell_shm_tests::{busy_for, done, raw, wait_until};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Mappings of one segment: about half of what the kernel allows a process.
const MAPPINGS: usize = 30_000;

/// Whether so many mappings fit; what is missing otherwise.
fn too_few_mappings() -> Option<Ran> {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    let most: usize = most.trim().parse().unwrap_or(0);
    (most < MAPPINGS + 1000)
        .then(|| Ran::Skipped(format!("missing: vm.max_map_count is {most}, not {MAPPINGS}")))
}

/// From now on this thread runs when no other one wants to: what it holds, it holds for long.
fn be_idle() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure is valid for the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    assert_eq!(result, 0, "SCHED_IDLE");
}

/// Keeps every CPU busy while the test lets this process work: with a low priority, so that others
/// hardly notice, but an idle thread does not get on.
fn keep_cpus_busy() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..cpus {
        std::thread::spawn(|| {
            // SAFETY: changes the priority of the calling thread only.
            let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
            assert_eq!(result, 0, "a lower priority");
            loop {
                match is_going() {
                    true => busy_for(Duration::from_millis(1)),
                    false => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
    }
}

fn size(fd: impl AsFd) -> u64 {
    u64::try_from(rustix::fs::fstat(fd).expect("fstat").st_size).expect("positive")
}

/// Mappings of the same memory, each of them touched.
fn map_often(fd: &OwnedFd) -> Vec<Window> {
    let map = |_| {
        let window = raw::map(fd, size(fd), false).expect("another mapping");
        let _ = window.peer_word(0).load();
        window
    };
    (0..MAPPINGS).map(map).collect()
}

/// A memfd of one's own that is like another one.
fn like(fd: &OwnedFd) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let own = rustix::fs::memfd_create("own", flags).expect("memfd");
    rustix::fs::ftruncate(&own, size(fd)).expect("ftruncate");
    raw::map(&own, size(fd), true).expect("map").own_word(0).store(1, Ordering::Relaxed);
    let seals = rustix::fs::fcntl_get_seals(fd).expect("seals").intersection(raw::CLOSED);
    rustix::fs::fcntl_add_seals(&own, seals).expect("new seals");
    own
}

/// What the client may punch: its bell page if it has one, else its request segment; or, if
/// harmless, a memfd like that.
fn target(descriptors: &[OwnedFd], harmless: bool) -> OwnedFd {
    let named = |wanted| descriptors.iter().find(|fd| name(fd) == wanted);
    let target = named("bell").or(named("request")).expect("a request segment");
    if harmless { like(target) } else { target.try_clone().expect("a descriptor") }
}

/// The role. `when=after`: one session, and punches from then on. `when=before`: whenever it is to
/// go, a session that says READY while its request segment is punched.
pub(crate) fn puncher(arguments: &Arguments) {
    become_the_user(arguments);
    let path = Path::new(arguments.text("path"));
    let harmless = arguments.number("harmless") != 0;
    if arguments.text("when") == "before" {
        keep_cpus_busy();
        let pause = |_: &mut ReadyAmidHoles| std::thread::sleep(Duration::from_millis(1));
        return in_turns(|| ReadyAmidHoles::new(path, harmless), pause);
    }
    let session = raw::Session::open(path, 2048);
    let target = target(&session.descriptors, harmless);
    let mappings = map_often(&target);
    be_idle();
    in_turns(
        || (),
        |()| {
            // Refused, if it is sealed.
            let _ = raw::punch(&target, size(&target));
            let _ = mappings[0].peer_word(0).load();
            session.ring();
        },
    );
}

/// A client that has said READY without sealing its request segment, and punches holes in it until
/// this is dropped.
struct ReadyAmidHoles {
    stream: UnixStream,
    over: Arc<PlainBool>,
    punching: Option<JoinHandle<()>>,
}

impl ReadyAmidHoles {
    fn new(path: &Path, harmless: bool) -> Self {
        let stream = raw::connect(path);
        raw::send(&stream, &raw::hello(2048), &[]);
        let answer = raw::receive(&stream).expect("an answer");
        assert_eq!(answer.kind, raw::kind::WELCOME, "{answer:?}");
        let request = answer.descriptors.iter().find(|fd| name(fd) == "request");
        let target = target(request.map(std::slice::from_ref).expect("a segment"), harmless);
        let (begun, over) = (Arc::new(PlainBool::new(false)), Arc::new(PlainBool::new(false)));
        let (begins, end) = (begun.clone(), over.clone());
        let punching = std::thread::spawn(move || {
            let mappings = map_often(&target);
            be_idle();
            begins.store(true, Ordering::Relaxed);
            // Until somebody seals it, or this is dropped.
            while !end.load(Ordering::Relaxed) && raw::punch(&target, size(&target)).is_ok() {
                let _ = mappings[0].peer_word(0).load();
            }
        });
        wait_until("holes are punched", || begun.load(Ordering::Relaxed));
        raw::send(&stream, &[raw::READY], &[]);
        Self { stream, over, punching: Some(punching) }
    }
}

impl Drop for ReadyAmidHoles {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(punching) = self.punching.take() {
            punching.join().expect("the thread that punches");
        }
    }
}

fn beside_holes(when: &str, measure: Measure) -> Ran {
    if let Some(skipped) = only_one_user().or_else(too_few_mappings) {
        return skipped;
    }
    let (server, _dir) = open_server("thread");
    let told = is_not_reached(server.path(), measure, || Start::role("puncher").with("when", when));
    server.shut_down();
    done!("{MAPPINGS} mappings: {told}")
}

/// Clients that connect beside one that punches its segment and says READY.
pub(crate) fn p12_holes_are_never_touched_before_ready() -> Ran {
    beside_holes("before", Measure { what: "sessions", count: 60, pause: 15_000 })
}

/// Clients that call beside one that punches what it may write, in its session.
pub(crate) fn p12_holes_are_never_touched_after_ready() -> Ran {
    beside_holes("after", Measure { what: "calls", count: 300, pause: 300 })
}
