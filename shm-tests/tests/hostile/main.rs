//! Peers that write whatever they like into the memory that they may write, and send whatever they
//! like.
//!
//! What must hold: the other side never panics, hangs or dies; it ends that session with a typed
//! fault, or ignores what is none of its business; and other sessions do not notice.

mod answers;
mod attack;
mod behind;
mod fake;
mod in_transit;
mod records;
mod segments;
mod welcomes;
mod words;

use answers::*;
use behind::*;
use in_transit::*;
use records::*;
use ringbell_shm_tests::suite;
use segments::*;
use welcomes::*;
use words::*;

suite! {
    tests: [
        records_that_cannot_be,
        heads_that_cannot_be,
        any_bytes_in_the_request_ring,
        words_that_lie_about_sleep,
        a_bell_page_that_is_not_what_it_was,
        floods_of_the_lifeline,
        segments_that_clients_tamper_with,
        memory_that_is_not_theirs,
        fragments_without_end,
        stamps_that_lie,
        servers_with_wrong_segments,
        servers_with_wrong_descriptors,
        servers_that_answer_nonsense,
        servers_that_write_nonsense,
        answers_that_come_and_go,
        any_bytes_in_the_response_ring,
        c1_what_lies_behind_items_and_events_is_found,
        c1_a_pooled_client_brings_no_old_events,
        c1_a_reader_of_events_misses_none_that_is_there,
        c1_a_task_whose_time_is_over_finds_its_answer,
        c1_a_refused_stream_is_refused_as_a_call,
        c1_floods_of_items_and_events_end_no_wait_late,
        c1_a_reader_of_large_items_is_not_cut,
        p4_nobody_waits_for_descriptors_of_a_client,
        p4_descriptors_of_a_client_are_refused,
        p5_no_call_waits_for_descriptors_of_a_server,
        p5_no_connect_waits_for_descriptors_of_a_server,
    ],
    roles: [old_server, new_server],
}

const CAPACITY: u64 = 2048;
