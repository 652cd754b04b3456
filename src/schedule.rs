//! Tasks on the caller's pool: executors, and the keyed scheduler on top of them.

pub(crate) mod executor;
mod keyed;

pub use keyed::{Access, Closed, KeyedScheduler, SchedulerStats};
