//! What every other part uses: atomics and locks behind the seam to loom, time, kill points,
//! wakers, waits that come back at once, and how users share what there is.

#[cfg(not(ringbell_loom))]
pub(crate) mod calm;
#[cfg(not(ringbell_loom))]
pub(crate) mod clock;
#[cfg(not(ringbell_loom))]
pub mod kill_point;
pub(crate) mod panics;
#[cfg(not(ringbell_loom))]
pub(crate) mod shares;
pub mod sync;
pub(crate) mod wakers;
