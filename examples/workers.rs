//! Worker processes kept ready: the digest service (`examples/digest`) as a pool of workers, one of
//! which is killed; and an unmodified program that speaks lines, a shell, as another one.
//!
//! ```text
//! cargo run --release --example workers
//! ```

#[path = "digest/service.rs"]
mod service;

use ringbell::pool::Settings;
use ringbell::worker::{LineWorkers, line_workers};
use ringbell::{WorkerCommand, WorkerPool};
use service::{PIECE, hex, serve, sum};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

type Failure = Box<dyn Error + Send + Sync>;

/// One digest by whichever worker is ready; another one tries if that dies of it.
fn digest(pool: &WorkerPool, stream: u64, content: &[u8]) -> Result<String, Failure> {
    for _ in 0..3 {
        let mut worker = pool.acquire()?;
        match sum(worker.client(), stream, content) {
            Ok(digest) => return Ok(digest),
            Err(error) => {
                eprintln!("worker {}: {error}", worker.id());
                worker.poison();
            }
        }
    }
    Err("three workers in a row have died".into())
}

fn serving_workers(directory: &Path) -> Result<(), Failure> {
    let command = WorkerCommand::new(std::env::current_exe()?).arg("serve").arg("{socket}");
    let settings = Settings { min_idle: 2, max_size: 4, ..Settings::default() };
    let pool = WorkerPool::new(command, directory, settings)?;

    // The first acquire waits for a worker to start; the next ones find one.
    let from = Instant::now();
    drop(pool.acquire()?);
    let cold = from.elapsed();
    while pool.stats().idle < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let from = Instant::now();
    drop(pool.acquire()?);
    println!("a worker from a cold pool: {cold:.1?}; from a warm one: {:.1?}", from.elapsed());

    std::thread::scope(|scope| -> Result<(), Failure> {
        let threads: Vec<_> = (0_u64..4)
            .map(|thread| {
                let pool = &pool;
                scope.spawn(move || -> Result<(), Failure> {
                    for file in 0..10 {
                        let number = thread * 10 + file;
                        if number == 25 {
                            let worker = pool.acquire()?;
                            println!("killing worker {}", worker.id());
                            Command::new("kill").arg("-9").arg(worker.id().to_string()).status()?;
                            // It goes back as if nothing were wrong with it.
                        }
                        let content = vec![b'r'; usize::try_from(number)? * 100_000 + PIECE];
                        let answer = digest(pool, number, &content)?;
                        if answer != hex(&Sha256::digest(&content)) {
                            return Err(format!("file {number}: {answer} is wrong").into());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let stats = pool.stats();
    println!(
        "40 digests by {} workers, {} at most at once, {} of them found dead: all correct",
        stats.opened, stats.peak, stats.closed.unhealthy
    );
    pool.close(Some(Duration::from_secs(5)))?;
    Ok(())
}

fn line_speaking_workers() -> Result<(), Failure> {
    // Any program that reads requests and writes answers, line by line. This one marks the end of
    // an answer by a dot.
    let script = r#"while read -r name; do printf '%s' "$name" | sha256sum; echo .; done"#;
    let command = WorkerCommand::new("sh").args(["-c", script]).env("LC_ALL", "C").current_dir("/");
    let pool =
        line_workers(LineWorkers::new(command), Settings { max_size: 2, ..Settings::default() })?;
    for name in ["ring", "bell", "ringbell"] {
        let mut shell = pool.acquire()?;
        shell.write_line(name, None)?;
        let mut answer = String::new();
        // The dot is for us to recognise; before it the shell is in the middle of an answer, and
        // would be killed.
        shell.read_until(Some(Duration::from_secs(10)), |line| {
            if line != "." {
                answer.push_str(line);
            }
            line == "."
        })?;
        if answer != format!("{}  -", hex(&Sha256::digest(name))) {
            return Err(format!("the shell says {answer:?}").into());
        }
    }
    let stats = pool.stats();
    println!(
        "3 digests by a shell: all correct; {} were killed in the middle of an answer",
        stats.closed.poisoned
    );
    Ok(())
}

fn demonstrate() -> Result<(), Failure> {
    let directory = std::env::temp_dir().join(format!("ringbell-workers-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let shown = serving_workers(&directory).and_then(|()| line_speaking_workers());
    std::fs::remove_dir_all(&directory)?;
    shown
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let done = match &arguments[..] {
        [] => demonstrate(),
        [role, path] if role == "serve" => {
            serve(Path::new(path)).map_err(|error| error.to_string().into())
        }
        _ => {
            eprintln!("usage: workers");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("workers: {error}");
            ExitCode::FAILURE
        }
    }
}
