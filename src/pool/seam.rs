//! What a pool knows of the world around it: the time, and which process this is. In the model
//! checker time stands still, and there is one process.

#[cfg(not(ringbell_loom))]
pub(super) use crate::base::clock::{FOR_EVER, coarse_ns, now_ns};
#[cfg(not(ringbell_loom))]
pub(super) use crate::os::fork::Origin;

#[cfg(ringbell_loom)]
pub(super) use model::{FOR_EVER, Origin, coarse_ns, now_ns};

#[cfg(ringbell_loom)]
mod model {
    use std::time::Duration;

    pub(in crate::pool) const FOR_EVER: Duration = Duration::MAX;

    pub(in crate::pool) fn now_ns() -> u64 {
        1
    }

    pub(in crate::pool) fn coarse_ns() -> u64 {
        now_ns()
    }

    #[derive(Debug, Clone, Copy)]
    pub(in crate::pool) struct Origin;

    impl Origin {
        pub(in crate::pool) fn here() -> Self {
            Self
        }

        pub(in crate::pool) fn is_here(self) -> bool {
            let Self = self;
            true
        }
    }
}
