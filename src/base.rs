//! What every other part uses: atomics and locks behind the seam to loom, time, kill points,
//! wakers.

#[cfg(not(ringbell_loom))]
pub(crate) mod clock;
#[cfg(not(ringbell_loom))]
pub mod kill_point;
pub(crate) mod panics;
pub mod sync;
#[cfg(not(ringbell_loom))]
pub(crate) mod wakers;
