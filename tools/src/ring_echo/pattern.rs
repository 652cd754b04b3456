//! What a request contains, so that no answer to another one, and no stale byte, passes for its
//! answer.

/// Every so many bytes stand the sequence number and the client's number anew.
const STAMP_EVERY: usize = 1024;
const STAMP: usize = 12;

/// A request that can be sent again with another sequence number.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    client: u32,
}

impl Message {
    /// A request of `size` bytes: a pattern of this client's own. What is too short for a stamp has
    /// its beginning.
    pub(crate) fn new(client: u32, size: usize) -> Self {
        let mut state = u64::from(client);
        let mut bytes = vec![0; size];
        for word in bytes.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word.copy_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes()[..word.len()]);
        }
        Self { bytes, client }
    }

    /// Makes it the request with this number.
    pub(crate) fn stamp(&mut self, sequence: u64) {
        let mut stamp = [0; STAMP];
        stamp[..8].copy_from_slice(&sequence.to_le_bytes());
        stamp[8..].copy_from_slice(&self.client.to_le_bytes());
        for block in self.bytes.chunks_mut(STAMP_EVERY) {
            let len = block.len().min(STAMP);
            block[..len].copy_from_slice(&stamp[..len]);
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_differ_by_number_and_by_client_in_every_block() {
        let mut one = Message::new(1, 5000);
        let mut two = Message::new(2, 5000);
        one.stamp(7);
        two.stamp(7);
        let first = one.bytes().to_vec();
        one.stamp(8);
        for at in (0..5000).step_by(STAMP_EVERY) {
            assert_ne!(first[at..at + 8], one.bytes()[at..at + 8]);
            assert_ne!(first[at..at + STAMP], two.bytes()[at..at + STAMP]);
        }
    }

    #[test]
    fn any_size_will_do() {
        for size in [0, 1, 7, 11, 12, 13, 1023, 1025, 1030] {
            let mut message = Message::new(3, size);
            message.stamp(0x0102_0304_0506_0708);
            assert_eq!(message.bytes().len(), size);
        }
    }
}
