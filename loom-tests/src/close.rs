//! Close against publish: everything published before a goodbye is read, nothing after it.

use crate::explore;
use crate::kernel::bell;
use crate::ring::{In, Out, fresh, worn};
use loom::thread;
use ringbell::layout::{Interest, Kind, LINE, Mode};

const FUTEX: fn(usize) -> Mode = |_| Mode::Futex;

/// What was read up to the goodbye, sleeping for each record.
fn drain(input: &mut In, mut sleep: impl FnMut(&In)) -> Vec<u64> {
    let mut calls = Vec::new();
    loop {
        match input.try_take(0) {
            Some((Kind::Goodbye, _, _)) => return calls,
            Some((_, call, _)) => calls.push(call),
            None => sleep(input),
        }
    }
}

fn goodbye(out: &mut Out) {
    assert!(out.try_commit_kind(Kind::Goodbye, 0, 0));
}

/// PUBLISH, Z, SLEEP: a goodbye behind data, to a sleeping consumer. The producer is gone before
/// the consumer looks behind the goodbye. Bound 4.
#[test]
fn goodbye_behind_data() {
    explore(Some(4), || {
        let (mut out, mut input) = worn(256, 0_u64.wrapping_sub(LINE));
        let (mut sleeping, bell) = bell();
        let producer = thread::spawn(move || {
            assert!(out.try_commit(0, 1));
            bell.ring(Interest::DATA);
            out.zero_ahead();
            goodbye(&mut out);
            bell.ring(Interest::DATA);
        });
        let calls = drain(&mut input, |input| {
            sleeping.sleep_until(FUTEX, Interest::DATA, || input.ring.has_pending());
        });
        assert_eq!(calls, [1]);
        assert!(!input.ring.has_pending());
        producer.join().unwrap();
        assert_eq!(input.try_receive(0), None);
        sleeping.check_wakes();
    });
}

/// PUBLISH, Z, SLEEP: the client says goodbye behind its request while the server may be answering;
/// the server answers what came before the goodbye, says goodbye itself, and the client reads up to
/// that. Bound 3.
#[test]
fn goodbye_from_both() {
    explore(Some(3), || {
        let (mut requests_out, mut requests_in) = worn(256, 256);
        let (mut answers_out, mut answers_in) = fresh(256, 0);
        let (mut client_sleeping, client_bell) = bell();
        let (mut server_sleeping, server_bell) = bell();
        let server = thread::spawn(move || {
            let calls = drain(&mut requests_in, |input| {
                server_sleeping.sleep_until(FUTEX, Interest::DATA, || input.ring.has_pending());
            });
            for call in calls {
                assert!(answers_out.try_commit(0, call));
            }
            goodbye(&mut answers_out);
            client_bell.ring(Interest::DATA);
            server_sleeping
        });
        assert!(requests_out.try_commit(0, 1));
        server_bell.ring(Interest::DATA);
        goodbye(&mut requests_out);
        server_bell.ring(Interest::DATA);
        let calls = drain(&mut answers_in, |input| {
            client_sleeping.sleep_until(FUTEX, Interest::DATA, || input.ring.has_pending());
        });
        assert_eq!(calls, [1]);
        server.join().unwrap().check_wakes();
        client_sleeping.check_wakes();
    });
}
