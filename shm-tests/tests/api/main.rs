//! How the interface behaves, seen from outside: timeouts, limits, errors, both rings full,
//! shutdown.

mod buffered_answers;
mod calls;
mod connecting;
mod limits;
mod shutdown;
mod timeouts;

use buffered_answers::*;
use calls::*;
use connecting::*;
use limits::*;
use ringbell::Client;
use ringbell_shm_tests::progress::Stopwatch;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::no_wake_was_lost;
use ringbell_shm_tests::{options, suite};
use shutdown::*;
use std::time::Duration;
use timeouts::*;

suite! {
    both: [
        nothing_there_and_every_timeout,
        a_stopped_handler_and_every_timeout,
        a_request_that_is_too_large_is_not_written,
        an_answer_that_is_too_large_is_an_error,
        messages_of_no_length,
        errors_and_panics_of_the_handler,
        too_many_in_flight,
        answers_set_aside_by_calls_count_as_in_flight,
        answers_are_set_aside,
        answers_set_aside_outlive_the_session,
        both_rings_full,
        claims,
        views_and_buffers,
        batches,
        posts_and_flushes,
        sent_and_dropped,
        who_asks,
        waiting_for_a_server,
        shutdown_with_calls_in_flight,
        shutdown_without_draining,
        shutdown_while_clients_connect,
        shutdown_from_a_signal_handler,
        a_client_that_does_not_read_is_put_out,
        numbers_of_both_sides_agree,
        timeouts_at_any_moment,
        memory_for_requests_is_limited,
        clients_wait_for_a_server_that_does_not_serve_yet,
    ],
    // About rings that are full, about their sizes, and about a server that has no clients.
    tests: [
        no_room_and_every_timeout,
        answers_set_aside_for_room_count_as_in_flight,
        limits_of_options,
        shutdown_before_serving,
    ],
    roles: [lazy],
}

const SHORT: Duration = Duration::from_millis(30);

fn doing() -> Server {
    Server::prepare("do").start()
}

fn connect(server: &Server) -> Client {
    options().connect(server.path()).expect("connect")
}

fn finish(mut client: Client) {
    no_wake_was_lost(&client.stats());
}

/// `verb`, a number, and more.
fn ask(verb: u8, number: u64, rest: &[u8]) -> Vec<u8> {
    [&[verb][..], &number.to_le_bytes(), rest].concat()
}

/// That `body` takes about `time`: not less, and not so much more that it waited for something else
/// than the machine.
fn takes<T>(time: Duration, body: impl FnOnce() -> T) -> T {
    let watch = Stopwatch::start();
    let result = body();
    let took = watch.elapsed();
    assert!(took >= time, "took {took:?} instead of {time:?}");
    assert!(
        watch.awake() < time * 2 + Duration::from_millis(500),
        "took {took:?} instead of {time:?}"
    );
    result
}

/// That `body` does not wait, but for the CPU.
fn at_once<T>(body: impl FnOnce() -> T) -> T {
    takes(Duration::ZERO, body)
}
