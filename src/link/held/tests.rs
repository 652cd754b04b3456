use super::*;
use std::sync::mpsc::channel;

const MIB: usize = 1 << 20;

fn limits() -> HeldLimits {
    HeldLimits {
        client: 16 << 20,
        uid: 32 << 20,
        total: 64 << 20,
        max_message: 4 << 20,
        sharing: Sharing::One,
    }
}

fn total(limits: HeldLimits) -> Arc<Total> {
    Total::new(limits, Box::new(|| {}))
}

#[test]
fn a_charge_lives_as_long_as_its_guard() {
    let total = total(limits());
    let account = total.share(0).account();
    let mut charge = account.charge(10);
    charge.set(&account, 100);
    assert_eq!((account.held(), total.held()), (100, 100));
    charge.set(&account, 30);
    let left = account.charge(5).leave();
    assert_eq!((account.held(), total.held()), (35, 35));
    account.take_back(left);
    // What is charged to another client is not that of the first one any more.
    let other = total.share(0).account();
    charge.set(&other, 7);
    assert_eq!((account.held(), other.held(), total.held()), (0, 7, 7));
    drop(charge);
    assert_eq!((other.held(), total.held()), (0, 0));
}

#[test]
fn requests_leave_room_for_answers() {
    let total = total(limits());
    let account = total.share(0).account();
    let request = account.charge(8 * MIB);
    assert!(!account.may_read(0) && account.may_set_aside());
    assert!(total.is_tight());
    let answer = account.charge_answer(8 * MIB).expect("room");
    assert!(account.charge_answer(1).is_none());
    assert!(!account.may_set_aside());
    drop(request);
    assert!(!account.may_read(0));
    drop(answer);
    assert!(account.may_read(0));
}

#[test]
fn a_message_that_arrives_may_exceed_the_limit_of_its_client_but_not_of_its_uid() {
    let total = total(limits());
    let share = total.share(0);
    let (account, other) = (share.account(), share.account());
    let mut charge = Charge::default();
    assert!(charge.grow_to(&account, 4 * MIB) && charge.grow_to(&account, 20 * MIB));
    assert!(!charge.grow_to(&account, 25 * MIB), "three quarters of 32 MiB");
    assert_eq!(account.held(), 20 << 20);
    let mut second = Charge::default();
    assert!(!second.grow_to(&other, 5 * MIB));
    assert!(second.grow_to(&other, 4 * MIB));
    assert!(!other.may_read(0), "its uid holds too much");
    drop(second);
    assert!(other.may_read(0), "it holds nothing");
    assert!(total.share(0).account().may_read(0), "another uid does not");
}

#[test]
fn a_uid_leaves_as_much_free_as_it_holds_where_there_are_several() {
    let wide = HeldLimits { client: 1 << 30, uid: 1 << 30, ..limits() };
    for (sharing, most) in [(Sharing::Strangers, 32), (Sharing::One, 64)] {
        let total = total(HeldLimits { sharing: sharing.clone(), ..wide.clone() });
        let account = total.share(0).account();
        let charge = account.charge_answer(most * MIB).expect("room");
        assert!(account.charge_answer(1).is_none());
        let other = total.share(1).account();
        assert_eq!(other.charge_answer(16 * MIB).is_some(), sharing == Sharing::Strangers);
        assert!(other.charge_answer(17 * MIB).is_none());
        drop(charge);
        assert_eq!(total.held(), 0);
    }
}

/// Of 64 MiB, 8 for each of four uids.
fn four_listed() -> Arc<Total> {
    let sharing = Sharing::among((0..4).collect());
    total(HeldLimits { client: 1 << 30, uid: 1 << 30, sharing, ..limits() })
}

#[test]
fn p2_a_listed_uid_has_its_floor_whatever_others_hold() {
    let total = four_listed();
    let mut held = Vec::new();
    for uid in 0..3 {
        let account = total.share(uid).account();
        while let Some(charge) = account.charge_answer(64 << 10) {
            held.push(charge);
        }
        // Beside what they may take: what is there already.
        held.push(account.charge(20 * MIB));
    }
    assert!(total.held() > 64 << 20);
    let last = total.share(3).account();
    assert!(last.may_read(0) && last.may_set_aside());
    let mut arriving = Charge::default();
    assert!(arriving.grow_to(&last, 4 * MIB));
    assert!(!last.may_read(0), "half of its floor is for requests");
    assert!(arriving.grow_to(&last, 6 * MIB));
    assert!(!arriving.grow_to(&last, 6 * MIB + 1), "one quarter of it is for answers");
    assert!(!last.may_set_aside());
    let answer = last.charge_answer(2 * MIB).expect("the rest of its floor");
    assert!(last.charge_answer(1).is_none());
    drop((arriving, answer));
    assert!(last.may_read(0));
    drop(held);
    assert_eq!((total.held(), total.unused.load(Ordering::Relaxed)), (0, 32 << 20));
}

#[test]
fn what_others_may_hold_is_reserved_from_who_comes_first() {
    let total = four_listed();
    let first = total.share(0).account();
    // Three floors are not free to it; it holds half of the rest.
    assert!(first.charge_answer(20 * MIB + 1).is_none());
    let charge = first.charge_answer(20 * MIB).expect("half of what is free");
    let second = total.share(1).account();
    assert!(second.charge_answer(14 * MIB).is_some() && second.charge_answer(15 * MIB).is_none());
    // One that is not listed has no floor.
    let stranger = total.share(9).account();
    assert!(
        stranger.charge_answer(11 * MIB).is_none() && stranger.charge_answer(10 * MIB).is_some()
    );
    drop(charge);
}

#[test]
fn what_is_unused_is_known_whichever_threads_take_and_give() {
    let total = four_listed();
    let share = total.share(2);
    std::thread::scope(|scope| {
        for thread in 1..5 {
            let account = share.account();
            scope.spawn(move || {
                for round in 0..20_000 {
                    let first = account.charge(thread * round % (5 * MIB));
                    let second = account.charge_answer(round);
                    drop((first, second));
                }
            });
        }
    });
    assert_eq!((total.held(), total.unused.load(Ordering::Relaxed)), (0, 32 << 20));
}

#[test]
fn who_waits_for_room_is_woken() {
    let (woken, wakes) = channel();
    let woken = Mutex::new(woken);
    let wake = move || {
        let _ = woken.lock().expect("no panic").send(());
    };
    let total = Total::new(limits(), Box::new(wake));
    let account = total.share(0).account();
    let charge = account.charge(16 * MIB);
    assert!(!account.may_read(0));
    assert!(wakes.try_recv().is_err());
    let waiting = account.clone();
    let waiter = std::thread::spawn(move || waiting.wait_for_answer(MIB, None, || false).is_some());
    drop(charge);
    wakes.recv().expect("the reader is woken");
    assert!(waiter.join().expect("no panic"));
    // Nobody waits: nobody is woken.
    while wakes.try_recv().is_ok() {}
    assert!(account.may_read(0));
    drop(account.charge(MIB));
    assert!(wakes.try_recv().is_err());
}

#[test]
fn a_wait_for_room_ends() {
    let account = total(limits()).share(0).account();
    let _charge = account.charge(16 * MIB);
    assert!(account.wait_for_answer(1, Some(Instant::now()), || false).is_none());
    assert!(account.wait_for_answer(1, None, || true).is_none());
    assert!(account.poll_answer(1, Waker::noop()).is_none());
}

/// A total that counts how often it wakes the reader.
fn counted(limits: HeldLimits) -> (Arc<Total>, Arc<PlainU64>) {
    let wakes = Arc::new(PlainU64::new(0));
    let counter = wakes.clone();
    let wake = move || {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    (Total::new(limits, Box::new(wake)), wakes)
}

#[test]
fn who_finds_no_room_wakes_neither_itself_nor_others() {
    let (total, wakes) = counted(limits());
    let account = total.share(0).account();
    let _charge = account.charge(16 * MIB);
    let deadline = Instant::now() + 3 * BACKSTOP;
    assert!(account.wait_for_answer(1, Some(deadline), || false).is_none());
    assert_eq!(wakes.load(Ordering::Relaxed), 0, "a thread that waits went round");
    let task = Arc::new(CountedWakes::default());
    assert!(account.poll_answer(1, &task.clone().into()).is_none());
    assert_eq!(task.0.load(Ordering::Relaxed), 0, "a task that waits woke itself");
    assert_eq!(wakes.load(Ordering::Relaxed), 0);
}

#[derive(Default)]
struct CountedWakes(PlainU64);

impl std::task::Wake for CountedWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_is_set_aside_leaves_room_for_items() {
    let total = total(limits());
    let share = total.share(0);
    let mut aside = Vec::new();
    for _ in 0..4 {
        let account = share.account();
        while account.may_set_aside() {
            aside.push(account.charge(MIB));
        }
        assert!(account.charge_answer(2 * MIB).is_some(), "with {} MiB", account.held() >> 20);
    }
}

#[test]
fn p2_messages_that_arrive_leave_a_quarter_of_each_limit() {
    // Of the total, where no uid is at its own limit.
    let total = total(HeldLimits { client: 1 << 30, uid: 1 << 30, ..limits() });
    let (first, second) = (total.share(0).account(), total.share(1).account());
    let (mut one, mut other) = (Charge::default(), Charge::default());
    assert!(one.grow_to(&first, 24 * MIB) && other.grow_to(&second, 24 * MIB));
    assert!(!one.grow_to(&first, 24 * MIB + 1), "three quarters of 64 MiB are taken");
    assert!(!other.grow_to(&second, 24 * MIB + 1));
    assert_eq!((first.held(), second.held()), (24 << 20, 24 << 20));
    assert!(first.charge_answer(16 * MIB).is_some(), "the rest is for answers");
    drop(one);
    assert!(other.grow_to(&second, 48 * MIB) && !other.grow_to(&second, 48 * MIB + 1));
}

#[test]
fn p2_a_message_that_arrives_is_refused_where_its_uid_holds_more_than_it_leaves_free() {
    let wide =
        HeldLimits { client: 1 << 30, uid: 1 << 30, sharing: Sharing::Strangers, ..limits() };
    let total = total(wide);
    let mut arriving = Charge::default();
    let account = total.share(0).account();
    assert!(arriving.grow_to(&account, 32 * MIB) && !arriving.grow_to(&account, 32 * MIB + 1));
}

#[test]
fn an_answer_grows_if_there_is_room_and_is_charged_to_one_client() {
    let total = total(limits());
    let (account, other) = (total.share(0).account(), total.share(0).account());
    let mut charge = Charge::default();
    assert!(charge.grow_for_answer(&account, MIB) && charge.grow_for_answer(&account, MIB / 2));
    assert_eq!(account.held(), 1 << 20, "it does not shrink");
    assert!(!charge.grow_for_answer(&account, 17 * MIB) && account.held() == 1 << 20);
    assert!(charge.grow_for_answer(&other, 2 * MIB));
    assert_eq!((account.held(), other.held()), (0, 2 << 20));
}

#[test]
fn what_can_never_find_room_is_known() {
    let all = limits();
    let of = |limits: HeldLimits| total(limits).share(1).account();
    let most = |limits| of(limits).most_of_answer();
    assert_eq!(most(all.clone()), 16 << 20);
    assert_eq!(most(HeldLimits { client: 1 << 30, ..all.clone() }), 32 << 20);
    let wide = HeldLimits { client: 1 << 30, uid: 1 << 30, ..all };
    assert_eq!(most(wide.clone()), 64 << 20);
    let strangers = HeldLimits { sharing: Sharing::Strangers, ..wide.clone() };
    assert_eq!(most(strangers.clone()), 32 << 20);
    // Three floors of 8 MiB are not free to it.
    let listed = HeldLimits { sharing: Sharing::among((0..4).collect()), ..wide };
    assert_eq!(most(listed.clone()), 20 << 20);
    for limits in [strangers, listed] {
        let account = of(limits);
        let bytes = usize::try_from(account.most_of_answer()).expect("small");
        assert!(account.charge_answer(bytes + 1).is_none(), "it never fits");
        assert!(account.charge_answer(bytes).is_some(), "it fits where nothing is held");
    }
}

#[test]
fn what_is_read_into_does_not_keep_itself_from_being_read() {
    let total = total(HeldLimits { client: 80_000, uid: 100_000, max_message: 60_000, ..limits() });
    let share = total.share(0);
    let (account, other) = (share.account(), share.account());
    let buffer = account.charge(60_000);
    let more = account.charge(10_000);
    assert!(!account.may_read(0) && account.may_read(60_000), "it holds little beside that");
    drop(more);
    let more = account.charge(20_000);
    assert!(!account.may_read(60_000), "a quarter of what it may hold");
    drop(more);
    let _all = other.charge(100_000);
    assert!(!other.may_read(0) && !account.may_read(0), "its uid holds too much");
    assert!(account.may_read(60_000), "what it has to give back");
    drop(buffer);
    assert!(!account.may_read(0));
}

/// What a session reads into at most, and a request that it brings then: of the largest frame.
const BUFFER: usize = 65_600;
const REQUEST: usize = 76_000;

#[test]
fn p2_buffers_that_are_read_into_let_no_limit_be_exceeded_by_their_number() {
    // The limit of the uid, that of all, and those of all where a uid is to leave room for others:
    // its buffers leave as much free as they take, and its requests a quarter.
    let wide = HeldLimits { client: 1 << 30, uid: 1 << 30, ..limits() };
    let strangers = HeldLimits { sharing: Sharing::Strangers, ..wide.clone() };
    let cases = [(limits(), 32, 32), (wide, 64, 64), (strangers, 32, 48)];
    for (limits, begun, most) in
        cases.map(|(limits, begun, most)| (limits, begun * MIB, most * MIB))
    {
        let total = total(limits);
        let share = total.share(0);
        let mut sessions = Vec::new();
        loop {
            let account = share.account();
            if !account.may_read(0) {
                break;
            }
            sessions.push((account.charge(BUFFER), account));
        }
        let buffers = total.held();
        assert!(buffers <= (begun + BUFFER) as u64, "{buffers} bytes");
        assert!(sessions.iter().all(|(_, account)| account.may_read(BUFFER as u64)), "stuck");
        let mut requests = Vec::new();
        for (_, account) in &sessions {
            if account.may_read(BUFFER as u64) {
                requests.push(account.charge(REQUEST));
            }
        }
        assert!(!requests.is_empty() && requests.len() < sessions.len());
        let bound = (most + BUFFER + 2 * REQUEST) as u64;
        assert!(total.held() <= bound, "{} bytes of {most}", total.held());
        // They are read again as those before them are answered.
        for (_, account) in &sessions {
            requests.pop();
            assert!(account.may_read(BUFFER as u64) || account.held() > BUFFER as u64);
        }
    }
}

#[test]
fn p2_buffers_that_others_begin_stop_no_buffer_that_was_begun() {
    let strangers =
        HeldLimits { client: 1 << 30, uid: 1 << 30, sharing: Sharing::Strangers, ..limits() };
    let total = total(strangers);
    let begin = |uid, most: usize| {
        let share = total.share(uid);
        let mut begun = Vec::new();
        while begun.len() * BUFFER < most && share.account().may_read(0) {
            let account = share.account();
            begun.push((account.charge(BUFFER), account));
        }
        begun
    };
    let honest = begin(0, 16 * MIB - BUFFER);
    // Each as much as is fair, and none of them goes on.
    let others = [1, 2, 3].map(|uid| begin(uid, 64 * MIB));
    assert!(total.held() > 48 * MIB as u64, "{} bytes", total.held());
    assert!(others.iter().all(|begun| begun.len() > 10));
    assert!(honest.iter().all(|(_, account)| account.may_read(BUFFER as u64)));
}

#[test]
fn p2_many_clients_that_hold_little_leave_another_uid_its_share() {
    let wide =
        HeldLimits { client: 1 << 30, uid: 1 << 30, sharing: Sharing::Strangers, ..limits() };
    let total = total(wide);
    let share = total.share(0);
    let mut held = Vec::new();
    for _ in 0..1000 {
        let account = share.account();
        while account.may_read(0) && account.held() < LITTLE {
            held.push(account.charge(REQUEST));
        }
    }
    assert!(total.held() <= (32 * MIB + REQUEST) as u64, "{} bytes", total.held());
    let other = total.share(1).account();
    assert!(other.may_read(0));
    let mut arriving = Charge::default();
    assert!(arriving.grow_to(&other, 4 * MIB), "a large message");
    assert!(other.charge_answer(4 * MIB).is_some());
    drop(arriving);
    assert!(other.may_read(0) && !share.account().may_read(0));
}
