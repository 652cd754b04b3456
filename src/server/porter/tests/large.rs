//! Clients whose memory takes time.

use super::*;
use crate::handshake::{Admitted, Host, Offer};
use crate::link::segment::SegmentPair;
use crate::link::segment_making::SLICE;

const LARGE: u64 = 64 << 20;

/// Rings of 64 MiB for any user who asks.
fn generous() -> PorterConfig {
    PorterConfig {
        credentials: Credentials::Anyone,
        bytes_per_client: 4 * LARGE,
        request_capacity: LARGE,
        response_capacity: LARGE,
        ..settings()
    }
}

#[test]
fn p8_a_client_that_is_allowed_more_than_the_burst_gets_in() {
    let fixture = Fixture::new(generous());
    let (_client, server) = fixture.join();
    assert_eq!(shared(&server).request_capacity, LARGE);
}

#[test]
fn p8_who_waits_for_memory_to_the_deadline_is_told_to_try_again() {
    let handshake_deadline = Duration::from_millis(300);
    let fixture = Fixture::new(PorterConfig {
        handshake_deadline,
        // The spare is that of another size, so each pair is made.
        request_capacity: SMALL,
        response_capacity: SMALL,
        ..generous()
    });
    let ask = || {
        let large = Hello { request_capacity: LARGE, ..a_hello() };
        let mut stream = fixture.raw();
        stream.write_all(&large.encode()).expect("written");
        let mut head = [0; 16];
        stream.read_exact(&mut head).expect("an answer");
        let mut body = vec![0; usize::from(head[8])];
        stream.read_exact(&mut body).expect("its body");
        (head[12], body)
    };
    // Reads its Welcome, or waits for its memory for too long, and goes: it was charged.
    let _ = ask();
    let (kind, body) = ask();
    assert_eq!(kind, 4, "a reject");
    let reason = RejectReason::TooManyHandshakesOfUid { limit: 8 };
    assert_eq!(RejectReason::parse(&body), Ok(reason));
    assert!(fixture.rejected(reason) > 0);
    assert_eq!(count(&fixture.handle().counters().half_open), 0);
}

#[test]
fn p8_a_spare_is_made_in_slices() {
    let fixture = Fixture::new(settings());
    let info =
        StatusInfo { segment: Some(&fixture._status), generation: GENERATION, armed_words: 2 };
    let capacity = 1 << 20;
    let config =
        PorterConfig { request_capacity: capacity, response_capacity: capacity, ..settings() };
    let mut admission = admission::Admission::new(&config, &info).expect("made");
    let mut slices = 0;
    while admission.wants_spare() {
        admission.make_spare();
        slices += 1;
    }
    assert_eq!(slices, SegmentPair::bytes(capacity, capacity).div_ceil(SLICE));
    let uid = rustix::process::geteuid().as_raw();
    let peer = PeerInfo { pid: 1, uid, gid: 3, name: String::new() };
    let admitted = admission.admit(&peer, &a_hello());
    assert!(matches!(admitted, Ok(Admitted::Offer(Offer::Shared(_)))), "{admitted:?}");
}

#[test]
fn p8_an_embedded_porter_ends_in_the_middle_of_a_large_handshake() {
    let config = PorterConfig { credentials: Credentials::SameUid, ..generous() };
    let mut fixture = Fixture::run(PorterMode::Loop, config);
    let mut stream = fixture.raw();
    stream.write_all(&a_hello().encode()).expect("written");
    let handle = fixture.handle.as_mut().expect("it runs");
    eventually("its memory is being made", || {
        handle.turn();
        handle.time_left() == Some(Duration::ZERO)
    });
    fixture.handle = None;
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[12], 4, "a reject, not a welcome from a server that ends");
    let mut body = vec![0; usize::from(head[8])];
    stream.read_exact(&mut body).expect("its body");
    assert_eq!(RejectReason::parse(&body), Ok(RejectReason::ShuttingDown));
}
