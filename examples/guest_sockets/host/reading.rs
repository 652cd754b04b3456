//! What sockets have to say: the epoll's reports, and what is read and accepted after them.

use super::super::Id;
use super::super::protocol::{HEAD, Sign, WINDOW};
use super::super::socket::State;
use super::held::{Fail, Read};
use super::{All, Guest, SOCKETS_MOST, Shared};
use rustix::event::epoll;

impl All {
    /// The epoll has something to say of a socket.
    pub(super) fn ready(&mut self, shared: &Shared, token: u64, flags: epoll::EventFlags) {
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
    pub(super) fn pump(&mut self, shared: &Shared, session: u64, guest: &mut Guest, id: Id) {
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
pub(super) fn watched(writing: bool) -> epoll::EventFlags {
    use epoll::EventFlags;
    let out = if writing { EventFlags::OUT } else { EventFlags::empty() };
    EventFlags::IN | EventFlags::RDHUP | EventFlags::ET | out
}
