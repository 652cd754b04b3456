//! The least that this machine allows: what Ringbell is measured against.
//!
//! Each limit is a hand-written [`System`], so that the same loops and the same clock time it. They
//! do no more than they must: no framing, no bounds of a ring, one client, both sides trusted.

mod asleep;
mod canary;
pub(crate) mod costs;
mod lines;
mod mapping;
mod setup;
mod stream;

use crate::system::System;

/// All limits that have two sides; single costs are in [`costs`].
pub(crate) fn all() -> Vec<&'static dyn System> {
    let mut limits: Vec<&'static dyn System> = vec![&canary::CANARY, &canary::LINE_EACH_WAY];
    limits.extend(lines::LIMITS.iter().map(|limit| limit as &dyn System));
    limits.extend(stream::LIMITS.iter().map(|limit| limit as &dyn System));
    limits.extend(asleep::LIMITS.iter().map(|limit| limit as &dyn System));
    limits.push(&setup::SETUP);
    limits
}
