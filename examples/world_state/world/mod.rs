//! The service without its transport: a store, the bytes of requests and answers, and who waits for
//! whom.
//!
//! A directory module, so that a benchmark can take it in with one `#[path]`.

pub(crate) mod protocol;
pub(crate) mod serve;
pub(crate) mod store;
