//! The host: it has the sockets, carries out what guests order, and pushes what happens.
//!
//! Two threads. The reactor's carries out [`Order`]s as they come: nothing that it does waits. The socket thread sleeps
//! in epoll, without a timeout, until a socket has something; it reads and pushes. A lock keeps them apart.
//!
//! What a guest says is not believed: a number that is not its own, more than its windows hold or more credit than
//! is out ends its service, and its alone ([`Offence`]). A guest that ends takes its sockets with it.

use super::protocol::{
    ADDRESS, HEAD, NEWS_MOST, Offence, Order, PIECE, QUARTER, Sign, WINDOW, address, datagram_cost, head,
    sign,
};
use super::socket::{Socket, State};
use super::{ACCEPTED, Id, Outcome, Place, Purpose};
use ringbell::{OwnedRequest, Responder, Service, Session};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Sockets of one guest.
const SOCKETS_MOST: usize = 256;
/// News that wait for room in a guest's window: a few for each socket.
const WAITING_MOST: usize = 4 * SOCKETS_MOST;
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

/// What the socket thread did. No sleep of it has an end but by a socket: there is no timer to count.
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

/// The host's service, for [`ringbell::Server::run_service`]. Dropping it ends the socket thread and closes everything.
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
    /// Whose socket a number of the epoll is. Numbers are never used again, so that what the epoll said of a socket
    /// that is gone meanwhile is said of nobody.
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

/// A socket, and its windows.
#[derive(Debug)]
struct Held {
    socket: Socket,
    token: u64,
    /// The kernel has said so, and no read has said otherwise.
    readable: bool,
    /// The other side sends no more.
    hung_up: bool,
    /// What the guest has not taken.
    untaken: u32,
    outbox: Outbox,
    watches_writing: bool,
    finishing: bool,
    closing: bool,
}

/// What the kernel has not taken.
#[derive(Debug, Default)]
struct Outbox {
    stream: Vec<u8>,
    from: usize,
    datagrams: VecDeque<(Option<SocketAddr>, Vec<u8>)>,
    /// The beginning of a datagram.
    partial: Vec<u8>,
    /// Of the window: what is here, and what is gone but not given back.
    unsent: u32,
    unsaid: u32,
}

/// Pushes news, as many as the guest's window holds; the others wait.
#[derive(Debug)]
struct Teller {
    session: Session,
    unseen: u32,
    waiting: VecDeque<Vec<u8>>,
    offence: Option<Offence>,
    bytes: Vec<u8>,
}

impl Teller {
    /// Whether something that can wait should.
    fn is_full(&self) -> bool {
        self.unseen >= NEWS_MOST || self.offence.is_some()
    }

    fn tell(&mut self, sign: &Sign<'_>) {
        let mut bytes = std::mem::take(&mut self.bytes);
        sign.encode(&mut bytes);
        self.push(&bytes);
        self.bytes = bytes;
    }

    fn push(&mut self, bytes: &[u8]) {
        if !self.is_full() && self.waiting.is_empty() {
            self.unseen += 1;
            // Its window is smaller than Ringbell's queue; and who is gone is told nothing.
            let _ = self.session.push(bytes);
        } else if self.waiting.len() < WAITING_MOST {
            self.waiting.push_back(bytes.to_vec());
        } else {
            self.offence.get_or_insert(Offence::Deaf);
        }
    }

    /// The guest has looked at so many.
    fn seen(&mut self, news: u32) {
        let Some(left) = self.unseen.checked_sub(news) else {
            self.offence.get_or_insert(Offence::Credit);
            return;
        };
        self.unseen = left;
        while !self.is_full() {
            let Some(bytes) = self.waiting.pop_front() else { break };
            self.unseen += 1;
            let _ = self.session.push(&bytes);
        }
    }
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
    let none = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(STOP) };
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
        let teller = Teller {
            session: session.clone(),
            unseen: 0,
            waiting: VecDeque::new(),
            offence: None,
            bytes: Vec::new(),
        };
        let guest = Guest { sockets: HashMap::new(), last_accepted: ACCEPTED, crowded: false, teller };
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
        if guest.teller.offence.is_none() {
            let done = match Order::decode(bytes) {
                Some(order) => self.carry_out(shared, session, &mut guest, order),
                None => Err(Offence::NoOrder),
            };
            if let Err(offence) = done {
                guest.teller.offence.get_or_insert(offence);
            }
            self.settle(shared, session, &mut guest);
        }
        self.guests.insert(session, guest);
    }

    /// Ends the service of a guest that broke the rules.
    fn dismiss_offender(&mut self, guest: &mut Guest) {
        let Some(why) = guest.teller.offence else { return };
        if guest.sockets.is_empty() && guest.teller.unseen > NEWS_MOST {
            return;
        }
        self.close_all(guest);
        self.counts.dismissed += 1;
        guest.teller.waiting.clear();
        // Beyond its window, by one; and that is the mark that it was told.
        guest.teller.unseen = NEWS_MOST + 1;
        let mut bytes = Vec::new();
        Sign::Dismissed { why }.encode(&mut bytes);
        let _ = guest.teller.session.push(&bytes);
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
        epoll::add(&shared.epoll, &socket, epoll::EventData::new_u64(token), watched(watches_writing))?;
        self.tokens.insert(token, (session, id));
        let held = Held {
            socket,
            token,
            readable: false,
            hung_up: false,
            untaken: 0,
            outbox: Outbox::default(),
            watches_writing,
            finishing: false,
            closing: false,
        };
        guest.sockets.insert(id, held);
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
        // Closed meanwhile: the news of that is under way, and what was sent is lost as with any socket.
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

    /// The epoll has something to say of a socket.
    fn ready(&mut self, shared: &Shared, token: u64, flags: epoll::EventFlags) {
        use epoll::EventFlags;
        let Some(&(session, id)) = self.tokens.get(&token) else { return };
        let Some(mut guest) = self.guests.remove(&session) else { return };
        if let Some(held) = guest.sockets.get_mut(&id) {
            let ended = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            held.hung_up |= flags.intersects(ended);
            held.readable |= flags.intersects(EventFlags::IN | ended);
            if held.watches_writing && flags.intersects(EventFlags::OUT | ended) {
                self.writable(shared, &mut guest, id);
            }
            self.pump(shared, session, &mut guest, id);
        }
        self.settle(shared, session, &mut guest);
        self.guests.insert(session, guest);
    }

    fn writable(&mut self, shared: &Shared, guest: &mut Guest, id: Id) {
        let Some(held) = guest.sockets.get_mut(&id) else { return };
        let mut connected = Ok(());
        if held.socket.state == State::Connecting {
            connected = held.socket.connected();
            if connected.is_ok() {
                guest.teller.tell(&Sign::Connected { socket: id });
            }
        }
        match connected.map_err(Fail::Socket).and_then(|()| held.flush()) {
            Ok(()) => self.written(shared, guest, id),
            // Only what the guest sends can be an offence.
            Err(Fail::Offence(_)) => {}
            Err(Fail::Socket(error)) => self.close(guest, id, Some(error)),
        }
    }

    /// Reads what is there, as far as the windows allow, and tells of it.
    fn pump(&mut self, shared: &Shared, session: u64, guest: &mut Guest, id: Id) {
        let Some(held) = guest.sockets.get(&id) else { return };
        match held.socket.state {
            State::Connecting => {}
            State::Listening => self.accept(shared, session, guest, id),
            State::Stream | State::Datagrams => self.read(guest, id),
        }
    }

    fn accept(&mut self, shared: &Shared, session: u64, guest: &mut Guest, listener: Id) {
        // Those that do not fit stay in the kernel's backlog, until `Seen` or a `Close` makes room.
        while !guest.teller.is_full() {
            if guest.sockets.len() >= SOCKETS_MOST {
                guest.crowded = true;
                return;
            }
            let Some(held) = guest.sockets.get_mut(&listener) else { return };
            let socket = match held.socket.accept() {
                Ok(Some(socket)) => socket,
                Ok(None) => {
                    held.readable = false;
                    return;
                }
                Err(error) => return self.close(guest, listener, Some(error)),
            };
            let id = guest.next_accepted();
            guest.teller.tell(&Sign::Accepted { listener, socket: id });
            match self.hold(shared, session, guest, id, socket) {
                // What it has brought along the epoll would say in a moment.
                Ok(()) => {
                    if let Some(held) = guest.sockets.get_mut(&id) {
                        held.readable = true;
                    }
                    self.read(guest, id);
                }
                Err(error) => {
                    guest.teller.tell(&Sign::Closed { socket: id, why: Some(error.raw_os_error()) })
                }
            }
        }
    }

    fn read(&mut self, guest: &mut Guest, id: Id) {
        let Guest { sockets, teller, .. } = guest;
        let Some(held) = sockets.get_mut(&id) else { return };
        let mut failed = None;
        while held.readable && !teller.is_full() && !held.closing {
            let room = WINDOW.saturating_sub(held.untaken) as usize;
            match held.read(room, &mut self.buffer) {
                Ok(Read::Nothing) => held.readable = false,
                Ok(Read::Wait) => break,
                Ok(Read::End) => {
                    held.readable = false;
                    teller.tell(&Sign::Ended { socket: id });
                }
                Ok(Read::Some { len, cost, last }) => {
                    held.readable = !last;
                    held.untaken += cost;
                    self.buffer[4..HEAD].copy_from_slice(&id.to_le_bytes());
                    teller.push(&self.buffer[..len]);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            self.close(guest, id, Some(error));
        }
    }
}

/// Edge-triggered: what is not read now is remembered, not asked for again.
fn watched(writing: bool) -> epoll::EventFlags {
    use epoll::EventFlags;
    let out = if writing { EventFlags::OUT } else { EventFlags::empty() };
    EventFlags::IN | EventFlags::RDHUP | EventFlags::ET | out
}

/// Why a write was not made.
enum Fail {
    Offence(Offence),
    Socket(Errno),
}

/// What came of a read.
enum Read {
    /// Nothing is there.
    Nothing,
    /// The window has no room.
    Wait,
    /// The other side sends no more.
    End,
    /// The first `len` bytes of the buffer are the news of it, but for the socket's number; no more is there if `last`.
    Some { len: usize, cost: u32, last: bool },
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

impl Held {
    fn read(&mut self, room: usize, buffer: &mut [u8]) -> Result<Read, Errno> {
        if self.socket.is_udp() {
            if room < datagram_cost(PIECE) as usize {
                return Ok(Read::Wait);
            }
            let Some((count, from)) = self.socket.recv_from(&mut buffer[HEAD + ADDRESS..])? else {
                return Ok(Read::Nothing);
            };
            buffer[..HEAD].copy_from_slice(&head(sign::DATAGRAM, 0, 0));
            buffer[HEAD..HEAD + ADDRESS].copy_from_slice(&address(from));
            return Ok(Read::Some { len: HEAD + ADDRESS + count, cost: datagram_cost(count), last: false });
        }
        let most = room.min(PIECE);
        if most == 0 {
            return Ok(Read::Wait);
        }
        match self.socket.recv(&mut buffer[HEAD..HEAD + most])? {
            None => Ok(Read::Nothing),
            Some(0) => Ok(Read::End),
            Some(count) => {
                buffer[..HEAD].copy_from_slice(&head(sign::DATA, 0, 0));
                #[allow(clippy::cast_possible_truncation, reason = "at most a piece")]
                let cost = count as u32;
                // Less than asked for: no more is there now. An end that was seen is still to be read.
                Ok(Read::Some { len: HEAD + count, cost, last: count < most && !self.hung_up })
            }
        }
    }

    /// Keeps bytes until the rest of them has come.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), Offence> {
        self.outbox.charge(u32::try_from(bytes.len()).unwrap_or(u32::MAX))?;
        let kept = if self.socket.is_udp() { &mut self.outbox.partial } else { &mut self.outbox.stream };
        kept.extend_from_slice(bytes);
        Ok(())
    }

    /// Sends bytes of the guest, or keeps what the kernel does not take.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Fail> {
        if self.socket.is_udp() {
            return self.send_datagram(None, bytes);
        }
        if self.socket.state == State::Listening || self.finishing || self.closing {
            return Err(Fail::Socket(Errno::PIPE));
        }
        let cost = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.outbox.charge(cost).map_err(Fail::Offence)?;
        let mut bytes = bytes;
        if self.outbox.stream.is_empty() && self.socket.state == State::Stream {
            let sent = self.socket.send(bytes).map_err(Fail::Socket)?;
            self.outbox.sent(sent);
            bytes = &bytes[sent..];
            if bytes.is_empty() {
                return Ok(());
            }
        }
        self.outbox.stream.extend_from_slice(bytes);
        self.flush()
    }

    fn send_datagram(&mut self, to: Option<SocketAddr>, bytes: &[u8]) -> Result<(), Fail> {
        if !self.socket.is_udp() {
            return Err(Fail::Socket(Errno::OPNOTSUPP));
        }
        self.outbox.charge(datagram_cost(bytes.len())).map_err(Fail::Offence)?;
        let mut whole = std::mem::take(&mut self.outbox.partial);
        let bytes = if whole.is_empty() {
            bytes
        } else {
            whole.extend_from_slice(bytes);
            &whole
        };
        let sent =
            self.outbox.datagrams.is_empty() && self.socket.send_datagram(to, bytes).map_err(Fail::Socket)?;
        if sent {
            self.outbox.sent(datagram_cost(bytes.len()) as usize);
        } else {
            self.outbox.datagrams.push_back((to, bytes.to_vec()));
        }
        Ok(())
    }

    /// Writes what waits, as far as the kernel takes it.
    fn flush(&mut self) -> Result<(), Fail> {
        if self.socket.state == State::Connecting {
            // Whoever closes it now does not want to know how that ends.
            if self.closing {
                self.outbox = Outbox::default();
            }
            return Ok(());
        }
        while self.outbox.from < self.outbox.stream.len() {
            let sent = self.socket.send(&self.outbox.stream[self.outbox.from..]).map_err(Fail::Socket)?;
            self.outbox.from += sent;
            self.outbox.sent(sent);
            if sent == 0 {
                // What is gone takes no memory while the rest waits.
                self.outbox.stream.drain(..self.outbox.from);
                self.outbox.from = 0;
                return Ok(());
            }
        }
        self.outbox.stream.clear();
        self.outbox.from = 0;
        while let Some((to, bytes)) = self.outbox.datagrams.front() {
            if !self.socket.send_datagram(*to, bytes).map_err(Fail::Socket)? {
                return Ok(());
            }
            let cost = datagram_cost(bytes.len());
            self.outbox.datagrams.pop_front();
            self.outbox.sent(cost as usize);
        }
        if self.finishing && self.socket.state == State::Stream {
            self.socket.finish();
        }
        Ok(())
    }
}

impl Outbox {
    /// So much comes in, if the window holds it.
    fn charge(&mut self, cost: u32) -> Result<(), Offence> {
        let total = self.unsent.saturating_add(self.unsaid).saturating_add(cost);
        if total > WINDOW {
            return Err(Offence::Overrun);
        }
        self.unsent += cost;
        Ok(())
    }

    /// So much of it is gone.
    #[allow(clippy::cast_possible_truncation, reason = "no more than was charged")]
    fn sent(&mut self, cost: usize) {
        self.unsent -= cost as u32;
        self.unsaid += cost as u32;
    }
}
