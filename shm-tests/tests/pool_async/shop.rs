//! A pool of numbers, whose opening can be held up and made to fail, and which counts.

use ringbell::pool::{Acquire, AcquireError, CloseReason, Guard, Manager, Pool, Settings};
use ringbell::sync::{Ordering, PlainBool, PlainU64};
use ringbell_shm_tests::wait_until;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use tokio::runtime::{Builder, Runtime};

/// Opens numbers, and counts those that are open.
#[derive(Default)]
pub(crate) struct Numbers {
    pub(crate) opened: PlainU64,
    pub(crate) open: PlainU64,
    pub(crate) most_open: PlainU64,
    /// Those that wait at the gate.
    pub(crate) at_gate: PlainU64,
    pub(crate) most_at_gate: PlainU64,
    pub(crate) failing: PlainBool,
    pub(crate) hopeless: PlainBool,
    /// Each opening waits for a word, if there is one to wait for.
    pub(crate) gate: Mutex<Option<Receiver<()>>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoNumber;

impl std::fmt::Display for NoNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no number")
    }
}

impl std::error::Error for NoNumber {}

#[derive(Clone, Default)]
pub(crate) struct Shop(pub(crate) Arc<Numbers>);

impl Manager for Shop {
    type Item = u64;
    type Error = NoNumber;

    fn open(&self) -> Result<u64, NoNumber> {
        let open = self.0.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_open.fetch_max(open, Ordering::SeqCst);
        let waiting = self.0.at_gate.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_at_gate.fetch_max(waiting, Ordering::SeqCst);
        if let Some(gate) = &*self.0.gate.lock().expect("the gate") {
            let _ = gate.recv();
        }
        self.0.at_gate.fetch_sub(1, Ordering::SeqCst);
        if self.0.failing.load(Ordering::Relaxed) {
            self.0.open.fetch_sub(1, Ordering::SeqCst);
            return Err(NoNumber);
        }
        Ok(self.0.opened.fetch_add(1, Ordering::Relaxed))
    }

    fn is_permanent(&self, _error: &NoNumber) -> bool {
        self.0.hopeless.load(Ordering::Relaxed)
    }

    fn close(&self, _item: u64, _reason: CloseReason) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Exactly so many are kept, for ever.
pub(crate) fn settings(size: usize) -> Settings {
    Settings {
        min_idle: size,
        max_size: size,
        idle_timeout: None,
        health_check_interval: None,
        acquire_timeout: None,
        ..Settings::default()
    }
}

pub(crate) fn shop(settings: Settings) -> (Pool<Shop>, Shop) {
    let shop = Shop::default();
    let filled = if settings.enabled { settings.min_idle } else { 0 };
    let pool = Pool::new(shop.clone(), settings).expect("settings that make sense");
    wait_until("it is filled", || pool.stats().idle == filled);
    (pool, shop)
}

/// Every opening waits for a word from the sender.
pub(crate) fn gated(settings: Settings) -> (Pool<Shop>, Shop, Sender<()>) {
    let shop = Shop::default();
    let (sender, receiver) = channel();
    *shop.0.gate.lock().expect("the gate") = Some(receiver);
    (Pool::new(shop.clone(), settings).expect("settings that make sense"), shop, sender)
}

pub(crate) fn flavours() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().expect("a runtime"),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"),
    ]
}

/// Counts how often it is rung.
#[derive(Default)]
pub(crate) struct Bell(pub(crate) PlainU64);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    pub(crate) fn rings(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

type Polled = Poll<Result<Guard<Shop>, AcquireError<NoNumber>>>;

pub(crate) fn poll(future: &mut Acquire<Shop>, bell: &Arc<Bell>) -> Polled {
    let waker = Waker::from(bell.clone());
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}
