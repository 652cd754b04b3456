//! What a process knows of itself: whether it is a fork, and its name; and a thread
//! of it that serves nobody.

pub(crate) mod disposal;
pub(crate) mod environment;
pub(crate) mod fork;
pub(crate) mod program;
