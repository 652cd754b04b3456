//! What the environment says of this run: how much of everything, and the seed of all choices.

use crate::transport::over_socket;

/// A count of a test: `release` as it is in release builds, a twentieth in debug builds, times
/// `RINGBELL_TEST_SCALE`; at least 1.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "counts"
)]
#[must_use]
pub fn scaled(release: u64) -> u64 {
    let scale: f64 = std::env::var("RINGBELL_TEST_SCALE").map_or(1.0, |scale| {
        scale.parse().unwrap_or_else(|_| panic!("RINGBELL_TEST_SCALE is {scale:?}, not a number"))
    });
    let build = if cfg!(debug_assertions) { 0.05 } else { 1.0 };
    ((release as f64 * scale * build) as u64).max(1)
}

/// As [`scaled`], with a count of its own for sessions over the socket, where each message costs
/// system calls.
#[must_use]
pub fn scaled_for(rings: u64, socket: u64) -> u64 {
    scaled(if over_socket() { socket } else { rings })
}

/// The seed of all patterns and choices of this run.
#[must_use]
pub fn seed() -> u64 {
    std::env::var("RINGBELL_TEST_SEED").map_or(0x5249_4e47_4245_4c4c, |seed| {
        seed.parse().unwrap_or_else(|_| panic!("RINGBELL_TEST_SEED is {seed:?}, not a number"))
    })
}
