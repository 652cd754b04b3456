//! Segments: who may change them, and which are accepted.

use super::*;
use crate::base::sync::Ordering;
use crate::link::segment::{Label, SegmentError};
use crate::link::segment_pair::PendingPair;
use crate::memory::layout::SegmentKind;
use memmap2::Advice;
use rustix::fs::FallocateFlags;
use std::sync::Arc;
use std::time::Instant;

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

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const CLOSED: SealFlags = SealFlags::FUTURE_WRITE.union(SealFlags::SEAL);

/// A pair as it is sent, and the client's descriptors.
fn sent(request: u64, response: u64) -> (PendingPair, OwnedFd, Arc<OwnedFd>) {
    let me = Peer { pid: 1, uid: 2, name: [7; layout::NAME] };
    let pair = SegmentPair::create(request, response).expect("made");
    let pair = pair.assign(9, 8, me, layout::Domain::default());
    let own = (pair.request.try_clone().expect("a descriptor"), pair.response.fd.clone());
    (pair, own.0, own.1)
}

/// Has the kernel allocate what is missing of a segment, as its client does.
fn fill(fd: &OwnedFd, writable: bool) {
    let len = usize::try_from(size_of_fd(fd)).expect("small");
    let mut options = memmap2::MmapOptions::new();
    options.len(len);
    let mapping = match writable {
        true => options.map_raw(fd).expect("mapped"),
        false => options.map_raw_read_only(fd).expect("mapped"),
    };
    let how = if writable { Advice::PopulateWrite } else { Advice::PopulateRead };
    mapping.advise(how).expect("populated");
}

fn blocks(fd: &OwnedFd) -> u64 {
    u64::try_from(rustix::fs::fstat(fd).expect("known").st_blocks).expect("positive") * 512
}

#[test]
fn p13_the_server_allocates_no_page_of_a_session() {
    let (pair, request, response) = sent(1 << 20, 2 << 20);
    assert_eq!((blocks(&request), blocks(&response)), (0, 0), "as sent");
    let (own, (request, response)) = pair.complete();
    let all = blocks(&request.fd) + blocks(&response.fd);
    assert_eq!(all, SegmentPair::bytes(1 << 20, 2 << 20), "the client's");
    let magic = |segment: &Segment| segment.window.peer_word(layout::offset::IDENTITY).load();
    assert_eq!([&own, &request, &response].map(magic), [layout::MAGIC; 3]);
}

#[test]
fn p13_segments_are_accepted_whole_or_not_at_all() {
    // Nothing is missing.
    let (mut pair, request, response) = sent(4096, 4096);
    fill(&request, true);
    fill(&response, false);
    rustix::fs::fcntl_add_seals(&request, CLOSED).expect("the client seals");
    assert!(pair.check().expect("all is there"));
    let (segment, response) = pair.accept().expect("accepted");
    assert!(rustix::fs::fallocate(&segment.fd, PUNCH, 0, 8192).is_err());
    assert!(rustix::fs::fallocate(&response.fd, PUNCH, 0, 8192).is_err());
    let name = response.window.peer_word(layout::offset::PEER + 8).load();
    assert_eq!(name, u64::from_ne_bytes([7; 8]));

    // Any one page of either is missing: the server does not allocate it.
    let size = 8 << 20;
    for (holes, at) in [(0, 0), (0, 4 << 20), (0, size), (1, 0), (1, 4 << 20), (1, size)] {
        let (mut pair, request, response) = sent(size, size);
        let files = [&request, &*response];
        for (file, fd) in files.iter().enumerate() {
            let end = size_of_fd(fd);
            // All but a page.
            let but = if file == holes { at..at + 4096 } else { end..end };
            for page in (0..end).step_by(4096).filter(|page| !but.contains(page)) {
                let one = memmap2::MmapOptions::new().len(4096).offset(page).map_raw_read_only(*fd);
                one.expect("mapped").advise(Advice::PopulateRead).expect("populated");
            }
            assert_eq!(blocks(fd), end - (but.end - but.start));
        }
        rustix::fs::fcntl_add_seals(&request, CLOSED).expect("the client seals");
        let refused = loop {
            match pair.check() {
                Ok(last) => assert!(!last, "page {at} of {holes} is missing"),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, SegmentError::Incomplete), "{refused:?}");
        assert_eq!(blocks(files[holes]), size, "a page less");
        assert!(pair.accept().is_none());
    }

    // What was punched out before the seal is missing, too.
    let (mut pair, request, response) = sent(4096, 4096);
    fill(&request, true);
    fill(&response, false);
    rustix::fs::fallocate(&request, PUNCH, 4096, 4096).expect("the client may punch");
    rustix::fs::fcntl_add_seals(&request, CLOSED).expect("the client seals");
    assert!(matches!(pair.check(), Err(SegmentError::Incomplete)));

    // Pages that nobody has touched yet, and that exist: `mincore` does not know them, as it does
    // not know those that were swapped out.
    let (mut pair, request, response) = sent(4096, 4096);
    let all = FallocateFlags::empty();
    rustix::fs::fallocate(&request, all, 0, 8192).expect("the client may allocate");
    fill(&response, false);
    rustix::fs::fcntl_add_seals(&request, CLOSED).expect("the client seals");
    assert!(pair.check().expect("they are charged to the client"));
}

/// In a process that has the kernel allocate whatever it maps.
#[test]
fn p13_a_server_that_locks_all_it_maps_allocates_no_page_either() {
    if !alone(module_path!(), "p13_a_server_that_locks_all_it_maps_allocates_no_page_either") {
        return;
    }
    use rustix::mm::{MlockAllFlags, mlockall};
    // The superuser needs no limit for that.
    if let Err(errno) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        return println!("missing: the right to lock all memory ({errno})");
    }
    // Of a client that allocates nothing, and lets the server try.
    let (mut pair, request, response) = sent(1 << 20, 2 << 20);
    assert_eq!((blocks(&request), blocks(&response)), (0, 0), "as sent");
    rustix::fs::fcntl_add_seals(&request, CLOSED).expect("the client seals");
    assert!(matches!(pair.check(), Err(SegmentError::Incomplete)));
    assert_eq!((blocks(&request), blocks(&response)), (0, 0), "when it was refused");
    // One that has allocated half of each.
    let (mut pair, request, response) = sent(4096, 4096);
    for fd in [&request, &*response] {
        let one = memmap2::MmapOptions::new().len(4096).map_raw_read_only(fd).expect("mapped");
        one.advise(Advice::PopulateRead).expect("populated");
    }
    rustix::fs::fcntl_add_seals(&request, CLOSED).expect("the client seals");
    assert!(matches!(pair.check(), Err(SegmentError::Incomplete)));
    assert_eq!((blocks(&request), blocks(&response)), (4096, 4096), "half of each");
    // What an honest one has allocated can be read and written.
    let (own, (request, response)) = sent(4096, 4096).0.complete();
    own.window.own_word(4096).store(7, Ordering::Relaxed);
    assert_eq!(request.window.peer_word(4096).load(), 7);
    response.window.own_word(4096).store(8, Ordering::Relaxed);
}

#[test]
fn p13_a_client_populates_no_longer_than_its_deadline() {
    let label = |kind| Label { kind, generation: 9, session: 8, capacity: 8 << 20 };
    let (pair, request, response) = sent(8 << 20, 8 << 20);
    let over = Some(Instant::now());
    for (fd, kind) in [(&request, SegmentKind::Request), (&*response, SegmentKind::Response)] {
        let seals = rustix::fs::fcntl_get_seals(fd).expect("seals");
        let copy = fd.try_clone().expect("a descriptor");
        let late = Segment::adopt(copy, seals, &label(kind), over).expect_err("it is late");
        assert!(matches!(late, SegmentError::TimedOut), "{late:?}");
        assert!(matches!(ConnectError::from(late), ConnectError::TimedOut));
        assert_eq!(blocks(fd), 2 << 20, "a slice, and no more");
        assert_eq!(rustix::fs::fcntl_get_seals(fd), Ok(seals), "it was not sealed");
    }
    // In time they are whole, also when some of it is there already.
    pair.complete();
    assert_eq!((blocks(&request), blocks(&response)), ((8 << 20) + 4096, (8 << 20) + 4096));
}

#[test]
fn a_request_segment_needs_exactly_its_seals() {
    // None of its own, one of the two, or more than those.
    let others =
        [SealFlags::empty(), SealFlags::SEAL, SealFlags::FUTURE_WRITE, CLOSED | SealFlags::WRITE];
    for seals in others {
        let (mut pair, request, response) = sent(4096, 4096);
        fill(&request, true);
        fill(&response, false);
        rustix::fs::fcntl_add_seals(&request, seals).expect("the client may seal");
        assert!(matches!(pair.check(), Err(SegmentError::Seals { .. })), "{seals:?}");
    }
}

#[test]
fn h1_a_segment_beyond_the_limit_on_files_is_an_error() {
    if !alone(module_path!(), "h1_a_segment_beyond_the_limit_on_files_is_an_error") {
        return;
    }
    let limit = |bytes| {
        let limit = rustix::process::Rlimit { current: Some(bytes), maximum: None };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).expect("set");
    };
    let refused = |made: Result<(), SegmentError>| match made {
        Err(SegmentError::FileSizeLimit { limit, want }) => (limit, want),
        other => panic!("{other:?}"),
    };
    limit(1 << 20);
    assert!(SegmentPair::create(1 << 19, 4096).is_ok());
    let larger = (1 << 20, (1 << 20) + 4096);
    assert_eq!(refused(SegmentPair::create(4096, 1 << 20).map(drop)), larger);
    assert_eq!(refused(SegmentPair::create(1 << 20, 4096).map(drop)), larger);
    limit(0);
    let me = Peer { pid: 1, uid: 2, name: [7; layout::NAME] };
    assert_eq!(refused(Segment::status(1, 64, &me).map(drop)), (0, 8192));
    assert_eq!(refused(Segment::bell(1, 1).map(drop)), (0, 4096));
    let told = Segment::bell(1, 1).expect_err("refused").to_string();
    assert!(
        told.contains("RLIMIT_FSIZE") && told.contains("4096") && told.contains(" 0 "),
        "{told}"
    );
}

#[test]
fn sizes_follow_from_labels() {
    let label = |kind, capacity| Label { kind, generation: 1, session: 1, capacity }.size();
    assert_eq!(label(SegmentKind::Request, 4096), 8192);
    assert_eq!(label(SegmentKind::Status, 64), 8192);
    assert_eq!(label(SegmentKind::Bell, 0), 4096);
}
