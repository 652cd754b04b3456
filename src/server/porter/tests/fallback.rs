//! The socket as transport: for whoever asks for it, and for whoever cannot have rings.

use super::*;
use crate::handshake::{
    FEATURE_CLOCK, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, FallbackReason, Host, Offer,
    TransportAsked,
};
use crate::link::lifeline;
use crate::link::socket::{Filled, Pushed, SocketLink};
use crate::memory::layout::{HeaderWord, Kind};

/// Sends a frame each way, between two ends that have nothing but the socket.
fn frames_travel(client: SocketAttachment, server: &Joined) {
    let ends = [SocketLink::new(Arc::new(client.socket)), SocketLink::new(server.lifeline.clone())];
    let [mut from, mut to] = ends;
    for _ in 0..2 {
        let word = HeaderWord::new(Kind::Request, 0, 0, 0);
        assert_eq!(from.try_push(word, 7, &[], b"over the socket"), Pushed::Done);
        from.flush().expect("sent");
        eventually("a frame", || to.fill().expect("alive") != Filled::Nothing);
        let frame = to.peek().expect("no fault").expect("a frame");
        assert_eq!((frame.call, to.body(&frame)), (7, &b"over the socket"[..]));
        to.release(frame);
        std::mem::swap(&mut from, &mut to);
    }
}

#[test]
fn a_client_that_asks_for_the_socket_gets_it() {
    assert!(PorterConfig::default().fallback && PorterConfig::default().shared_memory);
    let fixture = Fixture::new(lenient());
    let options = HelloOptions {
        name: "tester".into(),
        max_message: 1000,
        transport: TransportChoice::Socket,
        ..HelloOptions::default()
    };
    let Attached::Socket(client) =
        handshake::attach(&fixture.path, &options, soon()).expect("attached")
    else {
        panic!("shared memory");
    };
    let server = fixture.joined();
    assert_eq!(by_socket(&server), RejectReason::SocketAsked);
    assert_eq!(
        (client.session, client.generation, client.reason),
        (1, GENERATION, FallbackReason::Asked)
    );
    assert_eq!((client.max_message, client.server_pid), (1000, std::process::id()));
    assert_eq!((server.session, server.max_message), (1, 1000));
    assert_eq!((server.peer.pid, &*server.peer.name), (std::process::id(), "tester"));
    frames_travel(client, &server);
    assert_eq!(count(&fixture.handle().counters().fallbacks), 1);
    assert_eq!(count(&fixture.handle().counters().joined), 1);

    let (client, server) = fixture.join();
    assert_eq!((client.session, shared(&server).domain), (2, 0), "others still get shared memory");
    assert_eq!(count(&fixture.handle().counters().fallbacks), 1);
}

#[test]
fn without_shared_memory_every_client_gets_the_socket() {
    let fixture = Fixture::new(PorterConfig { shared_memory: false, ..lenient() });
    for _ in 0..2 {
        let (client, server) = fixture.join_by_socket();
        assert_eq!(client.reason, FallbackReason::Server(RejectReason::SharedMemoryOff));
        assert_eq!(by_socket(&server), RejectReason::SharedMemoryOff);
        frames_travel(client, &server);
    }
    let result = fixture.attach();
    let refused =
        matches!(result, Err(ConnectError::SharedMemoryRefused(RejectReason::SharedMemoryOff)));
    assert!(refused, "{result:?}");
    eventually("its place is free", || count(&fixture.handle().counters().half_open) == 0);
    assert_eq!(count(&fixture.handle().counters().fallbacks), 2);
    // What would be wrong with rings is no matter then.
    let Attached::Socket(_) = handshake::attach(
        &fixture.path,
        &HelloOptions { request_capacity: 1 << 30, ..HelloOptions::default() },
        soon(),
    )
    .expect("attached") else {
        panic!("shared memory");
    };
}

#[test]
fn a_server_without_memfds_has_the_socket() {
    let fixture = Fixture::new(lenient());
    let info =
        StatusInfo { segment: Err(&SegmentError::OutOfDescriptors), generation: 1, armed_words: 1 };
    let mut admission = admission::Admission::new(&lenient(), &info).expect("made");
    let peer =
        PeerInfo { pid: 1, uid: rustix::process::geteuid().as_raw(), gid: 3, name: String::new() };
    let offer = admission.admit(&peer, &a_hello());
    let off = RejectReason::OutOfDescriptors;
    assert!(
        matches!(offer, Ok(Offer::Socket(Fallback { reason, .. })) if reason == off),
        "{offer:?}"
    );
    let mut admission = admission::Admission::new(&settings(), &info).expect("made");
    assert_eq!(admission.admit(&peer, &a_hello()).err(), Some(off));
    drop(fixture);
}

#[test]
fn limits_of_memory_lead_to_the_socket() {
    let pair = crate::link::segment_pair::SegmentPair::bytes(SMALL, SMALL);
    let limit = pair - 1;
    let fixture = Fixture::new(PorterConfig { bytes_per_client: limit, ..lenient() });
    let (client, server) = fixture.join_by_socket();
    assert_eq!(by_socket(&server), RejectReason::BytesPerClient { limit });
    assert_eq!(client.reason, FallbackReason::Server(RejectReason::BytesPerClient { limit }));

    let fixture = Fixture::new(PorterConfig { bytes_per_uid: pair, ..lenient() });
    let (_first, server) = fixture.join();
    let full = RejectReason::BytesPerUid { limit: pair };
    let others: Vec<_> = (0..3).map(|_| fixture.join_by_socket()).collect();
    assert!(others.iter().all(|(_, server)| by_socket(server) == full));
    assert!(
        matches!(fixture.attach(), Err(ConnectError::SharedMemoryRefused(reason)) if reason == full)
    );
    for (_, other) in &others {
        fixture.handle().closed(other.session);
    }
    let (_, other) = fixture.join_by_socket();
    assert_eq!(by_socket(&other), full, "they had no memory to give back");
    fixture.handle().closed(server.session);
    fixture.join();
    assert_eq!(fixture.handle().counters().rejected_total(), 0);
}

#[test]
fn clients_on_the_socket_are_clients() {
    let fixture = Fixture::new(PorterConfig { max_clients: 2, shared_memory: false, ..lenient() });
    let (_first, server) = fixture.join_by_socket();
    let _second = fixture.join_by_socket();
    let full = RejectReason::TooManyClients { limit: 2 };
    for transport in [TransportChoice::Auto, TransportChoice::Socket, TransportChoice::SharedMemory]
    {
        let result = fixture.attach_somehow(transport);
        assert!(
            matches!(result, Err(ConnectError::Rejected(reason)) if reason == full),
            "{result:?}"
        );
    }
    fixture.handle().closed(server.session);
    fixture.join_by_socket();

    let fixture = Fixture::new(PorterConfig { max_clients: 1, bytes_per_client: 1, ..lenient() });
    fixture.join_by_socket();
    let full = RejectReason::TooManyClients { limit: 1 };
    let result = fixture.attach_somehow(TransportChoice::Auto);
    assert!(matches!(result, Err(ConnectError::Rejected(reason)) if reason == full), "{result:?}");
}

#[test]
fn a_socket_is_left_to_the_reactor() {
    let fixture = Fixture::new(PorterConfig { shared_memory: false, ..lenient() });
    let (client, server) = fixture.join_by_socket();
    rustix::io::write(&client.socket, &[lifeline::GOODBYE]).expect("written");
    drop(client);
    // Whatever the porter does about it, it has done when it has let the next client in.
    let (_next, _) = fixture.join_by_socket();
    assert!(fixture.events.try_recv().is_err(), "it says nothing");
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&server.lifeline, &mut bytes), Ok(1), "and has read nothing");
    assert_eq!(rustix::io::read(&server.lifeline, &mut bytes), Ok(0));
    let epoll =
        rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).expect("made");
    let (data, flags) =
        (rustix::event::epoll::EventData::new_u64(1), rustix::event::epoll::EventFlags::IN);
    rustix::event::epoll::add(&epoll, &server.lifeline, data, flags)
        .expect("watched by somebody else");
    fixture.handle().closed(server.session);
    assert_eq!(count(&fixture.handle().counters().deaths), 0);
}

/// A client that was offered the socket, and has not answered yet.
fn offered(fixture: &Fixture) -> UnixStream {
    let mut stream = fixture.raw();
    stream
        .write_all(&Hello { transport: TransportAsked::Socket, ..a_hello() }.encode())
        .expect("written");
    let mut message = [0; 16 + 72];
    stream.read_exact(&mut message).expect("an answer");
    assert_eq!((message[12], message[8]), (3, 72), "a fallback");
    stream
}

#[test]
fn whoever_was_offered_the_socket_and_does_not_come_leaves_its_place() {
    let fixture = Fixture::new(PorterConfig { max_clients: 1, ..lenient() });
    for _ in 0..3 {
        let stream = offered(&fixture);
        assert!(matches!(
            fixture.attach(),
            Err(ConnectError::Rejected(RejectReason::TooManyClients { .. }))
        ));
        drop(stream);
        eventually("the place is free", || count(&fixture.handle().counters().half_open) == 0);
    }
    for byte in [lifeline::WAKE, lifeline::GOODBYE, 0] {
        let mut stream = offered(&fixture);
        stream.write_all(&[byte]).expect("written");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    }
    assert_eq!(count(&fixture.handle().counters().failed), 6);
    assert_eq!(count(&fixture.handle().counters().fallbacks), 0, "none began");
    let (_client, server) = fixture.join();
    assert_eq!(server.session, 7, "ids are not used again");
}

#[test]
fn whoever_leaves_has_left_when_its_connection_ends() {
    // So a client that cannot map asks for the socket in time for its own place.
    let fixture = Fixture::new(PorterConfig { max_clients: 1, ..lenient() });
    for _ in 0..100 {
        let (mut stream, _) = welcomed(&fixture);
        stream.shutdown(std::net::Shutdown::Write).expect("shut");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    }
    fixture.attach_somehow(TransportChoice::Socket).expect("there is room");
}

#[test]
fn a_farewell_before_the_first_frame_is_a_frame() {
    let mut fixture =
        Fixture::new(PorterConfig { handshake_deadline: Duration::from_millis(100), ..lenient() });
    let goodbye = |stream: UnixStream| {
        stream.set_nonblocking(true).expect("set");
        let mut link = SocketLink::new(Arc::new(stream.into()));
        eventually("the end", || link.fill().expect("alive") == Filled::End);
        let frame = link.peek().expect("no fault").expect("a frame");
        assert_eq!((frame.header.kind(), frame.call, frame.len()), (Kind::Goodbye, 0, 0));
        let code = frame.header.code();
        link.release(frame);
        assert!(!link.is_truncated());
        code
    };
    assert_eq!(goodbye(offered(&fixture)), lifeline::Farewell::TooLate as u16);
    fixture = Fixture::new(lenient());
    let stream = offered(&fixture);
    fixture.handle().stop();
    assert_eq!(goodbye(stream), lifeline::Farewell::ShutDown as u16);
}

#[test]
fn frames_may_follow_at_once() {
    let fixture = Fixture::new(lenient());
    let mut stream = offered(&fixture);
    stream.write_all(&[lifeline::READY, 1, 2, 3]).expect("written");
    let server = fixture.joined();
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&server.lifeline, &mut bytes), Ok(3), "READY alone was read");
}

#[test]
fn features_are_granted_as_far_as_they_are_known() {
    let fixture = Fixture::new(lenient());
    let mut clients = Vec::new();
    for transport in [TransportChoice::SharedMemory, TransportChoice::Socket] {
        for ordered in [false, true] {
            let options = HelloOptions { ordered, transport, ..HelloOptions::default() };
            let client = handshake::attach(&fixture.path, &options, soon()).expect("attached");
            let granted = match &client {
                Attached::Shared(client) => client.ordered,
                Attached::Socket(client) => client.ordered,
            };
            assert_eq!((granted, fixture.joined().ordered), (ordered, ordered));
            clients.push(client);
        }
    }
    for (transport, at) in [(TransportAsked::Shared, 16 + 68), (TransportAsked::Socket, 16 + 28)] {
        let mut stream = fixture.raw();
        stream
            .write_all(&Hello { features: u32::MAX, transport, ..a_hello() }.encode())
            .expect("written");
        let mut message = [0; 16 + 72];
        stream.read_exact(&mut message).expect("an answer");
        let mut rest = [0; 16];
        let message = match transport {
            TransportAsked::Shared => {
                stream.read_exact(&mut rest).expect("the rest");
                [&message[..], &rest].concat()
            }
            TransportAsked::Socket => message.to_vec(),
        };
        // A socket has no page for samples.
        let granted = if transport == TransportAsked::Shared {
            FEATURE_ORDERED | FEATURE_SAMPLES | FEATURE_CLOCK
        } else {
            FEATURE_ORDERED | FEATURE_CLOCK
        };
        assert_eq!(message[at..at + 4], granted.to_le_bytes(), "{transport:?}");
    }
}

#[test]
fn a_welcome_that_cannot_be_sent_is_replaced() {
    let fixture = Fixture::new(settings());
    let info = StatusInfo { segment: Ok(&fixture._status), generation: GENERATION, armed_words: 2 };
    let peer =
        PeerInfo { pid: 1, uid: rustix::process::geteuid().as_raw(), gid: 3, name: String::new() };
    let bytes_per_uid = crate::link::segment_pair::SegmentPair::bytes(SMALL, SMALL);
    let config = PorterConfig { max_clients: 2, bytes_per_uid, ..lenient() };
    let mut admission = admission::Admission::new(&config, &info).expect("made");
    let welcome = |offer: Result<Offer, RejectReason>| match offer {
        Ok(Offer::Shared(offer)) => offer.welcome,
        other => panic!("{other:?}"),
    };
    let hello = Hello { features: FEATURE_ORDERED, ..a_hello() };
    let first = welcome(admission.admit(&peer, &hello));
    let fallback = admission.offer_socket(&first, RejectReason::OutOfDescriptors).expect("offered");
    assert_eq!(
        (fallback.session, fallback.reason),
        (first.session, RejectReason::OutOfDescriptors)
    );
    assert_eq!((fallback.features, fallback.max_message), (FEATURE_ORDERED, first.max_message));
    // Its memory is free, its slot is not.
    welcome(admission.admit(&peer, &hello));
    assert_eq!(
        admission.admit(&peer, &hello).err(),
        Some(RejectReason::TooManyClients { limit: 2 })
    );
    admission.release_quota(first.session);
    assert!(matches!(admission.admit(&peer, &hello), Ok(Offer::Socket(_))));

    let mut admission = admission::Admission::new(&settings(), &info).expect("made");
    let first = welcome(admission.admit(&peer, &hello));
    let refused = admission.offer_socket(&first, RejectReason::OutOfDescriptors);
    assert_eq!(refused, Err(RejectReason::OutOfDescriptors));
}
