//! ring-dump against servers and clients that are well, stopped, stuck, slow and dead: real
//! processes each time.

#![allow(clippy::cast_possible_truncation, reason = "positions in small rings")]

mod files;
mod formats;
mod harmless;
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
mod tap;
mod timing;
mod use_of_it;
mod verdicts;

use files::*;
use formats::*;
use harmless::*;
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
    ],
    roles: [service, caller],
}
