//! The bytes that travel, and the check that the right ones came back.
//!
//! A payload is a fixed pattern whose first eight bytes are the call's sequence number and whose
//! last eight are a function of it. So a stale, torn or foreign answer shows, and a new request
//! costs two stores.

/// Mixed into the trailing stamp, so that it differs from the leading one.
const TAIL: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes of a stamp.
const STAMP: usize = 8;

/// A request under construction, and what its answer must be.
#[derive(Debug)]
pub(crate) struct Payload {
    bytes: Vec<u8>,
}

impl Payload {
    /// A payload of `size` bytes, at least 8. `salt` makes payloads of different clients differ.
    pub(crate) fn new(size: usize, salt: u8) -> Self {
        assert!(size >= STAMP, "a payload carries at least its sequence number");
        Self { bytes: (0..=250_u8).cycle().map(|byte| byte ^ salt).take(size).collect() }
    }

    /// The payload of call number `sequence`.
    pub(crate) fn stamp(&mut self, sequence: u64) -> &[u8] {
        let size = self.bytes.len();
        if size >= 2 * STAMP {
            self.bytes[size - STAMP..].copy_from_slice(&(sequence ^ TAIL).to_le_bytes());
        }
        self.bytes[..STAMP].copy_from_slice(&sequence.to_le_bytes());
        &self.bytes
    }

    /// The payload as last stamped.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whose payload a message of at least 9 bytes is; that of a client of salt 0 if it is shorter.
pub(crate) fn salt(message: &[u8]) -> u8 {
    // Behind the first stamp: the pattern is the byte's place.
    const PLACE: u8 = 8;
    message.get(usize::from(PLACE)).map_or(0, |byte| byte ^ PLACE)
}

/// The sequence number in a message, or none if it has not even that.
pub(crate) fn sequence(message: &[u8]) -> Option<u64> {
    message.first_chunk().map(|stamp| u64::from_le_bytes(*stamp))
}

/// Whether the two stamps of a message belong together: the cheap check that servers make.
pub(crate) fn is_whole(message: &[u8]) -> bool {
    match (message.first_chunk(), message.last_chunk()) {
        (Some(_), Some(_)) if message.len() < 2 * STAMP => true,
        (Some(head), Some(tail)) => u64::from_le_bytes(*head) ^ TAIL == u64::from_le_bytes(*tail),
        _ => false,
    }
}

/// The sequence number of a message that ends a stream, and is answered.
pub(crate) const END: u64 = u64::MAX;

/// The handler of every server where messages are streamed: checks that they come whole and in
/// order, and answers the [end](END) of a stream alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sink {
    seen: u64,
}

impl Sink {
    /// Takes a message. Whether it wants an answer, which is the message itself.
    ///
    /// # Panics
    /// If it arrived damaged or out of order; the trial then fails as a whole.
    #[inline]
    pub(crate) fn take(&mut self, message: &[u8]) -> bool {
        assert!(is_whole(message), "a message of {} bytes arrived damaged", message.len());
        let number = sequence(message);
        if number == Some(END) {
            return true;
        }
        assert_eq!(number, Some(self.seen), "a message was lost, or overtook another");
        self.seen += 1;
        false
    }
}

/// The handler of every server: the answer is the request, unless that arrived damaged.
///
/// # Panics
/// If the request's stamps do not belong together; the trial then fails as a whole.
pub(crate) fn echo(request: &[u8], answer: &mut Vec<u8>) {
    assert!(is_whole(request), "a request of {} bytes arrived damaged", request.len());
    answer.extend_from_slice(request);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_message_shows() {
        let mut payload = Payload::new(64, 7);
        let first = payload.stamp(1).to_vec();
        assert!(is_whole(&first));
        assert_eq!(sequence(&first), Some(1));
        let mut torn = payload.stamp(2).to_vec();
        torn[32..].copy_from_slice(&first[32..]);
        assert!(!is_whole(&torn));
    }

    #[test]
    fn a_payload_says_whose_it_is() {
        for mine in [0, 1, 250, u8::MAX] {
            assert_eq!(salt(Payload::new(64, mine).stamp(5)), mine);
        }
    }

    #[test]
    fn a_sink_answers_the_end_alone() {
        let mut payload = Payload::new(48, 0);
        let mut sink = Sink::default();
        assert!(!sink.take(payload.stamp(0)));
        assert!(!sink.take(payload.stamp(1)));
        assert!(sink.take(payload.stamp(END)));
    }

    #[test]
    #[should_panic(expected = "lost")]
    fn a_sink_notices_a_gap() {
        let mut payload = Payload::new(48, 0);
        let mut sink = Sink::default();
        sink.take(payload.stamp(0));
        sink.take(payload.stamp(2));
    }

    #[test]
    fn the_smallest_payload_is_its_sequence_number() {
        let mut payload = Payload::new(8, 0);
        assert!(is_whole(payload.stamp(9)));
        assert!(!is_whole(&[1, 2, 3]));
    }
}
