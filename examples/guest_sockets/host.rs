//! The host: it has the sockets, carries out what guests order, and pushes what happens.
//!
//! Two threads. The reactor's carries out [`Order`]s as they come: nothing that it does waits. The
//! socket thread sleeps in epoll, without a timeout, until a socket has something; it reads and
//! pushes. A lock keeps them apart.
//!
//! What a guest says is not believed: a number that is not its own, more than its windows hold or
//! more credit than is out ends its service, and its alone ([`Offence`]). A guest that ends takes
//! its sockets with it.
//!
//! `reading` is what sockets have to say, `held` one socket with its windows, `teller` what a guest
//! is told.

mod held;
mod reading;
mod teller;

use self::held::{Fail, Held};
use self::reading::watched;
use self::teller::Teller;
use super::protocol::{ADDRESS, HEAD, Offence, Order, PIECE, QUARTER, Sign};
use super::socket::{Socket, State};
use super::{ACCEPTED, Id, Outcome, Place, Purpose};
use ringbell::{OwnedRequest, Responder, Service, Session};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Sockets of one guest.
const SOCKETS_MOST: usize = 256;
/// The epoll's number of what ends the thread.
const STOP: u64 = 0;

/// What guests may do.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Where Unix sockets are.
    pub(crate) directory: PathBuf,
    /// Whether addresses beyond this machine may be used.
    pub(crate) abroad: bool,
}

/// What the socket thread did. No sleep of it has an end but by a socket: there is no timer to
/// count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Times epoll returned.
    pub(crate) woken: u64,
    /// Of these without anything: what a timer would look like.
    pub(crate) for_nothing: u64,
    /// Guests whose service was ended.
    pub(crate) dismissed: u64,
    /// Sockets that are open.
    pub(crate) sockets: u64,
}

/// The host's service, for [`ringbell::Server::run_service`]. Dropping it ends the socket thread
/// and closes everything.
#[derive(Debug)]
pub(crate) struct Host {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Looks at a host from another thread.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    /// What the host counted.
    pub(crate) fn counts(&self) -> Counts {
        let all = self.0.lock();
        let sockets = all.guests.values().map(|guest| guest.sockets.len() as u64).sum();
        Counts { sockets, ..all.counts }
    }
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    all: Mutex<All>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that both threads use.
#[derive(Debug)]
struct All {
    rules: Rules,
    guests: HashMap<u64, Guest>,
    /// Whose socket a number of the epoll is. Numbers are never used again, so that what the epoll
    /// said of a socket that is gone meanwhile is said of nobody.
    tokens: HashMap<u64, (u64, Id)>,
    last_token: u64,
    buffer: Box<[u8]>,
    counts: Counts,
}

/// One guest: its sockets, and what it is told.
#[derive(Debug)]
struct Guest {
    sockets: HashMap<Id, Held>,
    last_accepted: Id,
    /// Connections wait for one of its sockets to be closed.
    crowded: bool,
    teller: Teller,
}

impl Host {
    /// Starts the socket thread.
    pub(crate) fn start(rules: Rules) -> Outcome<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let all = All {
            rules,
            guests: HashMap::new(),
            tokens: HashMap::new(),
            last_token: STOP,
            buffer: vec![0; HEAD + ADDRESS + PIECE].into(),
            counts: Counts::default(),
        };
        let shared = Arc::new(Shared { epoll, stop, all: Mutex::new(all) });
        let thread = std::thread::Builder::new().name("sockets".into()).spawn({
            let shared = shared.clone();
            move || watch(&shared)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Looks at it from another thread.
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.shared.clone())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Nobody else writes it, so there is room.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The socket thread.
fn watch(shared: &Shared) {
    let none =
        epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(STOP) };
    let mut events = [none; 64];
    loop {
        // No timeout: nothing but a socket, or the end, wakes this thread.
        let ready = match epoll::wait(&shared.epoll, &mut events[..], None) {
            Ok(ready) => ready,
            Err(Errno::INTR) => continue,
            Err(error) => {
                eprintln!("the host's socket thread ends: {error}");
                return;
            }
        };
        let mut all = shared.lock();
        all.counts.woken += 1;
        all.counts.for_nothing += u64::from(ready == 0);
        for event in &events[..ready] {
            match event.data.u64() {
                STOP => return,
                token => all.ready(shared, token, event.flags),
            }
        }
    }
}

impl Service for Host {
    fn opened(&mut self, session: &Session) {
        let teller = Teller::new(session.clone());
        let guest =
            Guest { sockets: HashMap::new(), last_accepted: ACCEPTED, crowded: false, teller };
        self.shared.lock().guests.insert(session.id(), guest);
    }

    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        let session = request.session().id();
        self.shared.lock().order(&self.shared, session, request.payload());
        // Everything is answered by news.
        if request.is_one_way() {
            drop(responder);
        } else {
            responder.error("orders are one-way messages");
        }
    }

    fn closed(&mut self, session: &Session) {
        let mut all = self.shared.lock();
        if let Some(mut guest) = all.guests.remove(&session.id()) {
            all.close_all(&mut guest);
        }
    }
}

impl All {
    /// Carries out what a guest sent.
    fn order(&mut self, shared: &Shared, session: u64, bytes: &[u8]) {
        let Some(mut guest) = self.guests.remove(&session) else { return };
        if guest.teller.offence().is_none() {
            let done = match Order::decode(bytes) {
                Some(order) => self.carry_out(shared, session, &mut guest, order),
                None => Err(Offence::NoOrder),
            };
            if let Err(offence) = done {
                guest.teller.found(offence);
            }
            self.settle(shared, session, &mut guest);
        }
        self.guests.insert(session, guest);
    }

    /// Ends the service of a guest that broke the rules.
    fn dismiss_offender(&mut self, guest: &mut Guest) {
        let Some(why) = guest.teller.offence() else { return };
        if guest.sockets.is_empty() && guest.teller.has_dismissed() {
            return;
        }
        self.close_all(guest);
        self.counts.dismissed += 1;
        guest.teller.dismiss(why);
    }

    fn close_all(&mut self, guest: &mut Guest) {
        for (_, held) in guest.sockets.drain() {
            self.tokens.remove(&held.token);
        }
    }

    fn carry_out(
        &mut self,
        shared: &Shared,
        session: u64,
        guest: &mut Guest,
        order: Order<'_>,
    ) -> Result<(), Offence> {
        match order {
            Order::Open { socket, place, purpose } => {
                self.open(shared, session, guest, socket, place, purpose)
            }
            Order::Seen { news } => {
                guest.teller.seen(news);
                if !guest.teller.is_full() {
                    self.resume(shared, session, guest);
                }
                Ok(())
            }
            Order::Took { socket, cost } => {
                // Closed meanwhile: the news of that is under way.
                let Some(held) = guest.sockets.get_mut(&socket) else { return Ok(()) };
                held.untaken = held.untaken.checked_sub(cost).ok_or(Offence::Credit)?;
                if held.readable {
                    self.pump(shared, session, guest, socket);
                }
                Ok(())
            }
            Order::Send { socket, more: true, bytes } => match guest.sockets.get_mut(&socket) {
                Some(held) => held.keep(bytes),
                None => Ok(()),
            },
            Order::Send { socket, more: false, bytes } => {
                self.send(shared, guest, socket, |held| held.send(bytes))
            }
            Order::SendTo { socket, to, bytes } => {
                let allowed = self.may_reach(&to);
                self.send(shared, guest, socket, |held| {
                    if !allowed {
                        return Err(Fail::Socket(Errno::ACCESS));
                    }
                    held.send_datagram(Some(to), bytes)
                })
            }
            Order::Finish { socket } => self.send(shared, guest, socket, |held| {
                held.finishing = true;
                held.flush()
            }),
            Order::Close { socket } => self.send(shared, guest, socket, |held| {
                held.closing = true;
                held.flush()
            }),
        }
    }

    /// Reads what was left unread for want of room.
    fn resume(&mut self, shared: &Shared, session: u64, guest: &mut Guest) {
        let readable: Vec<Id> =
            guest.sockets.iter().filter(|(_, held)| held.readable).map(|(id, _)| *id).collect();
        for id in readable {
            self.pump(shared, session, guest, id);
        }
    }

    /// After whatever may have closed sockets, or found an offence.
    fn settle(&mut self, shared: &Shared, session: u64, guest: &mut Guest) {
        if guest.crowded && guest.sockets.len() < SOCKETS_MOST {
            guest.crowded = false;
            self.resume(shared, session, guest);
        }
        self.dismiss_offender(guest);
    }

    fn may_reach(&self, address: &SocketAddr) -> bool {
        self.rules.abroad || address.ip().is_loopback()
    }

    fn open(
        &mut self,
        shared: &Shared,
        session: u64,
        guest: &mut Guest,
        id: Id,
        place: Place,
        purpose: Purpose,
    ) -> Result<(), Offence> {
        if guest.sockets.contains_key(&id) {
            return Err(Offence::Number);
        }
        let allowed = match &place {
            Place::Udp(address) | Place::Tcp(address) => self.may_reach(address),
            Place::Unix(_) => true,
        };
        let opened = if !allowed {
            Err(Errno::ACCESS)
        } else if guest.sockets.len() >= SOCKETS_MOST {
            Err(Errno::MFILE)
        } else {
            Socket::open(&place, purpose, &self.rules.directory).and_then(|socket| {
                let at = socket.place(place)?;
                let state = socket.state;
                self.hold(shared, session, guest, id, socket)?;
                Ok((at, state))
            })
        };
        guest.teller.tell(&match opened {
            Err(error) => Sign::Closed { socket: id, why: Some(error.raw_os_error()) },
            Ok((_, State::Connecting)) => return Ok(()),
            Ok((_, State::Stream)) => Sign::Connected { socket: id },
            Ok((at, State::Listening | State::Datagrams)) => Sign::Listening { socket: id, at },
        });
        Ok(())
    }

    /// Takes in a socket. The epoll says at once what it has to say.
    fn hold(
        &mut self,
        shared: &Shared,
        session: u64,
        guest: &mut Guest,
        id: Id,
        socket: Socket,
    ) -> Result<(), Errno> {
        self.last_token += 1;
        let token = self.last_token;
        let watches_writing = socket.state == State::Connecting;
        epoll::add(
            &shared.epoll,
            &socket,
            epoll::EventData::new_u64(token),
            watched(watches_writing),
        )?;
        self.tokens.insert(token, (session, id));
        guest.sockets.insert(id, Held::new(socket, token, watches_writing));
        Ok(())
    }

    /// Has a socket write something, and says what came of it.
    fn send(
        &mut self,
        shared: &Shared,
        guest: &mut Guest,
        id: Id,
        write: impl FnOnce(&mut Held) -> Result<(), Fail>,
    ) -> Result<(), Offence> {
        // Closed meanwhile: the news of that is under way, and what was sent is lost as with any
        // socket.
        let Some(held) = guest.sockets.get_mut(&id) else { return Ok(()) };
        match write(held) {
            Ok(()) => self.written(shared, guest, id),
            Err(Fail::Offence(offence)) => return Err(offence),
            Err(Fail::Socket(error)) => self.close(guest, id, Some(error)),
        }
        Ok(())
    }

    /// After a write: gives room back, watches for more of it, or closes.
    fn written(&mut self, shared: &Shared, guest: &mut Guest, id: Id) {
        let Some(held) = guest.sockets.get_mut(&id) else { return };
        let wanted = held.outbox.unsent != 0 || held.socket.state == State::Connecting;
        if held.closing && held.outbox.unsent == 0 {
            return self.close(guest, id, None);
        }
        if held.outbox.unsaid >= QUARTER {
            let cost = std::mem::take(&mut held.outbox.unsaid);
            guest.teller.tell(&Sign::Room { socket: id, cost });
        }
        if wanted != held.watches_writing {
            held.watches_writing = wanted;
            let data = epoll::EventData::new_u64(held.token);
            if let Err(error) = epoll::modify(&shared.epoll, &held.socket, data, watched(wanted)) {
                self.close(guest, id, Some(error));
            }
        }
    }

    fn close(&mut self, guest: &mut Guest, id: Id, why: Option<Errno>) {
        let Some(held) = guest.sockets.remove(&id) else { return };
        self.tokens.remove(&held.token);
        guest.teller.tell(&Sign::Closed { socket: id, why: why.map(Errno::raw_os_error) });
    }
}

impl Guest {
    fn next_accepted(&mut self) -> Id {
        loop {
            self.last_accepted = self.last_accepted.wrapping_add(1) | ACCEPTED;
            if !self.sockets.contains_key(&self.last_accepted) {
                return self.last_accepted;
            }
        }
    }
}
