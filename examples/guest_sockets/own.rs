//! The same [`Network`] on sockets of the program's own: one epoll, level-triggered, as a careful
//! program has it.

use super::protocol::{PIECE, WINDOW, datagram_cost};
use super::socket::{Socket, State};
use super::{ACCEPTED, Bytes, Id, Network, News, Outcome, Place, Purpose, Sleeps};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Sockets of this process.
#[derive(Debug)]
pub(crate) struct Own {
    epoll: OwnedFd,
    directory: PathBuf,
    sockets: HashMap<Id, Held>,
    last_id: Id,
    last_accepted: Id,
    /// Happened before anybody asked.
    news: VecDeque<News>,
    /// What the epoll said and nobody looked at.
    ready: VecDeque<(Id, EventFlags)>,
    buffer: Box<[u8]>,
    sleeps: Sleeps,
}

#[derive(Debug)]
struct Held {
    socket: Socket,
    untaken: u32,
    ended: bool,
    wants_room: bool,
    watched: EventFlags,
}

impl Held {
    /// What is to be watched for.
    fn wanted(&self) -> EventFlags {
        let mut wanted = EventFlags::empty();
        if !self.ended && self.untaken < WINDOW && self.socket.state != State::Connecting {
            wanted |= EventFlags::IN;
        }
        if self.wants_room || self.socket.state == State::Connecting {
            wanted |= EventFlags::OUT;
        }
        wanted
    }
}

impl Own {
    /// No sockets yet. Those of Unix are in `directory`.
    pub(crate) fn new(directory: PathBuf) -> Outcome<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            directory,
            sockets: HashMap::new(),
            last_id: 0,
            last_accepted: ACCEPTED,
            news: VecDeque::new(),
            ready: VecDeque::new(),
            buffer: vec![0; PIECE].into(),
            sleeps: Sleeps::default(),
        })
    }

    fn hold(&mut self, id: Id, socket: Socket) -> Result<(), Errno> {
        let mut held = Held {
            socket,
            untaken: 0,
            ended: false,
            wants_room: false,
            watched: EventFlags::empty(),
        };
        held.watched = held.wanted();
        epoll::add(&self.epoll, &held.socket, EventData::new_u64(id.into()), held.watched)?;
        self.sockets.insert(id, held);
        Ok(())
    }

    fn watch(&mut self, id: Id) -> Outcome<()> {
        if let Some(held) = self.sockets.get_mut(&id) {
            let wanted = held.wanted();
            if wanted != held.watched {
                held.watched = wanted;
                epoll::modify(&self.epoll, &held.socket, EventData::new_u64(id.into()), wanted)?;
            }
        }
        Ok(())
    }

    fn fail(&mut self, socket: Id, why: Errno) -> News {
        self.sockets.remove(&socket);
        News::Closed { socket, why: Some(why.raw_os_error()) }
    }

    /// What a socket that is ready has to say.
    fn read(&mut self, id: Id, flags: EventFlags) -> Outcome<Option<News>> {
        let Some(held) = self.sockets.get_mut(&id) else { return Ok(None) };
        if flags.contains(EventFlags::OUT) && held.wants_room {
            held.wants_room = false;
            self.watch(id)?;
            return Ok(Some(News::Room { socket: id }));
        }
        let said = match held.socket.state {
            State::Connecting => {
                held.socket.connected().map(|()| Some(News::Connected { socket: id }))
            }
            State::Listening => match held.socket.accept() {
                Ok(Some(socket)) => {
                    self.last_accepted = self.last_accepted.wrapping_add(1) | ACCEPTED;
                    let socket_id = self.last_accepted;
                    self.hold(socket_id, socket)
                        .map(|()| Some(News::Accepted { listener: id, socket: socket_id }))
                }
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            },
            State::Datagrams => held.socket.recv_from(&mut self.buffer).map(|came| {
                came.map(|(count, from)| {
                    let cost = datagram_cost(count);
                    held.untaken += cost;
                    let bytes = Bytes { whole: self.buffer[..count].to_vec(), start: 0, cost };
                    News::Datagram { socket: id, from, bytes }
                })
            }),
            State::Stream => held.socket.recv(&mut self.buffer).map(|came| {
                came.map(|count| {
                    if count == 0 {
                        held.ended = true;
                        return News::Ended { socket: id };
                    }
                    #[allow(clippy::cast_possible_truncation, reason = "at most a piece")]
                    let cost = count as u32;
                    held.untaken += cost;
                    let bytes = Bytes { whole: self.buffer[..count].to_vec(), start: 0, cost };
                    News::Data { socket: id, bytes }
                })
            }),
        };
        match said {
            Ok(news) => {
                self.watch(id)?;
                Ok(news)
            }
            Err(error) => Ok(Some(self.fail(id, error))),
        }
    }
}

impl Network for Own {
    fn open(&mut self, place: &Place, purpose: Purpose) -> Outcome<Id> {
        self.last_id += 1;
        let id = self.last_id;
        let opened = Socket::open(place, purpose, &self.directory).and_then(|socket| {
            let (at, state) = (socket.place(place.clone())?, socket.state);
            self.hold(id, socket)?;
            Ok((at, state))
        });
        match opened {
            Err(error) => {
                let news = self.fail(id, error);
                self.news.push_back(news);
            }
            Ok((_, State::Connecting)) => {}
            Ok((_, State::Stream)) => self.news.push_back(News::Connected { socket: id }),
            Ok((at, _)) => self.news.push_back(News::Listening { socket: id, at }),
        }
        Ok(id)
    }

    fn send(&mut self, socket: Id, bytes: &[u8]) -> Outcome<usize> {
        let Some(held) = self.sockets.get_mut(&socket) else { return Ok(bytes.len()) };
        let mut sent = 0;
        if held.socket.is_udp() {
            sent = if held.socket.send_datagram(None, bytes)? { bytes.len() } else { 0 };
        } else {
            while sent < bytes.len() {
                match held.socket.send(&bytes[sent..]) {
                    Ok(0) => break,
                    Ok(count) => sent += count,
                    Err(error) => {
                        let news = self.fail(socket, error);
                        self.news.push_back(news);
                        return Ok(bytes.len());
                    }
                }
            }
        }
        held.wants_room |= sent < bytes.len();
        self.watch(socket)?;
        Ok(sent)
    }

    fn send_to(&mut self, socket: Id, to: SocketAddr, bytes: &[u8]) -> Outcome<bool> {
        let Some(held) = self.sockets.get_mut(&socket) else { return Ok(true) };
        let sent = held.socket.send_datagram(Some(to), bytes)?;
        held.wants_room |= !sent;
        self.watch(socket)?;
        Ok(sent)
    }

    fn took(&mut self, socket: Id, bytes: Bytes) -> Outcome<()> {
        if let Some(held) = self.sockets.get_mut(&socket) {
            held.untaken -= bytes.cost;
        }
        self.watch(socket)
    }

    fn finish(&mut self, socket: Id) -> Outcome<()> {
        if let Some(held) = self.sockets.get(&socket) {
            held.socket.finish();
        }
        Ok(())
    }

    fn close(&mut self, socket: Id) -> Outcome<()> {
        // What the kernel took it still sends.
        if self.sockets.remove(&socket).is_some() {
            self.news.push_back(News::Closed { socket, why: None });
        }
        Ok(())
    }

    fn next(&mut self) -> Outcome<News> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            if let Some((id, flags)) = self.ready.pop_front() {
                if let Some(news) = self.read(id, flags)? {
                    return Ok(news);
                }
                continue;
            }
            let mut events =
                [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
            self.sleeps.sleeps += 1;
            let ready = match epoll::wait(&self.epoll, &mut events, None) {
                Err(Errno::INTR) => continue,
                ready => ready?,
            };
            self.sleeps.for_nothing += u64::from(ready == 0);
            for event in &events[..ready] {
                self.ready.push_back((Id::try_from(event.data.u64())?, event.flags));
            }
        }
    }
    fn sleeps(&self) -> Sleeps {
        self.sleeps
    }
}
