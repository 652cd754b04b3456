//! Connections kept ready: eight threads use the digest service (`examples/digest`) through a pool
//! of three connections, while its server is killed and started again.
//!
//! ```text
//! cargo run --release --example pool
//! ```

#[path = "digest/service.rs"]
mod service;

use ringbell::pool::Settings;
use ringbell::{ConnectOptions, ConnectionPool};
use service::{PIECE, hex, serve, sum};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const THREADS: u64 = 8;
const FILES: u64 = 40;

type Failure = Box<dyn Error + Send + Sync>;

/// The server's process, which ends with this value.
struct ServerProcess(Child);

impl ServerProcess {
    fn start(path: &Path) -> Result<Self, Failure> {
        let this = std::env::current_exe()?;
        Ok(Self(
            Command::new(this)
                .arg("serve")
                .arg(path)
                .stderr(std::process::Stdio::null())
                .spawn()?,
        ))
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What could stand in a file.
fn content(thread: u64, file: u64) -> Vec<u8> {
    let len = usize::try_from((thread * 37 + file * 101) % 4000).expect("small") * 1000;
    vec![u8::try_from((thread * FILES + file) % 251).expect("a byte"); len]
}

/// One file's digest. The pieces of a file belong to one session, so a connection is taken out for
/// it. If the server goes meanwhile the file is begun anew: computing a digest twice does no harm.
fn digest(pool: &ConnectionPool, stream: u64, content: &[u8]) -> Result<String, Failure> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut connection = pool.acquire()?;
        match sum(&mut connection, stream, content) {
            Ok(digest) => return Ok(digest),
            Err(error) if Instant::now() > deadline => return Err(error.to_string().into()),
            // All connections to the server that was are closed; this one too.
            Err(_) => connection.flush(),
        }
    }
}

fn demonstrate(path: &Path) -> Result<(), Failure> {
    let server = Mutex::new(ServerProcess::start(path)?);
    let settings = Settings { min_idle: 1, max_size: 3, ..Settings::default() };
    let options = ConnectOptions::new().ring_capacity(256 << 10);
    let pool = ConnectionPool::with_options(path, options, settings)?;
    let from = Instant::now();
    std::thread::scope(|scope| -> Result<(), Failure> {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (pool, server) = (&pool, &server);
                scope.spawn(move || -> Result<u64, Failure> {
                    let mut bytes = 0;
                    for file in 0..FILES {
                        if (thread, file) == (0, FILES / 2) {
                            let mut server = server.lock().expect("nobody panics");
                            *server = ServerProcess::start_over(&mut server, path)?;
                        }
                        let content = content(thread, file);
                        let answer = digest(pool, thread * FILES + file, &content)?;
                        if answer != hex(&Sha256::digest(&content)) {
                            return Err(
                                format!("thread {thread}, file {file}: {answer} is wrong").into()
                            );
                        }
                        bytes += content.len() as u64;
                    }
                    Ok(bytes)
                })
            })
            .collect();
        let mut bytes = 0;
        for thread in threads {
            bytes += thread.join().expect("no panic")?;
        }
        let took = from.elapsed();
        println!(
            "{} digests of {} MB in {took:.1?}, one restart of the server: all correct",
            THREADS * FILES,
            bytes / 1_000_000
        );
        Ok(())
    })?;
    let stats = pool.stats();
    println!(
        "{} connections opened, {} at most at once; closed: {} stale, {} poisoned",
        stats.opened, stats.peak, stats.closed.stale, stats.closed.poisoned
    );
    println!(
        "{} of {} acquires waited, half of them less than {:?}; pieces of {PIECE} bytes",
        stats.waits,
        stats.acquired,
        stats.wait_times.percentile(50.0)
    );
    pool.close(Some(Duration::from_secs(5)))?;
    Ok(())
}

impl ServerProcess {
    /// Kills a server and starts the next one.
    fn start_over(old: &mut Self, path: &Path) -> Result<Self, Failure> {
        old.0.kill()?;
        old.0.wait()?;
        Self::start(path)
    }
}

fn demonstrate_somewhere() -> Result<(), Failure> {
    let directory = std::env::temp_dir().join(format!("ringbell-pool-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let shown = demonstrate(&directory.join("digest.sock"));
    std::fs::remove_dir_all(&directory)?;
    shown
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let done = match &arguments[..] {
        [] => demonstrate_somewhere(),
        [serve_here, path] if serve_here == "serve" => {
            serve(Path::new(path)).map_err(|error| error.to_string().into())
        }
        _ => {
            eprintln!("usage: pool");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pool: {error}");
            ExitCode::FAILURE
        }
    }
}
