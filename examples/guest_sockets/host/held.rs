//! A socket that is held for a guest, and what the kernel has not taken of it.

use super::super::protocol::{
    ADDRESS, HEAD, Offence, PIECE, WINDOW, address, datagram_cost, head, sign,
};
use super::super::socket::{Socket, State};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A socket, and its windows.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) socket: Socket,
    pub(super) token: u64,
    /// The kernel has said so, and no read has said otherwise.
    pub(super) readable: bool,
    /// The other side sends no more.
    pub(super) hung_up: bool,
    /// What the guest has not taken.
    pub(super) untaken: u32,
    pub(super) outbox: Outbox,
    pub(super) watches_writing: bool,
    pub(super) finishing: bool,
    pub(super) closing: bool,
}

/// What the kernel has not taken.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    stream: Vec<u8>,
    from: usize,
    datagrams: VecDeque<(Option<SocketAddr>, Vec<u8>)>,
    /// The beginning of a datagram.
    partial: Vec<u8>,
    /// Of the window: what is here, and what is gone but not given back.
    pub(super) unsent: u32,
    pub(super) unsaid: u32,
}

/// Why a write was not made.
pub(super) enum Fail {
    Offence(Offence),
    Socket(Errno),
}

/// What came of a read.
pub(super) enum Read {
    /// Nothing is there.
    Nothing,
    /// The window has no room.
    Wait,
    /// The other side sends no more.
    End,
    /// The first `len` bytes of the buffer are the news of it, but for the socket's number; no more
    /// is there if `last`.
    Some { len: usize, cost: u32, last: bool },
}

impl Held {
    pub(super) fn new(socket: Socket, token: u64, watches_writing: bool) -> Self {
        Self {
            socket,
            token,
            readable: false,
            hung_up: false,
            untaken: 0,
            outbox: Outbox::default(),
            watches_writing,
            finishing: false,
            closing: false,
        }
    }

    pub(super) fn read(&mut self, room: usize, buffer: &mut [u8]) -> Result<Read, Errno> {
        if self.socket.is_udp() {
            if room < datagram_cost(PIECE) as usize {
                return Ok(Read::Wait);
            }
            let Some((count, from)) = self.socket.recv_from(&mut buffer[HEAD + ADDRESS..])? else {
                return Ok(Read::Nothing);
            };
            buffer[..HEAD].copy_from_slice(&head(sign::DATAGRAM, 0, 0));
            buffer[HEAD..HEAD + ADDRESS].copy_from_slice(&address(from));
            return Ok(Read::Some {
                len: HEAD + ADDRESS + count,
                cost: datagram_cost(count),
                last: false,
            });
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
                // Less than asked for: no more is there now. An end that was seen is still to be
                // read.
                Ok(Read::Some { len: HEAD + count, cost, last: count < most && !self.hung_up })
            }
        }
    }

    /// Keeps bytes until the rest of them has come.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Result<(), Offence> {
        self.outbox.charge(u32::try_from(bytes.len()).unwrap_or(u32::MAX))?;
        let kept =
            if self.socket.is_udp() { &mut self.outbox.partial } else { &mut self.outbox.stream };
        kept.extend_from_slice(bytes);
        Ok(())
    }

    /// Sends bytes of the guest, or keeps what the kernel does not take.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Fail> {
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

    pub(super) fn send_datagram(
        &mut self,
        to: Option<SocketAddr>,
        bytes: &[u8],
    ) -> Result<(), Fail> {
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
        let sent = self.outbox.datagrams.is_empty()
            && self.socket.send_datagram(to, bytes).map_err(Fail::Socket)?;
        if sent {
            self.outbox.sent(datagram_cost(bytes.len()) as usize);
        } else {
            self.outbox.datagrams.push_back((to, bytes.to_vec()));
        }
        Ok(())
    }

    /// Writes what waits, as far as the kernel takes it.
    pub(super) fn flush(&mut self) -> Result<(), Fail> {
        if self.socket.state == State::Connecting {
            // Whoever closes it now does not want to know how that ends.
            if self.closing {
                self.outbox = Outbox::default();
            }
            return Ok(());
        }
        while self.outbox.from < self.outbox.stream.len() {
            let sent =
                self.socket.send(&self.outbox.stream[self.outbox.from..]).map_err(Fail::Socket)?;
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
