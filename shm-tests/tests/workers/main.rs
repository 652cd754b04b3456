//! Workers of odd hosts: that ignore or reap their children, whose standard error is not read, that
//! are large, that fork, or that may start no process now.

#![allow(unsafe_code, reason = "signals, waits and memory of the hosts")]

mod cost;
mod errors;
mod hosts;
mod limited;
mod placement;
mod torture;

use cost::*;
use errors::*;
use hosts::*;
use limited::*;
use placement::*;
use ringbell::WorkerCommand;
use ringbell::pool::Settings;
use ringbell::worker::{LineWorkerPool, LineWorkers, PooledLineWorker, line_workers};
use ringbell_shm_tests::{observe, suite};
use std::time::Duration;
use torture::*;

suite! {
    tests: [
        w1_a_missing_program_where_children_are_ignored,
        w1_a_missing_program_where_a_thread_reaps_all,
        w1_a_missing_program_is_told_under_valgrind,
        w1_a_forked_child_starts_workers_of_its_own,
        w2_the_group_of_a_dead_worker_ends_with_it,
        w2_the_group_of_a_reaped_worker_ends_with_it,
        w2_a_worker_ends_where_a_pidfd_takes_no_signal,
        w3_a_standard_error_that_is_not_read,
        w3_a_standard_error_that_is_locked,
        w8_errors_name_the_path_and_are_permanent,
        w8_nonsense_is_refused_when_a_pool_is_built,
        w10_workers_are_placed_as_the_process_is,
        w11_the_end_of_its_input_reaches_behind_a_wrapper,
        w12_a_large_host_starts_workers_as_std_does,
        worker_torture,
    ],
    roles: [
        odd_host,
        forking_host,
        grouping_host,
        unread_host,
        pinned_host,
        wrapping_host,
        emulated_host,
        refused_host,
        large_host,
        tortured,
    ],
}

const SOON: Option<Duration> = Some(Duration::from_secs(30));

fn settings(min_idle: usize, max_size: usize) -> Settings {
    Settings { min_idle, max_size, acquire_timeout: SOON, ..Settings::default() }
}

fn lines(command: WorkerCommand, settings: Settings) -> LineWorkerPool {
    line_workers(LineWorkers::new(command), settings).expect("a pool")
}

fn shell(script: &str) -> WorkerCommand {
    WorkerCommand::new("sh").args(["-c", script])
}

/// It says what it was told.
fn echoes(worker: &mut PooledLineWorker, line: &str) {
    worker.write_line(line, SOON).expect("it takes a line");
    assert_eq!(worker.read_line(SOON).expect("it answers"), line);
    worker.complete();
}

fn has_ended(id: u32) -> bool {
    matches!(observe::state(id), None | Some('Z'))
}

/// Children of this process that have ended and were not waited for.
fn zombies() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|text| {
            text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        })
        .collect();
    children.into_iter().filter(|id| observe::state(*id) == Some('Z')).collect()
}
