//! P3: a client's threads wait on the client's own word, many thousand times.

use crate::beside::{Measure, in_turns, is_not_reached};
use crate::users::{become_the_user, only_one_user, open_server};
use ringbell::layout::{self, Armed, Interest, Kind, Mode, offset};
use ringbell::memory::{BellWord, Window};
use ringbell::ring::{Consumer, Producer};
use ringbell::sync::{Ordering, PlainU64};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, PATIENCE, Start};
use ringbell_shm_tests::{becomes_true, done, raw, wait_until};
use rustix::thread::futex;
use std::sync::Arc;

const CAPACITY: u64 = 2048;
const THREADS: u64 = 400;
/// Most entries of one `futex_waitv`.
const ENTRIES: usize = 128;

/// A thread that waits on the word again and again, with as many entries as it may.
fn wait_for_ever(word: BellWord, waiting: &Arc<PlainU64>) {
    let waiting = waiting.clone();
    let body = move || {
        waiting.fetch_add(1, Ordering::Relaxed);
        loop {
            let ticket = word.load();
            let entries = [(); ENTRIES].map(|()| word.entry(ticket));
            let clock = rustix::thread::ClockId::Monotonic;
            let _ = futex::waitv(&entries, futex::WaitvFlags::empty(), None, clock);
        }
    };
    std::thread::Builder::new().stack_size(64 << 10).spawn(body).expect("a thread");
}

/// The role: a session whose server wakes it for each answer. Its threads wait on that word, or, if
/// harmless, one of them there and the others on a word of their own.
pub(crate) fn waiters(arguments: &Arguments) {
    become_the_user(arguments);
    let session = raw::Session::open(arguments.text("path").as_ref(), CAPACITY);
    let harmless = arguments.number("harmless") != 0;
    let rung = || session.response.bell_word(offset::SEQ);
    let own = memory();
    let waiting = Arc::new(PlainU64::new(0));
    wait_for_ever(rung(), &waiting);
    for _ in 1..THREADS {
        let word = if harmless { own.bell_word(offset::SEQ) } else { rung() };
        wait_for_ever(word, &waiting);
    }
    wait_until("all threads wait", || waiting.load(Ordering::Relaxed) == THREADS);
    let capacity = usize::try_from(CAPACITY).expect("small");
    let mut producer = Producer::new(
        session.request.own_lines(layout::CONTROL, capacity),
        session.request.own_word(offset::TAIL),
        session.response.peer_word(offset::HEAD),
        0,
    );
    let mut consumer = Consumer::new(
        session.response.peer_lines(layout::CONTROL, capacity),
        session.request.own_word(offset::HEAD),
        0,
    );
    let (armed, seq) = (session.request.own_word(offset::ARMED), rung());
    let mut call = 0;
    let work = |(): &mut ()| {
        call += 1;
        armed.store(Armed::new(Mode::Futex, Interest::BOTH, seq.load()).0, Ordering::Relaxed);
        let claim = producer.try_claim(0).expect("room");
        producer.commit(claim, layout::HeaderWord::new(Kind::Ping, 0, 0, 0), call);
        session.ring();
        let answered = becomes_true(PATIENCE, || {
            consumer.peek().expect("an honest server").is_some_and(|record| {
                let _ = consumer.release(record);
                true
            })
        });
        assert!(answered, "ping {call} is not answered");
    };
    in_turns(|| (), work);
}

/// A page of shared memory.
fn memory() -> Window {
    let fd = rustix::fs::memfd_create("own", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::fs::ftruncate(&fd, 4096).expect("ftruncate");
    raw::map(&fd, 4096, true).expect("map")
}

pub(crate) fn p3_one_wake_wakes_one() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let ticket = BellWord::private().entry(0);
    let at_once = Some(futex::Timespec { tv_sec: 0, tv_nsec: 0 });
    let clock = rustix::thread::ClockId::Monotonic;
    if futex::waitv(&[ticket], futex::WaitvFlags::empty(), at_once.as_ref(), clock)
        == Err(rustix::io::Errno::NOSYS)
    {
        return Ran::Skipped("missing: futex_waitv (Linux 5.16)".into());
    }
    let (server, _dir) = open_server("thread");
    let measure = Measure { what: "calls", count: 300, pause: 300 };
    let told = is_not_reached(server.path(), measure, || Start::role("waiters"));
    let stats = server.shut_down();
    assert!(stats.wakes_sent > 0, "no wake was sent: {stats:?}");
    done!("{THREADS} threads on one word: {told}")
}
