//! Many items that are opened at once, and what callers are told who waited for one in vain.

use super::*;

/// Whoever opens comes in, and goes on when the door is opened.
#[derive(Default)]
struct Hall {
    state: Mutex<Inside>,
    opened: Condvar,
}

#[derive(Default)]
struct Inside {
    /// How many may still go on; `None` for all that ever come.
    passes: Option<usize>,
    now: usize,
    most: usize,
    ever: u64,
    failing: bool,
    permanent: bool,
    /// Who looks at an item stays there.
    looks_hang: bool,
    looking: usize,
    most_looking: usize,
}

impl Hall {
    fn closed() -> Arc<Self> {
        let inside = Inside { passes: Some(0), ..Inside::default() };
        Arc::new(Self { state: Mutex::new(inside), opened: Condvar::new() })
    }

    fn now(&self) -> usize {
        lock(&self.state).now
    }

    fn most(&self) -> usize {
        lock(&self.state).most
    }

    fn ever(&self) -> u64 {
        lock(&self.state).ever
    }

    fn change(&self, change: impl FnOnce(&mut Inside)) {
        change(&mut lock(&self.state));
        self.opened.notify_all();
    }

    /// So many more may go on.
    fn let_through(&self, passes: usize) {
        self.change(|inside| inside.passes = inside.passes.map(|free| free + passes));
    }

    fn open_for_good(&self) {
        self.change(|inside| inside.passes = None);
    }
}

impl Manager for Arc<Hall> {
    type Item = u64;
    type Error = NoNumber;

    fn open(&self) -> Result<u64, NoNumber> {
        let mut inside = lock(&self.state);
        inside.now += 1;
        inside.most = inside.most.max(inside.now);
        inside.ever += 1;
        let number = inside.ever;
        while inside.passes == Some(0) {
            inside = self.opened.wait(inside).expect("no panic");
        }
        inside.passes = inside.passes.map(|free| free - 1);
        inside.now -= 1;
        if inside.failing { Err(NoNumber) } else { Ok(number) }
    }

    fn is_permanent(&self, _error: &NoNumber) -> bool {
        lock(&self.state).permanent
    }

    fn check(&self, _item: &mut u64) -> bool {
        let mut inside = lock(&self.state);
        inside.looking += 1;
        inside.most_looking = inside.most_looking.max(inside.looking);
        while inside.looks_hang {
            inside = self.opened.wait(inside).expect("no panic");
        }
        inside.looking -= 1;
        true
    }
}

fn hall(settings: Settings) -> (Pool<Arc<Hall>>, Arc<Hall>) {
    let hall = Hall::closed();
    (Pool::new(hall.clone(), settings).expect("settings that make sense"), hall)
}

fn starting(max_starting: usize, settings: Settings) -> Settings {
    Settings { max_starting, ..settings }
}

/// Why there was nothing for a caller who does not wait.
#[track_caller]
fn shortage(pool: &Pool<Arc<Hall>>) -> (Shortage<NoNumber>, String) {
    let now = Some(Instant::now());
    let error = pool.acquire_deadline(now).expect_err("there is none");
    let text = error.to_string();
    match error {
        AcquireError::TimedOut { cause } => (*cause, text),
        other => panic!("{other}"),
    }
}

#[test]
fn w7_a_burst_is_served_by_starts_side_by_side() {
    let (pool, hall) = hall(starting(4, settings(0, 16)));
    thread::scope(|scope| {
        let callers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| pool.acquire().expect("in time"))).collect();
        wait_until("all wait", || pool.stats().waiting == 16);
        wait_until("four are being opened", || hall.now() == 4);
        assert_eq!(pool.stats().opening, 4);
        // Each that ends makes room for the next one, and serves the first in line.
        for served in 1..=5 {
            hall.let_through(1);
            wait_until("one more is served", || pool.stats().in_use == served);
            wait_until("the next one is being opened", || hall.now() == 4);
        }
        hall.open_for_good();
        let held: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("ok")).collect();
        assert_eq!((pool.stats().in_use, pool.stats().opened), (16, 16));
        drop(held);
    });
    let stats = pool.stats();
    assert_eq!((hall.most(), stats.peak_opening, stats.peak), (4, 4, 16));
}

#[test]
fn w7_the_refill_starts_side_by_side_and_not_too_many() {
    let (pool, hall) = hall(starting(8, settings(3, 16)));
    wait_until("all that are kept ready are being opened", || hall.now() == 3);
    hall.open_for_good();
    wait_until("they are ready", || pool.stats().idle == 3);
    let _held = [pool.acquire().expect("ready"), pool.acquire().expect("ready")];
    wait_until("they have replacements", || pool.stats().idle == 3);
    assert_eq!((hall.ever(), hall.most()), (5, 3), "no more than are wanted");
}

#[test]
fn w7_the_cap_counts_those_that_are_being_opened() {
    let (pool, hall) = hall(starting(16, settings(2, 3)));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| drop(pool.acquire().expect("in time")));
        }
        wait_until("they wait", || pool.stats().waiting == 16);
        wait_until("there is no room for more", || hall.now() == 3);
        hall.open_for_good();
    });
    assert_eq!((hall.most(), hall.ever(), pool.stats().peak), (3, 3, 3));
}

#[test]
fn w7_starts_that_fail_together_are_one_failure_and_then_one_is_tried() {
    let hour = Duration::from_secs(3600);
    let backoff = Backoff { first: hour, longest: 64 * hour };
    let (pool, hall) = hall(Settings { backoff, ..starting(4, settings(4, 8)) });
    wait_until("four are being opened", || hall.now() == 4);
    hall.change(|inside| inside.failing = true);
    hall.let_through(4);
    wait_until("all have failed", || pool.stats().open_failures == 4);
    let (cause, text) = shortage(&pool);
    let failure = cause.failure.expect("an attempt failed");
    assert!(failure.next_try > Duration::ZERO && failure.next_try <= hour, "{text}");
    assert_eq!((cause.in_use, cause.opening, hall.ever()), (0, 0, 4), "nothing is tried meanwhile");
    assert!(text.contains("none is open; the last start failed "), "{text}");
    assert!(text.contains(", next try in ") && text.ends_with(": there is no number"), "{text}");
}

#[test]
fn w7_after_failures_one_is_tried_until_it_works() {
    let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(1) };
    let (pool, hall) = hall(Settings { backoff, ..starting(4, settings(4, 8)) });
    wait_until("four are being opened", || hall.now() == 4);
    hall.change(|inside| inside.failing = true);
    hall.let_through(4);
    for round in 5..10 {
        wait_until("one is tried again", || hall.ever() == round);
        assert_eq!(hall.now(), 1);
        hall.let_through(1);
    }
    wait_until("one is tried again", || hall.ever() == 10);
    hall.change(|inside| inside.failing = false);
    hall.let_through(1);
    wait_until("the others follow side by side", || hall.now() == 3);
    hall.open_for_good();
    wait_until("all are ready", || pool.stats().idle == 4);
}

#[test]
fn w7_a_permanent_failure_ends_all_waits_while_other_starts_go_on() {
    let (pool, hall) = hall(starting(2, settings(0, 8)));
    thread::scope(|scope| {
        let callers: Vec<_> = (0..5).map(|_| scope.spawn(|| pool.acquire().map(drop))).collect();
        wait_until("all wait", || pool.stats().waiting == 5 && hall.now() == 2);
        hall.change(|inside| (inside.failing, inside.permanent) = (true, true));
        hall.let_through(1);
        for caller in callers {
            let ended = caller.join().expect("no panic");
            assert!(matches!(ended, Err(AcquireError::Open(_))), "{ended:?}");
        }
        assert_eq!(hall.now(), 1, "the other one is still being opened");
        hall.change(|inside| inside.failing = false);
        hall.open_for_good();
    });
    assert!(pool.acquire().is_ok(), "it came");
}

#[test]
fn w7_a_timeout_says_what_became_of_the_items() {
    let (pool, hall) = hall(starting(1, settings(0, 3)));
    thread::scope(|scope| {
        let caller = scope.spawn(|| pool.acquire().expect("in time"));
        wait_until("one is being opened", || hall.now() == 1);
        let (cause, text) = shortage(&pool);
        assert_eq!((cause.max_size, cause.in_use, cause.opening, cause.others), (3, 0, 1, 0));
        assert!(cause.oldest_opening.is_some() && cause.failure.is_none());
        assert!(
            text.contains("0 of at most 3 are in use, 1 are being started, the oldest"),
            "{text}"
        );
        hall.open_for_good();
        let _held = [caller.join().expect("ok"), pool.acquire().expect("room")];
        let _third = pool.acquire().expect("room");
        let (cause, text) = shortage(&pool);
        assert_eq!((cause.in_use, cause.opening, cause.oldest_opening), (3, 0, None));
        assert_eq!(text, "the pool had nothing ready in time: all 3 are in use");
    });
}

#[test]
fn w7_a_pool_whose_starts_hang_delays_no_other() {
    let (stuck, hall) = hall(starting(2, settings(4, 8)));
    wait_until("its starts hang", || hall.now() == 2);
    let (sound, _) = pool(starting(2, settings(2, 4)));
    for _ in 0..100 {
        sound.acquire().expect("nothing is in its way").poison();
    }
    assert_eq!((hall.now(), stuck.stats().opened), (2, 0), "they still hang");
    sound.close(None).expect("empty");
    assert!(stuck.close(Some(Duration::ZERO)).is_err(), "what is being opened comes first");
    hall.open_for_good();
    stuck.close(None).expect("empty");
}

#[test]
fn w7_a_check_that_hangs_delays_no_start() {
    let often = Some(Duration::from_millis(1));
    let (pool, hall) =
        hall(Settings { health_check_interval: often, ..starting(2, settings(3, 8)) });
    hall.change(|inside| inside.looks_hang = true);
    hall.open_for_good();
    wait_until("one is looked at", || lock(&hall.state).looking == 1);
    wait_until("the others are ready", || pool.stats().idle == 2);
    // Those that are ready, and five that are opened.
    let held: Vec<_> = (0..7).map(|_| pool.acquire().expect("nothing is in its way")).collect();
    assert_eq!((pool.stats().checking, pool.stats().opened), (1, 8));
    hall.change(|inside| inside.looks_hang = false);
    wait_until("it is ready again", || pool.stats().idle == 1);
    drop(held);
    wait_until("they are looked at in turn", || {
        pool.stats().checking == 0 && pool.stats().idle == 8
    });
    assert_eq!(lock(&hall.state).most_looking, 1, "one at a time");
    hall.change(|inside| inside.looks_hang = true);
    wait_until("one is looked at", || lock(&hall.state).looking == 1);
    let still = Err(NotDrained { in_use: 0, others: 1 });
    assert_eq!(pool.close(Some(Duration::ZERO)), still);
    hall.change(|inside| inside.looks_hang = false);
    pool.close(None).expect("empty");
}

/// Whose waker blocks, or does something worse.
#[cfg(feature = "tokio")]
struct Waking(Box<dyn Fn() + Send + Sync>);

#[cfg(feature = "tokio")]
impl std::task::Wake for Waking {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

#[cfg(feature = "tokio")]
fn waits(future: &mut Acquire<Arc<Hall>>, waking: impl Fn() + Send + Sync + 'static) -> bool {
    let waker = Arc::new(Waking(Box::new(waking))).into();
    std::future::Future::poll(
        std::pin::Pin::new(future),
        &mut std::task::Context::from_waker(&waker),
    )
    .is_pending()
}

/// Threads that are on their way from one piece of work to the next are not replaced.
#[cfg(feature = "tokio")]
#[test]
fn w7_there_are_no_more_threads_than_can_have_work() {
    let (pool, hall) = hall(starting(2, settings(0, 8)));
    let (told, free) = (Arc::new(Mutex::new(false)), Arc::new(Condvar::new()));
    let mut futures: Vec<_> = (0..6).map(|_| pool.acquire_async_deadline(None)).collect();
    for future in &mut futures {
        let (told, free) = (told.clone(), free.clone());
        assert!(waits(future, move || {
            let told = lock(&told);
            drop(free.wait_while(told, |told| !*told).expect("no panic"));
        }));
    }
    hall.open_for_good();
    wait_until("three threads are on their way, and two items to be opened", || {
        let state = lock(&pool.shared().state);
        let Crew { handed, threads, .. } = &state.crew;
        (*threads, handed.len(), state.core.stats().in_use) == (3, 2, 3)
    });
    *lock(&told) = true;
    free.notify_all();
    wait_until("all are served", || pool.stats().in_use == 6);
    drop(futures);
}

#[cfg(feature = "tokio")]
#[test]
fn a_waker_that_panics_ends_no_thread_of_the_pool() {
    for max_starting in [1, 2] {
        let (pool, hall) = hall(starting(max_starting, settings(0, 8)));
        let mut future = pool.acquire_async_deadline(None);
        assert!(waits(&mut future, || panic_quietly()));
        hall.open_for_good();
        wait_until("it is served", || pool.stats().in_use == 1);
        let _others = [pool.acquire().expect("the next"), pool.acquire().expect("and the next")];
        drop(future);
    }
}

/// The error of an attempt is dropped where it may ask the pool.
#[test]
fn an_error_may_look_at_the_pool_when_it_is_dropped() {
    type Look = std::sync::OnceLock<Box<dyn Fn() + Send + Sync>>;

    #[derive(Clone)]
    struct Looks(Arc<(Look, PlainBool)>);

    struct Looking(Arc<(Look, PlainBool)>);

    impl std::fmt::Debug for Looking {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Looking")
        }
    }

    impl std::fmt::Display for Looking {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("it looks at the pool")
        }
    }

    impl std::error::Error for Looking {}

    impl Drop for Looking {
        fn drop(&mut self) {
            if let Some(look) = self.0.0.get() {
                look();
            }
        }
    }

    impl Manager for Looks {
        type Item = ();
        type Error = Looking;

        fn open(&self) -> Result<(), Looking> {
            if is(&self.0.1) { Ok(()) } else { Err(Looking(self.0.clone())) }
        }
    }

    let looks = Looks(Arc::default());
    let quickly = Duration::from_millis(1);
    let backoff = Backoff { first: quickly, longest: quickly };
    let pool = Pool::new(looks.clone(), Settings { backoff, ..settings(1, 1) }).expect("a pool");
    let (looked, of) = (Arc::new(PlainU64::new(0)), pool.clone());
    let count = looked.clone();
    let look = move || {
        std::hint::black_box(of.stats());
        count.fetch_add(1, Ordering::Relaxed);
    };
    assert!(looks.0.0.set(Box::new(look)).is_ok());
    wait_until("one error drove out another", || looked.load(Ordering::Relaxed) > 2);
    looks.0.1.store(true, Ordering::Relaxed);
    drop(pool.acquire().expect("it goes on"));
    pool.close(None).expect("empty");
}

/// Nothing of a pool is left with its threads when the last clone is gone.
#[test]
fn w7_the_threads_end_with_the_pool() {
    for _ in 0..20 {
        let (pool, hall) = hall(starting(3, settings(3, 8)));
        hall.open_for_good();
        wait_until("all are ready", || pool.stats().idle == 3);
        drop(pool);
        wait_until("nobody has the manager", || Arc::strong_count(&hall) == 1);
    }
}

/// An item that has expired stays until its replacement is open, though another thread opens it.
#[test]
fn w7_an_expired_item_goes_when_its_replacement_is_there() {
    let short = Some(Duration::from_millis(1));
    let (pool, hall) = hall(Settings { idle_timeout: short, ..starting(2, settings(1, 4)) });
    hall.let_through(1);
    wait_until("its replacement is being opened", || hall.ever() == 2 && hall.now() == 1);
    assert_eq!((pool.stats().idle, pool.stats().closed.idle), (1, 0));
    hall.let_through(1);
    wait_until("the first one is closed", || pool.stats().closed.idle == 1);
    hall.open_for_good();
}

/// Times that are too long for the clock are for ever: nothing overflows, nothing expires.
#[test]
fn w8_times_without_end_do_no_harm() {
    let longest = Some(Duration::MAX);
    let (pool, hall) = hall(Settings {
        idle_timeout: longest,
        max_lifetime: longest,
        acquire_timeout: longest,
        health_check_interval: longest,
        ..settings(1, 1)
    });
    hall.open_for_good();
    let held = pool.acquire().expect("it waits for as long as it takes");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.acquire().map(drop));
        wait_until("it waits", || pool.stats().waiting == 1);
        drop(held);
        assert!(waiting.join().expect("no panic").is_ok());
    });
    assert_eq!(pool.close(longest), Ok(()));
    assert_eq!(pool.stats().closed.shutdown, 1);
}
