//! How a reactor sleeps. It waits on several bells at once: a private one, which only its own
//! process can ring, and one for each domain of clients.
//!
//! Chosen anew for each sleep: `futex_waitv` while the bells fit one call and no session is carried
//! by a socket, epoll otherwise. In epoll clients wake the reactor by a byte on their lifeline, and
//! its own process through an eventfd.
//!
//! Where the kernel refuses `futex_waitv` (Linux before 5.16, a seccomp profile, valgrind) the
//! reactor sleeps in epoll whenever there is a session on rings. That is asked once, when the
//! parker is made; a refusal that comes later is learnt from the sleep that failed. A server that
//! may not use futexes at all has no sessions on rings, and sleeps in epoll alone.
//!
//! A server that lives in somebody's loop does not sleep here: the loop watches the epoll, which
//! has the porter's in it then, and a timer that is set only while something has a time limit. Its
//! bells are armed in event mode.

use crate::base::calm::Calm;
use crate::base::clock::{now_ns, timespec};
use crate::base::sync::Ordering;
use crate::link::readiness::Readiness;
use crate::memory::layout::{self, Interest, Mode};
use crate::memory::{BellWord, OwnWord, Window, wait_any};
use crate::os::calls::{self, Failed};
use crate::protocol::bell::{Arming, Rescue, Ringer, Sleeper};
use crate::protocol::bells::Bells;
use crate::server::facts::stored_word;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::sync::Arc;
use std::time::Duration;

/// What stands in the place of a session's number for the porter's epoll. Sessions count from 1.
pub(crate) const PORTER: u64 = u64::MAX;
/// The same for the timer.
pub(crate) const ALARM: u64 = u64::MAX - 1;

/// Most bells of one `futex_waitv`, which the kernel bounds at 128.
const WAITV_BELLS: usize = 127;

/// For how long the reactor sleeps in epoll after sleeps on futexes that returned at once and for
/// nothing. Any client can make that happen: it maps a word that the reactor waits on, and may wake
/// it without a ring. It gains one short pause in this time, and the others are served as beside a
/// session that a socket carries.
const FUTEX_REST_NS: u64 = 1_000_000_000;

/// Events that are taken from the epoll at once.
const EVENTS: usize = 64;

/// Wakes a reactor from within its own process: from any thread, and from signal handlers.
#[derive(Debug)]
pub(crate) struct Notifier {
    ringer: Ringer,
    event: OwnedFd,
}

impl Notifier {
    /// Rings after something was published for the reactor. Async-signal-safe.
    pub(crate) fn notify(&self) {
        match self.ringer.ring(Interest::DATA) {
            Some(Mode::Futex) => {
                self.ringer.seq().wake();
            }
            Some(Mode::Event) => {
                // Nobody else holds this eventfd, so it cannot be full.
                let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
            }
            None => {}
        }
    }
}

/// The epoll, for a loop that watches it.
impl AsFd for Parker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// What a sleep came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slept {
    /// Called off: something was there at the second look.
    Not,
    /// Ended by a ring, or for no reason.
    Rung,
    /// Ended by the backstop, with nothing there.
    Out,
    /// Ended by the backstop although something was there.
    Rescued(Rescue),
}

/// The sleeper's end of all bells of one reactor.
#[derive(Debug)]
pub(crate) struct Parker {
    bells: Bells,
    /// Sessions of each domain, and domains that have some.
    domains: Vec<usize>,
    in_use: usize,
    /// Sessions that are carried by sockets.
    sockets: usize,
    status: Window,
    epoll: OwnedFd,
    alarm: Option<Alarm>,
    futex: Futexes,
    /// Until when no futex is slept on: CLOCK_MONOTONIC ns; 0 if they may be.
    no_futex_until: u64,
    calm: Calm,
    /// When the thread last woke up or stored what it counted: for tools.
    stored_ns: OwnWord,
    /// When the last sleep ended: CLOCK_MONOTONIC ns.
    woke: u64,
    /// Why the epoll is of no use any more.
    broken: Option<Failed>,
}

/// What futexes are good for in this process. It only ever becomes less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Futexes {
    Refused,
    /// One can be waited on.
    One,
    /// Several can be waited on at once.
    Many,
}

impl Futexes {
    fn of_this_process() -> Self {
        match (calls::futex_works(), calls::futex_waitv_works()) {
            (false, _) => Self::Refused,
            (true, false) => Self::One,
            (true, true) => Self::Many,
        }
    }
}

/// A timer in the epoll.
#[derive(Debug)]
struct Alarm {
    timer: OwnedFd,
    /// CLOCK_MONOTONIC ns; 0 while it is not set.
    at: u64,
}

impl Parker {
    /// A parker whose domains are armed in `status`, and the notifier that wakes it.
    pub(crate) fn new(status: Window) -> Result<(Self, Arc<Notifier>), Failed> {
        let words = Window::heap(2 * layout::CELL);
        let seq = words.bell_word(layout::CELL);
        let notifier = Arc::new(Notifier {
            ringer: Ringer::new(words.peer_word(0), seq.share()),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(Failed::of("eventfd2"))?,
        });
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Failed::of("epoll_create1"))?;
        epoll::add(
            &epoll,
            &notifier.event,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )
        .map_err(Failed::of("epoll_ctl"))?;
        let private = Sleeper::new(words.own_word(0), seq);
        let stored_ns = stored_word(&status);
        let parker = Self {
            bells: Bells::new(private),
            domains: Vec::new(),
            in_use: 0,
            sockets: 0,
            status,
            epoll,
            alarm: None,
            futex: Futexes::of_this_process(),
            no_futex_until: 0,
            calm: Calm::default(),
            stored_ns,
            woke: 0,
            broken: None,
        };
        Ok((parker, notifier))
    }

    /// From now on the epoll tells of `porter`, too, and [`Self::set_alarm`] may be used: for
    /// somebody's loop, which watches the epoll.
    pub(crate) fn embed(&mut self, porter: BorrowedFd<'_>) -> Result<(), Failed> {
        use epoll::EventFlags;
        let edges = EventFlags::IN | EventFlags::ET;
        let add = Failed::of("epoll_ctl");
        epoll::add(&self.epoll, porter, epoll::EventData::new_u64(PORTER), edges).map_err(&add)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(Failed::of("timerfd_create"))?;
        epoll::add(&self.epoll, &timer, epoll::EventData::new_u64(ALARM), edges).map_err(&add)?;
        self.alarm = Some(Alarm { timer, at: 0 });
        Ok(())
    }

    /// Has the epoll tell when this time has come; 0 for never.
    #[allow(clippy::cast_possible_wrap, reason = "584 years of nanoseconds are 18 billion seconds")]
    pub(crate) fn set_alarm(&mut self, at: u64) {
        let Some(alarm) = self.alarm.as_mut().filter(|alarm| alarm.at != at) else { return };
        alarm.at = at;
        let value =
            Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as _ };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Cannot fail: the descriptor and the values are good.
        let _ = timerfd_settime(
            &alarm.timer,
            TimerfdTimerFlags::ABSTIME,
            &Itimerspec { it_interval: never, it_value: value },
        );
    }

    /// Arms all bells for a loop that watches the epoll. `Busy` if one of them was rung meanwhile,
    /// or `look` finds something: then nothing is armed.
    pub(crate) fn arm_for_loop(
        &mut self,
        interest: Interest,
        look: impl FnOnce() -> bool,
    ) -> Arming {
        self.bells.arm(Mode::Event, interest, look)
    }

    /// What the kernel has to say of everything in the epoll, without waiting. Edges that are told
    /// here are told nowhere else: whoever watches the epoll itself is told of each only once. True
    /// if there may be more.
    pub(crate) fn harvest(&mut self, mut woken: impl FnMut(u64, Readiness)) -> bool {
        // Each descriptor makes one edge until it is told, so this ends; the bound is for those
        // that make new ones.
        (0..=2 + (self.in_use + self.sockets) / EVENTS)
            .all(|_| self.wait_epoll(Some(Duration::ZERO), &mut woken) == Ok(EVENTS))
    }

    /// The alarm was told of.
    pub(crate) fn alarm_went_off(&mut self) {
        if let Some(alarm) = &mut self.alarm {
            alarm.at = 0;
        }
    }

    /// A session of `domain` joined: its bell `seq` is waited on from now on, and in epoll its
    /// lifeline. False if the lifeline cannot be watched, so that only a backstop would look after
    /// the session.
    pub(crate) fn join(
        &mut self,
        domain: u32,
        seq: &BellWord,
        session: u64,
        lifeline: &OwnedFd,
    ) -> bool {
        let index = domain as usize;
        if self.domains.len() <= index {
            self.domains.resize(index + 1, 0);
        }
        self.in_use += usize::from(self.domains[index] == 0);
        self.domains[index] += 1;
        let armed = || self.status.own_word(layout::armed(domain));
        self.bells.watch(index, || Sleeper::new(armed(), seq.share()));
        // Edge-triggered: the reactor need not read a byte to be woken by the next one.
        self.watch(session, lifeline, epoll::EventFlags::IN | epoll::EventFlags::ET).is_ok()
    }

    /// A lack of memory concerns one session; without the call no session can be served.
    fn watch(
        &mut self,
        session: u64,
        socket: &OwnedFd,
        flags: epoll::EventFlags,
    ) -> rustix::io::Result<()> {
        let added = epoll::add(&self.epoll, socket, epoll::EventData::new_u64(session), flags);
        if let Err(errno) = added
            && calls::is_refusal(errno)
        {
            self.broken = Some(Failed { call: "epoll_ctl", errno });
        }
        added
    }

    /// A session that its socket carries joined.
    pub(crate) fn join_socket(&mut self, session: u64, socket: &OwnedFd) -> rustix::io::Result<()> {
        use epoll::EventFlags;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        self.watch(session, socket, flags)?;
        self.sockets += 1;
        Ok(())
    }

    /// A session left; `domain` unless a socket carried it.
    pub(crate) fn remove(&mut self, domain: Option<u32>, lifeline: &OwnedFd) {
        let _ = epoll::delete(&self.epoll, lifeline.as_fd());
        let Some(domain) = domain else {
            self.sockets -= 1;
            return;
        };
        let Some(sessions @ 1..) = self.domains.get_mut(domain as usize) else { return };
        *sessions -= 1;
        if *sessions == 0 {
            self.bells.forget(domain as usize);
            self.in_use -= 1;
        }
    }

    /// Sleeps until a bell is rung, at most `backstop`, unless `look` finds something. `woken` is
    /// told of the sessions whose lifeline or socket had something.
    pub(crate) fn park(
        &mut self,
        interest: Interest,
        backstop: Duration,
        mut look: impl FnMut() -> bool,
        woken: impl FnMut(u64, Readiness),
    ) -> Slept {
        let mode = self.mode();
        if self.bells.arm(mode, interest, &mut look) == Arming::Busy {
            return Slept::Not;
        }
        let began = now_ns();
        let until = began.saturating_add(u64::try_from(backstop.as_nanos()).unwrap_or(u64::MAX));
        let (waited, events) = match mode {
            Mode::Futex => (self.wait_futex(until), 0),
            Mode::Event => {
                let events = self.wait_epoll(Some(backstop), woken);
                (events.map(drop), events.unwrap_or(0))
            }
        };
        let woke = now_ns();
        let came = || events != 0 || self.bells.any_rung();
        let left = until.saturating_sub(woke);
        self.calm.slept(waited.is_err(), woke.saturating_sub(began), left, came);
        if mode == Mode::Futex {
            self.learn(waited, woke);
        }
        let slept = if woke < until || self.bells.any_rung() {
            Slept::Rung
        } else if look() {
            Slept::Rescued(self.rescue(look))
        } else {
            Slept::Out
        };
        self.wake_up(woke);
        slept
    }

    /// When the last sleep ended.
    pub(crate) fn woke(&self) -> u64 {
        self.woke
    }

    /// A sleep has ended at `now`.
    pub(crate) fn wake_up(&mut self, now: u64) {
        self.woke = now;
        // Relaxed: for tools. Before the words are disarmed: a thread that is shown as awake has
        // shown since when.
        self.stored_ns.store(now, Ordering::Relaxed);
        self.disarm();
    }

    /// Takes back what arming said.
    pub(crate) fn disarm(&self) {
        self.bells.disarm();
    }

    /// What a sleep on futexes, which ended at `now`, says about the next ones.
    fn learn(&mut self, waited: rustix::io::Result<()>, now: u64) {
        if waited.is_err_and(calls::is_refusal) {
            self.futex = if self.in_use == 0 { Futexes::Refused } else { Futexes::One };
        } else if self.calm.is_pausing() {
            self.no_futex_until = now.saturating_add(FUTEX_REST_NS);
        }
    }

    /// How to sleep now.
    fn mode(&mut self) -> Mode {
        if self.no_futex_until != 0 {
            if now_ns() < self.no_futex_until {
                return Mode::Event;
            }
            self.no_futex_until = 0;
        }
        let needed = if self.in_use == 0 { Futexes::One } else { Futexes::Many };
        if self.sockets == 0 && self.in_use < WAITV_BELLS && self.futex >= needed {
            Mode::Futex
        } else {
            Mode::Event
        }
    }

    /// How many pauses there were in sleeps that kept returning at once.
    pub(crate) fn pauses(&self) -> u64 {
        self.calm.pauses()
    }

    /// Why the kernel does not tell of sockets and lifelines any more, if that is so.
    pub(crate) fn take_failure(&mut self) -> Option<Failed> {
        self.broken.take()
    }

    fn wait_futex(&self, until: u64) -> rustix::io::Result<()> {
        if self.in_use == 0
            && let Some((private, ticket)) = self.bells.armed().next()
        {
            return private.seq().wait(ticket.0, Some(timespec(until)));
        }
        let mut entries = [const { rustix::thread::futex::Wait::new() }; WAITV_BELLS + 1];
        let mut count = 0;
        for (entry, (bell, ticket)) in entries.iter_mut().zip(self.bells.armed()) {
            *entry = bell.seq().entry(ticket.0);
            count += 1;
        }
        wait_any(&entries[..count], Some(timespec(until)))
    }

    /// Asks the kernel about sockets and lifelines, without waiting.
    pub(crate) fn poll(&mut self, woken: impl FnMut(u64, Readiness)) {
        let _ = self.wait_epoll(Some(Duration::ZERO), woken);
    }

    /// How many events there were. An error is kept for [`Self::take_failure`], too.
    fn wait_epoll(
        &mut self,
        timeout: Option<Duration>,
        mut woken: impl FnMut(u64, Readiness),
    ) -> rustix::io::Result<usize> {
        use epoll::EventFlags;
        let mut events =
            [epoll::Event { flags: EventFlags::empty(), data: epoll::EventData::new_u64(0) };
                EVENTS];
        let timeout = timeout.and_then(|timeout| rustix::event::Timespec::try_from(timeout).ok());
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Err(Errno::INTR) => 0,
            Err(errno) => {
                self.broken = Some(Failed { call: "epoll_pwait", errno });
                return Err(errno);
            }
            Ok(count) => count,
        };
        for event in &events[..count] {
            let (session, flags) = (event.data.u64(), event.flags);
            if session != 0 {
                let hung_up =
                    flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
                let ready = Readiness {
                    readable: flags.contains(EventFlags::IN),
                    writable: flags.contains(EventFlags::OUT),
                    hung_up,
                };
                woken(session, ready);
            }
        }
        Ok(count)
    }

    /// As [`Sleeper::rescue`], for many bells: whoever published what `look` sees rings one of
    /// them.
    fn rescue(&self, mut look: impl FnMut() -> bool) -> Rescue {
        // Short: whoever makes this happen again and again must not cost the other sessions much.
        let until = now_ns() + crate::protocol::bell::GRACE_NS / 5;
        while !self.bells.any_rung() && look() {
            if now_ns() >= until {
                return Rescue::LostWake;
            }
            rustix::thread::sched_yield();
        }
        Rescue::LateRing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_wakes_without_rings_keep_the_reactor_from_futexes_for_a_while_only() {
        let words = Window::heap(2 * layout::CELL);
        let (mut parker, _notifier) = Parker::new(words).expect("made");
        let usual = parker.mode();
        assert_eq!(usual, if calls::futex_works() { Mode::Futex } else { Mode::Event });
        // As a client does that wakes the word again and again.
        while !parker.calm.is_pausing() {
            parker.learn(Ok(()), now_ns());
            assert_eq!(parker.mode(), usual);
            parker.calm.slept(false, 0, u64::MAX, || false);
        }
        let pauses = parker.calm.pauses();
        parker.learn(Ok(()), now_ns());
        assert_eq!(parker.mode(), Mode::Event);
        parker.calm.slept(false, 0, u64::MAX, || true);
        assert_eq!(parker.calm.pauses(), pauses, "no second one");
        // A moment ago: that time is over.
        parker.no_futex_until = now_ns();
        assert_eq!(parker.mode(), usual);
        parker.learn(Err(Errno::PERM), now_ns());
        parker.no_futex_until = 1;
        assert_eq!(parker.mode(), Mode::Event, "what is refused is not tried again");
    }
}
