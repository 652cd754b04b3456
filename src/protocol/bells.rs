//! Many bells of one sleeper: a private one, and those of its domains. All are armed before the
//! one fence, and all are looked at behind it.
//!
//! The argument is that of `bell.rs`, bell by bell: the fence behind the last arm comes before or
//! after that of each ringer. What a sleeper waits for beside its bells, a queue for instance, must
//! be rung for with one of them, or be told of by the kernel for as long as nobody has asked.
//! `loom-tests/src/embedded.rs` has it with an event loop around it.

#[cfg(not(ringbell_loom))]
use crate::base::kill_point::kill_point;
use crate::memory::layout::{Interest, Mode};
use crate::protocol::bell::{Arming, Sleeper, Ticket, before_looking_again};

/// The sleeper's end of all of them.
#[derive(Debug)]
pub struct Bells {
    private: Sleeper,
    domains: Vec<Option<Sleeper>>,
    /// Of the last arm: `None` for the private one.
    tickets: Vec<(Option<usize>, Ticket)>,
}

impl Bells {
    /// The private one alone.
    pub fn new(private: Sleeper) -> Self {
        Self { private, domains: Vec::new(), tickets: Vec::with_capacity(1) }
    }

    /// The bell of this domain is waited on from the next arm on, if it is not already; `make`
    /// makes it.
    pub fn watch(&mut self, domain: usize, make: impl FnOnce() -> Sleeper) {
        if self.domains.len() <= domain {
            self.domains.resize_with(domain + 1, || None);
        }
        self.domains[domain].get_or_insert_with(make);
        // Now, and not when it sleeps for the first time.
        self.tickets.reserve(self.domains.len() + 1);
    }

    /// The bell of this domain is waited on no more.
    pub fn forget(&mut self, domain: usize) {
        if let Some(bell) = self.domains.get_mut(domain).and_then(Option::take) {
            bell.disarm();
        }
    }

    /// Arms all of them. `look` looks at every source, behind the fence.
    ///
    /// `Busy`: it found something, or one of the bells was rung; nothing is armed. `Armed`:
    /// whatever comes from now on is rung for, in this mode.
    pub fn arm(&mut self, mode: Mode, interest: Interest, look: impl FnOnce() -> bool) -> Arming {
        self.tickets.clear();
        self.tickets.push((None, self.private.arm(mode, interest)));
        for (domain, bell) in self.domains.iter().enumerate() {
            if let Some(bell) = bell {
                self.tickets.push((Some(domain), bell.arm(mode, interest)));
            }
        }
        #[cfg(not(ringbell_loom))]
        {
            kill_point!("server-armed");
        }
        before_looking_again();
        if look() || self.any_rung() {
            self.disarm();
            return Arming::Busy;
        }
        Arming::Armed
    }

    /// Whether one of them was rung since they were armed.
    pub fn any_rung(&self) -> bool {
        self.armed().any(|(bell, ticket)| bell.rung(ticket))
    }

    /// Takes back what arming said.
    pub fn disarm(&self) {
        self.armed().for_each(|(bell, _)| bell.disarm());
    }

    /// Those that were armed last, with their tickets; the private one first.
    pub fn armed(&self) -> impl Iterator<Item = (&Sleeper, Ticket)> {
        self.tickets.iter().map(|(domain, ticket)| {
            let bell = domain.and_then(|domain| self.domains.get(domain)).and_then(Option::as_ref);
            // One that was forgotten since is nobody's: the private one is looked at twice.
            (bell.unwrap_or(&self.private), *ticket)
        })
    }
}
