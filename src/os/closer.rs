//! Closing and freeing what may take long, on threads that serve nobody.
//!
//! # Descriptors
//!
//! `close` may wait: for the bytes that a TCP socket with SO_LINGER has not sent, for the daemon
//! behind a file of a FUSE file system. The same holds for a Unix socket with descriptors in its
//! receive queue, which its close drops. A peer can send descriptors of either kind. So a
//! descriptor that a peer may have prepared is closed here.
//!
//! ```text
//!   close(fd) ---> queue (at most MAX_WAITING) ---> up to MAX_THREADS threads, which may wait
//!       |
//!       '--- the queue is full: the descriptor stays open until the process ends (`leaked`)
//! ```
//!
//! - **[`close`] never waits and never closes.** Its lock is held for a few instructions. Nothing
//!   is closed on the caller's thread, whatever happens: a descriptor that is leaked costs a
//!   number, a close that waits stops everybody.
//! - **Threads are started when they are needed**: when something is queued and no thread is idle.
//!   One that has had nothing to do for [`IDLE`] ends. A process whose peers are honest, and have
//!   small rings, never starts one. If none can be started, the descriptor waits for the next call.
//! - **Of sockets SO_LINGER is taken away first**, so that their close does not wait. What remains
//!   to be waited for is behind the queue of a Unix socket, or a file system.
//! - **A forked child has a closer of its own.** It has none of its parent's threads, and the
//!   parent's lock may be held by one of them, so it never touches the parent's state. What is
//!   queued there stays open in the child.
//!
//! # Memory
//!
//! To unmap and free tens of mebibytes takes milliseconds. [`free`] has that done by the same
//! threads. It never waits for them: if all of them are busy, memory is freed where it is.

use crate::base::sync::{Condvar, Mutex, Ordering, PlainU64, lock};
use crate::os::fork::Origin;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

/// Most descriptors that wait for a thread.
const MAX_WAITING: usize = 1024;
/// Most threads, and so most closes that may wait at the same time without delaying others.
const MAX_THREADS: usize = 4;
/// How long a thread waits for more before it ends.
const IDLE: Duration = Duration::from_secs(10);

static QUEUED: PlainU64 = PlainU64::new(0);
static CLOSED: PlainU64 = PlainU64::new(0);
static LEAKED: PlainU64 = PlainU64::new(0);

/// What came of the descriptors that were not closed where they were found. Counted for the
/// process, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closings {
    /// Handed over to be closed.
    pub queued: u64,
    /// Closed.
    pub closed: u64,
    /// Left open for good, since too many others were waiting.
    pub leaked: u64,
}

/// What came of the descriptors so far.
#[must_use]
pub fn closings() -> Closings {
    // Relaxed: counters stand for themselves.
    let of = |counter: &PlainU64| counter.load(Ordering::Relaxed);
    Closings { queued: of(&QUEUED), closed: of(&CLOSED), leaked: of(&LEAKED) }
}

/// Closes a descriptor some time, on another thread. Never waits.
pub(crate) fn close(fd: OwnedFd) {
    of_this_process().close(fd);
}

/// From this size on memory is freed elsewhere: starting a thread costs about as much as freeing
/// this much.
const LARGE: u64 = 1 << 20;

/// Drops `thing`, which keeps so many bytes of memory alive: some time, on another thread, if they
/// are many. To be called by the process that made it only.
pub(crate) fn free(bytes: u64, thing: impl Send + 'static) {
    if bytes >= LARGE {
        of_this_process().free(Box::new(thing));
    }
}

/// The closer of a process, and that of a child that was forked from its process.
struct Node {
    closer: Closer,
    child: OnceLock<Box<Node>>,
}

impl Node {
    fn new() -> Self {
        Self { closer: Closer::new(MAX_WAITING, MAX_THREADS), child: OnceLock::new() }
    }
}

fn of_this_process() -> &'static Closer {
    static FIRST: OnceLock<Node> = OnceLock::new();
    let mut node = FIRST.get_or_init(Node::new);
    while !node.closer.origin.is_here() {
        node = node.child.get_or_init(|| Box::new(Node::new()));
    }
    &node.closer
}

/// What waits for a thread.
enum Thing {
    Descriptor(OwnedFd),
    Memory(Box<dyn Send>),
}

impl std::fmt::Debug for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Descriptor(_) => "Descriptor",
            Self::Memory(_) => "Memory",
        })
    }
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Thing>,
    threads: usize,
    /// Threads that wait for something to do. Each takes one of `waiting`.
    idle: usize,
}

#[derive(Debug)]
struct Closer {
    origin: Origin,
    max_waiting: usize,
    max_threads: usize,
    state: Mutex<State>,
    wanted: Condvar,
}

/// What is to be done for a descriptor that was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Wake,
    Start,
    Nothing,
}

impl Closer {
    fn new(max_waiting: usize, max_threads: usize) -> Self {
        Self {
            origin: Origin::here(),
            max_waiting,
            max_threads,
            state: Mutex::default(),
            wanted: Condvar::new(),
        }
    }

    fn close(&'static self, fd: OwnedFd) {
        if let Some(need) = self.queue(fd) {
            self.see_to(need);
        }
    }

    fn free(&'static self, thing: Box<dyn Send>) {
        let mut state = lock(&self.state);
        // Not behind closes that may never end.
        if state.idle <= state.waiting.len() && state.threads >= self.max_threads {
            drop(state);
            return drop(thing);
        }
        let need = state.add(Thing::Memory(thing), self.max_threads);
        drop(state);
        self.see_to(need);
    }

    fn see_to(&'static self, need: Need) {
        match need {
            Need::Wake => self.wanted.notify_one(),
            Need::Start => self.start(),
            Need::Nothing => {}
        }
    }

    /// `None` if the queue is full; then the descriptor stays open.
    fn queue(&self, fd: OwnedFd) -> Option<Need> {
        let mut state = lock(&self.state);
        if state.waiting.len() >= self.max_waiting {
            drop(state);
            // Its number is lost, and nothing waits.
            std::mem::forget(fd);
            LEAKED.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        QUEUED.fetch_add(1, Ordering::Relaxed);
        Some(state.add(Thing::Descriptor(fd), self.max_threads))
    }

    fn start(&'static self) {
        let thread = std::thread::Builder::new().name("ringbell-closer".into());
        if thread.spawn(|| self.run()).is_err() {
            // The next call tries again. Memory does not wait for that.
            let mut state = lock(&self.state);
            state.threads -= 1;
            let (memory, descriptors) = std::mem::take(&mut state.waiting)
                .into_iter()
                .partition(|thing| matches!(thing, Thing::Memory(_)));
            state.waiting = descriptors;
            drop(state);
            drop::<VecDeque<Thing>>(memory);
        }
    }

    fn run(&self) {
        while let Some(thing) = self.next() {
            match thing {
                Thing::Memory(thing) => drop(thing),
                Thing::Descriptor(fd) => {
                    close_here(fd);
                    CLOSED.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// The next one; `None` if this thread is to end, of which the count of threads knows.
    fn next(&self) -> Option<Thing> {
        let mut state = lock(&self.state);
        state.idle += 1;
        let (mut state, _) = self
            .wanted
            .wait_timeout_while(state, IDLE, |state| state.waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.threads -= 1;
        }
        next
    }
}

impl State {
    fn add(&mut self, thing: Thing, max_threads: usize) -> Need {
        self.waiting.push_back(thing);
        if self.idle >= self.waiting.len() {
            Need::Wake
        } else if self.threads < max_threads {
            self.threads += 1;
            Need::Start
        } else {
            Need::Nothing
        }
    }
}

/// Closes, and waits for that if need be.
fn close_here(fd: OwnedFd) {
    // Not a socket: nothing to take away.
    let _ = rustix::net::sockopt::set_socket_linger(&fd, None);
    drop(fd);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::peer_socket::tests::{lingering, send_with};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    /// A Unix socket in whose queue the last reference of a lingering socket is: its close waits
    /// until the peer of that one is dropped.
    fn stuck() -> (OwnedFd, TcpStream) {
        let (lingering, peer) = lingering();
        let (socket, other) = UnixStream::pair().expect("a pair");
        send_with(&other, b"x", &[&lingering]).expect("sent");
        (socket.into(), peer)
    }

    fn until(met: impl Fn() -> bool) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while !met() {
            assert!(Instant::now() < give_up, "it does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn leak(max_waiting: usize, max_threads: usize) -> &'static Closer {
        Box::leak(Box::new(Closer::new(max_waiting, max_threads)))
    }

    fn waiting(closer: &Closer) -> usize {
        lock(&closer.state).waiting.len()
    }

    /// Whether the other end of a pair was closed.
    fn is_closed(other: &UnixStream) -> bool {
        other.set_nonblocking(true).expect("set");
        matches!(rustix::net::recv(other, &mut [0; 1], rustix::net::RecvFlags::PEEK), Ok((_, 0)))
    }

    #[test]
    fn p5_what_is_queued_is_closed() {
        let closer = leak(8, 1);
        let (one, other) = UnixStream::pair().expect("a pair");
        closer.close(one.into());
        until(|| is_closed(&other));
    }

    #[test]
    fn p5_linger_is_taken_away_from_what_is_closed() {
        let closer = leak(8, 1);
        let (lingering, _peer) = lingering();
        let (one, other) = UnixStream::pair().expect("a pair");
        closer.close(lingering.into());
        closer.close(one.into());
        // The one thread came to the second: it did not wait for the first.
        until(|| is_closed(&other));
    }

    #[test]
    fn p5_a_close_that_waits_delays_no_other() {
        let closer = leak(8, 2);
        let (socket, peer) = stuck();
        let (one, other) = UnixStream::pair().expect("a pair");
        closer.close(socket);
        closer.close(one.into());
        until(|| is_closed(&other));
        drop(peer);
    }

    struct Tells(std::sync::mpsc::Sender<std::thread::ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().id());
        }
    }

    #[test]
    fn p6_large_memory_is_freed_elsewhere_and_small_here() {
        let (tell, told) = std::sync::mpsc::channel();
        let here = std::thread::current().id();
        free(LARGE - 1, Tells(tell.clone()));
        assert_eq!(told.try_recv(), Ok(here));
        let closer = leak(8, 1);
        for _ in 0..100 {
            closer.free(Box::new(Tells(tell.clone())));
            assert_ne!(told.recv().expect("it is dropped"), here);
            until(|| lock(&closer.state).idle == 1);
        }
        // The only thread is stuck in a close: memory does not wait behind it.
        let (socket, peer) = stuck();
        closer.close(socket);
        until(|| waiting(closer) == 0);
        closer.free(Box::new(Tells(tell)));
        assert_eq!(told.try_recv(), Ok(here));
        drop(peer);
    }

    #[test]
    fn p5_a_full_queue_leaks_and_never_waits() {
        let closer = leak(1, 1);
        let (socket, peer) = stuck();
        closer.close(socket);
        until(|| waiting(closer) == 0);
        // The only thread is stuck. One more has a place, the next one has none.
        let (one, other) = UnixStream::pair().expect("a pair");
        closer.close(one.into());
        let (second, of_second) = UnixStream::pair().expect("a pair");
        let before = closings().leaked;
        closer.close(second.into());
        assert_eq!(closings().leaked, before + 1);
        assert_eq!(waiting(closer), 1);
        drop(peer);
        until(|| is_closed(&other));
        assert!(!is_closed(&of_second), "a leaked descriptor stays open");
    }
}
