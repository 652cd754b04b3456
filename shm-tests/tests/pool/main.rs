//! Warm pools with real processes: servers that die under load, workers that are killed, stopped or
//! never ready, descriptors that run out, forks, and parents that go.

mod by_id;
mod connections;
mod descriptors;
mod forks;
mod line_cases;
mod line_workers;
mod sockets;
mod workers;

use by_id::*;
use connections::*;
use descriptors::*;
use forks::*;
use line_cases::*;
use line_workers::*;
use ringbell::pool::Settings;
use ringbell_shm_tests::chatter::chatter;
use ringbell_shm_tests::suite;
use rustix::process::{Resource, Rlimit};
use sockets::*;
use std::time::Duration;
use workers::*;

suite! {
    both: [
        a_server_that_is_killed_again_and_again,
        a_hundred_callers_and_sixteen_connections,
        what_is_not_between_requests_is_not_used_again,
        an_idle_pool_survives_a_restart_unnoticed,
    ],
    tests: [
        descriptors_that_run_out,
        a_forked_child_touches_nothing,
        a_forked_child_never_waits_for_the_pools_of_its_parent,
        workers_are_replaced_when_they_die_or_hang,
        workers_that_never_serve_say_why,
        workers_die_with_their_parent,
        workers_outlive_the_thread_that_asked_for_them,
        a_worker_that_inherits_its_socket,
        line_workers_and_their_answers,
        line_workers_that_misbehave,
        lines_in_pieces_of_any_size_agree_with_a_model,
        a_line_in_part_is_never_two_lines,
        a_worker_may_answer_at_the_end_of_its_input,
        a_worker_is_replaced_after_so_many_uses,
        w2_ended_at_once_whoever_holds_the_pipes,
        w2_time_is_up_while_a_worker_talks_without_end,
        w4_many_pipelined_lines_are_read_in_linear_time,
        w5_the_last_line_needs_no_line_break,
        w5_a_ready_line_may_end_with_crlf,
        w5_what_was_printed_before_readiness_is_told,
        h7_a_worker_that_has_exited_is_no_sigpipe,
        a_worker_that_has_closed_its_input_is_not_handed_out,
        w7_where_there_can_be_no_thread_the_keeper_works,
        pools_by_id,
        spawn_per_use,
        w6_nothing_is_left_however_the_host_ends,
        w6_the_next_host_sweeps_what_a_killed_one_left,
        w6_a_sweep_waits_for_nothing_that_others_own,
        w6_a_host_that_ends_while_a_worker_starts_leaves_nothing,
        w8_what_is_wrong_with_a_directory_is_told_at_once,
        w9_two_hosts_that_are_both_pid_1_share_a_directory,
        w9_a_stranger_at_the_workers_path_is_refused,
        w9_a_worker_behind_a_wrapper_is_ours,
        w11_a_worker_behind_a_wrapper_ends_with_its_host,
        w11_a_worker_of_another_user_ends_with_its_host,
        w11_a_worker_that_binds_its_place_by_another_path_ends_with_its_host,
        w11_a_worker_that_comes_too_late_does_not_serve,
    ],
    roles: [
        echo_server,
        worker,
        exhausted,
        forking,
        forking_global,
        owner,
        chatter,
        dies_of_sigpipe,
        without_threads,
        socket_worker,
        socket_host,
        starting_host,
        sweeping_host,
        comparing_host,
    ],
}

fn settings(min_idle: usize, max_size: usize) -> Settings {
    Settings {
        min_idle,
        max_size,
        acquire_timeout: Some(Duration::from_secs(30)),
        ..Settings::default()
    }
}

/// Sets the soft limit, for this process and those it starts; `None` for as many as it may.
fn limit_descriptors(limit: Option<u64>) {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let current = limit.or(maximum);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("limit");
}
