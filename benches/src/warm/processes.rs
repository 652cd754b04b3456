//! The other processes: a server, and workers.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ringbell::Server;

use crate::outcome::Outcome;
use crate::pin::pin;

/// The server's process: echoes at `path` until it is killed.
pub(super) fn serve(path: &Path, cpu: Option<usize>) -> Outcome<()> {
    live_with_the_parent()?;
    if let Some(cpu) = cpu {
        pin(&[cpu])?;
    }
    // As many come at once as there are callers.
    let server = Server::builder().max_clients(256).max_handshakes(128).bind(path)?;
    println!("ready");
    echo(server)
}

/// A worker that takes its time to be ready.
pub(super) fn work() -> Outcome<()> {
    thread::sleep(Duration::from_millis(300));
    echo(Server::builder().for_parent()?)
}

fn echo(server: Server) -> Outcome<()> {
    server.run(|request, answer| {
        answer.extend_from_slice(request.payload());
        Ok(())
    })?;
    Ok(())
}

fn live_with_the_parent() -> Outcome<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

pub(super) struct ServerProcess(pub(super) Child);

impl ServerProcess {
    pub(super) fn start(path: &Path, cpu: Option<usize>) -> Outcome<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("pool-server").arg(path);
        if let Some(cpu) = cpu {
            command.arg("--cpu").arg(cpu.to_string());
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("no pipe from the server")?;
        let process = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line.trim() == "ready" { Ok(process) } else { Err("the server is not ready".into()) }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
