use super::*;
use std::sync::mpsc::channel;

const MIB: usize = 1 << 20;

fn limits() -> HeldLimits {
    HeldLimits {
        client: 16 << 20,
        uid: 32 << 20,
        total: 64 << 20,
        max_message: 4 << 20,
        several_uids: false,
    }
}

fn total(limits: HeldLimits) -> Arc<Total> {
    Total::new(limits, Box::new(|| {}))
}

#[test]
fn a_charge_lives_as_long_as_its_guard() {
    let total = total(limits());
    let account = total.share().account();
    let mut charge = account.charge(10);
    charge.set(&account, 100);
    assert_eq!((account.held(), total.held()), (100, 100));
    charge.set(&account, 30);
    let left = account.charge(5).leave();
    assert_eq!((account.held(), total.held()), (35, 35));
    account.take_back(left);
    // What is charged to another client is not that of the first one any more.
    let other = total.share().account();
    charge.set(&other, 7);
    assert_eq!((account.held(), other.held(), total.held()), (0, 7, 7));
    drop(charge);
    assert_eq!((other.held(), total.held()), (0, 0));
}

#[test]
fn requests_leave_room_for_answers() {
    let total = total(limits());
    let account = total.share().account();
    let request = account.charge(8 * MIB);
    assert!(!account.may_read() && account.may_set_aside());
    assert!(total.is_tight());
    let answer = account.charge_answer(8 * MIB).expect("room");
    assert!(account.charge_answer(1).is_none());
    assert!(!account.may_set_aside());
    drop(request);
    assert!(!account.may_read());
    drop(answer);
    assert!(account.may_read());
}

#[test]
fn a_message_that_arrives_may_exceed_the_limit_of_its_client_but_not_of_its_uid() {
    let total = total(limits());
    let share = total.share();
    let (account, other) = (share.account(), share.account());
    let mut charge = Charge::default();
    assert!(charge.grow_to(&account, 4 * MIB) && charge.grow_to(&account, 20 * MIB));
    assert!(!charge.grow_to(&account, 25 * MIB), "three quarters of 32 MiB");
    assert_eq!(account.held(), 20 << 20);
    let mut second = Charge::default();
    assert!(!second.grow_to(&other, 5 * MIB));
    assert!(second.grow_to(&other, 4 * MIB));
    assert!(!other.may_read(), "its uid holds too much");
    drop(second);
    assert!(other.may_read(), "it holds nothing");
    assert!(total.share().account().may_read(), "another uid does not");
}

#[test]
fn a_uid_leaves_as_much_free_as_it_holds_where_there_are_several() {
    let several = HeldLimits { client: 1 << 30, uid: 1 << 30, several_uids: true, ..limits() };
    for (several, most) in
        [(several.clone(), 32), (HeldLimits { several_uids: false, ..several }, 64)]
    {
        let total = total(several.clone());
        let account = total.share().account();
        let charge = account.charge_answer(most * MIB).expect("room");
        assert!(account.charge_answer(1).is_none());
        let other = total.share().account();
        assert_eq!(other.charge_answer(16 * MIB).is_some(), several.several_uids);
        assert!(other.charge_answer(17 * MIB).is_none());
        drop(charge);
        assert_eq!(total.held(), 0);
    }
}

#[test]
fn who_waits_for_room_is_woken() {
    let (woken, wakes) = channel();
    let woken = Mutex::new(woken);
    let wake = move || {
        let _ = woken.lock().expect("no panic").send(());
    };
    let total = Total::new(limits(), Box::new(wake));
    let account = total.share().account();
    let charge = account.charge(16 * MIB);
    assert!(!account.may_read());
    assert!(wakes.try_recv().is_err());
    let waiting = account.clone();
    let waiter = std::thread::spawn(move || waiting.wait_for_answer(MIB, None, || false).is_some());
    drop(charge);
    wakes.recv().expect("the reader is woken");
    assert!(waiter.join().expect("no panic"));
    // Nobody waits: nobody is woken.
    while wakes.try_recv().is_ok() {}
    assert!(account.may_read());
    drop(account.charge(MIB));
    assert!(wakes.try_recv().is_err());
}

#[test]
fn a_wait_for_room_ends() {
    let account = total(limits()).share().account();
    let _charge = account.charge(16 * MIB);
    assert!(account.wait_for_answer(1, Some(Instant::now()), || false).is_none());
    assert!(account.wait_for_answer(1, None, || true).is_none());
    assert!(account.poll_answer(1, Waker::noop()).is_none());
}
