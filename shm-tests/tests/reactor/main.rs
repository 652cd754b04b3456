//! Many requests at once: answers from other threads, in any order; streams, events, one-way messages, cancellation.

mod events;
mod executors;
mod load;
mod nobody;
mod order;
mod shutdown;
mod sizes;
mod streams;
mod timeouts;

use events::*;
use executors::*;
use load::*;
use nobody::*;
use order::*;
use ringbell::CallError;
use ringbell_shm_tests::reacting::Asking;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{options, suite};
use shutdown::*;
use sizes::*;
use std::time::Duration;
use streams::*;
use timeouts::*;

suite! {
    both: [
        answers_in_the_order_of_their_completion,
        answers_in_the_order_of_the_requests,
        a_client_asks_for_answers_in_order,
        streams_and_errors_in_order,
        responders_dropped_and_leaked,
        panics_of_the_handler,
        answers_whose_client_has_died,
        answers_whose_server_has_returned,
        sessions_one_after_the_other_with_answers_under_way,
        bursts,
        a_full_response_queue_beside_others,
        too_large_either_way,
        no_length_either_way,
        timeouts_race_answers,
        handlers_see_that_they_are_cancelled,
        what_has_expired_is_not_run,
        what_expires_before_its_turn_is_not_run,
        requests_tell_of_themselves,
        at_most_so_many_in_flight,
        streams_arrive_in_order,
        a_stream_waits_for_its_client,
        streams_and_calls_at_once,
        a_stream_that_is_dropped_is_cancelled,
        streams_that_end_badly,
        a_stream_that_was_not_asked_for,
        one_response_is_a_stream_of_one_item,
        a_stream_from_the_reactor_itself,
        one_way_messages,
        events_between_answers,
        events_that_find_no_room,
        events_that_nobody_asks_for,
        events_for_another_session,
        shutdown_waits_for_answers,
        shutdown_cuts_off_what_is_leaked,
        shutdown_in_the_midst_of_streams,
        handlers_on_an_executor,
        short_handlers_on_an_executor,
        clients_at_once,
    ],
    // About the smallest ring; and about times: over the socket an answer's wake-up may take longer than what counts as
    // short, and five seconds are enough once.
    tests: [pipelined_through_the_smallest_ring, measured_handlers_on_an_executor, timeouts_of_more_than_five_seconds],
    roles: [dies],
}

const SOON: Duration = Duration::from_secs(20);

fn reacting() -> Server {
    Server::prepare("react").start()
}

fn connect(server: &Server) -> Asking {
    Asking::connect(server.path(), options())
}

fn remote(error: &CallError) -> u16 {
    match error {
        CallError::Remote(error) => error.code,
        error => panic!("{error:?}"),
    }
}
