//! What a process knows of itself, and what it may only do on a thread that serves nobody.

pub(crate) mod at_exit;
pub(crate) mod calls;
pub(crate) mod closer;
pub(crate) mod environment;
pub(crate) mod fork;
pub(crate) mod memory_group;
pub(crate) mod page_cache;
pub(crate) mod peer_socket;
pub(crate) mod pipe;
pub(crate) mod program;
pub(crate) mod serving;
