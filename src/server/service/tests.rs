use super::*;
use crate::base::sync::{PlainBool, PlainU64};
use crate::handshake::{AnswerOrder, PeerInfo, Transport};
use crate::link::held::Account;
use crate::memory::Window;
use crate::server::flight::{Caller, Completions, StreamOver};
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
