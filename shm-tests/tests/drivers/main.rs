//! Servers without a thread of their own: in an epoll loop, and in tasks of tokio, with async
//! handlers. No wait in them has a timeout: what the one descriptor does not tell hangs the test,
//! and the watchdog says so.

#[path = "../../../examples/embedded.rs"]
mod embedded;

mod async_handlers;
mod example;
mod here;
mod services;

use async_handlers::*;
use example::*;
use ringbell_shm_tests::suite;
use services::*;

suite! {
    both: [
        many_clients_at_once,
        both_sides_asleep_again_and_again,
        deaths_are_seen,
        sessions_come_and_go,
        who_does_not_read_is_disconnected,
        a_server_sleeps_while_nothing_comes,
        shutdown_drains,
        handlers_answer_in_any_order,
        handlers_whose_answer_nobody_wants_are_dropped,
        streams_wait_for_their_client,
        events_are_pushed,
        handlers_fail,
        shutdown_waits_for_handlers,
        a_runtime_is_dropped_with_requests_in_flight,
        the_example_serves_in_its_loop,
    ],
    tests: [a_handshake_that_does_not_end, there_are_no_threads],
    roles: [asks_and_waits, serves_in_its_loop],
}
