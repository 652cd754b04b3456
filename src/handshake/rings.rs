//! What each end makes of a session over shared memory: its ends of the rings, and its side.

use super::client::Attachment;
use crate::link::session::Rings;
use crate::link::side::{OwnHints, PeerHints, Side};
use crate::memory::{Window, layout, layout::offset};
use crate::protocol::bell::{Ringer, Sleeper};

impl Attachment {
    /// The client's ends of the rings. It rings the bell of its domain.
    pub(crate) fn rings(&self) -> Rings {
        let bell = self.bell.as_ref().unwrap_or(&self.request);
        let armed = self.status.window.peer_word(layout::armed(self.domain));
        Rings::between(
            (&self.request.window, self.request_capacity),
            (&self.response.window, self.response_capacity),
            Ringer::new(armed, bell.window.bell_word(offset::SEQ)),
        )
    }

    /// The client's side. The server's pidfd goes with it.
    pub(crate) fn side(&mut self) -> Side {
        let (request, response) = (&self.request.window, &self.response.window);
        let bell = Sleeper::new(request.own_word(offset::ARMED), response.bell_word(offset::SEQ));
        Side::new(
            bell,
            OwnHints::new(request),
            PeerHints::new(&self.status.window),
            self.server.take(),
        )
    }
}

/// The server's ends of the rings of one session: `request` and `response`, with their capacities.
pub(crate) fn server_rings(request: (&Window, u64), response: (&Window, u64)) -> Rings {
    let armed = request.0.peer_word(offset::ARMED);
    Rings::between(response, request, Ringer::new(armed, response.0.bell_word(offset::SEQ)))
}

/// The server's side of one session that has a domain, and so a bell, of its own. `status` is where
/// the server tells of itself; the porter watches the client's process.
pub(crate) fn server_side(
    status: &Window,
    domain: u32,
    domain_bell: &Window,
    request: &Window,
) -> Side {
    let bell =
        Sleeper::new(status.own_word(layout::armed(domain)), domain_bell.bell_word(offset::SEQ));
    Side::new(bell, OwnHints::new(status), PeerHints::new(request), None)
}
