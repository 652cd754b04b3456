//! A reactor without a thread whose loop is a task of a runtime: what to do while there is nothing
//! to do.

use super::Reactor;
use crate::base::clock::now_ns;
use crate::protocol::wait::Step;
use crate::server::engine::Engine;

/// What to do while there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idling {
    /// Pump again: it has looked out for a while.
    Look,
    /// Let others run, then pump again.
    Yield,
    Park,
}

impl<E: Engine> Reactor<E> {
    /// As [`Self::disarm`], for a loop that knows that the descriptor was not reported.
    pub(crate) fn call_off(&mut self) {
        if self.origin.is_here() {
            self.wake_up();
        }
    }

    /// What the waiting policy says of a reactor that has nothing to do. Looks out itself, for
    /// microseconds.
    pub(crate) fn idle(&mut self) -> Idling {
        if self.slots.len() == self.sockets {
            // A socket is not seen by looking.
            self.waiter.given_up();
            return Idling::Park;
        }
        match self.waiter.step(self.surroundings(), now_ns) {
            Step::Spin(polls) => {
                self.spin(polls);
                Idling::Look
            }
            Step::Yield => {
                self.hint(false);
                Idling::Yield
            }
            Step::Park => Idling::Park,
        }
    }
}
