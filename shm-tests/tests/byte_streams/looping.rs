//! An event loop for one stream: an epoll without a timeout, and what is sent and received in it.

use crate::traffic::{Bytes, seeds, size};
use ringbell::{Arming, ByteStream};
use ringbell_shm_tests::busy_for;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::progress::tick;
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use std::io::ErrorKind;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    Level,
    Edge,
}

pub(crate) const TRIGGERS: [Trigger; 2] = [Trigger::Level, Trigger::Edge];

/// An epoll that watches one stream.
pub(crate) struct Watch {
    epoll: OwnedFd,
    trigger: Trigger,
    writing: bool,
    pub(crate) reports: u64,
}

impl Watch {
    /// Watches `stream`, which does not wait from now on.
    pub(crate) fn new(stream: &ByteStream, trigger: Trigger) -> Self {
        stream.set_read_timeout(Some(Duration::ZERO));
        stream.set_write_timeout(Some(Duration::ZERO));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        let watch = Self { epoll, trigger, writing: false, reports: 0 };
        watch.add(stream.as_fd(), watch.flags());
        watch
    }

    /// Watches the server's process, too.
    pub(crate) fn and_process(self, stream: &ByteStream) -> Self {
        let process = stream.server_process().expect("known over rings");
        // It stays readable once it is: an edge tells of it once.
        self.add(process, epoll::EventFlags::IN | epoll::EventFlags::ET);
        self
    }

    fn add(&self, fd: impl AsFd, flags: epoll::EventFlags) {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), flags).expect("add");
    }

    fn flags(&self) -> epoll::EventFlags {
        use epoll::EventFlags as Flags;
        match (self.trigger, self.writing) {
            (Trigger::Edge, _) => Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET,
            (Trigger::Level, true) => Flags::IN | Flags::OUT,
            (Trigger::Level, false) => Flags::IN,
        }
    }

    /// Waits until the stream is reported, as long as it takes.
    pub(crate) fn wait(&mut self, stream: &ByteStream) {
        if self.trigger == Trigger::Level && self.writing != stream.wants_writable() {
            self.writing = !self.writing;
            let data = epoll::EventData::new_u64(0);
            epoll::modify(&self.epoll, stream.as_fd(), data, self.flags()).expect("modify");
        }
        let none =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; 2];
        loop {
            match epoll::wait(&self.epoll, &mut events[..], None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("epoll_wait: {error}"),
            }
        }
        self.reports += 1;
    }

    /// One turn of a loop: arms, and waits unless something came.
    pub(crate) fn turn(&mut self, stream: &ByteStream, mut delay: impl FnMut()) {
        if stream.arm() == Arming::Busy {
            return;
        }
        delay();
        self.wait(stream);
        delay();
        stream.disarm();
        delay();
    }

    /// Arms, although there may be an old report: of something that was read, or of nothing.
    pub(crate) fn arm(&mut self, stream: &ByteStream) {
        while stream.arm() == Arming::Busy {
            assert!(is_refused(stream.read(&mut [0])), "nothing was sent");
            tick();
        }
    }
}

/// Whether a method that does not wait would have had to. Every other error is a failure.
pub(crate) fn is_refused<T>(result: std::io::Result<T>) -> bool {
    match result {
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        Err(error) => panic!("{error:?}"),
    }
}

/// What a loop sends and receives. The peer ends its side when all is said.
pub(crate) struct Traffic {
    ours: Bytes,
    theirs: Bytes,
    to_send: u64,
    to_receive: u64,
    /// Bytes on their way from which on nothing is sent before some come back.
    window: u64,
    on_their_way: u64,
    piece: Vec<u8>,
    sent: usize,
    finished: bool,
    ended: bool,
    chance: Chance,
}

impl Traffic {
    fn new((ours, theirs): (u64, u64), count: u64, window: u64) -> Self {
        Self {
            ours: Bytes::new(ours),
            theirs: Bytes::new(theirs),
            to_send: count,
            to_receive: count,
            window,
            on_their_way: 0,
            piece: Vec::new(),
            sent: 0,
            finished: false,
            ended: false,
            chance: Chance::new(ours ^ 79),
        }
    }

    /// `count` bytes each way, which have nothing to do with each other: the loop's side of
    /// `exchange`.
    pub(crate) fn exchanged(seed: u64, count: u64, client: bool) -> Self {
        Self::new(seeds(seed, client), count, u64::MAX)
    }

    /// `count` bytes, which the peer sends back as they come.
    pub(crate) fn echoed(seed: u64, count: u64, window: u64) -> Self {
        Self::new((seed, seed), count, window)
    }

    /// Runs the loop until all is sent and received, and both sides have ended.
    pub(crate) fn run(mut self, stream: &ByteStream, watch: &mut Watch) {
        while !self.finished || !self.ended {
            // In this order: what was received may have opened the window.
            if self.receive(stream) | self.send(stream) {
                continue;
            }
            let Self { chance, .. } = &mut self;
            watch.turn(stream, || busy_for(Duration::from_nanos(chance.below(30_000))));
            tick();
        }
        assert_eq!(self.to_receive, 0, "an end came early");
    }

    /// Writes until there is no room, or nothing to be written; whether there may be more room.
    fn send(&mut self, stream: &ByteStream) -> bool {
        while !self.finished {
            if self.sent < self.piece.len() {
                match stream.write(&self.piece[self.sent..]) {
                    Ok(count) => {
                        assert!(count > 0, "a write took nothing");
                        self.sent += count;
                        self.on_their_way += count as u64;
                    }
                    refused => return !is_refused(refused),
                }
                // Not to the last byte that fits: the other direction has its turn.
                if self.chance.below(8) == 0 {
                    return true;
                }
            } else if self.to_send == 0 {
                self.finished = !is_refused(stream.shutdown_write());
                return self.finished;
            } else if self.on_their_way >= self.window {
                return false;
            } else {
                // A small window is for many small pieces.
                let most = self.to_send.min(self.window.max(64));
                let len = size(&mut self.chance).min(usize::try_from(most).expect("64 bits"));
                self.piece.resize(len, 0);
                self.ours.fill(&mut self.piece);
                self.sent = 0;
                self.to_send -= len as u64;
            }
        }
        false
    }

    /// Reads until nothing is there, or less: `arm` says so then. Whether it knows that there is
    /// more to do.
    fn receive(&mut self, stream: &ByteStream) -> bool {
        while !self.ended {
            let mut some = vec![0; size(&mut self.chance)];
            match stream.read(&mut some) {
                Ok(0) => {
                    self.ended = true;
                    return true;
                }
                Ok(count) => {
                    self.theirs.check(&some[..count]);
                    self.to_receive =
                        self.to_receive.checked_sub(count as u64).expect("no more than that");
                    self.on_their_way = self.on_their_way.saturating_sub(count as u64);
                    match self.chance.below(8) {
                        0 => return true,
                        1 => return false,
                        _ => {}
                    }
                }
                refused => return !is_refused(refused),
            }
        }
        false
    }
}
