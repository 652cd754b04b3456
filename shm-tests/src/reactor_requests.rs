//! What the server of `reactor_server` is asked, and what it answers.
//!
//! A request is a verb, its number, an argument and more; the usual answer is a stamp (session and
//! number) and what was sent along. So an answer that goes astray is recognised wherever it
//! arrives.

use crate::pattern::mix;

/// A request: what `reactor_server::react` understands.
#[must_use]
pub fn ask(verb: u8, number: u64, argument: u64, rest: &[u8]) -> Vec<u8> {
    [&[verb][..], &number.to_le_bytes(), &argument.to_le_bytes(), rest].concat()
}

/// How a stream is to be made: the rest of a request of verb `s`.
#[must_use]
pub fn stream_of(longest: u32, end: StreamEnd) -> Vec<u8> {
    [&longest.to_le_bytes()[..], &[end as u8]].concat()
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// As it should.
    Good,
    /// It is dropped.
    Dropped,
    /// By an error of the application, number 7.
    Error,
    /// By a panic.
    Panic,
    /// Not at all.
    Leaked,
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

/// All words of an answer.
#[must_use]
pub fn words(bytes: &[u8]) -> Vec<u64> {
    (0..bytes.len() / 8).map(|index| word(bytes, 8 * index)).collect()
}

pub(crate) fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Item `index` of a streamed answer.
#[must_use]
pub fn item(session: u64, number: u64, index: u64, longest: u64) -> Vec<u8> {
    let mut item = bytes_of(&[session, number, index]);
    let len = mix(number, index) % (longest + 1);
    item.resize(24 + usize::try_from(len).expect("64 bits"), index.to_le_bytes()[0]);
    item
}

/// What the server counts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Items of streams that were sent.
    Items,
    /// Times a producer of items had to wait.
    Blocked,
    /// Streams that ended since the client did not want more.
    Cancelled,
    /// Streams that ended since the client was gone.
    Gone,
    /// Items that were too large.
    TooLarge,
    /// Handlers that waited until their call was cancelled.
    CancelSeen,
    /// Requests that were moved to a thread.
    Moved,
    /// Sessions that were opened.
    Opened,
    /// Sessions that were closed.
    Closed,
    /// Requests over which the handler was busy (verb `b`).
    Busy,
    /// Streams that were broken off since the client took nothing.
    Slow,
}
