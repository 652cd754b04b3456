//! The bytes that the two ends of a session exchange on its lifeline.

/// Client to server, once: I have mapped everything.
pub(crate) const READY: u8 = b'R';
/// Either way: look at your rings.
pub(crate) const WAKE: u8 = b'W';
/// Client to server: nothing more comes from here.
pub(crate) const GOODBYE: u8 = b'G';

/// Server to client: why the session ends, as the byte `0x80 | reason`; to a client that was offered the socket
/// as transport, as the code of a goodbye frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Farewell {
    /// The server shuts down.
    ShutDown = 0x80,
    /// The client wrote something impossible.
    PeerFault = 0x81,
    /// The client did not drain its responses in time.
    SlowClient = 0x82,
    /// The server could not go on with this session: memory, descriptors.
    Exhausted = 0x83,
    /// The handshake was not finished in time.
    TooLate = 0x84,
}

impl Farewell {
    /// The reason in a byte of the server, if it is one. Any other byte with the top bit is a goodbye for a
    /// reason that this version does not know.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x80 => Self::ShutDown,
            0x81 => Self::PeerFault,
            0x82 => Self::SlowClient,
            0x83 => Self::Exhausted,
            0x84 => Self::TooLate,
            _ => return None,
        })
    }
}
