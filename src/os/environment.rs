//! Environment variables by which a worker is told where to serve.

use std::path::{Path, PathBuf};

/// Where a worker serves: the path of its socket, which it is to make unless it inherits it.
pub(crate) const SOCKET: &str = "RINGBELL_SOCKET";
/// The descriptor of the socket at [`SOCKET`], if the worker inherits it.
pub(crate) const LISTEN_FD: &str = "RINGBELL_LISTEN_FD";

/// How the name of a directory ends that a pool makes for the socket of one worker. Beside the
/// socket is [`host_socket`] as long as the pool wants the worker to start.
pub(crate) const PLACE_SUFFIX: &str = ".ring";

/// Where the pool listens that a worker at `socket` belongs to: whoever connects there can ask the
/// kernel which process that is.
pub(crate) fn host_socket(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".host");
    path.into()
}
