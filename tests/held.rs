//! What a client holds of what its server sends has a bound in bytes, whatever the server sends.
//!
//! The client runs on the test's own thread, whose live memory is counted; the server on others.

mod common;

use common::{BOTH, Serving};
use ringbell::layout::code;
use ringbell::{
    CallError, Client, ConnectOptions, EventError, OwnedRequest, RecvError, Responder, Server,
    Session, TransportChoice,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Counts the live bytes of each thread.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has nothing to count with.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

#[allow(unsafe_code, reason = "a global allocator")]
// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` leaves in memory at most beyond what was there before, in bytes.
fn peak_of(work: impl FnOnce()) -> isize {
    let before = LIVE.get();
    PEAK.set(before);
    work();
    PEAK.get() - before
}

const MIB: usize = 1 << 20;
/// What a client may hold in these tests.
const HELD: usize = 8 * MIB;
/// The same with the message that is arriving, the one that is looked at, and small change. Vectors
/// that grow as bytes arrive have up to twice the capacity.
const BOUND: isize = (HELD + 4 * MIB).cast_signed();

const ANSWER: u8 = 0;
const ITEMS: u8 = 1;
const EVENT: u8 = 2;

/// A server that answers with as many bytes as it is asked for.
struct AsAsked {
    serving: Serving,
    /// Streams of which the server sends no more.
    sent: Arc<Mutex<usize>>,
}

fn request(sort: u8, bytes: usize) -> Vec<u8> {
    [&[sort][..], &bytes.to_le_bytes()].concat()
}

fn answer(request: OwnedRequest, responder: Responder, sent: &Arc<Mutex<usize>>) {
    let (sort, bytes) = request.payload().split_first().expect("a sort");
    let len = usize::from_le_bytes(bytes.try_into().expect("a length"));
    match *sort {
        ANSWER => responder.reply_vec(vec![7; len]),
        EVENT => {
            request.session().push(&vec![7; len]).expect("pushed");
            responder.reply(b"");
        }
        _ => {
            let (mut stream, sent) = (responder.stream(), sent.clone());
            std::thread::spawn(move || {
                // As many as a client has asked for that has taken none.
                for _ in 0..64 {
                    if stream.send(&vec![7; len]).is_err() {
                        break;
                    }
                }
                stream.end();
                *sent.lock().expect("no panic") += 1;
            });
        }
    }
}

impl AsAsked {
    fn new() -> Self {
        let sent = Arc::new(Mutex::new(0));
        let counted = sent.clone();
        let serving = Serving::start(Server::builder(), move |server| {
            let answer = move |request, responder| answer(request, responder, &counted);
            server.run_reactor(answer).expect("served");
        });
        Self { serving, sent }
    }

    fn options() -> ConnectOptions {
        ConnectOptions::new().max_message(2 * MIB as u64).max_held_bytes(HELD)
    }

    fn connect(&self, transport: TransportChoice) -> Client {
        self.serving.connect(Self::options(), transport)
    }
}

fn works(client: &mut Client) {
    assert_eq!(client.call(&request(ANSWER, 3)).expect("an answer").len(), 3);
}

#[test]
fn p2_client_answers_that_are_set_aside_have_a_bound_in_bytes() {
    for transport in BOTH {
        let server = AsAsked::new();
        let mut client = server.connect(transport);
        works(&mut client);
        // What was held and is asked for leaves room for as much.
        for _ in 0..2 {
            leave_answers(&mut client);
        }
        works(&mut client);
    }
}

/// Leaves answers that are too much, and asks for what was kept of them.
fn leave_answers(client: &mut Client) {
    let peak = peak_of(|| {
        for _ in 0..50 {
            client.send(&request(ANSWER, MIB)).expect("sent");
        }
        // Its answer comes behind all others.
        works(client);
    });
    assert!(peak < BOUND, "{peak} bytes");
    let (mut kept, mut dropped) = (0, 0);
    loop {
        match client.recv(None) {
            Err(RecvError::NothingInFlight) => break,
            answer => match answer.expect("an answer").outcome {
                Ok(response) => {
                    assert!(response.len() == MIB);
                    kept += 1;
                }
                Err(error) => {
                    assert_eq!(error.code, code::NOT_KEPT);
                    dropped += 1;
                }
            },
        }
    }
    assert!(kept >= 2 && kept + dropped == 50, "{kept} kept, {dropped} dropped");
    assert_eq!(client.in_flight(), 0);
}

#[test]
fn p2_client_items_that_nobody_reads_have_a_bound_in_bytes() {
    for transport in BOTH {
        let server = AsAsked::new();
        let mut client = server.connect(transport);
        works(&mut client);
        let mut streams = Vec::new();
        let peak = peak_of(|| {
            for _ in 0..4 {
                let stream = client.open_stream(&request(ITEMS, MIB / 4), None);
                streams.push(stream.expect("opened"));
            }
            while *server.sent.lock().expect("no panic") < streams.len() {
                // Whatever is there is taken in.
                client.ping(None).expect("there");
            }
            client.ping(None).expect("there");
        });
        assert!(peak < BOUND, "{peak} bytes");
        let mut given_up = 0;
        for stream in streams {
            let mut item = Vec::new();
            loop {
                match client.next_item(stream, &mut item, None) {
                    Ok(true) => assert!(item.len() == MIB / 4),
                    Ok(false) => break,
                    Err(CallError::Remote(error)) => {
                        assert_eq!(error.code, code::NOT_KEPT);
                        given_up += 1;
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!((1..=4).contains(&given_up), "{given_up} given up");
        assert_eq!(client.in_flight(), 0);
        works(&mut client);
    }
}

#[test]
fn p2_client_a_stream_that_is_read_is_not_given_up() {
    for transport in BOTH {
        let server = AsAsked::new();
        // A ring has room for all of them, which is more than the client may hold. Each is one
        // frame, so that one look could take all.
        const ITEM: usize = 60_000;
        let options = AsAsked::options().ring_capacity(16 * MIB as u64);
        let options = options.max_message(1 << 17).max_held_bytes(MIB);
        let mut client = server.serving.connect(options, transport);
        let peak = peak_of(|| {
            let mut stream = client.call_stream(&request(ITEMS, ITEM)).expect("opened");
            let mut items = 0;
            while let Some(item) = stream.next(None).expect("an item") {
                assert!(item.len() == ITEM);
                items += 1;
                while items == 1 && *server.sent.lock().expect("no panic") == 0 {
                    std::thread::yield_now();
                }
                if items == 1 {
                    // Time for the last ones to be in the ring.
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            assert_eq!(items, 64);
        });
        assert!(peak < BOUND, "{peak} bytes");
        works(&mut client);
    }
}

#[test]
fn p2_client_events_have_a_bound_in_bytes() {
    for transport in BOTH {
        let server = AsAsked::new();
        let mut client = server.connect(transport);
        works(&mut client);
        let peak = peak_of(|| {
            for _ in 0..50 {
                client.call(&request(EVENT, MIB)).expect("an answer");
            }
            client.ping(None).expect("there");
        });
        assert!(peak < BOUND, "{peak} bytes");
        let (mut kept, mut missed) = (0, 0);
        while kept + missed < 50 {
            match client.next_event(None) {
                Ok(event) => {
                    assert!(event.len() == MIB);
                    kept += 1;
                }
                Err(EventError::Missed { events }) => missed += events,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(kept >= 2 && missed > 0, "{kept} kept, {missed} missed");
    }
}

#[test]
fn p2_client_a_small_message_does_not_keep_the_memory_of_a_large_one() {
    for transport in BOTH {
        let server = AsAsked::new();
        let mut client = server.connect(transport);
        works(&mut client);
        let before = LIVE.get();
        for _ in 0..6 {
            assert!(client.call(&request(ANSWER, MIB)).expect("an answer").len() == MIB);
            client.call(&request(EVENT, 1)).expect("an answer");
            client.send(&request(ANSWER, 1)).expect("sent");
            client.ping(None).expect("there");
        }
        // What the last message did not need is given back with the next one but one.
        works(&mut client);
        works(&mut client);
        let held = LIVE.get() - before;
        assert!(held < (MIB / 2).cast_signed(), "{held} bytes");
        let mut answers = 0;
        while client.try_recv().is_ok() {
            answers += 1;
        }
        assert_eq!(answers, 6);
    }
}

#[cfg(feature = "tokio")]
mod tasks {
    use super::*;
    use std::future::{Future, poll_fn};
    use std::pin::Pin;
    use std::task::Poll;

    type Call = Pin<Box<dyn Future<Output = Result<Vec<u8>, CallError>>>>;

    async fn poll_once(call: &mut Call) {
        let polled = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    }

    #[test]
    fn p2_client_answers_to_futures_that_nobody_polls_have_a_bound_in_bytes() {
        for transport in BOTH {
            let server = AsAsked::new();
            let path = server.serving.path();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let client = AsAsked::options().transport(transport).connect_async(path).await;
                let client = client.expect("connected");
                let before = LIVE.get();
                PEAK.set(before);
                let mut calls: Vec<Call> = Vec::new();
                for _ in 0..50 {
                    let mut call: Call = Box::pin(client.call_owned(request(ANSWER, MIB)));
                    poll_once(&mut call).await;
                    calls.push(call);
                }
                // Its answer comes behind all others.
                assert_eq!(client.call(&request(ANSWER, 3)).await.expect("an answer").len(), 3);
                let peak = PEAK.get() - before;
                assert!(peak < BOUND, "{peak} bytes");
                let (mut kept, mut dropped) = (0, 0);
                for call in calls {
                    match call.await {
                        Ok(response) => {
                            assert!(response.len() == MIB);
                            kept += 1;
                        }
                        Err(CallError::Remote(error)) => {
                            assert_eq!(error.code, code::NOT_KEPT);
                            dropped += 1;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                assert!(kept >= 2 && kept + dropped == 50, "{kept} kept, {dropped} dropped");
                // All that was held is let go.
                for _ in 0..20 {
                    let answer = client.call(&request(ANSWER, MIB)).await.expect("an answer");
                    assert!(answer.len() == MIB);
                }
            });
        }
    }
}

/// Largest message of the servers below, and what their clients may hold.
const MESSAGE: usize = 4 * MIB;
const MAY_HOLD: usize = 2 * MIB;

/// Has a server of its own answer: the code of the error if there is one, or the answer's length.
/// The client asks for so many bytes, and whether an event of 1 MiB is to be sent before.
fn asked(client: &mut Client, bytes: usize, event: bool) -> Result<usize, u16> {
    match client.call(&request(if event { EVENT } else { ANSWER }, bytes)) {
        Ok(answer) => Ok(answer.len()),
        Err(CallError::Remote(error)) => Err(error.code),
        Err(error) => panic!("{error}"),
    }
}

fn wanted(request: &[u8], session: &Session) -> usize {
    let (sort, bytes) = request.split_first().expect("a sort");
    if *sort == EVENT {
        session.push(&vec![7; MIB]).expect("pushed");
    }
    usize::from_le_bytes(bytes.try_into().expect("a length"))
}

/// What a handler writes on the reactor's own thread is bounded, and the server goes on.
#[test]
fn p2_answers_written_on_the_reactors_thread_are_charged() {
    for serial in [true, false] {
        for transport in BOTH {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("socket");
            let server = Server::builder()
                .max_message(MESSAGE as u64)
                .max_held_bytes_per_client(MAY_HOLD as u64)
                .bind(&path)
                .expect("bound");
            let handle = server.handle();
            let thread = std::thread::spawn(move || {
                if serial {
                    server.run(|request, response| {
                        response.resize(wanted(request.payload(), request.session()), 7);
                        Ok(())
                    })
                } else {
                    server.run_reactor(|request, responder| {
                        let len = wanted(request.payload(), &request.session());
                        responder.reply_with(len, |answer| answer.fill(7));
                    })
                }
            });
            let options = ConnectOptions::new().transport(transport).max_message(MESSAGE as u64);
            let mut client = options.connect(&path).expect("connected");
            let most = MAY_HOLD - MIB / 4;
            for _ in 0..3 {
                assert_eq!(asked(&mut client, most, false), Ok(most));
                // Beside an event that is not sent yet there is no room.
                assert_eq!(asked(&mut client, most, true), Err(code::EXHAUSTED));
                assert_eq!(client.next_event(None).expect("an event").len(), MIB);
                assert_eq!(asked(&mut client, 100, true), Ok(100));
                assert_eq!(client.next_event(None).expect("an event").len(), MIB);
                // All that it may ever hold is less.
                assert_eq!(asked(&mut client, MAY_HOLD + 1, false), Err(code::TOO_LARGE));
                assert_eq!(asked(&mut client, MESSAGE + 1, false), Err(code::TOO_LARGE));
                assert_eq!(asked(&mut client, 3, false), Ok(3));
            }
            drop(client);
            handle.shutdown(None);
            thread.join().expect("no panic").expect("served");
            let stats = handle.stats();
            assert_eq!((stats.held_refusals, stats.held_bytes), (6, 0));
        }
    }
}
