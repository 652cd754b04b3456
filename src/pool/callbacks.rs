//! Calls into the manager, which is other people's code and may panic.

use super::{Manager, OpenFailure};
use crate::base::panics::drop_panic;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Why an item was not opened, and whether trying again is of no use.
pub(super) type NotOpened<E> = (OpenFailure<E>, bool);

/// Opens an item; what it leads to is told with it.
pub(super) fn open<M: Manager>(manager: &M) -> Result<(M::Item, u64), NotOpened<M::Error>> {
    let opened = quiet(|| {
        manager.open().map(|item| {
            let generation = manager.generation(&item);
            (item, generation)
        })
    });
    match opened {
        Some(Ok(opened)) => Ok(opened),
        Some(Err(error)) => {
            let permanent = quiet(|| manager.is_permanent(&error)).unwrap_or(false);
            Err((OpenFailure::Error(Arc::new(error)), permanent))
        }
        None => Err((OpenFailure::Panicked, false)),
    }
}

/// Runs a callback; `None` if it panicked, which the panic hook has reported.
#[inline]
pub(super) fn quiet<R>(call: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Some(result),
        Err(panic) => {
            drop_panic(panic);
            None
        }
    }
}
