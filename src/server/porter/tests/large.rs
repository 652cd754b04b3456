//! Clients with large rings.

use super::*;
use crate::link::lifeline;

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
fn p8_a_client_with_large_rings_gets_in_again_and_again() {
    let fixture = Fixture::new(generous());
    for _ in 0..3 {
        let (client, server) = fixture.join();
        assert_eq!(shared(&server).request_capacity, LARGE);
        drop(client);
        let (session, _) = fixture.died();
        fixture.handle().closed(session);
    }
}

#[test]
fn p13_a_client_that_did_not_populate_is_told_so() {
    let fixture = Fixture::new(settings());
    let mut stream = fixture.raw();
    stream.write_all(&a_hello().encode()).expect("written");
    let descriptors = strangers::receive_welcome(&stream);
    let seals = rustix::fs::SealFlags::FUTURE_WRITE | rustix::fs::SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&descriptors[0], seals).expect("sealed");
    stream.write_all(&[lifeline::READY]).expect("written");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("an end");
    assert_eq!(said, [lifeline::Farewell::PeerFault as u8]);
    assert_eq!(count(&fixture.handle().counters().failed), 1);
    for segment in &descriptors[..2] {
        assert_eq!(rustix::fs::fstat(segment).expect("known").st_blocks, 0, "no page for it");
    }
}

#[test]
fn p8_an_embedded_porter_ends_in_the_middle_of_a_large_handshake() {
    let config = PorterConfig { credentials: Credentials::SameUid, ..generous() };
    let mut fixture = Fixture::run(PorterMode::Loop, config);
    let handle = fixture.handle.as_mut().expect("it runs");
    let mut stream = UnixStream::connect(&fixture.path).expect("connected");
    stream.write_all(&a_hello().encode()).expect("written");
    eventually("a welcome", || {
        handle.turn();
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [rustix::event::PollFd::new(&stream, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&at_once)) == Ok(1)
    });
    let descriptors = strangers::receive_welcome(&stream);
    let seals = rustix::fs::SealFlags::FUTURE_WRITE | rustix::fs::SealFlags::SEAL;
    for fd in &descriptors[..2] {
        let size = usize::try_from(rustix::fs::fstat(fd).expect("known").st_size).expect("small");
        let mapping = memmap2::MmapOptions::new().len(size).map_raw_read_only(fd).expect("mapped");
        mapping.advise(memmap2::Advice::PopulateRead).expect("populated");
    }
    rustix::fs::fcntl_add_seals(&descriptors[0], seals).expect("sealed");
    stream.write_all(&[lifeline::READY]).expect("written");
    eventually("its memory is being checked", || {
        handle.turn();
        handle.time_left() == Some(Duration::ZERO)
    });
    fixture.handle = None;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("an end");
    assert_eq!(said, [lifeline::Farewell::ShutDown as u8], "no session at a server that ends");
}
