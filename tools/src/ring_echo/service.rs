//! The server's side: `ring-echo serve`, and the server process of a comparison.

use crate::Failure;
use crate::cli::{RoleServe, Transport};
use crate::{load, role, say, show, uds};
use ringbell::{BindError, HandlerError, Request, Server, ServerBuilder, ServerStats};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

/// How long a server that is told to stop answers what it has received.
const DRAIN: Duration = Duration::from_secs(5);

fn echo(request: Request<'_>, response: &mut Vec<u8>) -> Result<(), HandlerError> {
    response.extend_from_slice(request.payload());
    Ok(())
}

/// Serves at `path` until a signal comes.
pub(crate) fn serve(path: &Path, builder: ServerBuilder) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let server = builder.bind(path).map_err(|error| unbound(path, &error))?;
    let handle = server.handle();
    std::thread::spawn(move || {
        for _ in signals.forever() {
            handle.shutdown(Some(DRAIN));
        }
    });
    show(&format!(
        "serving at {} (process {}); stop with SIGINT or SIGTERM\n",
        say::line(&path.display().to_string()),
        std::process::id()
    ))?;
    let stats = server.run(echo)?;
    let mut text = "stopped; counted:\n".to_owned();
    for (name, count) in stats.iter() {
        text += &format!("  {name:<18} {count}\n");
    }
    show(&text)
}

/// Why there is no server, and what to do about a directory that is missing.
fn unbound(path: &Path, error: &BindError) -> Failure {
    let BindError::ParentMissing(missing) = error else { return say::of(path, error).into() };
    // Nothing above the last directory would be made.
    let is_last = match missing.parent() {
        Some(above) if above.as_os_str().is_empty() => true,
        above => above.is_some_and(Path::is_dir),
    };
    if is_last && path.parent() == Some(missing) {
        format!("{error}; --create-directory makes it").into()
    } else {
        error.to_string().into()
    }
}

/// The last words of a Ringbell server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastWords {
    /// Wakes that were lost.
    pub(crate) backstop_rescues: u64,
}

impl From<ServerStats> for LastWords {
    fn from(stats: ServerStats) -> Self {
        Self { backstop_rescues: stats.backstop_rescues }
    }
}

/// The server process of a comparison.
pub(crate) fn run_role(arguments: &RoleServe) -> Result<(), Failure> {
    role::begin(&arguments.common)?;
    let path = &arguments.socket;
    match arguments.transport {
        Transport::Shm => {
            let server = Server::builder().max_clients(arguments.clients.max(64)).bind(path)?;
            let handle = server.handle();
            std::thread::spawn(move || {
                if let Err(error) = answer_orders() {
                    eprintln!("ring-echo: the server: {error}");
                }
                handle.shutdown(Some(DRAIN));
            });
            let stats = server.run(echo)?;
            role::say(&serde_json::to_string(&LastWords::from(stats))?)
        }
        Transport::Uds => {
            let listener = UnixListener::bind(path)?;
            std::thread::spawn(move || uds::serve(&listener));
            answer_orders()
        }
        Transport::UdsDial => {
            let listener = UnixListener::bind(path)?;
            for _ in 0..arguments.clients.min(8) {
                let listener = listener.try_clone()?;
                std::thread::spawn(move || uds::serve_dialled(&listener));
            }
            answer_orders()
        }
    }
}

/// Tells the CPU time of this process whenever it is asked for.
fn answer_orders() -> Result<(), Failure> {
    role::say("ready")?;
    while let Some(order) = role::order()? {
        match order.as_str() {
            "cpu" => role::say(&load::cpu_ns().to_string())?,
            other => return Err(format!("no such order: {other:?}").into()),
        }
    }
    Ok(())
}
