//! Environment variables by which a worker is told where to serve.

/// Where a worker is to serve: the path of a socket that it is to make.
pub(crate) const SOCKET: &str = "RINGBELL_SOCKET";
/// Where a worker is to serve: a descriptor that it inherits, and by whom; so that what it starts
/// itself does not take it for its own.
pub(crate) const LISTEN_FD: &str = "RINGBELL_LISTEN_FD";
/// The process that passes the descriptor of [`LISTEN_FD`].
pub(crate) const LISTEN_PARENT: &str = "RINGBELL_LISTEN_PARENT";
