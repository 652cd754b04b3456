//! The runtime of peers that are asynchronous.

use tokio::runtime::{Builder, Runtime};

use super::super::Outcome;

/// A runtime that uses all CPUs, or the calling thread alone.
pub(super) fn runtime(workers: bool) -> Outcome<Runtime> {
    let mut builder = if workers { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    Ok(builder.enable_all().build()?)
}
