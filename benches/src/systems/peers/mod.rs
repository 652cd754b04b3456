//! Peers that take long to build, each behind a feature of its own. Without it, it has one row,
//! which says so.
//!
//! To add one: `<name>.rs` with a [`System`], a feature in `Cargo.toml`, a line in [`all`] and one
//! in `benches/peers`.

#[cfg(feature = "peer-aeron")]
mod aeron;
#[cfg(feature = "peer-tokio")]
mod async_client;
#[cfg(feature = "peer-hyper")]
mod hyper;
#[cfg(feature = "peer-iceoryx2")]
mod iceoryx2;
#[cfg(feature = "peer-ipc-channel")]
mod ipc_channel;
#[cfg(feature = "peer-ipmpsc")]
mod ipmpsc;
#[cfg(feature = "peer-nng")]
mod nng;
#[cfg(any(
    feature = "peer-hyper",
    feature = "peer-shmipc",
    feature = "peer-tarpc",
    feature = "peer-tokio",
    feature = "peer-tonic"
))]
mod runtime;
#[cfg(feature = "peer-shmem-ipc")]
mod shmem_ipc;
#[cfg(feature = "peer-shmipc")]
mod shmipc;
#[cfg(feature = "peer-tarpc")]
mod tarpc;
#[cfg(feature = "peer-tokio")]
mod tokio_uds;
#[cfg(feature = "peer-tonic")]
mod tonic;
#[cfg(feature = "peer-zeromq")]
mod zeromq;

use crate::outcome::Outcome;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Ready, Setup, System};

/// The systems of a peer, or what stands for them.
macro_rules! peer {
    ($feature:literal, $name:literal, [$($system:expr),+]) => {{
        #[cfg(feature = $feature)]
        let systems: Vec<Entry> = vec![$((Some($feature), $system)),+];
        #[cfg(not(feature = $feature))]
        let systems: Vec<Entry> = vec![(None, &Missing { name: $name, feature: $feature })];
        systems
    }};
}

/// The feature that brought a system, if it was built, and the system.
type Entry = (Option<&'static str>, &'static dyn System);

/// All of them; with the feature that brought it, if it was built.
fn each() -> Vec<Entry> {
    [
        peer!(
            "peer-tokio",
            "tokio-uds",
            [&tokio_uds::DEFAULT, &tokio_uds::ONE_THREAD, &async_client::ASYNC]
        ),
        peer!("peer-iceoryx2", "iceoryx2", [&iceoryx2::SPINNING, &iceoryx2::EVENTS]),
        peer!("peer-aeron", "aeron", [&aeron::SPINNING, &aeron::BACK_OFF]),
        peer!("peer-ipc-channel", "ipc-channel", [&ipc_channel::BYTES]),
        peer!(
            "peer-tonic",
            "tonic",
            [&tonic::DEFAULT, &tonic::TUNED, &tonic::BYTES, &tonic::BYTES_TUNED]
        ),
        peer!(
            "peer-hyper",
            "hyper",
            [&hyper::DEFAULT, &hyper::ONE_THREAD, &hyper::BYTES, &hyper::BYTES_ONE_THREAD]
        ),
        peer!("peer-tarpc", "tarpc", [&tarpc::DEFAULT, &tarpc::ONE_THREAD]),
        peer!("peer-zeromq", "zeromq", [&zeromq::ROUTER]),
        peer!("peer-shmem-ipc", "shmem-ipc", [&shmem_ipc::RING]),
        peer!("peer-ipmpsc", "ipmpsc", [&ipmpsc::RING]),
        peer!("peer-nng", "nng", [&nng::REQ]),
        peer!("peer-shmipc", "shmipc", [&shmipc::DEFAULT, &shmipc::EVENTFD]),
    ]
    .concat()
}

/// All of them.
pub(super) fn all() -> Vec<&'static dyn System> {
    each().into_iter().map(|(_, system)| system).collect()
}

/// The features with which this program was built.
pub(super) fn features() -> Vec<String> {
    let mut features: Vec<String> =
        each().into_iter().filter_map(|(feature, _)| feature.map(str::to_owned)).collect();
    features.dedup();
    features
}

/// A peer that was not built.
#[derive(Debug)]
#[allow(dead_code, reason = "unless all were built")]
struct Missing {
    name: &'static str,
    feature: &'static str,
}

impl System for Missing {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        vec![Case::new(Scenario::Echo, 64)]
    }

    fn absence(&self) -> Option<String> {
        let feature = self.feature;
        Some(format!(
            "built without `--features {feature}`; `benches/peers` installs what that needs"
        ))
    }

    fn serve(&self, _setup: &Setup, _ready: Ready<'_>) -> Outcome<()> {
        Err("was not built".into())
    }

    fn connect(&self, _setup: &Setup) -> Outcome<Box<dyn Client>> {
        Err("was not built".into())
    }
}
