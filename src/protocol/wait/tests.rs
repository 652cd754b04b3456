//! The policy with a clock that the tests move.

use super::*;

const FREE: Surroundings = Surroundings { peer_cannot_run: false, crowded: false };

/// Runs one wait in which nothing is ever found until it parks; the steps, with a clock that a
/// yield advances by `yield_ns`.
fn steps_to_park(waiter: &mut Waiter, clock: &mut u64, yield_ns: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    loop {
        let step = waiter.step(FREE, || *clock);
        steps.push(step);
        match step {
            Step::Spin(_) => *clock += 1_500,
            Step::Yield => *clock += yield_ns,
            Step::Park => break,
        }
    }
    waiter.found(|| u64::MAX);
    steps
}

#[test]
fn spins_then_yields_then_parks() {
    let mut waiter = Waiter::new(WaitSettings::client());
    let mut clock = 1;
    let steps = steps_to_park(&mut waiter, &mut clock, 10_000);
    assert_eq!(steps[0], Step::Spin(150));
    assert_eq!(steps.iter().filter(|s| **s == Step::Yield).count(), 15);
    assert_eq!(*steps.last().unwrap(), Step::Park);
    assert_eq!(waiter.counts(), WaitCounts { yields: 15, parks: 1, ..Default::default() });
}

#[test]
fn a_peer_that_is_held_up_costs_few_yields() {
    let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
    for _ in 0..100 {
        waiter.step(FREE, || 1);
        waiter.found(|| u64::MAX); // while spinning
    }
    let mut clock = 1;
    let mut steps = Vec::new();
    while clock < 100_000 {
        let step = waiter.step(FREE, || clock);
        steps.push(step);
        clock += match step {
            Step::Spin(polls) => u64::from(polls) * 35,
            Step::Yield => 700,
            Step::Park => break,
        };
    }
    let yields = steps.iter().filter(|step| **step == Step::Yield).count();
    assert!(yields <= 8, "{steps:?}");
    // Whoever takes the CPU during a yield gets it: no spinning after that.
    let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
    assert_eq!(waiter.step(FREE, || 0), Step::Spin(150));
    assert_eq!(waiter.step(FREE, || 0), Step::Yield);
    assert_eq!(waiter.step(FREE, || 30_000), Step::Yield);
}

#[test]
fn futile_spinning_is_given_up_and_probed() {
    let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
    let mut clock = 1;
    let mut spun = 0;
    for _ in 0..1000 {
        if waiter.step(FREE, || clock) == Step::Spin(150) {
            spun += 1;
            assert_eq!(waiter.step(FREE, || clock), Step::Yield);
        }
        clock += 1_000;
        waiter.found(|| clock); // by the yield
    }
    assert!((5..=20).contains(&spun), "{spun}");
    // Once it pays again it is used every time.
    let mut paid = 0;
    for _ in 0..200 {
        if waiter.step(FREE, || clock) == Step::Spin(150) {
            paid += 1;
        }
        waiter.found(|| clock);
    }
    assert!(paid > 130, "{paid}");
}

#[test]
fn a_peer_that_cannot_run_is_not_spun_for() {
    let mut waiter = Waiter::new(WaitSettings::client());
    let around = Surroundings { peer_cannot_run: true, crowded: false };
    assert_eq!(waiter.step(around, || 5), Step::Yield);
}

#[test]
fn turns_become_rare_also_if_each_of_them_finds_something() {
    let mut waiter = Waiter::new(WaitSettings::client());
    let mut clock = 1;
    let mut yields = 0;
    for _ in 0..100_000 {
        if waiter.step(FREE, || clock) == Step::Yield {
            yields += 1;
            clock += 300;
        }
        waiter.found(|| clock);
    }
    assert!(yields < 40, "{yields}");
}

#[test]
fn turns_become_rare_while_nobody_else_is_there() {
    let mut waiter = Waiter::new(WaitSettings::client());
    let mut clock = 1;
    let mut yields = 0;
    for _ in 0..100_000 {
        if waiter.step(FREE, || clock) == Step::Yield {
            yields += 1;
            clock += 300;
            assert!(matches!(waiter.step(FREE, || clock), Step::Spin(_)));
        }
        waiter.found(|| u64::MAX);
    }
    assert!(yields < 40, "{yields}");
    // Somebody else appears: the interval is short again.
    let mut yields = 0;
    for _ in 0..10_000 {
        if waiter.step(FREE, || clock) == Step::Yield {
            yields += 1;
            clock += 5_000;
            waiter.step(FREE, || clock);
        }
        waiter.found(|| u64::MAX);
    }
    assert!(yields > 300, "{yields}");
}

#[test]
fn slow_yields_are_given_up_for_longer_and_longer() {
    let mut waiter = Waiter::new(WaitSettings::client());
    let mut clock = 1;
    for _ in 0..10 {
        steps_to_park(&mut waiter, &mut clock, 4_000_000);
    }
    assert!(waiter.counts().slow_episodes >= 1);
    let before = waiter.counts().yields;
    steps_to_park(&mut waiter, &mut clock, 4_000_000);
    assert_eq!(waiter.counts().yields, before, "yields are given up");
    clock += 10_000_000_000;
    steps_to_park(&mut waiter, &mut clock, 400);
    assert!(waiter.counts().yields > before, "and tried again");
}

#[test]
fn a_slow_yield_behind_which_something_was_found_counts() {
    let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
    let mut clock = 1;
    for _ in 0..2 {
        while waiter.step(FREE, || clock) != Step::Yield {}
        clock += 4_000_000;
        waiter.found(|| clock);
    }
    assert_eq!(waiter.counts().slow_episodes, 1);
}

#[test]
fn no_turns_are_taken_while_yields_are_given_up() {
    let turns = WaitSettings { turn_every: 1, turn_every_most: 1, ..WaitSettings::client() };
    let mut waiter = Waiter::new(turns);
    let mut clock = 1;
    while waiter.counts().slow_episodes == 0 {
        let step = waiter.step(FREE, || clock);
        clock += if step == Step::Yield { 4_000_000 } else { 1_000 };
        waiter.found(|| clock);
    }
    let before = waiter.counts().yields;
    for _ in 0..100 {
        assert_eq!(waiter.step(FREE, || clock), Step::Spin(150));
        waiter.found(|| clock);
    }
    assert_eq!(waiter.counts().yields, before);
    clock += 10_000_000_000;
    let steps = [waiter.step(FREE, || clock), waiter.step(FREE, || clock)];
    assert_eq!(steps, [Step::Yield, Step::Spin(150)]);
}

#[test]
fn one_slow_yield_changes_nothing() {
    let mut waiter = Waiter::new(WaitSettings::client());
    let mut clock = 1;
    steps_to_park(&mut waiter, &mut clock, 2_000_000);
    let before = waiter.counts().yields;
    steps_to_park(&mut waiter, &mut clock, 50_000);
    assert!(waiter.counts().yields > before);
    assert_eq!(waiter.counts().slow_episodes, 0);
}

#[test]
fn a_server_yields_less_after_each_park() {
    let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::server() });
    let mut clock = 1;
    let mut last = usize::MAX;
    for _ in 0..4 {
        let yields = steps_to_park(&mut waiter, &mut clock, 1_000).len();
        assert!(yields < last);
        last = yields;
    }
}

#[test]
fn a_client_whose_answers_take_long_hardly_yields() {
    let mut waiter = Waiter::new(WaitSettings::client());
    let mut clock = 1;
    for _ in 0..8 {
        steps_to_park(&mut waiter, &mut clock, 1_000);
    }
    let steps = steps_to_park(&mut waiter, &mut clock, 1_000);
    assert!(steps.len() < 10, "{steps:?}");
}

#[test]
fn a_client_that_is_answered_a_little_too_late_stops_yielding_too() {
    let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::client() });
    let mut clock = 1;
    let mut steps = 0;
    for _ in 0..16 {
        // It yields for 150 us at first, and sleeps the rest of 200 us.
        let begun = clock;
        steps = 0;
        while waiter.step(FREE, || clock) != Step::Park {
            clock += 1_000;
            steps += 1;
        }
        clock = begun + 200_000;
        waiter.found(|| clock);
    }
    assert!(steps < 20, "{steps}");
}

#[test]
fn a_server_that_was_woken_soon_yields_longer_again() {
    let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::server() });
    let mut clock = 1;
    for _ in 0..8 {
        steps_to_park(&mut waiter, &mut clock, 1_000);
    }
    let idle = steps_to_park(&mut waiter, &mut clock, 1_000).len();
    for _ in 0..8 {
        while waiter.step(FREE, || clock) != Step::Park {
            clock += 1_000;
        }
        waiter.found(|| clock + 10_000);
    }
    assert!(steps_to_park(&mut waiter, &mut clock, 1_000).len() > 4 * idle);
}

#[test]
fn an_idle_night_is_one_wait() {
    let mut waiter = Waiter::new(WaitSettings { turn_every: 0, ..WaitSettings::server() });
    let mut clock = 1;
    let before = steps_to_park(&mut waiter, &mut clock, 1_000).len();
    while waiter.step(FREE, || clock) != Step::Park {
        clock += 1_000;
    }
    for _ in 0..1000 {
        assert_eq!(waiter.step(FREE, || clock), Step::Park);
    }
    waiter.found(|| u64::MAX);
    let after = steps_to_park(&mut waiter, &mut clock, 1_000).len();
    assert!(after * 4 >= before, "halved twice, not a thousand times: {after} of {before}");
}

#[test]
fn a_sleeper_looks_soon_and_then_ever_more_rarely() {
    let settings = WaitSettings { first_look: Duration::from_millis(2), ..WaitSettings::client() };
    let mut waiter = Waiter::new(settings.park_at_once());
    for begin in [7, 3_000_000_000] {
        let mut clock = begin;
        let mut sleeps = Vec::new();
        for _ in 0..8 {
            assert_eq!(waiter.step(FREE, || clock), Step::Park);
            let sleep = waiter.longest_sleep(clock);
            clock += ns(sleep);
            sleeps.push(sleep.as_millis());
        }
        assert_eq!(sleeps, [2, 2, 4, 8, 16, 32, 50, 50]);
        waiter.found(|| clock);
    }
    let late = WaitSettings { first_look: Duration::MAX, ..WaitSettings::client() };
    assert_eq!(
        Waiter::new(late).longest_sleep(0),
        Duration::from_millis(50),
        "never beyond the backstop"
    );
}

#[test]
fn park_at_once_parks_at_once() {
    let mut waiter = Waiter::new(WaitSettings::server().park_at_once());
    assert_eq!(waiter.step(FREE, || 7), Step::Park);
}
