//! What a process knows of itself: whether it is a fork, and its name.

pub(crate) mod environment;
pub(crate) mod fork;
pub(crate) mod program;
pub(crate) mod serving;
