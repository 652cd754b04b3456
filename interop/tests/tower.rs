//! Runs the example with tower's layers, on both flavours of runtime.

#[path = "../examples/tower_stack.rs"]
mod tower_stack;

use tower_stack::{Summary, run};

async fn stack() {
    let directory = tempfile::tempdir().expect("a directory");
    let Summary { answered, shed, timed_out, retried, handled } =
        run(&directory.path().join("tower.sock")).await.expect("it runs");
    assert_eq!(answered + shed + timed_out, 120, "each call has an outcome");
    // The first 40 find room: those of them that are to be made again, and those that take too
    // long, are known.
    assert!(answered >= 34, "{answered} were answered");
    assert!(shed <= 80, "{shed} were shed");
    assert!(timed_out >= 6, "{timed_out} timed out: 0, 7, 14, 21, 28 and 35 at least");
    assert!(retried >= 8, "{retried} were made again: 0, 5, .., 35 at least");
    assert_eq!(handled, answered, "what was not answered was dropped by the server as well");
}

#[tokio::test(flavor = "current_thread")]
async fn layers_on_one_thread() {
    stack().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_on_two_threads() {
    stack().await;
}
