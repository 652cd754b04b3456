//! Ring, bell, scheduler and pool under loom, which tries every interleaving and every value that a
//! relaxed load may see.
//!
//! ```text
//! RUSTFLAGS="--cfg ringbell_loom" cargo test --release -p ringbell-loom-tests --target-dir target/loom
//! ```
//!
//! Without the cfg this crate is empty. `LOOM_MAX_PREEMPTIONS=n` replaces the bound of the bounded
//! models. `loom-tests/mutate` weakens the sources, one ordering at a time, and checks that a model
//! notices each.
//!
//! Every model opens with the edge that it proves, by its label in the sources. Payload is relaxed,
//! so that only the protocol can order it. There are no timeouts: a lost wake is a deadlock, and
//! loom reports it.
//!
//! # What loom cannot show
//!
//! - A load that takes a value from a store made later. So relaxed payload alone never notices that
//!   RELEASE is missing; the `ring` models therefore touch one loom cell for each line, which
//!   counts as a data race.
//! - A fence is no scheduling point: it always runs together with the access before it. And two
//!   `SeqCst` fences synchronise like a release and an acquire, which is more than the language
//!   promises. The argument in `bell.rs` uses neither.
//! - `SeqCst` loads and stores (they count as `AcqRel`). The sources have none.

#![cfg(all(ringbell_loom, test))]

mod bell;
mod bytes;
mod close;
mod embedded;
mod event_loop;
mod kernel;
mod notify;
mod parking;
mod pool;
mod ring;
mod schedule;
mod several;

use loom::model::Builder;
use ringbell::sync::{Ordering, PlainU64};
use std::sync::Arc;

/// Explores `model` with at most `bound` preemptions in one execution, or all there are.
fn explore(bound: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = bound.map(|default| builder.preemption_bound.unwrap_or(default));
    builder.max_branches = builder.max_branches.max(4_000);
    let executions = Arc::new(PlainU64::new(0));
    let counter = executions.clone();
    let begin = std::time::Instant::now();
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let bound =
        builder.preemption_bound.map_or("no bound".to_owned(), |bound| format!("bound {bound}"));
    let (executions, seconds) = (executions.load(Ordering::Relaxed), begin.elapsed().as_secs_f32());
    println!("{executions} executions, {bound}, {seconds:.1} s");
}
