//! What the sockets scenarios drive: the program of the example `guest_sockets`, on sockets of its
//! own or in a guest.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../../examples/guest_sockets/mod.rs"]
mod sockets;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::outcome::Outcome;
use crate::scenario::Scenario;
use sockets::Network;
use sockets::guest::{Guest, USUAL};
use sockets::program::serve;

pub(crate) use sockets::guest::Pace;
pub(crate) use sockets::host::{Host, Rules};
pub(crate) use sockets::own::Own;
pub(crate) use sockets::program::Offer;
pub(crate) use sockets::{Place, Sleeps};

/// The names of the Unix sockets, in the directory of the trial.
pub(crate) const ECHO: &str = "echo";
pub(crate) const SLEEPS: &str = "sleeps";

/// What a scenario has the program serve, beside the account of its sleeps.
fn place(scenario: Scenario) -> Outcome<(Place, Offer)> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(match scenario {
        Scenario::UdpEchoSmall => (Place::Udp(any), Offer::Echo),
        Scenario::UnixEchoSmall | Scenario::UnixAccept => (Place::Unix(ECHO.into()), Offer::Echo),
        Scenario::TcpEcho64k => (Place::Tcp(any), Offer::Echo),
        Scenario::HttpLoopbackGet => (Place::Tcp(any), Offer::Http),
        other => return Err(format!("{other} is no scenario of sockets").into()),
    })
}

/// Runs the program. `ready` is told where it serves.
pub(crate) fn run(
    mut network: impl Network,
    scenario: Scenario,
    mut ready: impl FnMut(&Place) -> Outcome<()>,
) -> Outcome<()> {
    let places = [place(scenario)?, (Place::Unix(SLEEPS.into()), Offer::Sleeps)];
    serve(&mut network, &places, |_, there| there.first().map_or(Ok(()), &mut ready))
}

/// The guest's process. Says when it is ready, and where it serves.
pub(crate) fn guest(path: &Path, scenario: &str, poll: bool) -> Outcome<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let pace = if poll { Pace::Poll(USUAL) } else { Pace::Push };
    run(Guest::connect(path, pace)?, serde_json::from_str(scenario)?, |place| {
        println!("{place}");
        Ok(())
    })
}
