//! One sleeper with several bells, as the server is: a private bell and one for each domain.

use crate::explore;
use crate::kernel::{Kernel, bell_in};
use loom::thread;
use ringbell::bell::before_looking_again;
use ringbell::layout::{Interest, Mode};
use ringbell::memory::word_pair;
use ringbell::sync::Ordering;

/// Arms two bells, one fence for both, looks at both sources, waits for either (`futex_waitv`, or
/// an epoll that has both descriptors). Two ringers, one for each bell.
fn two_bells(mode: fn(usize) -> Mode) {
    let kernel = Kernel::new();
    let (mut private_sleeping, private_bell) = bell_in(kernel.clone());
    let (mut domain_sleeping, domain_bell) = bell_in(kernel.clone());
    let (completion_word, completion) = word_pair();
    let (request_word, request) = word_pair();
    let completer = thread::spawn(move || {
        completion_word.store(1, Ordering::Relaxed);
        private_bell.ring(Interest::DATA);
    });
    let client = thread::spawn(move || {
        request_word.store(1, Ordering::Relaxed);
        domain_bell.ring(Interest::DATA);
    });
    let (mut completed, mut requested) = (false, false);
    while !(completed && requested) {
        let mode = mode(private_sleeping.arms);
        let private_ticket = private_sleeping.arm(mode, Interest::DATA);
        let domain_ticket = domain_sleeping.arm(mode, Interest::BOTH);
        before_looking_again();
        let found = (!completed && completion.load() != 0, !requested && request.load() != 0);
        let rung = || {
            private_sleeping.sleeper.bell().rung(private_ticket)
                || domain_sleeping.sleeper.bell().rung(domain_ticket)
        };
        if found == (false, false) && !rung() {
            kernel.wait(mode, || !rung());
        }
        private_sleeping.sleeper.disarm();
        domain_sleeping.sleeper.disarm();
        (completed, requested) = (completed || found.0, requested || found.1);
    }
    completer.join().unwrap();
    client.join().unwrap();
    assert!(kernel.wakes() <= private_sleeping.arms + domain_sleeping.arms);
}

/// SLEEP: one fence serves both bells; neither ringer's wake is lost. Futex. Bound 3.
#[test]
fn two_bells_futex() {
    explore(Some(3), || two_bells(|_| Mode::Futex));
}

/// SLEEP and MODE: the same, across a change between epoll and `futex_waitv`. Bound 3.
#[test]
fn two_bells_across_modes() {
    explore(Some(3), || {
        two_bells(|arms| if arms.is_multiple_of(2) { Mode::Futex } else { Mode::Event })
    });
}
