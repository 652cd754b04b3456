//! Segments: who may change them, and which are accepted.

use super::*;
use crate::link::segment::{Label, SegmentError};
use crate::memory::layout::SegmentKind;

#[test]
fn sealed_segments_cannot_be_written_by_others() {
    let sent = good_segments();
    for sealed in [&sent.descriptors[1], &sent.descriptors[2]] {
        assert!(rustix::io::pwrite(sealed, &[1], 0).is_err());
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(sealed, punch, 0, 4096).is_err());
    }
    for fd in &sent.descriptors[..4] {
        assert!(rustix::fs::ftruncate(fd, 4096 - 1).is_err());
        assert!(rustix::fs::ftruncate(fd, 1 << 20).is_err());
    }
}

#[test]
fn a_request_segment_is_accepted_whole_or_not_at_all() {
    let me = Peer { pid: 1, uid: 2, name: [7; layout::NAME] };
    let make = || {
        SegmentPair::create(4096, 4096)
            .expect("made")
            .assign(9, 8, &me, layout::Domain::default())
            .expect("labelled")
    };
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;

    let closed = SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let (mut request, response) = make();
    rustix::fs::fallocate(&request.fd, punch, 0, 8192).expect("the client may punch");
    rustix::fs::fcntl_add_seals(&request.fd, closed).expect("the client seals");
    assert!(!request.prepare(4096).expect("half of it"));
    assert!(request.prepare(1 << 20).expect("the rest"));
    let segment = request.accept().expect("accepted");
    assert_eq!(segment.window.peer_word(0).load(), 0, "punched, and there");
    assert_eq!(rustix::fs::fstat(&segment.fd).expect("known").st_blocks, 8192 / 512);
    assert!(rustix::fs::fallocate(&segment.fd, punch, 0, 8192).is_err());
    assert_eq!(
        response.window.peer_word(layout::offset::PEER + 8).load(),
        u64::from_ne_bytes([7; 8])
    );

    // Any other seals: none of its own, one of the two, or more than those.
    let others =
        [SealFlags::empty(), SealFlags::SEAL, SealFlags::FUTURE_WRITE, closed | SealFlags::WRITE];
    for seals in others {
        let (mut request, _) = make();
        rustix::fs::fcntl_add_seals(&request.fd, seals).expect("the client may seal");
        let prepared = request.prepare(1 << 20);
        assert!(matches!(prepared, Err(SegmentError::Seals { .. })), "{seals:?}");
    }
}

#[test]
fn sizes_follow_from_labels() {
    let label = |kind, capacity| Label { kind, generation: 1, session: 1, capacity }.size();
    assert_eq!(label(SegmentKind::Request, 4096), 8192);
    assert_eq!(label(SegmentKind::Status, 64), 8192);
    assert_eq!(label(SegmentKind::Bell, 0), 4096);
}
