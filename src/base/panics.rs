//! Panics of other people's code.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs what may panic, which its hook has reported then.
pub(crate) fn quietly(run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        drop_panic(panic);
    }
}

/// Drops what a panic carried, which may panic itself. Its own load is not given the chance.
pub(crate) fn drop_panic(panic: Box<dyn std::any::Any + Send>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(panic);
    }
}
