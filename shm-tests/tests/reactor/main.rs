//! Many requests at once: answers from other threads, in any order; streams, events, one-way
//! messages, cancellation.

mod callbacks;
mod events;
mod executors;
mod held;
mod limits;
mod load;
mod no_room;
mod one_way;
mod order;
mod panics;
mod shutdown;
mod sizes;
mod streams;
mod timeouts;
mod unanswered;

use callbacks::*;
use events::*;
use executors::*;
use held::*;
use limits::*;
use load::*;
use no_room::*;
use one_way::*;
use order::*;
use panics::*;
use ringbell::{CallError, ConnectOptions, WaitSettings};
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::server::{Prepared, Server, waiting};
use ringbell_shm_tests::{options, suite};
use shutdown::*;
use sizes::*;
use std::time::Duration;
use streams::*;
use timeouts::*;
use unanswered::*;

suite! {
    both: [
        answers_in_the_order_of_their_completion,
        answers_in_the_order_of_the_requests,
        a_client_asks_for_answers_in_order,
        streams_and_errors_in_order,
        an_expired_request_keeps_its_turn,
        responders_dropped_and_leaked,
        panics_of_the_handler,
        payloads_that_panic_when_dropped,
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
        a_view_with_no_time_ends,
        at_most_so_many_in_flight,
        credit_is_read_at_the_limit_of_requests_in_flight,
        credit_is_read_at_the_limit_of_bytes_in_flight,
        a_client_that_leaves_at_the_limit_is_noticed,
        a_cancel_that_found_no_room_is_sent_later,
        credit_that_found_no_room_is_sent_by_a_client_that_polls,
        a_client_that_polls_gets_rid_of_what_it_sent,
        streams_arrive_in_order,
        a_stream_waits_for_its_client,
        streams_and_calls_at_once,
        a_stream_that_is_dropped_is_cancelled,
        streams_that_end_badly,
        a_stream_that_was_not_asked_for,
        one_response_is_a_stream_of_one_item,
        a_stream_from_the_reactor_itself,
        a_producer_does_not_wait_for_ever_for_a_client_that_takes_nothing,
        nothing_waits_on_the_reactor_in_callbacks,
        one_way_messages,
        a_refused_one_way_message_hurts_nothing,
        what_was_sent_before_a_drop_is_handled,
        one_way_messages_of_processes_that_exit_are_handled,
        one_way_messages_that_were_set_aside_outlive_their_client,
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
        p2_a_small_request_holds_no_large_buffer,
        p2_a_quiet_server_gives_large_buffers_back,
        p2_requests_that_handlers_keep_are_charged,
        p2_bytes_that_handlers_take_are_charged,
        p2_answers_that_nobody_reads_are_charged,
        p2_answers_before_their_turn_are_charged,
        p2_events_that_nobody_reads_are_charged,
        p2_items_that_nobody_reads_are_charged,
        p2_buffers_of_a_socket_are_charged,
        p2_a_backlog_behind_a_stream_is_charged,
        p2_clients_of_one_uid_are_charged_together,
    ],
    // About the smallest ring, rings beside a socket, moments of sleeps on rings; and about times:
    // over the socket an answer's wake-up may take longer than what counts as short, and five
    // seconds are enough once.
    tests: [
        pipelined_through_the_smallest_ring,
        a_goodbye_is_noticed_beside_a_socket,
        an_order_to_stop_is_seen_at_once,
        measured_handlers_on_an_executor,
        timeouts_of_more_than_five_seconds,
    ],
    roles: [
        dies,
        holds_one_way_messages,
        keeps,
        measures,
        panics_everywhere,
        sends_and_exits,
        sends_everywhere,
    ],
}

const SOON: Duration = Duration::from_secs(20);
const NO_TIME: Option<Duration> = Some(Duration::ZERO);

fn reacting() -> Server {
    Server::prepare("react").start()
}

fn connect(server: &Server) -> Asking {
    Asking::connect(server.path(), options())
}

/// A server that no backstop rescues before the test gives up: a wake that is lost hangs it.
fn without_rescue(handler: &str) -> Prepared {
    Server::prepare(handler).with("wait", "patient")
}

/// The same for clients.
fn without_rescue_options() -> ConnectOptions {
    options().wait(waiting("patient", WaitSettings::client()))
}

fn connect_without_rescue(server: &Server) -> Asking {
    Asking::connect(server.path(), without_rescue_options())
}

/// Runs a test twice, [`without_rescue`]: on the reactor's thread and its workers, and on an
/// executor.
fn with_and_without_executor(mut test: impl FnMut(Prepared)) {
    test(without_rescue("react"));
    test(without_rescue("react").with("pool", 8));
}

fn remote(error: &CallError) -> u16 {
    match error {
        CallError::Remote(error) => error.code,
        error => panic!("{error:?}"),
    }
}
