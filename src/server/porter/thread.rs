//! The porter itself: one epoll and what hangs on it, on a thread of its own or in somebody's loop.

mod accepting;

use super::admission::Admission;
use super::token::{Token, Turn};
use super::{
    Death, Event, LoopPorter, Mailbox, Outbox, PorterConfig, PorterCounters, PorterMode, StatusInfo,
};
use crate::base::calm::Calm;
use crate::base::shares::{Refused, Shares};
use crate::base::sync::{Ordering, PlainU64};
use crate::handshake::{
    Carrier, Closed, Credentials, Handshake, HandshakeProgress, Joined, Listener, RejectReason,
    identify, reject,
};
use crate::link::lifeline::{self, Hearing, Said};
use crate::os::calls::Failed;
use crate::os::closer;
use crate::os::peer_socket::PeerSocket;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to look out for the next step of a handshake before sleeping: a CPU that sleeps takes
/// 50 us to wake. Granted twice to a handshake, at accept and at Welcome, so that nobody can keep
/// the porter busy for long.
const ATTENTION: Duration = Duration::from_micros(100);

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn add(counter: &PlainU64) {
    // Relaxed: counters stand for themselves.
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a look at the epoll came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Nothing,
    Something,
    /// The porter is to end.
    End,
}

#[derive(Debug)]
struct HalfOpen {
    handshake: Handshake,
    /// What the epoll watches its socket for.
    watched: EventFlags,
    /// When it goes on by itself, if it does.
    due: Option<Instant>,
}

/// A session, as far as the porter watches it.
#[derive(Debug)]
struct WatchedSession {
    /// Not of a session whose frames go over it: it is read by the reactor alone, who sees its end.
    lifeline: Option<Arc<PeerSocket>>,
    process: Option<OwnedFd>,
}

pub(super) struct Porter<O> {
    epoll: OwnedFd,
    turn: Turn,
    listener: Listener,
    /// Given up for a moment to accept, and turn away, a client for whom there is no descriptor.
    reserve: Option<OwnedFd>,
    /// While set, the listener is not watched.
    accept_paused_until: Option<Instant>,
    /// How often accepting has failed in a row, for a reason that does not pass.
    accept_failures: u32,
    /// It was told why the porter ends.
    has_failed: bool,
    calm: Calm,
    attentive_until: Instant,
    mailbox: Arc<Mailbox>,
    counters: Arc<PorterCounters>,
    outbox: O,
    credentials: Credentials,
    /// Half-open handshakes of each user.
    handshakes: Shares,
    handshake_deadline: Duration,
    next_handshake: u64,
    /// In order of their deadlines, since all get the same time.
    half_open: BTreeMap<u64, HalfOpen>,
    /// Those of them that go on by themselves, and when. One step of one of them is done in a turn.
    due: BTreeSet<(Instant, u64)>,
    watched: HashMap<u64, WatchedSession>,
    admission: Admission,
}

impl<O: Outbox> Porter<O> {
    pub(super) fn new(
        mode: PorterMode,
        listener: Listener,
        config: PorterConfig,
        status: &StatusInfo<'_>,
        outbox: O,
        mailbox: Arc<Mailbox>,
        counters: Arc<PorterCounters>,
    ) -> std::io::Result<Self> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Failed::of("epoll_create1"))?;
        let add = Failed::of("epoll_ctl");
        epoll::add(&epoll, &listener.socket, Token::Listener.data(), EventFlags::IN)
            .map_err(&add)?;
        epoll::add(&epoll, &mailbox.bell, Token::Mail.data(), EventFlags::IN).map_err(&add)?;
        if let Some(host) = &listener.host {
            epoll::add(&epoll, host, Token::Host.data(), EventFlags::IN).map_err(&add)?;
        }
        let admission = Admission::new(&config, status)?;
        let handshakes = Shares::new(
            config.max_handshakes.into(),
            config.max_handshakes_per_uid.into(),
            config.credentials.sharing(),
        );
        let mut porter = Self {
            epoll,
            turn: Turn::of(mode),
            listener,
            reserve: None,
            accept_paused_until: None,
            accept_failures: 0,
            has_failed: false,
            calm: Calm::default(),
            attentive_until: Instant::now(),
            mailbox,
            counters,
            outbox,
            credentials: config.credentials,
            handshakes,
            handshake_deadline: config.handshake_deadline,
            next_handshake: 0,
            half_open: BTreeMap::new(),
            due: BTreeSet::new(),
            watched: HashMap::new(),
            admission,
        };
        porter.refill_reserve();
        Ok(porter)
    }

    /// Runs until it is told to end, or cannot go on: then the reactor is told why.
    pub(super) fn run(mut self) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.serve()));
        if ran.is_err() {
            self.fail(std::io::Error::other("the thread that makes the handshakes panicked"));
        }
    }

    fn serve(&mut self) {
        loop {
            let now = Instant::now();
            let attentive = now < self.attentive_until;
            // Something may wait to be done when there is nothing else to do.
            let spare_time = self.wants_spare();
            let wait =
                if attentive || spare_time { Some(Duration::ZERO) } else { self.time_left(now) };
            let looked = self.look(wait);
            self.after_sleep(now, wait, looked);
            match looked {
                Looked::Nothing if spare_time && !attentive => self.admission.make_spare(),
                Looked::Nothing if attentive => rustix::thread::sched_yield(),
                Looked::Nothing | Looked::Something => {}
                Looked::End => return,
            }
            self.go_on();
            self.expire(Instant::now());
            if self.has_failed {
                return;
            }
        }
    }

    /// A look that returns at once, again and again and for nothing, must not be a busy loop.
    fn after_sleep(&mut self, since: Instant, wait: Option<Duration>, looked: Looked) {
        let took = since.elapsed();
        let left = wait.map_or(u64::MAX, |wait| ns(wait.saturating_sub(took)));
        self.calm.slept(false, ns(took), left, || looked != Looked::Nothing);
        // Relaxed: counters stand for themselves.
        self.counters.pauses.store(self.calm.pauses(), Ordering::Relaxed);
    }

    /// The porter cannot go on.
    fn fail(&mut self, error: std::io::Error) {
        if !std::mem::replace(&mut self.has_failed, true) {
            crate::trace::porter_failed(&error);
            self.outbox.deliver(Event::Failed(error));
        }
    }

    /// As [`Self::fail`], if it is the call that is refused. A lack of memory passes.
    fn fail_if_refused(&mut self, call: &'static str, errno: Errno) {
        let failed = Failed { call, errno };
        if failed.is_refusal() {
            self.fail(failed.into());
        }
    }

    /// One step of the handshake that is due first.
    fn go_on(&mut self) {
        if let Some(&(at, id)) = self.due.first()
            && at <= Instant::now()
        {
            self.pump(id);
        }
    }

    /// Handles what has happened, or happens within `wait`.
    fn look(&mut self, wait: Option<Duration>) -> Looked {
        let wait = wait.and_then(|wait| rustix::event::Timespec::try_from(wait).ok());
        let mut space = [MaybeUninit::uninit(); Turn::MOST];
        match epoll::wait(&self.epoll, &mut space[..self.turn.events], wait.as_ref()) {
            Ok(([], _)) => Looked::Nothing,
            Ok((events, _)) => {
                for event in events {
                    let (data, flags) = (event.data, event.flags);
                    if !self.handle(Token::of(data), flags) {
                        return Looked::End;
                    }
                }
                Looked::Something
            }
            Err(Errno::INTR) => Looked::Something,
            // The call is refused, or somebody has closed the descriptor.
            Err(errno) => {
                self.fail(Failed { call: "epoll_pwait", errno }.into());
                Looked::End
            }
        }
    }

    /// Until the nearest deadline; `None` if there is none.
    fn time_left(&self, now: Instant) -> Option<Duration> {
        let due = self.due.first().map(|(at, _)| *at);
        if due.is_some_and(|due| due <= now) {
            return Some(Duration::ZERO);
        }
        let handshake =
            self.half_open.first_key_value().map(|(_, first)| first.handshake.deadline());
        let nearest = [due, handshake, self.accept_paused_until].into_iter().flatten().min()?;
        // Rounded up: a kernel without epoll_pwait2 counts milliseconds, and 0 would be a busy
        // loop.
        Some(nearest.saturating_duration_since(now) + Duration::from_millis(1))
    }

    /// Whether there is something to be done when there is nothing else to do.
    fn wants_spare(&self) -> bool {
        self.admission.wants_spare() && self.half_open.is_empty()
    }

    /// False if the porter is to end.
    fn handle(&mut self, token: Token, flags: EventFlags) -> bool {
        match token {
            Token::Listener => {
                self.accept();
                let is_shut = flags.intersects(EventFlags::HUP | EventFlags::ERR);
                if is_shut && self.accept_paused_until.is_none() {
                    // Another holder has shut it down, which the kernel tells again and again. An
                    // accept that does not wait says EAGAIN then; this is what one says that waits.
                    self.cannot_accept(Errno::INVAL);
                }
            }
            Token::Mail => return self.read_mail(),
            Token::HalfOpen(id) => self.hear(id, flags),
            Token::Lifeline(session) => self.report_death(session, Death::HungUp),
            Token::Process(session) if flags.intersects(EventFlags::IN | EventFlags::HUP) => {
                self.report_death(session, Death::ProcessDied);
            }
            // An error, which the kernel would tell again and again.
            Token::Process(session) => {
                if let Some(process) =
                    self.watched.get_mut(&session).and_then(|it| it.process.take())
                {
                    let _ = epoll::delete(&self.epoll, &process);
                }
            }
            Token::Host => {
                // Taken out by name: a forked child may hold the descriptor, and keep it in.
                if let Some(host) = self.listener.host.take() {
                    let _ = epoll::delete(&self.epoll, &host);
                    self.outbox.host_ended();
                }
            }
        }
        !self.has_failed
    }

    fn read_mail(&mut self) -> bool {
        let mut count = [0; 8];
        // Before the orders are looked at: an order that comes later rings again.
        let _ = rustix::io::read(&self.mailbox.bell, &mut count);
        let orders = std::mem::take(&mut *self.mailbox.orders());
        self.release_closed(orders.closed);
        // At the end as well: whoever is in the middle of a handshake is told, and nothing is left
        // that goes on by itself.
        if orders.stop || orders.quit {
            self.admission.stop();
            while let Some((&id, _)) = self.half_open.first_key_value() {
                self.give_up(id, Some(RejectReason::ShuttingDown), lifeline::Farewell::ShutDown);
            }
        }
        !orders.quit
    }

    /// These sessions are over.
    fn release_closed(&mut self, closed: Vec<u64>) {
        for session in closed {
            if let Some(watched) = self.watched.remove(&session) {
                self.unwatch(&watched);
            }
            self.admission.release_quota(session);
            self.resume_accepting();
        }
    }

    fn reject(&self, socket: &OwnedFd, reason: RejectReason) {
        reject(socket, reason);
        self.count_rejected(reason);
    }

    fn count_rejected(&self, reason: RejectReason) {
        crate::trace::rejected(reason);
        if let Some(counter) = self.counters.rejected.get(reason.number() as usize) {
            add(counter);
        }
    }

    /// Begins a handshake, if there may be one.
    fn begin_handshake(&mut self, socket: PeerSocket) {
        if self.admission.stopping() {
            return self.reject(&socket, RejectReason::ShuttingDown);
        }
        let Ok(peer) = identify(&socket) else { return };
        // Who may look at everything is not turned away before it has said what it wants.
        if !self.credentials.allow(peer.uid) && !peer.may_inspect() {
            return self.reject(&socket, RejectReason::PermissionDenied);
        }
        let uid = peer.uid;
        if let Err(reason) = self.check_handshakes(uid) {
            return self.reject(&socket, reason);
        }
        let now = Instant::now();
        let deadline = now + self.handshake_deadline;
        let handshake = match Handshake::new(socket, peer, deadline) {
            Ok(handshake) => handshake,
            Err((socket, _)) => return self.reject(&socket, RejectReason::OutOfDescriptors),
        };
        let id = self.next_handshake;
        self.next_handshake += 1;
        let due = self.admission.due(uid, now);
        let watched = if due.is_some() { EventFlags::RDHUP } else { EventFlags::IN };
        let data = Token::HalfOpen(id).data();
        if let Err(errno) = epoll::add(&self.epoll, handshake.socket(), data, watched) {
            self.reject(handshake.socket(), RejectReason::OutOfMemory);
            return self.fail_if_refused("epoll_ctl", errno);
        }
        self.handshakes.count(uid, 1);
        self.half_open.insert(id, HalfOpen { handshake, watched, due });
        self.count_half_open();
        if let Some(at) = due {
            self.due.insert((at, id));
            return;
        }
        self.attentive_until = Instant::now() + ATTENTION;
        self.pump(id);
    }

    /// Whether one more handshake of this user may begin. Where several users are served, one of
    /// them cannot lock the others out.
    fn check_handshakes(&self, uid: u32) -> Result<(), RejectReason> {
        match self.handshakes.check(uid, 1) {
            Err(Refused::Total) => {
                Err(RejectReason::TooManyHandshakes { limit: self.handshakes.total() })
            }
            // An inspector has no share among those who are served.
            Err(Refused::OfUid { limit }) if self.credentials.allow(uid) => {
                Err(RejectReason::TooManyHandshakesOfUid { limit })
            }
            _ => Ok(()),
        }
    }

    /// Takes a handshake out of those that are half-open.
    fn end_half_open(&mut self, id: u64) -> Option<HalfOpen> {
        let half_open = self.half_open.remove(&id)?;
        if let Some(at) = half_open.due {
            self.due.remove(&(at, id));
        }
        self.handshakes.give_back(half_open.handshake.peer().uid, 1);
        Some(half_open)
    }

    fn count_half_open(&self) {
        // Relaxed: counters stand for themselves.
        self.counters.half_open.store(self.half_open.len() as u64, Ordering::Relaxed);
    }

    /// Something happened at the socket of a handshake.
    fn hear(&mut self, id: u64, flags: EventFlags) {
        let works = self.half_open.get(&id).is_some_and(|half_open| half_open.due.is_some());
        if !works {
            return self.pump(id);
        }
        // It waits for nothing that the client says; but it has no purpose without a client.
        if flags.intersects(EventFlags::HUP | EventFlags::RDHUP | EventFlags::ERR) {
            add(&self.counters.failed);
            self.forget(id);
        }
    }

    /// Takes a handshake as far as it goes.
    fn pump(&mut self, id: u64) {
        // Whoever is gone makes room for who comes after: the order may stand behind this in the
        // epoll.
        let closed = std::mem::take(&mut self.mailbox.orders().closed);
        self.release_closed(closed);
        let Some(half_open) = self.half_open.get_mut(&id) else { return };
        let HalfOpen { handshake, watched, due } = half_open;
        if let Some(at) = due.take() {
            self.due.remove(&(at, id));
        }
        let before = handshake.session();
        let progress = handshake.advance(&mut self.admission);
        let admitted = handshake.session();
        let closed = match progress {
            HandshakeProgress::Reading
            | HandshakeProgress::Writing
            | HandshakeProgress::Working => {
                if before != admitted {
                    self.attentive_until = Instant::now() + ATTENTION;
                }
                let want = match progress {
                    HandshakeProgress::Writing => EventFlags::OUT,
                    HandshakeProgress::Working => {
                        let at = Instant::now();
                        *due = Some(at);
                        self.due.insert((at, id));
                        EventFlags::RDHUP
                    }
                    _ => EventFlags::IN,
                };
                if *watched != want {
                    *watched = want;
                    let data = Token::HalfOpen(id).data();
                    let _ = epoll::modify(&self.epoll, handshake.socket(), data, want);
                }
                return;
            }
            HandshakeProgress::Ready(joined, process) => {
                self.end_half_open(id);
                self.count_half_open();
                return self.begin_session(joined, process);
            }
            HandshakeProgress::Closed(closed) => closed,
        };
        match closed {
            Closed::Refused(reason) => self.count_rejected(reason),
            Closed::Inspected => {}
            Closed::InspectorRefused(reason) => {
                crate::trace::rejected(reason);
                add(&self.counters.inspectors_refused);
            }
            _ => add(&self.counters.failed),
        }
        self.forget(id);
    }

    /// Drops a handshake, and what was reserved for it.
    fn forget(&mut self, id: u64) -> Option<Handshake> {
        let HalfOpen { handshake, .. } = self.end_half_open(id)?;
        // Closing alone would not do while a forked child holds the descriptor, too.
        let _ = epoll::delete(&self.epoll, handshake.socket());
        if let Some(session) = handshake.session() {
            self.admission.release_quota(session);
        }
        self.count_half_open();
        self.resume_accepting();
        Some(handshake)
    }

    fn give_up(&mut self, id: u64, reason: Option<RejectReason>, farewell: lifeline::Farewell) {
        if let Some(handshake) = self.forget(id) {
            if let Some(reason) = reason {
                self.count_rejected(reason);
            }
            handshake.abandon(reason, farewell);
        }
    }

    /// A session begins.
    fn begin_session(&mut self, joined: Box<Joined>, process: Option<OwnedFd>) {
        let session = joined.session;
        let over_socket = matches!(joined.carrier, Carrier::Socket { .. });
        if over_socket {
            let _ = epoll::delete(&self.epoll, &joined.lifeline);
        }
        let lifeline = (!over_socket).then(|| joined.lifeline.clone());
        let watched = WatchedSession { lifeline, process };
        if let Err(errno) = self.watch(session, &watched) {
            self.unwatch(&watched);
            self.admission.release_quota(session);
            add(&self.counters.failed);
            self.fail_if_refused("epoll_ctl", errno);
            // Its memory is freed elsewhere, if there is much of it.
            return closer::free(joined.shared_bytes(), joined);
        }
        self.watched.insert(session, watched);
        if let Carrier::Shared { request, response, .. } = &joined.carrier {
            self.admission.record_segments(session, [request.fd.clone(), response.fd.clone()]);
        }
        add(&self.counters.joined);
        if over_socket {
            add(&self.counters.fallbacks);
        }
        self.outbox.deliver(Event::Joined(joined));
    }

    fn watch(&self, session: u64, watched: &WatchedSession) -> Result<(), Errno> {
        if let Some(lifeline) = &watched.lifeline {
            // Not IN: wake bytes are the reactor's business. HUP and ERR are always watched.
            epoll::modify(
                &self.epoll,
                lifeline,
                Token::Lifeline(session).data(),
                EventFlags::RDHUP,
            )?;
        }
        match &watched.process {
            Some(process) => {
                epoll::add(&self.epoll, process, Token::Process(session).data(), EventFlags::IN)
            }
            None => Ok(()),
        }
    }

    fn unwatch(&self, watched: &WatchedSession) {
        if let Some(lifeline) = &watched.lifeline {
            let _ = epoll::delete(&self.epoll, lifeline);
        }
        if let Some(process) = &watched.process {
            let _ = epoll::delete(&self.epoll, process);
        }
    }

    /// A client is gone. The reactor is told; what the client had is given back when the reactor
    /// lets go of it.
    fn report_death(&mut self, session: u64, why: Death) {
        let Some(watched) = self.watched.remove(&session) else { return };
        self.unwatch(&watched);
        let goodbye = watched.lifeline.as_ref().is_some_and(|lifeline| {
            Hearing::last_words(lifeline).any(|said| said == Said::Goodbye)
        });
        let why = if goodbye { Death::Goodbye } else { why };
        add(&self.counters.deaths);
        self.outbox.deliver(Event::Died { session, why });
    }

    /// Gives up what has run out of time.
    fn expire(&mut self, now: Instant) {
        while let Some((&id, first)) = self.half_open.first_key_value()
            && first.handshake.deadline() <= now
        {
            // A client that was not listened to hears why, and may try again.
            let reason = (first.due.is_some() && first.handshake.session().is_none()).then(|| {
                let limit = self.handshakes.most_of(first.handshake.peer().uid);
                RejectReason::TooManyHandshakesOfUid { limit }
            });
            add(&self.counters.timeouts);
            self.give_up(id, reason, lifeline::Farewell::TooLate);
        }
        if self.accept_paused_until.is_some_and(|until| until <= now) {
            self.resume_accepting();
        }
    }
}

impl<O: Outbox> LoopPorter for Porter<O> {
    fn turn(&mut self) -> bool {
        if self.has_failed {
            return false;
        }
        let looked = self.look(Some(Duration::ZERO));
        self.go_on();
        let now = Instant::now();
        self.expire(now);
        looked == Looked::Something || self.due.first().is_some_and(|(at, _)| *at <= now)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn time_left(&self) -> Option<Duration> {
        self.time_left(Instant::now())
    }

    fn use_spare_time(&mut self) -> bool {
        let wanted = self.wants_spare();
        if wanted {
            self.admission.make_spare();
        }
        wanted
    }
}
