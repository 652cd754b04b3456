//! Slow and hostile clients.

use super::*;
use crate::link::lifeline;
use std::os::fd::AsFd;

#[test]
fn a_silent_client_is_left_at_the_deadline() {
    let fixture =
        Fixture::new(PorterConfig { handshake_deadline: Duration::from_millis(20), ..settings() });
    assert_eq!(fixture.answer(&[]), []);
    assert_eq!(fixture.answer(b"RING"), [], "half a header");
    assert_eq!(fixture.answer(&a_hello().encode()[..50]), [], "half a hello");
    let (mut stream, _) = welcomed(&fixture);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer, and the end");
    assert_eq!(answer, [lifeline::Farewell::TooLate as u8]);
    assert_eq!(count(&fixture.handle().counters().timeouts), 4);
    assert_eq!(count(&fixture.handle().counters().half_open), 0);
}

#[test]
fn whoever_was_admitted_and_does_not_come_leaves_its_place() {
    let fixture = Fixture::new(PorterConfig { max_clients: 1, ..settings() });
    for _ in 0..3 {
        let (stream, _) = welcomed(&fixture);
        assert!(matches!(
            fixture.attach(),
            Err(ConnectError::Rejected(RejectReason::TooManyClients { .. }))
        ));
        drop(stream);
        eventually("the place is free", || count(&fixture.handle().counters().half_open) == 0);
    }
    for byte in [lifeline::WAKE, lifeline::GOODBYE, 0] {
        let (mut stream, _) = welcomed(&fixture);
        stream.write_all(&[byte]).expect("written");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    }
    assert_eq!(count(&fixture.handle().counters().failed), 6);
    let (_client, server) = fixture.join();
    assert_eq!(server.session, 7, "ids are not used again");
}

#[test]
fn a_hello_byte_by_byte_is_a_hello() {
    let fixture = Fixture::new(settings());
    let mut stream = fixture.raw();
    for byte in a_hello().encode() {
        stream.write_all(&[byte]).expect("written");
        std::thread::yield_now();
    }
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[12], 2, "a welcome");
}

#[test]
fn slow_clients_do_not_delay_others() {
    let fixture = Fixture::new(settings());
    let _silent: Vec<_> = (0..8).map(|_| fixture.raw()).collect();
    let _welcomed: Vec<_> = (0..7).map(|_| welcomed(&fixture)).collect();
    fixture.join();
}

#[test]
fn descriptors_from_a_client_are_refused() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let fixture = Fixture::new(settings());
    let stream = fixture.raw();
    let rights = [stream.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
    let hello = a_hello().encode();
    match rustix::net::sendmsg(
        &stream,
        &[std::io::IoSlice::new(&hello)],
        &mut control,
        SendFlags::NOSIGNAL,
    ) {
        // The kernel knows SO_PASSRIGHTS.
        Err(rustix::io::Errno::PERM) => {}
        // It does not: there is no room for them.
        Ok(sent) => assert_eq!(sent, hello.len()),
        other => panic!("{other:?}"),
    }
    fixture.join();
}

/// The descriptors that come with a Welcome.
pub(super) fn receive_welcome(stream: &UnixStream) -> Vec<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 256];
    let to = &mut [std::io::IoSliceMut::new(&mut bytes)];
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    let got = rustix::net::recvmsg(stream, to, &mut control, flags).expect("a welcome");
    assert!(got.bytes > 16);
    control
        .drain()
        .filter_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        })
        .flatten()
        .collect()
}

#[test]
fn a_client_that_seals_its_segment_is_turned_out() {
    let fixture = Fixture::new(settings());
    let mut stream = fixture.raw();
    stream.write_all(&a_hello().encode()).expect("written");
    let fds = receive_welcome(&stream);
    rustix::fs::fcntl_add_seals(&fds[0], rustix::fs::SealFlags::SEAL).expect("sealed");
    stream.write_all(&[lifeline::READY]).expect("written");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("the end");
    assert_eq!(said, [lifeline::Farewell::PeerFault as u8]);
    eventually("counted", || count(&fixture.handle().counters().failed) == 1);
    fixture.join();
}

#[test]
fn a_listener_that_another_holder_has_shut_down_keeps_no_porter_busy() {
    let mut fixture = Fixture::listening(PorterMode::Loop, settings(), |listener| {
        rustix::net::shutdown(&*listener.socket, rustix::net::Shutdown::Both).expect("shut down");
    });
    let handle = fixture.handle.as_mut().expect("it runs");
    assert!(handle.turn(), "it is told of that");
    // It looks again every 100 ms.
    let quiet = (0..1000).filter(|_| !handle.turn()).count();
    assert!(quiet > 500, "{quiet} of 1000 turns had nothing to do");
}

/// What a porter says when it ends, and was not told to.
fn last_words(events: &Receiver<Event>) -> String {
    match events.recv_timeout(PATIENCE).expect("an event") {
        Event::Failed(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn h2_a_listener_that_was_shut_down_ends_the_porter() {
    let fixture = Fixture::listening(PorterMode::Thread, settings(), |listener| {
        rustix::net::shutdown(&*listener.socket, rustix::net::Shutdown::Both).expect("shut down");
    });
    let said = last_words(&fixture.events);
    assert!(said.starts_with("accept4: "), "{said}");
    assert!(fixture.handle().counters().accept_pauses.load(Ordering::Relaxed) >= 1);
    assert!(fixture.events.recv_timeout(PATIENCE).is_err(), "said once, and over");
}

#[test]
fn h2_a_porter_that_panics_says_so() {
    /// Panics at the first session.
    struct Brittle(Sender<Event>);
    impl Outbox for Brittle {
        fn deliver(&self, event: Event) {
            assert!(!matches!(event, Event::Joined(_)), "on purpose");
            self.0.deliver(event);
        }
    }
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = listen(&path, &ListenOptions::default()).expect("bound");
    let me = Peer { pid: 0, uid: 0, name: [0; NAME] };
    let armed_words = settings().max_clients;
    let status = Segment::status(GENERATION, armed_words.into(), &me).expect("made");
    let info = StatusInfo { segment: Ok(&status), generation: GENERATION, armed_words };
    let (sender, events) = channel();
    let handle =
        start(PorterMode::Thread, listener, settings(), &info, Brittle(sender)).expect("started");
    // One waits for its Welcome, one has it and is not ready yet.
    let mut early = UnixStream::connect(&path).expect("connected");
    early.write_all(b"RING").expect("written");
    let mut late = UnixStream::connect(&path).expect("connected");
    late.write_all(&a_hello().encode()).expect("written");
    receive_welcome(&late);
    let client = attach(&path, &HelloOptions::default(), soon());
    assert!(last_words(&events).contains("panicked"));
    for half_open in [&mut early, &mut late] {
        half_open.set_read_timeout(Some(PATIENCE)).expect("set");
        assert_eq!(half_open.read(&mut [0; 256]).unwrap_or(0), 0, "it learns of the end");
    }
    assert!(UnixStream::connect(&path).is_err(), "nobody is let into a queue without an end");
    drop((client, handle));
    assert!(!path.exists(), "the socket is gone");
}
