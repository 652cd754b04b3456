//! A service that computes the SHA-256 of files of any size, which its clients stream to it in
//! pieces.
//!
//! ```text
//! cargo run --release --example digest                         # shows itself: server and client, two processes
//! cargo run --release --example digest -- serve PATH           # one terminal
//! cargo run --release --example digest -- sum PATH FILE...     # another: prints what sha256sum prints
//! ```
//!
//! The protocol is in [`service`].

mod service;

use ringbell::{Client, ConnectOptions};
use service::{PIECE, hex, serve, sum};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Instant;

// ---- the client's command ----

fn sum_files(path: &Path, files: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let mut client = Client::connect(path)?;
    for (stream, file) in (0..).zip(files) {
        let open = File::open(file).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("{}  {}", sum(&mut client, stream, open)?, file.display());
    }
    Ok(())
}

// ---- both, to be seen at work ----

/// The server's process, which ends with this value.
struct ServerProcess(Child);

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join(format!("ringbell-digest-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let shown = demonstrate_in(&directory);
    std::fs::remove_dir_all(&directory)?;
    shown
}

fn demonstrate_in(directory: &Path) -> Result<(), Box<dyn Error>> {
    let path = directory.join("digest.sock");
    let server = Command::new(std::env::current_exe()?).arg("serve").arg(&path).spawn()?;
    let _server = ServerProcess(server);
    let mut client = ConnectOptions::new().wait_for_server(true).connect(&path)?;
    for (stream, len) in (0..).zip([0, 1, PIECE - 1, PIECE, 50_000_000]) {
        let data = vec![b'r'; len];
        let from = Instant::now();
        let answer = sum(&mut client, stream, &data[..])?;
        let took = from.elapsed();
        let here = hex(&Sha256::digest(&data));
        if answer != here {
            return Err(format!("{len} bytes: the server says {answer}, it is {here}").into());
        }
        println!("{answer}  {len} bytes in {took:.1?}: correct");
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let role = arguments.first().and_then(|role| role.to_str());
    let done = match (role, arguments.len()) {
        (None, 0) => demonstrate(),
        (Some("serve"), 2) => serve(&arguments[1]),
        (Some("sum"), 3..) => sum_files(&arguments[1], &arguments[2..]),
        _ => {
            eprintln!("usage: digest | digest serve PATH | digest sum PATH FILE...");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("digest: {error}");
            ExitCode::FAILURE
        }
    }
}
