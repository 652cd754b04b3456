//! All that can have a row in the table: limits, single costs and systems.

use crate::limits;
use crate::limits::costs::{COSTS, Cost};
use crate::system::System;
use crate::systems;

/// Something that has rows in the table.
#[derive(Clone, Copy)]
pub(crate) enum Contender {
    /// A server and clients.
    System(&'static dyn System),
    /// One operation, one process.
    Cost(&'static Cost),
}

impl Contender {
    /// The name in the table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::System(system) => system.name(),
            Self::Cost(cost) => cost.name,
        }
    }

    /// Why it has no figures, if so.
    pub(crate) fn absence(&self) -> Option<String> {
        match self {
            Self::System(system) => system.absence(),
            Self::Cost(_) => None,
        }
    }
}

/// Limits first, then costs, then the systems.
pub(crate) fn contenders() -> impl Iterator<Item = Contender> {
    let limits = limits::all().into_iter().map(Contender::System);
    let systems = systems::all().into_iter().map(Contender::System);
    limits.chain(COSTS.iter().map(Contender::Cost)).chain(systems)
}

/// The contender of that name.
pub(crate) fn contender(name: &str) -> Option<Contender> {
    contenders().find(|contender| contender.name() == name)
}
