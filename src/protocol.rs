//! The protocols between the two sides of a session: the ring, the bell, and how long to wait.
//!
//! No file here calls the kernel for more than a futex, and loom runs all but the clock.

pub mod bell;
pub mod bells;
pub mod ring;
pub mod room;
pub mod sleeper;
pub mod wait;
