//! What a client asks for, and whether what it got is that.

use super::error::ConnectError;
use super::process::ServerProcess;
use crate::handshake::wire::{
    self, FEATURE_BYTES, FEATURE_CLOCK, FEATURE_ORDERED, FEATURE_SAMPLES, Hello, Role,
    TransportAsked, Welcome,
};
use crate::memory::layout::{self, NAME};

/// Which transport a client takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "config",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
pub enum TransportChoice {
    /// Shared memory; if that is not to be had, here or at the server, the socket.
    #[default]
    Auto,
    /// Shared memory, or no session at all.
    SharedMemory,
    /// The socket, or no session at all.
    Socket,
}

/// What a client asks for. Zeros leave the choice to the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct HelloOptions {
    /// A name for people and tools, at most [`NAME`] bytes.
    pub(crate) name: String,
    /// Wanted capacities of the rings in bytes, or 0.
    pub(crate) request_capacity: u64,
    pub(crate) response_capacity: u64,
    /// Wanted limit of one message in bytes, or 0. The server may lower it.
    pub(crate) max_message: u64,
    pub(crate) transport: TransportChoice,
    /// Whether answers are to come strictly in the order of their requests.
    pub(crate) ordered: bool,
    /// Of so many calls one is to be sampled, 0 for none; `None` leaves it to the server.
    pub(crate) sample_every: Option<u32>,
    /// Whether the session is to be a byte stream.
    pub(crate) bytes: bool,
    /// The user that the server must run as; `None` for any.
    pub(crate) server_uid: Option<u32>,
    /// The process that the server must be; `None` for any.
    pub(crate) server_process: Option<ServerProcess>,
}

impl HelloOptions {
    pub(super) fn hello(&self, transport: TransportAsked) -> Result<Hello, ConnectError> {
        let capacity = |wanted| wanted == 0 || layout::is_capacity(wanted);
        if !capacity(self.request_capacity) || !capacity(self.response_capacity) {
            let what = "the capacity of a ring must be a power of two from 2 KiB to 1 GiB";
            return Err(ConnectError::InvalidOption(what));
        }
        if self.name.len() > NAME {
            return Err(ConnectError::InvalidOption("the name of a client has at most 48 bytes"));
        }
        let ordered = if self.ordered { FEATURE_ORDERED } else { 0 };
        let bytes = if self.bytes { FEATURE_BYTES } else { 0 };
        let sampled = if self.sample_every.unwrap_or(0) == 0 { 0 } else { FEATURE_SAMPLES };
        Ok(Hello {
            versions: wire::VERSIONS,
            role: Role::Client,
            transport,
            features: ordered | sampled | bytes | FEATURE_CLOCK,
            request_capacity: self.request_capacity,
            response_capacity: self.response_capacity,
            max_message: self.max_message,
            name: self.name.clone(),
        })
    }

    /// Whether what the server chose is acceptable. It may lower what was asked for, and choose
    /// what was not.
    pub(super) fn check(&self, features: u32, max_message: u64) -> Result<(), ConnectError> {
        if self.bytes && features & FEATURE_BYTES == 0 {
            return Err(ConnectError::NoByteStreams);
        }
        if self.max_message != 0 && max_message > self.max_message {
            return Err(ConnectError::NotRingbell);
        }
        Ok(())
    }

    /// Whether the rings are no larger than was asked for: this process allocates them.
    pub(super) fn check_rings(&self, welcome: &Welcome) -> Result<(), ConnectError> {
        let larger = |wanted, granted| wanted != 0 && granted > wanted;
        if larger(self.request_capacity, welcome.request_capacity)
            || larger(self.response_capacity, welcome.response_capacity)
        {
            return Err(ConnectError::NotRingbell);
        }
        Ok(())
    }
}
