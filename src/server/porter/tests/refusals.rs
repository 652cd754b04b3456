//! Every reason to turn a client away.

use super::*;
use crate::handshake::TransportAsked;
use crate::link::lifeline;

fn reason(config: PorterConfig) -> RejectReason {
    match Fixture::new(config).attach() {
        Err(ConnectError::Rejected(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_users_are_rejected() {
    let me = rustix::process::getuid().as_raw();
    let others = Credentials::Uids(vec![me + 1, me + 2]);
    assert_eq!(
        reason(PorterConfig { credentials: others, ..settings() }),
        RejectReason::PermissionDenied
    );
    for credentials in [Credentials::SameUid, Credentials::Anyone, Credentials::Uids(vec![me])] {
        Fixture::new(PorterConfig { credentials, ..settings() }).join();
    }
}

#[test]
fn one_client_too_many_is_rejected_until_there_is_room() {
    let fixture = Fixture::new(PorterConfig { max_clients: 2, ..settings() });
    let (first, server) = fixture.join();
    let _second = fixture.join();
    for _ in 0..3 {
        let result = fixture.attach();
        let full = RejectReason::TooManyClients { limit: 2 };
        assert!(
            matches!(result, Err(ConnectError::Rejected(reason)) if reason == full),
            "{result:?}"
        );
    }
    assert_eq!(fixture.rejected(RejectReason::TooManyClients { limit: 0 }), 3);
    drop(first);
    assert_eq!(fixture.died(), (server.session, Death::HungUp));
    // The place is the dead client's until the reactor has let go of it.
    assert!(fixture.attach().is_err());
    fixture.handle().closed(server.session);
    fixture.join();
}

#[test]
fn too_many_bytes_are_rejected() {
    let pair = crate::link::segment_pair::SegmentPair::bytes(SMALL, SMALL);
    let limit = pair - 1;
    let config = PorterConfig { bytes_per_client: limit, ..settings() };
    assert_eq!(reason(config), RejectReason::BytesPerClient { limit });

    let fixture = Fixture::new(PorterConfig { bytes_per_uid: 2 * pair, ..settings() });
    let (_first, server) = fixture.join();
    let _second = fixture.join();
    let full = RejectReason::BytesPerUid { limit: 2 * pair };
    assert!(matches!(fixture.attach(), Err(ConnectError::Rejected(reason)) if reason == full));
    fixture.handle().closed(server.session);
    fixture.join();
}

#[test]
fn too_many_handshakes_are_rejected() {
    let fixture = Fixture::new(PorterConfig { max_handshakes: 3, ..settings() });
    let silent: Vec<_> = (0..3).map(|_| fixture.raw()).collect();
    eventually("three half-open", || count(&fixture.handle().counters().half_open) == 3);
    let result = fixture.attach();
    let full = RejectReason::TooManyHandshakes { limit: 3 };
    assert!(matches!(result, Err(ConnectError::Rejected(reason)) if reason == full), "{result:?}");
    drop(silent);
    eventually("none half-open", || count(&fixture.handle().counters().half_open) == 0);
    fixture.join();
}

#[test]
fn one_of_several_users_gets_half_the_handshakes() {
    let config = PorterConfig { max_handshakes: 4, credentials: Credentials::Anyone, ..settings() };
    let fixture = Fixture::new(config);
    let _silent: Vec<_> = (0..2).map(|_| fixture.raw()).collect();
    eventually("two half-open", || count(&fixture.handle().counters().half_open) == 2);
    let full = RejectReason::TooManyHandshakesOfUid { limit: 2 };
    assert!(matches!(fixture.attach(), Err(ConnectError::Rejected(reason)) if reason == full));
}

#[test]
fn a_server_that_stops_rejects_and_goes() {
    let mut fixture = Fixture::new(settings());
    let (client, _server) = fixture.join();
    let mut silent = fixture.raw();
    eventually("half-open", || count(&fixture.handle().counters().half_open) == 1);
    let (mut greeted, _) = welcomed(&fixture);
    fixture.handle().stop();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).expect("an answer, and the end");
    assert_eq!(answer, RejectReason::ShuttingDown.encode_reject());
    answer.clear();
    greeted.read_to_end(&mut answer).expect("an answer, and the end");
    assert_eq!(answer, [lifeline::Farewell::ShutDown as u8]);
    assert!(matches!(fixture.attach(), Err(ConnectError::Rejected(RejectReason::ShuttingDown))));
    let mut byte = [0];
    assert_eq!(
        rustix::io::read(&client.lifeline, &mut byte),
        Err(rustix::io::Errno::AGAIN),
        "sessions go on"
    );
    drop(fixture.handle.take().expect("running"));
    assert!(!fixture.path.exists());
    assert!(matches!(fixture.attach(), Err(ConnectError::NoSuchSocket(_))));
}

#[test]
fn garbage_is_rejected() {
    let fixture = Fixture::new(settings());
    let good = a_hello().encode();
    let change = |at: usize, bytes: &[u8]| {
        let mut hello = good.clone();
        hello[at..at + bytes.len()].copy_from_slice(bytes);
        hello
    };
    let bad = RejectReason::BadHello.encode_reject();
    let version = RejectReason::VersionUnsupported { min: 2, max: 2 }.encode_reject();
    const BODY: usize = 16;
    for (what, bytes, answer) in [
        ("wrong magic", change(0, b"X"), &bad),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), &bad),
        ("huge length", change(8, &[0xff; 4]), &bad),
        ("length above the limit", change(8, &4097u32.to_le_bytes()), &bad),
        ("short body", change(8, &87u32.to_le_bytes()), &bad),
        ("no body", change(8, &[0; 4]), &bad),
        ("unknown kind", change(12, &[9]), &bad),
        ("a welcome", change(12, &[2]), &bad),
        ("a later page", change(14, &[2]), &version),
        ("version 0", change(BODY, &[0; 4]), &version),
        ("version 999", change(BODY, &[0xe7, 3, 0xe7, 3]), &version),
        ("versions backwards", change(BODY, &[2, 0, 1, 0]), &bad),
        ("bad role", change(BODY + 4, &[0]), &bad),
        ("bad role", change(BODY + 4, &[77]), &bad),
        ("bad transport", change(BODY + 5, &[77]), &bad),
        ("long name", change(BODY + 6, &[49]), &bad),
        ("name not UTF-8", change(BODY + 40, &[0xff]), &bad),
        ("64 KiB of zeros", vec![0; 64 << 10], &bad),
        ("64 KiB of noise", noise(64 << 10), &bad),
    ] {
        assert_eq!(&fixture.answer(&bytes), answer, "{what}");
    }
    eventually("nothing half-open", || count(&fixture.handle().counters().half_open) == 0);
    assert_eq!(fixture.rejected(RejectReason::BadHello), 16);
    assert_eq!(fixture.handle().counters().rejected_total(), 19);
    fixture.join();
}

#[test]
fn wishes_are_checked() {
    let fixture = Fixture::new(settings());
    let bad = RejectReason::BadCapacity.encode_reject();
    for wanted in [1, 3, 1024, 2048 + 64, 1 << 31, 1 << 63, u64::MAX] {
        assert_eq!(
            fixture.refusal(Hello { request_capacity: wanted, ..a_hello() }),
            bad,
            "{wanted}"
        );
        assert_eq!(
            fixture.refusal(Hello { response_capacity: wanted, ..a_hello() }),
            bad,
            "{wanted}"
        );
    }
    let much = RejectReason::BytesPerClient { limit: 64 << 20 }.encode_reject();
    assert_eq!(fixture.refusal(Hello { request_capacity: 1 << 30, ..a_hello() }), much);
    let socket = Hello { transport: TransportAsked::Socket, ..a_hello() };
    assert_eq!(fixture.refusal(socket.clone()), RejectReason::SocketOff.encode_reject());
    let features = Hello { features: u32::MAX, versions: (0, 999), ..a_hello() };
    let mut stream = fixture.raw();
    stream.write_all(&features.encode()).expect("written");
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[12], 2, "welcome: unknown features and further versions are no obstacle");

    assert_eq!(
        reason(PorterConfig { shared_memory: false, ..settings() }),
        RejectReason::SharedMemoryOff
    );
    assert_eq!(fixture.rejected(RejectReason::SocketOff), 1);
}

#[test]
fn no_memory_for_segments_is_a_reason() {
    use crate::link::segment::SegmentError;
    let errors = [
        (SegmentError::OutOfMemory, RejectReason::OutOfMemory),
        (SegmentError::OutOfDescriptors, RejectReason::OutOfDescriptors),
        (
            SegmentError::FileSizeLimit { limit: 3, want: 4 },
            RejectReason::FileSizeLimit { limit: 3 },
        ),
        (SegmentError::Io(rustix::io::Errno::NOSYS.into()), RejectReason::SharedMemoryOff),
    ];
    for (error, reason) in errors {
        assert_eq!(admission::reason_of(&error), reason);
    }
}
