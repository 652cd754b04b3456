//! A service that computes the SHA-256 of files of any size, which its clients stream to it in pieces.
//!
//! ```text
//! cargo run --release --example digest                         # shows itself: server and client, two processes
//! cargo run --release --example digest -- serve PATH           # one terminal
//! cargo run --release --example digest -- sum PATH FILE...     # another: prints what sha256sum prints
//! ```
//!
//! The protocol: a request is one byte that says whether more is to come, the number of the stream (u64, little
//! endian; the client counts), and a piece of the file. The answer to the last piece is the digest in hex, the
//! answer to any other is empty. Pieces are four times as large as the ring: Ringbell streams them through it.

use ringbell::{Client, ConnectOptions, Handler, HandlerError, Request, Server};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Instant;

/// First byte of a request: more pieces follow, or this is the last.
const MORE: u8 = b'+';
const LAST: u8 = b'.';
/// That byte and the stream's number.
const HEAD: usize = 9;
const RING: u64 = 256 << 10;
const PIECE: usize = 1 << 20;

// ---- the server ----

/// The streams that have begun and not ended. Streams of different clients never meet: the session is part of
/// the key.
#[derive(Default)]
struct Digests {
    open: HashMap<(u64, u64), Sha256>,
}

/// A server must bound what its clients can make it remember.
const MAX_STREAMS: usize = 1024;

impl Handler for Digests {
    fn request(&mut self, request: Request<'_>, response: &mut Vec<u8>) -> Result<(), HandlerError> {
        let Some((head, piece)) = request.payload().split_first_chunk::<HEAD>() else {
            return Err(HandlerError::new(1, "a request has at least 9 bytes"));
        };
        let [kind, stream @ ..] = *head;
        let key = (request.session().id(), u64::from_le_bytes(stream));
        if !self.open.contains_key(&key) && self.open.len() == MAX_STREAMS {
            return Err(HandlerError::new(2, "too many streams are open"));
        }
        self.open.entry(key).or_default().update(piece);
        match kind {
            MORE => Ok(()),
            LAST => {
                let digest = self.open.remove(&key).expect("it was just there").finalize();
                response.extend(hex(&digest).into_bytes());
                Ok(())
            }
            _ => {
                self.open.remove(&key);
                Err(HandlerError::new(3, format!("no such kind of request: {kind}")))
            }
        }
    }

    /// A client that died in the middle of a file leaves nothing behind.
    fn closed(&mut self, session: &ringbell::Session) {
        self.open.retain(|(of, _), _| *of != session.id());
    }
}

fn serve(path: &Path) -> Result<(), Box<dyn Error>> {
    let server = Server::builder().ring_capacity(RING).bind(path)?;
    eprintln!("serving at {}", path.display());
    server.run_with(Digests::default())?;
    Ok(())
}

// ---- the client ----

/// Streams all of `from` to the server; the digest in hex.
fn sum(client: &mut Client, stream: u64, mut from: impl Read) -> Result<String, Box<dyn Error>> {
    let mut request = Vec::with_capacity(HEAD + PIECE);
    loop {
        request.clear();
        request.push(MORE);
        request.extend(stream.to_le_bytes());
        from.by_ref().take(PIECE as u64).read_to_end(&mut request)?;
        if request.len() < HEAD + PIECE {
            request[0] = LAST;
        }
        let answer = client.call(&request)?;
        if request[0] == LAST {
            return Ok(String::from_utf8(answer.to_vec())?);
        }
    }
}

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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
