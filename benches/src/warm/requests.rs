//! What all scenarios share: requests, how answers are checked, and the settings of pools.

use std::time::Duration;

use ringbell::pool::Settings;
use ringbell::{ConnectOptions, TransportChoice};

use crate::outcome::Outcome;

/// Bytes of a request.
const SIZE: usize = 64;

pub(super) fn request(caller: u64, number: u64) -> [u8; SIZE] {
    let mut request = [7; SIZE];
    request[..8].copy_from_slice(&caller.to_le_bytes());
    request[8..16].copy_from_slice(&number.to_le_bytes());
    request
}

pub(super) fn verify(request: &[u8], answer: &[u8]) -> Outcome<()> {
    if request == answer { Ok(()) } else { Err("a wrong answer".into()) }
}

pub(super) fn options(transport: TransportChoice) -> ConnectOptions {
    ConnectOptions::new().transport(transport)
}

pub(super) const TRANSPORTS: [(&str, TransportChoice); 2] =
    [("shm", TransportChoice::SharedMemory), ("uds", TransportChoice::Socket)];

pub(super) fn settings(min_idle: usize, max_size: usize) -> Settings {
    Settings {
        min_idle,
        max_size,
        acquire_timeout: Some(Duration::from_secs(60)),
        ..Settings::default()
    }
}
