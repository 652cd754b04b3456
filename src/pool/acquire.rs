//! Acquiring for tasks: a future that stands in the same line as the threads that wait.
//!
//! A wait is a `Waiter` whoever waits; only what wakes it differs. So order, handing over and
//! giving up are the state machine's business and the same for both. A future that is dropped gives
//! up its place under the pool's lock, or finds there that it was served, and passes on what it
//! got.
//!
//! Nothing is opened on the task's thread: the pool's keeper opens, and where nothing is kept the
//! runtime's pool for blocking work does.

use super::core::Opening;
use super::shared::{GivenOf, PoolInner, WaiterOf};
use super::taking::{Asked, Handed};
use super::waiter::{Given, Unserved, Waiter};
use super::{AcquireError, Guard, Manager, Pool};
use crate::base::sync::lock;
use crate::base::wakers::enter;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

/// An item that is being waited for: see [`Pool::acquire_async`](super::Pool::acquire_async).
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<M: Manager> {
    shared: Arc<PoolInner<M>>,
    stage: Stage<M>,
    patience: Patience,
    /// Runs from the first poll that found nothing.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Since when it waits in the line, if it ever did.
    began: Option<Instant>,
}

enum Stage<M: Manager> {
    /// It has nothing, and no place in the line.
    Asking,
    InLine(Arc<WaiterOf<M>>),
    /// Its own item is being opened.
    Opening(JoinHandle<Handed<M>>),
    Over,
}

/// How long it waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    Endless,
    /// From the first poll on.
    For(Duration),
    Until(Instant),
}

/// The right to open an item, on its way to the thread that does. If that never comes, room is made
/// again.
struct Permit<M: Manager> {
    shared: Arc<PoolInner<M>>,
    opening: Option<Opening>,
}

impl<M: Manager> Permit<M> {
    fn open(mut self) -> Handed<M> {
        match self.opening.take() {
            Some(opening) => self.shared.open_here(opening),
            None => unreachable!("taken here only"),
        }
    }
}

impl<M: Manager> Drop for Permit<M> {
    fn drop(&mut self) {
        if let Some(opening) = self.opening.take() {
            self.shared.hand_to_next(Given::Permit(opening));
        }
    }
}

impl<M: Manager> Pool<M> {
    /// Takes an item out, as [`Self::acquire`] does, for a task of a tokio runtime (feature
    /// `tokio`): waits for at most `acquire_timeout` from the first poll on, in the same line as
    /// the threads that wait.
    ///
    /// Nothing is opened on the task's thread. Dropping the guard closes an item that cannot be
    /// kept, which may take a moment: a worker process is killed, and its end waited for.
    ///
    /// # Errors
    /// [`AcquireError`]; also [`AcquireError::Cancelled`] if the runtime is shut down while it
    /// opens an item, which it does where nothing is kept (`enabled: false`).
    ///
    /// # Panics
    /// The future does, if it has to wait and time is not enabled on the runtime that polls it, or
    /// if nothing is kept and it is polled outside of a runtime.
    ///
    /// # Cancel safety
    /// Dropping the future gives up its place in the line. What it was being handed at that moment
    /// goes to the next one, and an item that is being opened for it is opened all the same.
    /// Whoever keeps the future without polling it keeps what it was handed from others.
    pub fn acquire_async(&self) -> Acquire<M> {
        let timeout = self.shared().acquire_timeout;
        Acquire::new(self.shared().clone(), timeout.map_or(Patience::Endless, Patience::For))
    }

    /// As [`Self::acquire_async`], waiting until `deadline`; `None` waits for ever.
    ///
    /// # Errors
    /// As [`Self::acquire_async`].
    ///
    /// # Panics
    /// As [`Self::acquire_async`].
    pub fn acquire_async_deadline(&self, deadline: Option<Instant>) -> Acquire<M> {
        let patience = deadline.map_or(Patience::Endless, Patience::Until);
        Acquire::new(self.shared().clone(), patience)
    }
}

impl<T, E> Waiter<T, E> {
    /// What it was given, for a task, which is woken when there is something.
    pub(super) fn poll(&self, task: &Waker) -> Poll<Result<Given<T, E>, Unserved>> {
        let mut own = None;
        loop {
            let mut cell = lock(&self.cell);
            if let Some(given) = cell.given.take() {
                return Poll::Ready(Ok(given));
            }
            if cell.cancelled {
                return Poll::Ready(Err(Unserved::Cancelled));
            }
            if enter(cell, |cell| &mut cell.task, task, &mut own) {
                return Poll::Pending;
            }
            own = Some(task.clone());
        }
    }
}

impl<M: Manager> PoolInner<M> {
    /// Somebody whose own item is being opened does not want it any more.
    pub(super) fn count_cancelled(&self) {
        lock(&self.state).core.count_cancelled();
    }
}

impl<M: Manager> Acquire<M> {
    pub(super) fn new(shared: Arc<PoolInner<M>>, patience: Patience) -> Self {
        Self { shared, stage: Stage::Asking, patience, sleep: None, began: None }
    }

    /// As far as it goes without waiting.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Handed<M>> {
        loop {
            let given = match &mut self.stage {
                Stage::Asking => match self.shared.ask(self.began.is_some())? {
                    Asked::Given(given) => given,
                    Asked::Queued(waiter) => {
                        self.began.get_or_insert_with(Instant::now);
                        self.stage = Stage::InLine(waiter);
                        continue;
                    }
                },
                Stage::InLine(waiter) => {
                    let given = match ready!(waiter.poll(cx.waker())) {
                        Ok(given) => given,
                        // No token is offered for tasks: they drop the future.
                        Err(why) => self.shared.unserved(waiter, why)?,
                    };
                    self.stage = Stage::Asking;
                    given
                }
                Stage::Opening(opening) => {
                    let opened = ready!(Pin::new(opening).poll(cx));
                    // The runtime is being shut down.
                    return Poll::Ready(
                        self.counted(opened.unwrap_or(Err(AcquireError::Cancelled))),
                    );
                }
                Stage::Over => panic!("a future is polled after its end"),
            };
            if let Some(guard) = self.accept(given)? {
                return Poll::Ready(self.counted(Ok(guard)));
            }
        }
    }

    /// What it makes of what it was given; `None` if it has to wait on.
    fn accept(&mut self, given: GivenOf<M>) -> Result<Option<Guard<M>>, AcquireError<M::Error>> {
        let Given::Permit(opening) = given else { return self.shared.accept(given) };
        let permit = Permit { shared: self.shared.clone(), opening: Some(opening) };
        self.stage = Stage::Opening(tokio::task::spawn_blocking(move || permit.open()));
        Ok(None)
    }

    fn counted(&self, handed: Handed<M>) -> Handed<M> {
        if let (Ok(_), Some(began)) = (&handed, self.began) {
            self.shared.count_wait(began);
        }
        handed
    }

    /// Whether it has waited for as long as it may.
    fn is_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = match &mut self.sleep {
            Some(sleep) => sleep,
            none => {
                let left = match self.patience {
                    Patience::Endless => return Poll::Pending,
                    Patience::For(time) => time,
                    Patience::Until(deadline) => deadline.saturating_duration_since(Instant::now()),
                };
                if left.is_zero() {
                    return Poll::Ready(());
                }
                none.insert(Box::pin(tokio::time::sleep(left)))
            }
        };
        sleep.as_mut().poll(cx)
    }

    fn poll_it(&mut self, cx: &mut Context<'_>) -> Poll<Handed<M>> {
        loop {
            let polled = self.go_on(cx);
            if polled.is_ready() || !matches!(self.stage, Stage::InLine(_)) {
                // How long opening takes is the manager's affair, as it is for threads.
                return polled;
            }
            ready!(self.is_late(cx));
            let Stage::InLine(waiter) = std::mem::replace(&mut self.stage, Stage::Asking) else {
                unreachable!("seen above")
            };
            // Its time is over, unless it was served just now. If that turns out to be of no use it
            // asks once more, and does not wait.
            let given = self.shared.unserved(&waiter, Unserved::TimedOut)?;
            if let Some(guard) = self.accept(given)? {
                return Poll::Ready(self.counted(Ok(guard)));
            }
        }
    }
}

impl<M: Manager> Future for Acquire<M> {
    type Output = Handed<M>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Handed<M>> {
        // A task that takes items out again and again, and always finds one ready, lets others run
        // now and then.
        let budget = ready!(tokio::task::coop::poll_proceed(cx));
        if !self.shared.origin.is_here() {
            // See `drop`.
            std::mem::forget(std::mem::replace(&mut self.stage, Stage::Over));
            return Poll::Ready(Err(AcquireError::Forked));
        }
        let polled = self.poll_it(cx);
        if polled.is_ready() {
            budget.made_progress();
            self.stage = Stage::Over;
        }
        polled
    }
}

impl<M: Manager> Drop for Acquire<M> {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        if !self.shared.origin.is_here() {
            // What it may have been given is the parent's, and so may the last hold on the others
            // be.
            std::mem::forget((stage, self.shared.clone()));
            return;
        }
        match stage {
            Stage::InLine(waiter) => {
                // The error is the answer.
                let _ = self.shared.unserved(&waiter, Unserved::Cancelled);
            }
            // Nobody hears of it any more: once it is open its guard is dropped.
            Stage::Opening(_) => self.shared.count_cancelled(),
            Stage::Asking | Stage::Over => {}
        }
    }
}

impl<M: Manager> std::fmt::Debug for Acquire<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stage = match self.stage {
            Stage::Asking => "asking",
            Stage::InLine(_) => "in line",
            Stage::Opening(_) => "opening",
            Stage::Over => "over",
        };
        f.debug_struct("Acquire")
            .field("stage", &stage)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
