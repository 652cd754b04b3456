//! What may be wrong with a target, as it is told.

use serde::{Deserialize, Serialize};

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// Worth knowing; may be in order.
    Note,
    /// Something is wrong: the program ends with status 1.
    Problem,
}

/// What is the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Code {
    /// The server's process is kept from running.
    ServerStopped,
    /// The server's process is gone.
    ServerDead,
    /// The server is awake and moves nothing: a handler takes long.
    ServerBusy,
    /// The client's process is kept from running.
    ClientStopped,
    /// The client's process is gone, its session is not.
    ClientDead,
    /// The client does not take its answers.
    SlowClient,
    /// A ring is full, and its producer waits.
    FullRing,
    /// A side sleeps although there is something for it.
    LostWake,
    /// The backstop has made good for wakes that were lost.
    Rescued,
    /// A call has waited for long.
    LateAnswer,
    /// Bytes that no implementation writes.
    Damaged,
    /// A segment lacks a seal.
    Unsealed,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// How serious it is.
    pub(crate) severity: Severity,
    /// What it is.
    pub(crate) code: Code,
    /// Which server.
    pub(crate) generation: Option<u64>,
    /// Which session, if it is about one.
    pub(crate) session: Option<u64>,
    /// Which process is at fault, if one is.
    pub(crate) pid: Option<u32>,
    /// The same for people.
    pub(crate) text: String,
}
