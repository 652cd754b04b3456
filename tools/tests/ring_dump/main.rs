//! ring-dump against servers and clients that are well, stopped, stuck, slow and dead: real
//! processes each time.

#![allow(clippy::cast_possible_truncation, reason = "positions in small rings")]

mod after;
mod doctor;
mod engines;
mod files;
mod formats;
mod harmless;
mod places;
mod promlint;
#[allow(dead_code, reason = "an example uses the rest")]
#[path = "../pty/mod.rs"]
mod pty;
mod scene;
mod schema;
mod screen;
#[allow(dead_code, reason = "an example uses the rest")]
#[path = "../slices/mod.rs"]
mod slices;
mod suffering;
mod tap;
#[allow(dead_code, reason = "a role only takes it, and panics")]
#[path = "../../src/ring_dump/watch/terminal.rs"]
mod terminal;
mod terminals;
mod timing;
mod use_of_it;
mod verdicts;

use after::*;
use doctor::*;
use engines::{asker, engine};
use files::*;
use formats::*;
use harmless::*;
use places::*;
use ringbell_shm_tests::suite;
use scene::{caller, service};
use screen::*;
use suffering::*;
use tap::*;
use terminals::*;
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
        d1_a_pool_that_is_deadlocked_is_a_problem,
        d2_a_server_whose_every_answer_is_an_error_is_a_problem,
        d2_a_server_whose_every_handler_panics_is_a_problem,
        d2_clients_that_are_turned_away_at_the_limit_are_a_problem,
        d3_a_responder_that_nobody_answers_is_a_problem,
        d3_a_handler_that_waits_for_a_lock_is_told_from_one_that_loops_or_reads,
        d3_a_handler_that_takes_less_than_late_is_no_problem,
        an_embedded_server_whose_handler_is_stuck_is_a_problem,
        an_embedded_server_that_is_not_pumped_is_a_problem,
        a_byte_stream_whose_reader_does_not_read_is_a_problem,
        a_late_call_over_the_socket_is_a_problem,
        a_handler_that_is_stuck_over_the_socket_is_a_problem,
        an_async_client_whose_loop_is_stuck_is_told,
        answers_to_a_client_that_is_gone_are_told,
        sessions_that_were_ended_for_slowness_are_told,
        requests_that_come_too_late_to_be_run_are_told,
        calls_that_time_out_are_a_problem,
        a_client_at_max_in_flight_is_told_with_its_limit,
        bytes_that_are_held_at_the_limit_are_told_with_it,
        events_that_are_dropped_are_told,
        d3_healthy_busy_servers_of_every_engine_have_no_findings,
        a_stream_that_is_open_for_long_is_no_late_call,
        every_verdict_is_explained,
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
        d7_the_first_verdict_is_shown_whole,
        d7_no_size_is_too_small,
        d7_the_selection_follows_the_session,
        d7_a_session_that_leaves_is_told_of,
        d7_a_server_that_dies_is_said_at_once,
        d7_a_server_that_comes_back_is_followed,
        d7_a_server_that_is_out_of_reach_is_said,
        d7_every_end_leaves_a_clean_terminal,
        d7_a_closed_terminal_ends_it,
        d7_a_terminal_that_takes_nothing,
        d7_a_panic_leaves_a_clean_terminal,
        d7_ctrl_z_and_fg,
        d7_help_and_all_verdicts,
        d7_a_thousand_sessions,
        d7_two_servers_of_one_process,
        d7_colours_and_poor_terminals,
        d7_names_never_reach_the_terminal_raw,
        d7_ten_milliseconds_stay_usable,
        the_list_and_its_directory,
        what_changed_between_two_files,
        garbage_is_described_and_not_believed,
        d5_a_crash_in_a_handler,
        d5_an_abort_in_one_of_several_handlers,
        d5_a_server_that_is_ended_while_requests_are_elsewhere,
        d5_an_idle_server_that_is_ended_had_nothing_in_its_handler,
        d5_the_dump_of_a_client,
        d5_a_server_that_is_killed_leaves_no_dump,
        d5_a_dump_without_shared_memory_says_so,
        d5_a_dump_that_is_cut_or_of_another_machine,
        a_dump_by_a_debugger_is_no_crash,
        a_file_is_judged_by_the_time_when_it_was_saved,
        a_file_of_another_version,
        a_server_of_another_layout,
        a_file_that_is_cut_anywhere,
        a_server_that_was_restarted_between_two_files,
        findings_are_compared_by_what_they_are_about,
        wrong_use_has_its_status,
        help_for_shells_and_manuals,
        the_doctor_looks_at_the_machine,
        the_doctor_judges_the_limits_of_a_process_not_its_own,
        a_process_that_runs_out_of_descriptors_is_seen,
        the_doctor_of_a_socket_looks_at_its_server,
        namespaces_other_than_ours_are_told,
        what_another_user_may_not_see_is_unknown,
        the_name_of_a_process_does_not_reach_the_terminal_raw,
        the_doctor_says_why_it_cannot_look,
        d8_metrics_keep_the_rules_of_prometheus,
        d8_findings_are_metrics_by_code,
        d8_bad_metrics_are_told,
        sessions_beyond_the_limit_have_no_series_and_are_counted,
        a_server_that_was_restarted_has_the_same_series,
        d9_ids_survive_programs_whose_numbers_are_doubles,
        d9_json_is_as_its_schema_says,
        the_verdict_comes_first,
        one_session_is_shown_with_its_own_findings,
        of_many_sessions_some_are_shown_and_the_others_counted,
        a_target_alone_is_shown,
        every_manual_page_that_is_named_exists,
        colours_are_where_they_are_wanted,
        the_examples_of_the_manual_run,
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
    roles: [service, caller, engine, asker, stranger, outlaw, pair, crowd, twins, panics],
}
