//! Wakers are other people's code: their clone, their wake and their drop may panic, wait, or come
//! back to what calls them. None of the three is done with a lock held.

use super::panics::quietly;
#[cfg(not(ringbell_loom))]
use std::ops::DerefMut;
use std::task::Waker;

/// Wakes everybody, also if a waker panics: nobody else would wake those behind it. A panic is a
/// fault of the waker's task alone, and ends here.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        quietly(|| waker.wake());
    }
}

/// Has the task of `waker` woken by what is in `cell` behind this lock, and gives the lock back.
/// False if that needs a clone in `own`: the caller makes one without the lock, and looks again.
#[cfg(not(ringbell_loom))]
pub(crate) fn enter<G: DerefMut>(
    mut lock: G,
    cell: impl FnOnce(&mut G::Target) -> &mut Option<Waker>,
    waker: &Waker,
    own: &mut Option<Waker>,
) -> bool {
    let there = cell(&mut lock);
    if there.as_ref().is_some_and(|there| there.will_wake(waker)) {
        return true;
    }
    let Some(own) = own.take() else { return false };
    let before = there.replace(own);
    drop(lock);
    // It may be the last of another task, and all that this has goes with it.
    drop(before);
    true
}
