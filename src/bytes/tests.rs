//! Two ends in one thread, against a queue of bytes each way.

use super::ByteListener;
use super::end::ByteEndpoint;
use crate::client::ConnectOptions;
use crate::handshake::TransportChoice;
use crate::link::readiness::Readiness;
use crate::memory::layout;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io::IoSlice;

/// One step of one side.
#[derive(Debug, Clone)]
enum Step {
    /// So many bytes, in pieces of so many.
    Write(usize, usize),
    Read(usize),
    Finish,
}

fn step() -> impl Strategy<Value = (bool, Step)> {
    let size = prop_oneof![0..10usize, 0..3000usize, 0..100_000usize];
    let cut = prop_oneof![Just(usize::MAX), 1..50usize, 1..20_000usize];
    let step = prop_oneof![
        10 => (size.clone(), cut).prop_map(|(len, cut)| Step::Write(len, cut)),
        10 => size.prop_map(Step::Read),
        1 => Just(Step::Finish),
    ];
    (any::<bool>(), step)
}

/// What is on its way from one side.
#[derive(Default)]
struct InTransit {
    bytes: VecDeque<u8>,
    written: usize,
    finished: bool,
}

/// Two ends of one stream.
fn pair(capacity: u64, transport: TransportChoice) -> [ByteEndpoint; 2] {
    // One for each test: who accepts takes whoever connected first.
    thread_local! {
        static LISTENER: (tempfile::TempDir, ByteListener) = {
            let directory = tempfile::tempdir().expect("a directory");
            let listener = ByteListener::bind(directory.path().join("s")).expect("bind");
            (directory, listener)
        };
    }
    LISTENER.with(|(_, listener)| {
        let options = ConnectOptions::new().ring_capacity(capacity).transport(transport);
        let client = options.connect_bytes(listener.path()).expect("connect");
        [
            client.inner.into_inner().expect("no panic").end,
            listener.accept().expect("a stream").inner.into_inner().expect("no panic").end,
        ]
    })
}

/// As a driver that was told of everything.
fn told(end: &mut ByteEndpoint) -> &mut ByteEndpoint {
    end.ready(Readiness::UNKNOWN);
    end
}

/// Reads what is there. Of a frame that the socket did not take at once the rest is sent meanwhile.
fn read(ends: &mut [ByteEndpoint; 2], side: usize, into: &mut [u8]) -> Option<usize> {
    (0..8).find_map(|_| {
        told(&mut ends[1 - side]);
        told(&mut ends[side]).read(into).expect("a peer")
    })
}

fn check(steps: Vec<(bool, Step)>, capacity: u64, transport: TransportChoice) {
    let mut ends = pair(capacity, transport);
    let mut transits = [InTransit::default(), InTransit::default()];
    let most = match transport {
        // The kernel's buffer and ours, more or less.
        TransportChoice::Socket => 4 << 20,
        // The ring, and a chunk of which a part was read.
        _ => usize::try_from(capacity).expect("small") + layout::FRAGMENT,
    };
    for (second, step) in steps {
        let (side, peer) = (usize::from(second), usize::from(!second));
        match step {
            Step::Write(len, cut) => {
                let transit = &mut transits[side];
                let some: Vec<u8> = (transit.written..transit.written + len)
                    .map(|at| (at * 31 + side).to_le_bytes()[0])
                    .collect();
                let pieces: Vec<IoSlice<'_>> = some.chunks(cut).map(IoSlice::new).collect();
                match told(&mut ends[side]).write_vectored(&pieces) {
                    Ok(count) => {
                        assert!(!transit.finished);
                        let count = count.unwrap_or(0);
                        assert!(
                            count > 0 || len == 0 || !transit.bytes.is_empty(),
                            "what is empty has room"
                        );
                        transit.written += count;
                        transit.bytes.extend(&some[..count]);
                        assert!(
                            transit.bytes.len() <= most,
                            "{} bytes in {most}",
                            transit.bytes.len()
                        );
                    }
                    Err(error) => {
                        assert!(transit.finished, "{error}");
                        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
                    }
                }
            }
            Step::Finish => {
                // It may find no room; then it is tried again by a later step, or at the end.
                let finished = told(&mut ends[side]).finish().expect("a peer");
                assert!(finished || !transits[side].finished);
                transits[side].finished = finished;
            }
            Step::Read(len) => {
                let transit = &mut transits[peer];
                let mut some = vec![0; len];
                match read(&mut ends, side, &mut some) {
                    None => {
                        assert!(
                            transit.bytes.is_empty() && !transit.finished && len > 0,
                            "nothing is lost"
                        )
                    }
                    Some(0) => assert!(
                        len == 0 || (transit.bytes.is_empty() && transit.finished),
                        "an end"
                    ),
                    Some(count) => {
                        assert!(transit.bytes.drain(..count).eq(some[..count].iter().copied()))
                    }
                }
            }
        }
    }
    // All that was written comes, and the ends that were said, and no other.
    for (side, transit) in transits.iter_mut().enumerate() {
        let mut left = Vec::new();
        let mut some = vec![0; 5000];
        loop {
            match read(&mut ends, 1 - side, &mut some) {
                Some(0) => break assert!(transit.finished),
                Some(count) => left.extend_from_slice(&some[..count]),
                None => break assert!(!transit.finished),
            }
        }
        assert!(transit.bytes.iter().eq(&left), "{} of {} bytes", left.len(), transit.bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn rings_carry_what_was_written(
        steps in proptest::collection::vec(step(), 0..120),
        capacity in prop_oneof![Just(2048u64), Just(4096), Just(65_536)],
    ) {
        check(steps, capacity, TransportChoice::SharedMemory);
    }

    #[test]
    fn sockets_carry_what_was_written(steps in proptest::collection::vec(step(), 0..120)) {
        check(steps, 0, TransportChoice::Socket);
    }
}
