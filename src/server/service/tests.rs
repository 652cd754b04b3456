use super::*;
use crate::base::shares::Sharing;
use crate::base::sync::{PlainBool, PlainU64};
use crate::handshake::{AnswerOrder, PeerInfo, Transport};
use crate::link::held::{Account, ENTRY, HeldLimits, Total};
use crate::memory::Window;
use crate::server::flight::{Caller, Completions, FLIGHT, StreamOver};
use crate::server::park::Parker;
use std::cell::RefCell;
use std::pin::pin;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

fn caller() -> Arc<Caller> {
    let (_, notifier) = Parker::new(Window::heap(4096)).expect("made");
    Arc::new(Caller {
        id: 1,
        peer: PeerInfo { pid: 1, uid: 2, gid: 3, name: String::new() },
        transport: Transport::SharedMemory,
        order: AnswerOrder::Completion,
        max_message: 1 << 20,
        open: PlainBool::new(true),
        events: PlainU64::new(0),
        events_most: 1,
        account: Account::alone(1 << 20),
        completions: Arc::new(Completions::new(notifier)),
    })
}

thread_local! {
    /// Whose stream is given up when a waker is cloned.
    static GIVEN_UP: RefCell<Option<Arc<Flight>>> = const { RefCell::new(None) };
}

fn clone(_: *const ()) -> RawWaker {
    GIVEN_UP.take().into_iter().for_each(|flight| flight.give_up(StreamOver::Cancelled));
    RawWaker::new(std::ptr::null(), &CLONED)
}

fn nothing(_: *const ()) {}

static CLONED: RawWakerVTable = RawWakerVTable::new(clone, nothing, nothing, nothing);

/// A waker that wakes nothing, for whoever does not ask again before it waits.
fn waker() -> Waker {
    #[allow(unsafe_code, reason = "a waker whose clones are noticed")]
    // SAFETY: the functions of the table use no pointer, and keep nothing that a thread may not
    // have.
    unsafe {
        Waker::from_raw(RawWaker::new(std::ptr::null(), &CLONED))
    }
}

#[test]
fn a_task_that_begins_to_wait_for_room_sees_that_its_stream_is_over() {
    let caller = caller();
    let _all = caller.account.charge(8 << 20);
    let flight = Arc::new(Flight::new(caller, 1, 0, false));
    let mut stream = ResponseStream { flight: Some(flight.clone()) };
    // Cancelled behind the first look, and before anybody is known to wait.
    GIVEN_UP.set(Some(flight));
    let waker = waker();
    let sent = pin!(stream.send_async(b"item")).poll(&mut Context::from_waker(&waker));
    assert!(GIVEN_UP.take().is_none(), "it was given up");
    assert_eq!(sent, Poll::Ready(Err(StreamError::Cancelled)));
}

#[test]
fn a_producer_that_waits_for_room_has_a_time_limit_and_the_reactor_is_told() {
    let caller = caller();
    let _all = caller.account.charge(8 << 20);
    let flight = Arc::new(Flight::new(caller.clone(), 1, 0, false));
    let mut stream = ResponseStream { flight: Some(flight.clone()) };
    assert_eq!(flight.stalled_since(7, true, 0), None, "it has credit");
    {
        let mut sending = pin!(stream.send_async(b"item"));
        assert!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut told = Vec::new();
        caller.completions.take(&mut told);
        assert!(matches!(told[..], [Completion { kind: Kind::Credit, .. }]));
        let since = flight.stalled_since(7, true, 0).expect("it waits");
        assert!(flight.is_waiting());
        assert_eq!(flight.stalled_since(7, true, since + 5), Some(since + 5), "the client reads");
        assert!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(!caller.completions.any(), "told once");
    }
    assert!(!flight.is_waiting());
    assert_eq!(flight.stalled_since(7, true, 0), None);
}

/// Two clients of two uids, who may hold 2 MiB each and 3 MiB together.
fn two_callers() -> [Arc<Caller>; 2] {
    let limits = HeldLimits {
        client: 2 << 20,
        uid: 2 << 20,
        total: 3 << 20,
        max_message: 8 << 20,
        sharing: Sharing::One,
    };
    let total = Total::new(limits, Box::new(|| {}));
    [1, 2].map(|uid| {
        let mut caller = caller();
        let inner = Arc::get_mut(&mut caller).expect("not shared");
        (inner.max_message, inner.account) = (8 << 20, total.share(uid).account());
        caller
    })
}

fn stream_to(caller: &Arc<Caller>) -> (ResponseStream, Arc<Flight>) {
    let flight = Arc::new(Flight::new(caller.clone(), 1, 0, false));
    (ResponseStream { flight: Some(flight.clone()) }, flight)
}

#[test]
fn p2_what_no_client_may_ever_hold_is_too_large_at_once() {
    let [caller, _] = two_callers();
    let (mut stream, flight) = stream_to(&caller);
    let max = (2 << 20) - FLIGHT - ENTRY;
    let too_large = Err(StreamError::TooLarge { len: max + 1, max });
    // For as long as it likes; it does not wait.
    assert_eq!(stream.send_timeout(&vec![1; max + 1], None), too_large);
    {
        let item = vec![1; max + 1];
        let sent = pin!(stream.send_async(&item)).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(sent, Poll::Ready(too_large));
    }
    assert!(!flight.is_waiting());
    stream.send(&vec![1; max]).expect("this one fits, and the stream goes on");
    let mut sent = Vec::new();
    caller.completions.take(&mut sent);
    drop(sent);

    let max = (2 << 20) - ENTRY;
    let event = Session(caller.clone()).push(&vec![1; max + 1]);
    assert_eq!(event, Err(PushError::TooLarge { len: max + 1, max }));

    let answers = [(2 << 20, code::TOO_LARGE), (1 << 20, code::EXHAUSTED)];
    let _half = caller.account.charge(3 << 19);
    for (len, code) in answers {
        let flight = Arc::new(Flight::new(caller.clone(), 2, 0, false));
        Responder::new(flight).reply_with(len, |_| panic!("there is no room to write it"));
        let mut told = Vec::new();
        caller.completions.take(&mut told);
        let [Completion { kind: Kind::Error, code: told, .. }] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(*told, code);
    }
}

#[test]
fn p2_who_holds_the_room_that_a_stream_waits_for_is_known() {
    for by_itself in [true, false] {
        let [caller, other] = two_callers();
        let holder = if by_itself { &caller } else { &other };
        let _all = holder.account.charge(2 << 20);
        let (mut stream, flight) = stream_to(&caller);
        let item = vec![1; 3 << 19];
        {
            let mut sending = pin!(stream.send_async(&item));
            let mut context = Context::from_waker(Waker::noop());
            assert!(sending.as_mut().poll(&mut context).is_pending());
            assert!(flight.is_waiting());
            assert_eq!(flight.is_held_up_by_others(), !by_itself);
            flight.give_up(StreamOver::NoRoom);
            assert_eq!(sending.as_mut().poll(&mut context), Poll::Ready(Err(StreamError::NoRoom)));
        }
        assert!(!flight.is_held_up_by_others(), "it does not wait");
        let mut told = Vec::new();
        caller.completions.take(&mut told);
        told.clear();
        // An item is missing: that is no good end.
        stream.end();
        caller.completions.take(&mut told);
        assert!(matches!(&told[..], [Completion { kind: Kind::Error, code: code::EXHAUSTED, .. }]));
    }
}

#[test]
fn p2_of_an_errors_text_only_what_travels_is_kept() {
    let caller = caller();
    let text = format!("{}\u{e4}{}", "x".repeat(1023), "y".repeat(1 << 20));
    for streamed in [false, true] {
        let flight = Arc::new(Flight::new(caller.clone(), 1, 0, false));
        let responder = Responder::new(flight);
        let error = HandlerError::new(7, text.clone());
        if streamed {
            responder.stream().error(error)
        } else {
            responder.error(error)
        }
        let mut told = Vec::new();
        caller.completions.take(&mut told);
        let [Completion { kind: Kind::Error, payload, .. }] = &told[..] else { panic!("{told:?}") };
        assert_eq!(payload.bytes, "x".repeat(1023).as_bytes(), "not in the middle of a character");
        assert!(payload.bytes.capacity() < 8 << 10);
    }
}
