//! What carries a session: segments and rings, or the socket; and the session itself, which never
//! waits.

pub(crate) mod held;
pub(crate) mod lifeline;
mod mapping;
pub(crate) mod readiness;
pub(crate) mod samples;
pub(crate) mod segment;
mod segment_error;
pub(crate) mod segment_pair;
pub(crate) mod session;
pub(crate) mod side;
pub(crate) mod socket;
pub mod stats;
