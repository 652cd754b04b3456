//! Requests and responses between processes on one Linux machine, through shared memory.

#[doc(hidden)]
pub mod bell;
#[doc(hidden)]
pub mod layout;
#[doc(hidden)]
pub mod memory;
#[doc(hidden)]
pub mod ring;
#[doc(hidden)]
pub mod sync;
