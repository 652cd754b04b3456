//! Frames as they travel over a socket.

use ringbell::layout;
use std::io::Read;
use std::os::unix::net::UnixStream;

/// A frame as it travels over a socket.
#[must_use]
pub fn frame(kind: layout::Kind, flags: u8, code: u16, call: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short body");
    let header = layout::HeaderWord::new(kind, flags, code, length);
    [&header.0.to_le_bytes()[..], &call.to_le_bytes(), body].concat()
}

/// A frame that was received over a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: layout::HeaderWord,
    /// Its call id.
    pub call: u64,
    /// Extensions and payload.
    pub body: Vec<u8>,
}

impl Frame {
    /// Its kind; `None` if there is no such kind.
    #[must_use]
    pub fn kind(&self) -> Option<layout::Kind> {
        self.header.kind()
    }
}

/// The next frame; `None` at the end of the stream, also within a frame.
///
/// # Panics
/// If nothing comes for 20 s.
#[must_use]
pub fn receive_frame(mut stream: &UnixStream) -> Option<Frame> {
    let mut header = [0; 16];
    let mut whole = |bytes: &mut [u8]| match stream.read_exact(bytes) {
        Ok(()) => true,
        Err(error)
            if [std::io::ErrorKind::UnexpectedEof, std::io::ErrorKind::ConnectionReset]
                .contains(&error.kind()) =>
        {
            false
        }
        Err(error) => panic!("no frame comes: {error}"),
    };
    if !whole(&mut header) {
        return None;
    }
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let (header, call) = (layout::HeaderWord(word(0)), word(8));
    let mut body = vec![0; header.length() as usize];
    whole(&mut body).then_some(Frame { header, call, body })
}
