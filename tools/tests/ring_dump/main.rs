//! ring-dump against servers and clients that are well, stopped, stuck, slow and dead: real
//! processes each time.

#![allow(clippy::cast_possible_truncation, reason = "positions in small rings")]

mod files;
mod harmless;
mod places;
#[allow(dead_code, reason = "an example uses the rest")]
#[path = "../pty/mod.rs"]
mod pty;
mod scene;
mod screen;
#[allow(dead_code, reason = "an example uses the rest")]
#[path = "../slices/mod.rs"]
mod slices;
mod tap;
mod timing;
mod use_of_it;
mod verdicts;

use files::*;
use harmless::*;
use places::*;
use ringbell_shm_tests::suite;
use scene::{caller, service};
use screen::*;
use tap::*;
use timing::*;
use use_of_it::*;
use verdicts::*;

suite! {
    tests: [
        a_busy_server_is_well,
        a_server_that_is_idle_is_well,
        a_stopped_server,
        a_stopped_client,
        a_full_ring_before_a_long_handler,
        a_slow_client,
        a_dead_client_of_a_stopped_server,
        a_dead_server,
        a_call_that_takes_long,
        waiting_is_told_from_working,
        calls_are_timed_on_all_ways,
        c3_calls_are_timed_across_time_namespaces,
        nothing_is_timed_unless_asked_for,
        a_lost_wake_made_by_hand,
        a_saved_file_reads_as_the_live_target,
        h1_a_file_beyond_the_limit_on_files_is_an_error,
        golden_files,
        a_core_dump_reads_as_the_live_target,
        nothing_is_written_and_nothing_is_mapped,
        nothing_is_opened_for_writing,
        show_once_a_second_costs_next_to_nothing,
        watch_takes_little_of_a_cpu,
        other_users_are_refused,
        tap_sees_what_passes,
        tap_misses_nothing_of_slow_traffic,
        tap_says_what_it_missed,
        tap_waits_for_nobody,
        tap_shows_what_was_asked_for,
        tap_follows_large_records_and_small_rings,
        watch_on_a_terminal,
        the_list_and_its_directory,
        what_changed_between_two_files,
        garbage_is_described_and_not_believed,
        wrong_use_has_its_status,
        help_for_shells_and_manuals,
        d4_a_server_in_a_container_is_listed_and_told_by_its_number_here,
        d4_a_server_that_is_stopped_in_a_container_is_stopped,
        d4_a_client_in_another_container_is_the_right_process,
        two_servers_of_one_process_are_told_apart,
        a_deleted_socket_is_a_problem,
        a_socket_that_is_taken_over_names_who_took_it,
        memory_of_a_dead_server_is_an_orphan,
        d6_names_and_paths_of_others_reach_no_terminal_raw,
        what_blocks_in_a_directory_keeps_no_list_waiting,
        d6_a_pipe_that_is_called_a_segment_keeps_nothing_waiting,
        d6_forged_segments_are_told_from_the_real_ones,
        d6_thousands_of_forged_segments_hide_nothing,
        another_user_is_told_what_is_missing,
        a_process_without_segments_is_told_so,
    ],
    roles: [service, caller, outlaw, pair],
}
