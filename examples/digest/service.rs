//! The digest service: what server and clients have in common, and what each of them does.
//!
//! The protocol: a request is one byte that says whether more is to come, the number of the stream
//! (u64, little endian; the client counts), and a piece of the file. The answer to the last piece
//! is the digest in hex, the answer to any other is empty. Pieces are four times as large as the
//! ring: Ringbell streams them through it.

use ringbell::{Client, Handler, HandlerError, Request, Server};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::error::Error;
use std::io::Read;
use std::path::Path;

/// First byte of a request: more pieces follow, or this is the last.
const MORE: u8 = b'+';
const LAST: u8 = b'.';
/// That byte and the stream's number.
const HEAD: usize = 9;
const RING: u64 = 256 << 10;
pub(crate) const PIECE: usize = 1 << 20;

// ---- the server ----

/// The streams that have begun and not ended. Streams of different clients never meet: the session
/// is part of the key.
#[derive(Default)]
struct Digests {
    open: HashMap<(u64, u64), Sha256>,
}

/// A server must bound what its clients can make it remember.
const MAX_STREAMS: usize = 1024;

impl Handler for Digests {
    fn request(
        &mut self,
        request: Request<'_>,
        response: &mut Vec<u8>,
    ) -> Result<(), HandlerError> {
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

pub(crate) fn serve(path: &Path) -> Result<(), Box<dyn Error>> {
    let server = Server::builder().ring_capacity(RING).bind(path)?;
    eprintln!("serving at {}", path.display());
    server.run_with(Digests::default())?;
    Ok(())
}

// ---- the client ----

/// Streams all of `from` to the server; the digest in hex.
pub(crate) fn sum(
    client: &mut Client,
    stream: u64,
    mut from: impl Read,
) -> Result<String, Box<dyn Error>> {
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

/// As `sha256sum` prints them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
