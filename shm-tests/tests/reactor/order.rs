//! The order in which answers are sent: as they are complete, or as they were asked for.

use crate::{SOON, connect, connect_without_rescue, reacting, with_and_without_executor};
use ringbell::layout::code;
use ringbell::{AnswerOrder, CallError, RecvError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::reactor_requests::{StreamEnd, ask, stream_of};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, scaled, wait_until};
use std::time::Duration;

/// Sends eight requests of which each is answered after the next one; their numbers.
fn reversed(client: &mut Asking, gate: u64) -> Vec<u64> {
    (0..8)
        .map(|index| {
            let number = client.next_number();
            let after = if index == 0 { 0 } else { gate + index };
            let before = if index == 7 { 0 } else { gate + index + 1 };
            client.send(b'k', before, &after.to_le_bytes(), None).expect("send");
            number
        })
        .collect()
}

pub(crate) fn answers_in_the_order_of_their_completion() -> Ran {
    let rounds = scaled(3000);
    let server = reacting();
    let mut client = connect(&server);
    assert_eq!(client.client().answer_order(), AnswerOrder::Completion);
    for round in 0..rounds {
        let mut numbers = reversed(&mut client, 16 * round);
        numbers.reverse();
        assert_eq!(client.recv_all(), numbers, "round {round}");
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.dispatched, stats.inline, stats.stashed), (8 * rounds, 0, 0));
    done!("{rounds} rounds of 8 answers, each complete after the one behind it")
}

pub(crate) fn answers_in_the_order_of_the_requests() -> Ran {
    let rounds = scaled(3000);
    let server = Server::prepare("react").with("ordered", 1).start();
    let mut client = connect(&server);
    assert_eq!(client.client().answer_order(), AnswerOrder::Request);
    for round in 0..rounds {
        let mut numbers = reversed(&mut client, 16 * round);
        // Answered at once, and to be sent last.
        numbers.push(client.next_number());
        client.send(b'e', 0, b"", None).expect("send");
        assert_eq!(client.recv_all(), numbers, "round {round}");
    }
    client.finish();
    let stats = server.shut_down();
    // The last to be complete is the first to be sent.
    assert!(stats.stashed >= 7 * rounds, "{stats:?}");
    done!("{rounds} rounds of 9 answers, {} of them kept until their turn", stats.stashed)
}

pub(crate) fn a_client_asks_for_answers_in_order() -> Ran {
    let server = reacting();
    let mut ordered = Asking::connect(server.path(), options().answer_order(AnswerOrder::Request));
    let mut other = connect(&server);
    assert_eq!(ordered.client().answer_order(), AnswerOrder::Request);
    assert_eq!(other.client().answer_order(), AnswerOrder::Completion);
    for round in 0..10 {
        let mut numbers = reversed(&mut ordered, 1000 + 16 * round);
        assert_eq!(ordered.recv_all(), numbers);
        numbers = reversed(&mut other, 1000 + 16 * round);
        numbers.reverse();
        assert_eq!(other.recv_all(), numbers);
    }
    for client in [ordered, other] {
        client.finish();
    }
    server.shut_down();
    done!("beside one that does not")
}

/// Items, ends, errors, and answers that nobody gives: all of them have a turn.
pub(crate) fn streams_and_errors_in_order() -> Ran {
    let rounds = scaled(500);
    let server = Server::prepare("react").with("ordered", 1).start();
    let mut client = connect(&server);
    let mut opener = connect(&server);
    for round in 1..=rounds {
        let gate = 7_000_000 + round;
        let slow = client.client().send(&ask(b'k', 0, gate, &[0; 8])).expect("send");
        let number = client.next_number();
        let request = client.request(b's', 20, &stream_of(100, StreamEnd::Good));
        let stream = client.client().open_stream(&request, None).expect("send");
        let dropped = client.client().send(&ask(b'D', 0, 0, b"")).expect("send");
        let panicked = client.client().send(&ask(b'p', 0, 0, b"")).expect("send");
        client.client().send_one_way(&ask(b't', 0, 0, b""), None).expect("send");
        let last = client.client().send(&ask(b'e', 0, 0, b"")).expect("send");
        opener.echoes(b'o', gate, b"");
        let mut order = Vec::new();
        for _ in 0..4 {
            let answer = client.client().recv(Some(SOON)).expect("an answer");
            order.push((answer.call, answer.outcome.as_ref().err().map_or(0, |error| error.code)));
        }
        assert_eq!(
            order,
            [(slow, 0), (dropped, code::DROPPED), (panicked, code::PANICKED), (last, 0)]
        );
        assert_eq!(client.read_stream(stream, number, 100), Ok(20));
    }
    for client in [client, opener] {
        client.finish();
    }
    let stats = server.shut_down();
    assert!(stats.stashed >= rounds, "{stats:?}");
    done!("{rounds} rounds, {} answers and items kept", stats.stashed)
}

pub(crate) fn an_expired_request_keeps_its_turn() -> Ran {
    const GATE: u64 = 9;
    with_and_without_executor(|prepared| {
        let mut server = prepared.with("ordered", 1).start();
        let mut client = connect_without_rescue(&server);
        let client_itself = client.client();
        let slow = client_itself.send(&ask(b'k', 0, GATE, &[0; 8])).expect("send");
        let expired =
            client_itself.call_timeout(&ask(b'e', 0, 0, b""), Some(Duration::from_nanos(1)));
        // Not by the server's answer, whose turn it is not.
        assert_eq!(expired.map(|_| ()), Err(CallError::TimedOut { maybe_executed: true }));
        wait_until("the request is refused", || server.stats().expired == 1);
        assert_eq!(
            client_itself.try_recv().map(|answer| answer.map(|answer| answer.call)),
            Ok(None)
        );
        assert_eq!(client_itself.stats().late_answers, 0, "the refusal overtook an answer");
        server.process().tell(&format!("open {GATE}"));
        assert_eq!(client_itself.recv(Some(SOON)).map(|answer| answer.call), Ok(slow));
        wait_until("the refusal follows", || {
            assert_eq!(client_itself.try_recv(), Err(RecvError::NothingInFlight));
            client_itself.stats().late_answers == 1
        });
        client.finish();
        server.shut_down();
    });
    done!("behind an answer that is not complete")
}
