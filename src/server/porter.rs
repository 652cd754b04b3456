//! The porter: the server's one helper thread; or, in a server that lives in somebody's loop, a
//! part of that.
//!
//! It owns the listener, the half-open handshakes, and of established sessions the hang-up of the
//! lifeline and the pidfd of the client. What the reactor must know it delivers to an [`Outbox`];
//! what it must know it is told through its [`PorterHandle`].
//!
//! Of a session whose frames go over the socket it watches the pidfd alone. The end of the stream
//! stands behind the last request, where the reactor finds it when it has read all that is before
//! it.
//!
//! ```text
//!              accept            Hello, limits           READY              hang-up, pidfd
//!  listener ----------> half-open ----------> admitted ----------> session ----------------> dead
//!                           |                     |        Joined -> outbox          Died -> outbox
//!                           '--- reject, hang-up, deadline                                     |
//!                                                 |        slot, bytes and domain              |
//!                                                 '---> are back when the handshake ends  <----'
//!                                                       or the reactor says `closed`
//! ```
//!
//! One epoll, level-triggered, without a periodic timer: it sleeps until something happens or the
//! nearest handshake deadline passes. A slow or hostile handshake never stalls the reactor, and
//! never another handshake for longer than one step.

mod admission;
mod pace;
mod quotas;
mod thread;
mod token;

#[cfg(test)]
mod tests;

use crate::base::sync::{Ordering, PlainU64};
use crate::handshake::{Credentials, Listener, RejectReason};
use crate::link::segment::{Segment, SegmentError};
use crate::memory::layout;
use crate::os::calls::Failed;
use crate::os::fork::Origin;
use rustix::event::{EventfdFlags, eventfd};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use crate::handshake::{Carrier, Joined, PeerInfo};

/// Where the porter leaves what the reactor must know. Called from the porter's thread; must not
/// wait.
pub(crate) trait Outbox: Send + Sync {
    /// Queues the event and rings the reactor's private bell.
    fn deliver(&self, event: Event);

    /// The process is dead that this server is a worker of. Called at most once; only of a server
    /// that answers calls.
    fn host_ended(&self) {}
}

impl Outbox for Box<dyn Outbox> {
    fn deliver(&self, event: Event) {
        (**self).deliver(event);
    }

    fn host_ended(&self) {
        (**self).host_ended();
    }
}

/// What the porter has to tell. A session's `Joined` comes before its `Died`, which comes at most
/// once.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client has a session.
    Joined(Box<Joined>),
    /// A client is gone. Its slot, bytes and domain stay taken until [`PorterHandle::closed`].
    Died { session: u64, why: Death },
    /// The porter has ended although nobody told it to, and this is why. Nothing follows.
    Failed(io::Error),
}

impl Joined {
    /// How much shared memory the session has.
    pub(crate) fn shared_bytes(&self) -> u64 {
        match &self.carrier {
            Carrier::Shared { request, response, .. } => {
                [request, response].map(|segment| segment.window.len() as u64).iter().sum()
            }
            Carrier::Socket { .. } => 0,
        }
    }
}

/// How the porter or the reactor found a session at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// The client closed its lifeline without a word.
    HungUp,
    /// The client's process ended, says its pidfd. Somebody else, a forked child, may still hold
    /// the lifeline.
    ProcessDied,
    /// The client said goodbye and closed its lifeline.
    Goodbye,
}

/// How finely domains are cut: which clients share a bell, and so can disturb each other's
/// wake-ups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// One domain for all sessions of the server's own user, and one for each session of another
    /// user.
    #[default]
    Uid,
    /// One domain for each session. Costs about 160 ns for each client whenever the server sleeps.
    Session,
}

/// The porter's settings.
#[derive(Debug, Clone)]
pub(crate) struct PorterConfig {
    pub(crate) credentials: Credentials,
    /// Sessions, handshakes that were admitted included.
    pub(crate) max_clients: u32,
    /// Those of one user, whatever is free.
    pub(crate) max_clients_per_uid: u32,
    /// Half-open handshakes.
    pub(crate) max_handshakes: u32,
    /// Those of one user, whatever is free.
    pub(crate) max_handshakes_per_uid: u32,
    /// From accept to READY.
    pub(crate) handshake_deadline: Duration,
    /// Both segments of one session, in bytes.
    pub(crate) bytes_per_client: u64,
    /// All segments of one user's sessions, in bytes.
    pub(crate) bytes_per_uid: u64,
    /// All segments of all sessions, in bytes.
    pub(crate) ring_bytes: u64,
    /// Capacities of the rings of a client that leaves the choice to the server.
    pub(crate) request_capacity: u64,
    pub(crate) response_capacity: u64,
    /// Largest message in bytes, either way; a client may ask for less.
    pub(crate) max_message: u64,
    pub(crate) isolation: Isolation,
    /// Whether the answers of every session are sent in the order of its requests, asked for or
    /// not.
    pub(crate) ordered: bool,
    /// Of so many calls one is sampled, in sessions whose client does not say otherwise; 0 for
    /// none.
    pub(crate) sample_every: u32,
    /// Whether sessions are byte streams, for clients that ask for that.
    pub(crate) bytes: bool,
    /// Whether shared memory is offered at all.
    pub(crate) shared_memory: bool,
    /// Whether a client that asks for the socket, or cannot have shared memory, is offered the
    /// socket as transport.
    pub(crate) fallback: bool,
}

impl Default for PorterConfig {
    fn default() -> Self {
        Self {
            credentials: Credentials::SameUid,
            max_clients: 64,
            max_clients_per_uid: u32::MAX,
            max_handshakes: 16,
            max_handshakes_per_uid: u32::MAX,
            handshake_deadline: Duration::from_secs(5),
            bytes_per_client: 64 << 20,
            bytes_per_uid: 1 << 30,
            ring_bytes: u64::MAX,
            request_capacity: layout::DEFAULT_CAPACITY,
            response_capacity: layout::DEFAULT_CAPACITY,
            max_message: layout::DEFAULT_MAX_MESSAGE,
            isolation: Isolation::Uid,
            ordered: false,
            sample_every: 0,
            bytes: false,
            shared_memory: true,
            fallback: true,
        }
    }
}

/// What the porter tells about the server in every Welcome.
#[derive(Debug)]
pub(crate) struct StatusInfo<'a> {
    /// The status segment. Without one there is no shared memory for anybody, for this reason.
    pub(crate) segment: Result<&'a Segment, &'a SegmentError>,
    pub(crate) generation: u64,
    /// Armed words in it: the most domains that there can be. `max_clients` are always enough.
    pub(crate) armed_words: u32,
}

/// A number that no two starts of a server share, never 0.
pub(crate) fn generation() -> u64 {
    // The standard library seeds its hash maps from the kernel's random numbers. The clock and the
    // pid make forks of one process differ.
    let mut hasher = std::hash::RandomState::new().build_hasher();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    hasher.write_i64(now.tv_sec);
    hasher.write_i64(now.tv_nsec);
    hasher.write_i32(rustix::process::getpid().as_raw_nonzero().get());
    hasher.finish().max(1)
}

/// What the porter counted. Private to the process: the reactor copies what tools are to see.
#[derive(Debug, Default)]
pub(crate) struct PorterCounters {
    /// Connections that were accepted.
    pub(crate) accepted: PlainU64,
    /// Sessions that began.
    pub(crate) joined: PlainU64,
    /// Connections that were rejected, by [`RejectReason::number`].
    pub(crate) rejected: [PlainU64; RejectReason::COUNT],
    /// Inspectors that were turned away.
    pub(crate) inspectors_refused: PlainU64,
    /// Sessions that began over the socket.
    pub(crate) fallbacks: PlainU64,
    /// Handshakes that were given up at their deadline.
    pub(crate) timeouts: PlainU64,
    /// Handshakes that ended otherwise: hang-ups, garbage instead of READY, tampered segments.
    pub(crate) failed: PlainU64,
    /// Sessions whose client was found gone.
    pub(crate) deaths: PlainU64,
    /// Handshakes that are half-open now.
    pub(crate) half_open: PlainU64,
    /// Times the listener was left alone for a while.
    pub(crate) accept_pauses: PlainU64,
    /// Pauses in sleeps that kept returning at once.
    pub(crate) pauses: PlainU64,
}

impl PorterCounters {
    /// Connections that were rejected since their user had its share.
    pub(crate) fn rejected_of_uid(&self) -> u64 {
        let of = |reason: RejectReason| &self.rejected[reason.number() as usize];
        // Relaxed: counters stand for themselves.
        of(RejectReason::TooManyClientsOfUid { limit: 0 }).load(Ordering::Relaxed)
            + of(RejectReason::TooManyHandshakesOfUid { limit: 0 }).load(Ordering::Relaxed)
    }

    /// Connections that were rejected since the server had as many clients as it may have.
    pub(crate) fn rejected_full(&self) -> u64 {
        let full = RejectReason::TooManyClients { limit: 0 };
        // Relaxed: counters stand for themselves.
        self.rejected[full.number() as usize].load(Ordering::Relaxed)
    }

    /// Rejected connections of all reasons.
    pub(crate) fn rejected_total(&self) -> u64 {
        // Relaxed: counters stand for themselves.
        self.rejected.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// What the porter has been told and has not done yet.
#[derive(Debug, Default)]
struct Orders {
    closed: Vec<u64>,
    stop: bool,
    quit: bool,
}

#[derive(Debug)]
struct Mailbox {
    orders: Mutex<Orders>,
    /// Held by this process alone, so that writing it never blocks.
    bell: OwnedFd,
}

impl Mailbox {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        // Orders are valid after every step, so a panic elsewhere leaves nothing half done.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders());
        // A counter at its maximum means that the porter has been rung already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// A porter without a thread, as its loop sees it.
trait LoopPorter: Send + Sync {
    /// Handles what has happened, without waiting; whether there was anything, so that there may be
    /// more.
    fn turn(&mut self) -> bool;

    /// Readable when something has happened. What a turn leaves behind it does not tell again.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// When a turn is due although nothing has happened.
    fn time_left(&self) -> Option<Duration>;

    /// Does what is to be done when there is nothing else to do; whether there was anything.
    fn use_spare_time(&mut self) -> bool;
}

/// Where a porter runs.
enum PorterHome {
    Thread(JoinHandle<()>),
    Loop(Box<dyn LoopPorter>),
    /// It has ended.
    Nowhere,
}

impl std::fmt::Debug for PorterHome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Thread(_) => "Thread",
            Self::Loop(_) => "Loop",
            Self::Nowhere => "Nowhere",
        })
    }
}

/// The reactor's end of a porter. Dropping it ends the porter and waits for that.
#[derive(Debug)]
pub(crate) struct PorterHandle {
    mailbox: Arc<Mailbox>,
    counters: Arc<PorterCounters>,
    home: PorterHome,
    origin: Origin,
}

/// How to run a porter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PorterMode {
    /// On a thread of its own.
    Thread,
    /// Where the handle is: by [`PorterHandle::turn`].
    Loop,
}

/// Starts the porter.
///
/// # Errors
/// If there are no descriptors or no thread to be had.
pub(crate) fn start(
    mode: PorterMode,
    listener: Listener,
    config: PorterConfig,
    status: &StatusInfo<'_>,
    outbox: impl Outbox + 'static,
) -> io::Result<PorterHandle> {
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(Failed::of("eventfd2"))?;
    let mailbox = Arc::new(Mailbox { orders: Mutex::default(), bell });
    let counters = Arc::new(PorterCounters::default());
    let porter = thread::Porter::new(
        mode,
        listener,
        config,
        status,
        outbox,
        mailbox.clone(),
        counters.clone(),
    )?;
    let home = match mode {
        PorterMode::Thread => {
            let thread = std::thread::Builder::new().name("ringbell-porter".into());
            PorterHome::Thread(thread.spawn(|| porter.run()).map_err(no_thread)?)
        }
        PorterMode::Loop => PorterHome::Loop(Box::new(porter)),
    };
    Ok(PorterHandle { mailbox, counters, home, origin: Origin::here() })
}

fn no_thread(error: io::Error) -> io::Error {
    let limits = "RLIMIT_NPROC and the pids limit of its group; RLIMIT_AS; RLIMIT_MEMLOCK, if the \
                  process locks its memory";
    let text = format!("no thread can be started for the handshakes: {error} (limits: {limits})");
    io::Error::new(error.kind(), text)
}

impl PorterHandle {
    /// The reactor has dropped this session: its slot, bytes and domain are free, its lifeline is
    /// let go.
    pub(crate) fn closed(&self, session: u64) {
        self.mailbox.tell(|orders| orders.closed.push(session));
    }

    /// Says [`Self::closed`] from elsewhere, also when the porter has ended.
    pub(crate) fn releaser(&self) -> Releaser {
        Releaser(self.mailbox.clone())
    }

    /// From now on whoever connects is rejected, and half-open handshakes are given up. A session
    /// that was about to begin may still be delivered before the porter gets to it. Sessions go on.
    pub(crate) fn stop(&self) {
        self.mailbox.tell(|orders| orders.stop = true);
    }

    /// What the porter counts.
    pub(crate) fn counters(&self) -> &Arc<PorterCounters> {
        &self.counters
    }

    /// The descriptor of a porter without a thread: a turn is due when it becomes readable.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.home {
            PorterHome::Loop(porter) => Some(porter.descriptor()),
            _ => None,
        }
    }

    /// Runs a porter without a thread; whether there was anything to do, so that there may be more.
    pub(crate) fn turn(&mut self) -> bool {
        match &mut self.home {
            PorterHome::Loop(porter) => porter.turn(),
            _ => false,
        }
    }

    /// When the next turn is due at the latest.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        match &self.home {
            PorterHome::Loop(porter) => porter.time_left(),
            _ => None,
        }
    }

    /// Has a porter without a thread do what makes the next client's way shorter; whether there was
    /// anything.
    pub(crate) fn use_spare_time(&mut self) -> bool {
        match &mut self.home {
            PorterHome::Loop(porter) => porter.use_spare_time(),
            _ => false,
        }
    }

    /// Ends the porter: removes the socket, lets go of all lifelines, and waits for the thread.
    pub(crate) fn end(&mut self) {
        let home = std::mem::replace(&mut self.home, PorterHome::Nowhere);
        if !self.origin.is_here() {
            // A forked child has a handle of a thread that exists in its parent only, and the
            // parent's epoll.
            std::mem::forget(home);
            return;
        }
        if let PorterHome::Nowhere = home {
            return;
        }
        self.mailbox.tell(|orders| orders.quit = true);
        match home {
            // Why it ended, if it was not told to, it has told itself.
            PorterHome::Thread(thread) => drop(thread.join()),
            // Who is in the middle of a handshake is told.
            PorterHome::Loop(mut porter) => while porter.turn() {},
            PorterHome::Nowhere => {}
        }
    }
}

/// Tells a porter of sessions that are over.
#[derive(Debug, Clone)]
pub(crate) struct Releaser(Arc<Mailbox>);

impl Releaser {
    /// As [`PorterHandle::closed`].
    pub(crate) fn closed(&self, session: u64) {
        self.0.tell(|orders| orders.closed.push(session));
    }
}

impl Drop for PorterHandle {
    fn drop(&mut self) {
        self.end();
    }
}
