//! Warm pools whose callers are tasks: on both flavours of runtime, in one line with threads, and
//! dropped at any moment. A wake that is lost hangs the test, and the watchdog says so.

mod connections;
mod ends;
mod line;
mod line_workers;
mod model;
mod runtimes;
mod shop;

use connections::*;
use ends::*;
use line::*;
use line_workers::*;
use model::*;
use ringbell_shm_tests::chatter::chatter;
use ringbell_shm_tests::suite;
use runtimes::*;

suite! {
    both: [connections_for_tasks],
    tests: [
        tasks_and_threads_stand_in_one_line,
        w7_a_burst_of_tasks_is_served_by_starts_side_by_side,
        what_a_dropped_future_was_handed_goes_to_the_next,
        tasks_that_give_up_at_any_moment_take_nothing_with_them,
        waits_of_tasks_end_in_time,
        a_pool_that_closes_ends_the_waits_of_tasks,
        failures_reach_tasks,
        nothing_is_opened_on_the_runtimes_thread,
        a_runtime_that_goes_leaves_no_trace,
        a_forked_child_leaves_the_wait_alone,
        futures_agree_with_a_model,
        line_workers_for_tasks,
        a_read_that_is_dropped_keeps_what_has_come,
        a_task_closes_the_input_of_its_worker,
        a_task_that_writes_lets_others_run,
        w2_tasks_learn_of_the_end_whoever_holds_the_pipes,
        lines_for_tasks_that_give_up_agree_with_a_model,
    ],
    roles: [forking, chatter],
}
