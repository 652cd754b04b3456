//! The guest's side: a [`Network`] without sockets. One thread, one epoll, in which the session
//! with the host is.
//!
//! It pushes or polls ([`Pace`]). Pushed to, it looks out for a moment as a server would, then
//! arms, and sleeps until the host has something: no timeout, and no timer. Polling it looks by a
//! timer, as those do who cannot be told: the baseline.

use super::protocol::{ADDRESS, HEAD, NEWS_MOST, Order, QUARTER, Sign, WINDOW, datagram_cost};
use super::{Bytes, Id, Network, News, Outcome, Place, Purpose, Sleeps};
use ringbell::wait::{Step, Surroundings, WaitSettings, Waiter};
use ringbell::{Arming, Client, ConnectOptions, EventError, SendError};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const HOST: u64 = 0;
const TIMER: u64 = 1;

/// Looks are not free: a fraction of what the policy says of looks at a word.
const DEARER: u32 = 4;

/// How a guest learns of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It is told.
    Push,
    /// It looks, and if nothing is there again after so long.
    Poll(Duration),
}

/// What polling guests usually do.
pub(crate) const USUAL: Duration = Duration::from_millis(4);

/// A guest.
#[derive(Debug)]
pub(crate) struct Guest {
    client: Client,
    epoll: OwnedFd,
    timer: Option<OwnedFd>,
    waiter: Waiter,
    sockets: HashMap<Id, Known>,
    last_id: Id,
    /// News that were looked at since the host was told so.
    seen: u32,
    /// Orders that found no room.
    unsent: VecDeque<Vec<u8>>,
    order: Vec<u8>,
    largest: usize,
    sleeps: Sleeps,
}

/// What the guest knows of a socket: its windows.
#[derive(Debug, Default)]
struct Known {
    udp: bool,
    /// Sent, and not yet taken by the kernel for all the guest knows.
    under_way: u32,
    /// A send found no room.
    wants_room: bool,
    /// Taken by the program, and not yet given back.
    taken: u32,
}

impl Guest {
    /// Attaches to a host.
    pub(crate) fn connect(path: &Path, pace: Pace) -> Outcome<Self> {
        let options =
            ConnectOptions::new().wait_for_server(true).timeout(Some(Duration::from_secs(30)));
        Self::over(options.ring_capacity(256 << 10).connect(path)?, pace)
    }

    /// A guest with this session.
    pub(crate) fn over(client: Client, pace: Pace) -> Outcome<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = match pace {
            Pace::Push => {
                let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                epoll::add(&epoll, client.as_fd(), EventData::new_u64(HOST), edges)?;
                if let Some(process) = client.server_process() {
                    epoll::add(
                        &epoll,
                        process,
                        EventData::new_u64(HOST),
                        EventFlags::IN | EventFlags::ET,
                    )?;
                }
                None
            }
            Pace::Poll(every) => {
                let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
                let every = Timespec::try_from(every)?;
                let ticks = Itimerspec { it_interval: every, it_value: every };
                timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks)?;
                epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
                Some(timer)
            }
        };
        // An order that fits one record is sent or not, and never in part.
        let largest = client.max_claim().min(WINDOW as usize);
        Ok(Self {
            client,
            epoll,
            timer,
            waiter: Waiter::new(WaitSettings::server()),
            sockets: HashMap::new(),
            last_id: 0,
            seen: 0,
            unsent: VecDeque::new(),
            order: Vec::new(),
            largest,
            sleeps: Sleeps::default(),
        })
    }

    /// Sends an order, or keeps it until there is room. What is kept is bounded by the windows.
    fn tell(&mut self, order: &Order<'_>) -> Outcome<()> {
        let mut bytes = std::mem::take(&mut self.order);
        order.encode(&mut bytes);
        let sent = self.unsent.is_empty() && self.send_now(&bytes)?;
        if !sent {
            self.unsent.push_back(bytes.clone());
        }
        self.order = bytes;
        Ok(())
    }

    /// Sends what does not fit one order with a head of so many bytes, and says where the rest
    /// begins.
    fn all_but_the_last(&mut self, socket: Id, bytes: &[u8], head: usize) -> Outcome<usize> {
        let mut sent = 0;
        while bytes.len() - sent > self.largest - head {
            let piece = &bytes[sent..sent + self.largest - head];
            self.tell(&Order::Send { socket, more: true, bytes: piece })?;
            sent += piece.len();
        }
        Ok(sent)
    }

    fn send_now(&mut self, bytes: &[u8]) -> Outcome<bool> {
        match self.client.send_one_way(bytes, Some(Duration::ZERO)) {
            Ok(()) => Ok(true),
            Err(SendError::TimedOut) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn send_kept(&mut self) -> Outcome<()> {
        while let Some(bytes) = self.unsent.pop_front() {
            if !self.send_now(&bytes)? {
                self.unsent.push_front(bytes);
                break;
            }
        }
        Ok(())
    }

    /// The next news, if any has come.
    fn look(&mut self) -> Outcome<Option<News>> {
        loop {
            let event = match self.client.next_event(Some(Duration::ZERO)) {
                Ok(event) => event,
                Err(EventError::TimedOut) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            self.seen += 1;
            if self.seen >= NEWS_MOST / 4 {
                let news = std::mem::take(&mut self.seen);
                self.tell(&Order::Seen { news })?;
            }
            if let Some(news) = self.understand(event)? {
                return Ok(Some(news));
            }
        }
    }

    /// What the program is to know of an event. Of sockets that it has closed nothing but that.
    fn understand(&mut self, event: Vec<u8>) -> Outcome<Option<News>> {
        let news = match Sign::decode(&event).ok_or("the host said something that is no news")? {
            Sign::Listening { socket, at } => News::Listening { socket, at },
            Sign::Connected { socket } => News::Connected { socket },
            Sign::Accepted { listener, socket } => {
                self.sockets.insert(socket, Known::default());
                News::Accepted { listener, socket }
            }
            Sign::Data { socket, bytes } => {
                let cost = u32::try_from(bytes.len())?;
                News::Data { socket, bytes: Bytes { whole: event, start: HEAD, cost } }
            }
            Sign::Datagram { socket, from, bytes } => {
                let cost = datagram_cost(bytes.len());
                News::Datagram {
                    socket,
                    from,
                    bytes: Bytes { whole: event, start: HEAD + ADDRESS, cost },
                }
            }
            Sign::Ended { socket } => News::Ended { socket },
            Sign::Room { socket, cost } => {
                let Some(known) = self.sockets.get_mut(&socket) else { return Ok(None) };
                known.under_way =
                    known.under_way.checked_sub(cost).ok_or("room that was never taken")?;
                if !std::mem::take(&mut known.wants_room) {
                    return Ok(None);
                }
                News::Room { socket }
            }
            Sign::Closed { socket, why } => {
                self.sockets.remove(&socket);
                News::Closed { socket, why }
            }
            Sign::Dismissed { why } => {
                return Err(format!("the host serves no more: {why:?}").into());
            }
        };
        Ok(Some(news))
    }

    /// Waits, or not, as the policy says.
    fn wait(&mut self) -> Outcome<()> {
        self.send_kept()?;
        if self.timer.is_some() {
            return self.sleep();
        }
        match self.waiter.step(Surroundings::default(), now_ns) {
            Step::Spin(looks) => {
                for _ in 0..looks / DEARER {
                    std::hint::spin_loop();
                }
            }
            Step::Yield => rustix::thread::sched_yield(),
            Step::Park if self.client.arm() == Arming::Busy => self.sleeps.called_off += 1,
            Step::Park => {
                self.sleep()?;
                self.client.disarm();
            }
        }
        Ok(())
    }

    /// Sleeps until the epoll has something. Its timeout is none, always.
    fn sleep(&mut self) -> Outcome<()> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(HOST) }; 2];
        self.sleeps.sleeps += 1;
        let ready = match epoll::wait(&self.epoll, &mut events, None) {
            // A signal: look again.
            Err(Errno::INTR) => return Ok(()),
            ready => ready?,
        };
        self.sleeps.for_nothing += u64::from(ready == 0);
        if let Some(timer) = &self.timer
            && events[..ready].iter().any(|event| event.data.u64() == TIMER)
        {
            rustix::io::read(timer, &mut [0; 8])?;
            self.sleeps.by_timer += 1;
        }
        Ok(())
    }
}

impl Network for Guest {
    fn open(&mut self, place: &Place, purpose: Purpose) -> Outcome<Id> {
        self.last_id += 1;
        let socket = self.last_id;
        let udp = matches!(place, Place::Udp(_));
        self.sockets.insert(socket, Known { udp, ..Known::default() });
        self.tell(&Order::Open { socket, place: place.clone(), purpose })?;
        Ok(socket)
    }

    fn send(&mut self, socket: Id, bytes: &[u8]) -> Outcome<usize> {
        // Closed meanwhile: what is sent goes where it would have gone a moment ago.
        let Some(known) = self.sockets.get_mut(&socket) else { return Ok(bytes.len()) };
        let overhead = if known.udp { datagram_cost(0) } else { 0 };
        let room = (WINDOW - known.under_way).saturating_sub(overhead) as usize;
        let now = bytes.len().min(room);
        if now < bytes.len() {
            known.wants_room = true;
            if known.udp {
                return Ok(0);
            }
        }
        known.under_way += u32::try_from(now)? + overhead;
        let last = self.all_but_the_last(socket, &bytes[..now], HEAD)?;
        self.tell(&Order::Send { socket, more: false, bytes: &bytes[last..now] })?;
        Ok(now)
    }

    fn send_to(&mut self, socket: Id, to: SocketAddr, bytes: &[u8]) -> Outcome<bool> {
        let Some(known) = self.sockets.get_mut(&socket) else { return Ok(true) };
        let cost = datagram_cost(bytes.len());
        if known.under_way + cost > WINDOW {
            known.wants_room = true;
            return Ok(false);
        }
        known.under_way += cost;
        let last = self.all_but_the_last(socket, bytes, HEAD + ADDRESS)?;
        self.tell(&Order::SendTo { socket, to, bytes: &bytes[last..] })?;
        Ok(true)
    }

    fn took(&mut self, socket: Id, bytes: Bytes) -> Outcome<()> {
        let Some(known) = self.sockets.get_mut(&socket) else { return Ok(()) };
        known.taken += bytes.cost;
        if known.taken >= QUARTER {
            let cost = std::mem::take(&mut known.taken);
            self.tell(&Order::Took { socket, cost })?;
        }
        Ok(())
    }

    fn finish(&mut self, socket: Id) -> Outcome<()> {
        self.tell(&Order::Finish { socket })
    }

    fn close(&mut self, socket: Id) -> Outcome<()> {
        self.tell(&Order::Close { socket })
    }

    fn next(&mut self) -> Outcome<News> {
        loop {
            if let Some(news) = self.look()? {
                self.waiter.found(now_ns);
                return Ok(news);
            }
            self.wait()?;
        }
    }

    fn sleeps(&self) -> Sleeps {
        self.sleeps
    }
}

/// The monotonic clock in nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let since = Duration::try_from(now).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
