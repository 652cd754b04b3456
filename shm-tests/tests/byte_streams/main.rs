//! Byte streams between processes: every byte is checked, both ways at once; ends that are said,
//! and ends that are not; writers that are not read; processes that are killed. In the blocking
//! form, inside event loops, and on both flavours of runtime.

mod ends;
mod event_loops;
mod exchanges;
mod forks;
mod looping;
mod no_streams;
mod serving;
mod traffic;

use ends::*;
use event_loops::*;
use exchanges::*;
use forks::*;
use no_streams::*;
use ringbell_shm_tests::suite;
use serving::{connect, serve};

suite! {
    both: [
        both_ways_at_once,
        one_task_that_writes_and_reads,
        an_end_of_one_side_leaves_the_other,
        a_writer_that_is_not_read_waits,
        a_stream_that_is_dropped_has_no_end,
        a_killed_peer_has_no_end,
        what_a_client_wrote_before_it_went_is_read,
        c11_a_reader_that_is_killed_behind_the_end_has_read_all,
        rounds_leave_nothing_behind,
        timeouts,
        a_listener_that_is_closed,
        a_forked_child_touches_nothing,
        a_child_beside_threads_that_use_a_stream_does_not_hang,
        a_writer_that_goes_with_bytes_that_were_not_taken,
        a_child_that_holds_the_socket_keeps_no_dead_client_alive,
        a_client_in_a_loop_is_told_of_every_byte,
        an_accepted_stream_in_a_loop_is_told_of_every_byte,
        a_loop_is_told_of_room,
        a_loop_is_told_of_what_it_left_unread,
        a_loop_is_told_of_a_killed_server,
        a_loop_is_told_of_a_killed_client,
        a_loop_is_told_of_a_client_that_left_a_child,
        arming_leaves_a_thread_that_sleeps_alone,
        a_forked_child_arms_nothing,
    ],
    tests: [
        calls_and_streams_do_not_meet,
        c4_calls_are_refused_by_a_listener_of_streams,
        clients_that_send_what_is_no_stream,
        any_bytes_over_the_socket,
        servers_that_send_what_is_no_stream,
        a_loop_is_told_of_a_server_that_left_a_child,
        c11_a_writer_learns_of_a_server_that_left_a_child,
        arming_leaves_a_thread_that_yields_alone,
    ],
    roles: [
        serve,
        connect,
        forking,
        forking_beside_threads,
        leaving,
        looping_and_forking,
        serve_and_fork,
        reads_to_the_end,
    ],
}
