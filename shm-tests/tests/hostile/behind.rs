//! What lies behind items and events is found, whatever the client holds, and however much comes.
//! The server is made by hand, so that all is there before the client looks.

use crate::fake::Fake;
use ringbell::layout::{self, HeaderWord, Kind, code, flag, offset};
use ringbell::pool::Settings;
use ringbell::ring::Producer;
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{
    AsyncClient, CallError, Client, ConnectOptions, ConnectionPool, EventError, SendError,
    TransportChoice, WaitSettings,
};
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{self, Segments};
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const ITEM: [u8; 8 << 10] = [7; 8 << 10];
/// So many are more than a quarter of what a client may hold.
const MANY: u64 = MIB / 4 / (8 << 10) + 1;
const NOW: Option<Duration> = Some(Duration::ZERO);

const BOTH: [TransportChoice; 2] = [TransportChoice::SharedMemory, TransportChoice::Socket];

/// The server's part of one session.
struct Speaker {
    stream: UnixStream,
    rings: Option<(Box<Segments>, Producer)>,
}

impl Speaker {
    fn accept(fake: &Fake, transport: TransportChoice) -> Self {
        let mut stream = raw::accept(&fake.listener);
        let rings = if transport == TransportChoice::Socket {
            raw::send(&stream, &raw::fallback(MIB), &[]);
            let mut ready = [0];
            stream.read_exact(&mut ready).expect("READY");
            None
        } else {
            let welcome = raw::welcome(MIB);
            let segments = Segments::honest(&welcome);
            let descriptors: Vec<_> = segments.descriptors.iter().map(AsFd::as_fd).collect();
            raw::send(&stream, &welcome.encode(), &descriptors);
            let lines =
                segments.response.own_lines(layout::CONTROL, usize::try_from(MIB).expect("small"));
            let tail = segments.response.own_word(offset::TAIL);
            let head = segments.request.peer_word(offset::HEAD);
            Some((Box::new(segments), Producer::new(lines, tail, head, 0)))
        };
        Self { stream, rings }
    }

    /// Whether there was room for it. A socket is waited for; false if its client is gone.
    fn try_push(&mut self, kind: Kind, code: u16, call: u64, body: &[u8]) -> bool {
        self.try_push_frame(kind, 0, code, call, body)
    }

    /// In fragments, as often as there is no room for one, until `stop`; false then, or if its
    /// client is gone.
    fn push_large(&mut self, kind: Kind, call: u64, body: &[u8], stop: &PlainU64) -> bool {
        let chunks = body.chunks(8_000);
        let last = chunks.len() - 1;
        chunks.enumerate().all(|(at, chunk)| {
            let total = body.len() as u64;
            let (start, begins) =
                if at == 0 { (&total.to_le_bytes()[..], 0) } else { (&[][..], flag::CONTINUED) };
            let flags = begins | if at == last { 0 } else { flag::MORE };
            let chunk = [start, chunk].concat();
            while !self.try_push_frame(kind, flags, 0, call, &chunk) {
                if self.rings.is_none() || stop.load(Ordering::Relaxed) == 1 {
                    return false;
                }
                std::hint::spin_loop();
            }
            true
        })
    }

    fn try_push_frame(&mut self, kind: Kind, flags: u8, code: u16, call: u64, body: &[u8]) -> bool {
        let Some((_, producer)) = &mut self.rings else {
            return self.stream.write_all(&raw::frame(kind, flags, code, call, body)).is_ok();
        };
        let Ok(claim) = producer.try_claim(body.len()) else { return false };
        producer.write(&claim, 0, body);
        let length = u32::try_from(body.len()).expect("small");
        producer.commit(claim, HeaderWord::new(kind, flags, code, length), call);
        producer.zero_ahead();
        true
    }

    fn push(&mut self, kind: Kind, call: u64, body: &[u8]) {
        assert!(self.try_push(kind, 0, call, body), "room");
    }

    /// Returns when a client that has sent nothing before has sent something.
    fn wait_for_a_request(&self) {
        match &self.rings {
            None => drop(raw::receive_frame(&self.stream).expect("a request")),
            Some((segments, _)) => {
                let first = segments.request.peer_word(layout::CONTROL);
                while first.load() == 0 {
                    std::thread::yield_now();
                }
            }
        }
    }
}

fn options(transport: TransportChoice) -> ConnectOptions {
    let most = usize::try_from(MIB).expect("small");
    ConnectOptions::new().transport(transport).max_held_bytes(most).max_in_flight(3)
}

fn attach(fake: &Fake, options: ConnectOptions, transport: TransportChoice) -> (Client, Speaker) {
    tick();
    let path = fake.path();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || options.connect(path));
        let speaker = Speaker::accept(fake, transport);
        (client.join().expect("no panic").expect("connected"), speaker)
    })
}

/// A client that holds more than a quarter of what it may, of a stream that nobody reads.
fn loaded(fake: &Fake, transport: TransportChoice) -> (Client, Speaker, u64) {
    // It looks at the clock after each look: nothing is found by spinning.
    let options = options(transport).wait(WaitSettings::client().park_at_once());
    let (mut client, mut speaker) = attach(fake, options, transport);
    let stream = client.open_stream(b"items", NOW).expect("opened");
    for _ in 0..MANY {
        speaker.push(Kind::StreamItem, stream.as_u64(), &ITEM);
        assert_eq!(client.next_event(NOW), Err(EventError::TimedOut));
    }
    (client, speaker, stream.as_u64())
}

/// The id of the call with this number, counted from 0, of a client that has ended none.
fn id_of(number: u64) -> u64 {
    1 << 32 | number
}

/// What stands before that which is looked for.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// Each of which is taken in alone, where nothing depends on what lies behind.
    Items,
    /// More than are taken in between two looks at the clock.
    Events,
}

impl Before {
    fn push(self, speaker: &mut Speaker, stream: u64) {
        match self {
            Self::Items => (0..3).for_each(|_| speaker.push(Kind::StreamItem, stream, &ITEM)),
            Self::Events if speaker.rings.is_some() => {
                (0..4_500).for_each(|_| speaker.push(Kind::Event, 0, b"event"));
            }
            // In one write: the kernel counts more for a small one than its bytes.
            Self::Events => {
                let events = raw::frame(Kind::Event, 0, 0, 0, b"event").repeat(1_500);
                speaker.stream.write_all(&events).expect("room");
            }
        }
    }
}

pub(crate) fn c1_what_lies_behind_items_and_events_is_found() -> Ran {
    let fake = Fake::new();
    let mut cases = 0;
    for transport in BOTH {
        for before in [Before::Items, Before::Events] {
            let what = format!("{transport:?}, behind {before:?}");
            // Answers.
            for timeout in [NOW, Some(Duration::from_micros(1))] {
                let (mut client, mut speaker, stream) = loaded(&fake, transport);
                let call = client.send(b"call").expect("sent");
                before.push(&mut speaker, stream);
                speaker.push(Kind::Response, call.as_u64(), b"answer");
                let found = client.recv(timeout).map(|answer| answer.call);
                assert_eq!(found, Ok(call), "{what}, {timeout:?}");
            }
            // A place, which the answer to a call makes that was given up.
            let (mut client, mut speaker, stream) = loaded(&fake, transport);
            for _ in 0..2 {
                let given_up = client.call_timeout(b"call", NOW).map(|_| ());
                assert!(matches!(given_up, Err(CallError::TimedOut { .. })), "{given_up:?}");
            }
            let full = Err(SendError::TooManyInFlight { limit: 3 });
            assert_eq!(client.send_timeout(b"more", NOW), full, "{what}");
            before.push(&mut speaker, stream);
            speaker.push(Kind::Response, id_of(2), b"late");
            client.send_timeout(b"more", NOW).unwrap_or_else(|error| panic!("{what}: {error}"));
            // The same for a claim.
            let (mut client, mut speaker, stream) = loaded(&fake, transport);
            for _ in 0..2 {
                let _ = client.call_timeout(b"call", NOW).map(|_| ());
            }
            before.push(&mut speaker, stream);
            speaker.push(Kind::Response, id_of(1), b"late");
            client.claim(8, NOW).unwrap_or_else(|error| panic!("{what}: {error}")).commit();
            // An item of another stream, and then its end.
            let (mut client, mut speaker, stream) = loaded(&fake, transport);
            let other = client.open_stream(b"other", NOW).expect("opened");
            before.push(&mut speaker, stream);
            speaker.push(Kind::StreamItem, other.as_u64(), b"item");
            let mut item = Vec::new();
            assert_eq!(client.next_item(other, &mut item, NOW), Ok(true), "{what}");
            assert_eq!(item, b"item");
            before.push(&mut speaker, stream);
            speaker.push(Kind::StreamEnd, other.as_u64(), b"");
            assert_eq!(client.next_item(other, &mut item, NOW), Ok(false), "{what}");
            // Why nothing can be sent any more.
            if transport == TransportChoice::Socket {
                let (mut client, mut speaker, stream) = loaded(&fake, transport);
                before.push(&mut speaker, stream);
                assert!(speaker.try_push(Kind::Goodbye, 0, 0, b""));
                drop(speaker);
                let over = loop {
                    match client.send_one_way(b"more", NOW) {
                        Ok(()) => {}
                        Err(over) => break over,
                    }
                };
                assert_eq!(over, SendError::ShutDown, "{what}");
            }
            cases += 5;
        }
        // An event behind items.
        let (mut client, mut speaker, stream) = loaded(&fake, transport);
        Before::Items.push(&mut speaker, stream);
        speaker.push(Kind::Event, 0, b"event");
        assert_eq!(client.next_event(NOW).as_deref(), Ok(&b"event"[..]));
        cases += 1;
    }
    done!("{cases} cases")
}

/// What of an event is there when its client is given back.
const PARTS: [(TransportChoice, usize); 4] = [
    (TransportChoice::SharedMemory, 0),
    (TransportChoice::Socket, 5),
    (TransportChoice::Socket, 100),
    (TransportChoice::Socket, usize::MAX),
];

/// A pool gives nobody what a server pushed to the one before.
pub(crate) fn c1_a_pooled_client_brings_no_old_events() -> Ran {
    let fake = Fake::new();
    for (transport, part) in PARTS {
        let settings = Settings { min_idle: 0, max_size: 1, ..Settings::default() };
        let options = options(transport).max_events(10_000);
        let pool = ConnectionPool::with_options(fake.path(), options, settings).expect("a pool");
        std::thread::scope(|scope| {
            let acquiring = scope.spawn(|| pool.acquire().expect("a client"));
            let mut speaker = Speaker::accept(&fake, transport);
            let client = acquiring.join().expect("no panic");
            for _ in 0..3 {
                Before::Events.push(&mut speaker, 0);
            }
            drop(client);
            let mut client = pool.acquire().expect("the same client");
            let event = client.next_event(NOW);
            assert_eq!(event, Err(EventError::TimedOut), "{transport:?}");
            // One that is there in part will be there.
            let total = 2_000u64.to_le_bytes();
            let begins = [&total[..], &[7; 1_000]].concat();
            let frame = raw::frame(Kind::Event, flag::MORE, 0, 0, &begins);
            if part != 0 {
                speaker.stream.write_all(&frame[..part.min(frame.len())]).expect("room");
                assert_eq!(client.next_event(NOW), Err(EventError::TimedOut));
                drop(client);
                assert_eq!(pool.stats().closed.poisoned, 1, "it is not given to anybody");
            }
        });
        let _ = pool.close(NOW);
    }
    done!("both transports, with three parts of an event")
}

/// A reader of events misses none for want of room, however many are there: no more are taken in
/// than the client keeps.
pub(crate) fn c1_a_reader_of_events_misses_none_that_is_there() -> Ran {
    const EVENTS: u64 = 20;
    let fake = Fake::new();
    for transport in BOTH {
        let (mut client, mut speaker) = attach(&fake, options(transport).max_events(2), transport);
        (0..EVENTS).for_each(|_| speaker.push(Kind::Event, 0, b"event"));
        for _ in 0..EVENTS {
            assert_eq!(client.next_event(NOW).as_deref(), Ok(&b"event"[..]), "{transport:?}");
        }
    }
    done!("both transports")
}

/// The time of a call in a task is over: its answer is found wherever it is.
pub(crate) fn c1_a_task_whose_time_is_over_finds_its_answer() -> Ran {
    let fake = Fake::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    for transport in BOTH {
        for events in [0, 1_500] {
            let path = fake.path();
            let options = options(transport);
            std::thread::scope(|scope| {
                let speaking = scope.spawn(|| Speaker::accept(&fake, transport));
                runtime.block_on(async {
                    let client: AsyncClient = options.connect_async(path).await.expect("connected");
                    let mut speaker = speaking.join().expect("no panic");
                    // While it waits no other call looks out for its own answer.
                    let mut other = Box::pin(client.call(b"other"));
                    let pending = poll_fn(|cx| Poll::Ready(other.as_mut().poll(cx).is_pending()));
                    assert!(pending.await, "nothing has come");
                    // The driver finds that nothing is there, and sleeps.
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                    if events != 0 {
                        Before::Events.push(&mut speaker, 0);
                    }
                    // From here on the driver does not run. The call is sent when it is polled, and
                    // its time is over then.
                    speaker.push(Kind::Response, id_of(1), b"answer");
                    let called = client.call_timeout(b"call", NOW).await;
                    assert_eq!(called.as_deref(), Ok(&b"answer"[..]), "{transport:?}, {events}");
                });
            });
        }
    }
    done!("both transports, behind no events and behind many")
}

/// A refused stream is refused as a call is.
pub(crate) fn c1_a_refused_stream_is_refused_as_a_call() -> Ran {
    let fake = Fake::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    for transport in BOTH {
        for (code, means) in [
            (code::DEADLINE_EXCEEDED, CallError::TimedOut { maybe_executed: false }),
            (code::SHUTTING_DOWN, CallError::ShutDown { maybe_executed: false }),
        ] {
            let (mut client, mut speaker) = attach(&fake, options(transport), transport);
            let stream = client.open_stream(b"items", NOW).expect("opened");
            assert!(speaker.try_push(Kind::Error, code, stream.as_u64(), b"no"));
            let mut item = Vec::new();
            assert_eq!(client.next_item(stream, &mut item, NOW), Err(means.clone()));
            assert_eq!(client.next_item(stream, &mut item, NOW), Err(CallError::NotAStream));
            let call = client.send(b"call").expect("sent");
            assert!(speaker.try_push(Kind::Error, code, call.as_u64(), b"no"));
            assert!(client.is_clean() || client.recv(NOW).is_ok());

            let options = options(transport);
            let path = fake.path();
            std::thread::scope(|scope| {
                let speaking = scope.spawn(|| {
                    let mut speaker = Speaker::accept(&fake, transport);
                    // Its first call. It may be asked for later, but not before it was sent.
                    speaker.wait_for_a_request();
                    assert!(speaker.try_push(Kind::Error, code, id_of(0), b"no"));
                    if speaker.rings.is_some() {
                        raw::send(&speaker.stream, &[raw::WAKE], &[]);
                    }
                    speaker
                });
                runtime.block_on(async {
                    let client: AsyncClient = options.connect_async(path).await.expect("connected");
                    let mut stream = client.call_stream(b"items").await.expect("opened");
                    let next =
                        poll_fn(|cx| futures_core::Stream::poll_next(Pin::new(&mut stream), cx));
                    assert_eq!(next.await, Some(Err(means)));
                });
                drop(speaking.join().expect("no panic"));
            });
        }
    }
    done!("both transports, blocking and in a task")
}

/// A server that sends without end what leads nowhere: a call ends by its time, and what its client
/// holds has a bound.
pub(crate) fn c1_floods_of_items_and_events_end_no_wait_late() -> Ran {
    let fake = Fake::new();
    let timeout = Some(Duration::from_millis(100));
    // A window of these is more than the client may hold: the stream is cut, and goes on.
    let item = [7; 20 << 10];
    let mut sent = 0;
    for transport in BOTH {
        let timed = |client: &mut Client| {
            let start = Instant::now();
            let called = client.call_timeout(b"call", timeout).map(|_| ());
            (called, start.elapsed())
        };
        let late = Err(CallError::TimedOut { maybe_executed: true });
        let (mut silent, _speaker) = attach(&fake, options(transport), transport);
        let (called, usual) = timed(&mut silent);
        assert_eq!(called, late);
        for kind in [Kind::StreamItem, Kind::Event] {
            let (mut client, mut speaker) = attach(&fake, options(transport), transport);
            let stream = client.open_stream(b"items", NOW).expect("opened");
            let before = resident();
            let stop = PlainU64::new(0);
            std::thread::scope(|scope| {
                let flooding = scope.spawn(|| {
                    let mut bytes = 0;
                    while stop.load(Ordering::Relaxed) == 0 {
                        let call = if kind == Kind::Event { 0 } else { stream.as_u64() };
                        if !speaker.push_large(kind, call, &item, &stop) {
                            break;
                        }
                        bytes += item.len();
                    }
                    bytes
                });
                let (first, took) = timed(&mut client);
                let (second, more) = timed(&mut client);
                let grown = resident().saturating_sub(before);
                // The other side of a full socket waits until it is closed.
                stop.store(1, Ordering::Relaxed);
                drop(client);
                let flood = flooding.join().expect("no panic");
                assert!(flood as u64 > 2 * MIB, "a flood of {flood} bytes");
                sent += flood;
                let what = format!("{transport:?}, {kind:?}");
                assert_eq!((&first, &second), (&late, &late), "{what}");
                assert!(took.max(more) < 20 * usual, "{what}: {took:?}, {more:?}; {usual:?}");
                assert!(grown < 16 * MIB, "{what}: {grown} bytes more are held");
            });
        }
    }
    done!("after {} MiB", sent as u64 / MIB)
}

/// Bytes of memory of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc");
    let pages: u64 = statm.split(' ').nth(1).expect("a number").parse().expect("a number");
    pages * 4096
}

/// A reader of large items who then waits for something else: the client has asked for no more than
/// it may hold.
pub(crate) fn c1_a_reader_of_large_items_is_not_cut() -> Ran {
    const WINDOW: u64 = layout::STREAM_WINDOW as u64;
    let item = &[7; 32 << 10];
    let fake = Fake::new();
    let transport = TransportChoice::Socket;
    let (mut client, mut speaker) = attach(&fake, options(transport), transport);
    let stream = client.open_stream(b"items", NOW).expect("opened");
    let mut read = Vec::new();
    for _ in 0..WINDOW {
        speaker.push(Kind::StreamItem, stream.as_u64(), item);
        assert_eq!(client.next_item(stream, &mut read, None), Ok(true));
    }
    let call = client.send(b"call").expect("sent");
    let mut granted = 0;
    loop {
        let frame = raw::receive_frame(&speaker.stream).expect("a frame");
        match frame.kind() {
            Some(Kind::Credit) => granted += u64::from(frame.header.code()),
            Some(Kind::Request) if frame.call == call.as_u64() => break,
            _ => {}
        }
    }
    assert!((1..WINDOW / 2).contains(&granted), "{granted} items of 32 KiB, for 1 MiB");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..granted {
                speaker.push(Kind::StreamItem, stream.as_u64(), item);
            }
            speaker.push(Kind::Response, call.as_u64(), b"answer");
            speaker.push(Kind::StreamEnd, stream.as_u64(), b"");
        });
        assert_eq!(client.recv(None).map(|answer| answer.call), Ok(call));
        for _ in 0..granted {
            assert_eq!(client.next_item(stream, &mut read, None), Ok(true));
        }
        assert_eq!(client.next_item(stream, &mut read, None), Ok(false));
    });
    done!("{granted} items were granted beyond the first window")
}
