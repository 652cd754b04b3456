//! The client of many tasks, on both flavours of runtime. Every wait is one for the runtime's
//! epoll, without a timer beside it: what is not reported hangs the test, and the watchdog says so.

mod calls;
mod ends;
mod one_way;
mod streams;
mod turns;
mod wakers;

use calls::*;
use ends::*;
use futures_core::Stream;
use one_way::*;
use ringbell::AsyncClient;
use ringbell_shm_tests::pattern::mix;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::suite;
use std::future::poll_fn;
use std::pin::Pin;
use streams::*;
use tokio::runtime::{Builder, Runtime};
use turns::*;
use wakers::*;

suite! {
    both: [
        a_thousand_tasks_share_a_session,
        requests_wait_for_room,
        calls_one_after_the_other,
        dropping_a_call_affects_no_other,
        deadlines,
        streams_and_events,
        a_death_ends_all_calls,
        a_shutdown_ends_all_calls,
        a_runtime_is_dropped_with_calls_in_flight,
        the_last_clone_closes_the_session,
        one_way_messages,
        one_way_messages_need_nobody_to_run_behind_them,
    ],
    tests: [
        no_threads_are_left,
        c8_a_stopped_server_does_not_keep_a_client_that_nobody_holds,
        a_stream_of_events_keeps_one_waker,
        requests_need_nobody_to_run_behind_them,
        a_task_that_computes_keeps_no_answer_from_others,
        a_waker_that_panics_keeps_nobody_asleep,
        a_waker_that_uses_the_client_stops_nobody,
        a_waker_that_panics_when_it_goes_stops_nobody,
    ],
    roles: [],
}

fn flavours() -> [(&'static str, Runtime); 2] {
    [
        ("one thread", Builder::new_current_thread().enable_all().build().expect("a runtime")),
        (
            "two threads",
            Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"),
        ),
    ]
}

async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

/// The answer of `react` to a request with this number and rest.
fn stamped(client: &AsyncClient, number: u64, rest: &[u8]) -> Vec<u8> {
    [&client.session().to_le_bytes()[..], &number.to_le_bytes(), rest].concat()
}

fn bytes(number: u64, longest: u64) -> Vec<u8> {
    let len = usize::try_from(mix(number, 77) % (longest + 1)).expect("small");
    vec![number.to_le_bytes()[0]; len]
}

/// An echo, at once or later and on another thread of the server.
async fn echo(client: &AsyncClient, number: u64, longest: u64) {
    let rest = bytes(number, longest);
    let (verb, delay) = if number.is_multiple_of(7) { (b't', number % 50) } else { (b'e', 0) };
    let answer = client.call(&ask(verb, number, delay, &rest)).await.expect("an answer");
    assert_eq!(answer, stamped(client, number, &rest));
    tick();
}

async fn all(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.await.expect("a task");
    }
}
