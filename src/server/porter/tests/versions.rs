//! Clients of other versions, and of another kind.

use super::*;
use crate::handshake::tests::golden::golden;
use crate::handshake::{FEATURE_BYTES, Role, TransportAsked};

/// What a client of wire 1 makes of a refusal: the reason's number and parameters. As its parser
/// reads it, which is written down here once more, since today's may change.
fn as_wire_1_reads(answer: &[u8]) -> (u32, u64, u64) {
    let u16 = |at: usize| u16::from_le_bytes(answer[at..at + 2].try_into().expect("two"));
    let u32 = |at: usize| u32::from_le_bytes(answer[at..at + 4].try_into().expect("four"));
    let u64 = |at: usize| u64::from_le_bytes(answer[at..at + 8].try_into().expect("eight"));
    assert_eq!(answer.len(), 16 + 24, "{answer:?}");
    assert_eq!((&answer[..8], u32(8), u16(12), u16(14)), (&b"RINGHELO"[..], 24, 4, 1));
    (u32(16), u64(24), u64(32))
}

#[test]
fn a_client_of_wire_1_is_refused_in_its_own_bytes() {
    for config in [settings(), lenient(), PorterConfig { bytes: true, ..settings() }] {
        let fixture = Fixture::new(config);
        for name in ["hello-client", "hello-socket", "hello-inspector", "49f7a2e-hello"] {
            let answer = fixture.answer(&golden(&format!("wire-1/{name}.bin")));
            assert_eq!(as_wire_1_reads(&answer), (1, 2, 2), "{name}: versions 2 to 2");
            assert_eq!(answer, golden("wire-2/reject-version.bin"), "{name}");
        }
        // The inspector is none of the clients.
        assert_eq!(fixture.rejected(RejectReason::VersionUnsupported { min: 2, max: 2 }), 3);
        assert_eq!(count(&fixture.handle().counters().inspectors_refused), 1);
        assert_eq!(count(&fixture.handle().counters().joined), 0);
    }
}

#[test]
fn a_client_of_a_later_wire_is_refused_by_its_versions_alone() {
    let fixture = Fixture::new(settings());
    let mut hello = Hello { versions: (3, 9), ..a_hello() }.encode();
    let version = RejectReason::VersionUnsupported { min: 2, max: 2 }.encode_reject();
    assert_eq!(fixture.answer(&hello), version);
    // Whatever else it may say, and however little.
    hello[20..].fill(0xff);
    assert_eq!(fixture.answer(&hello), version);
    hello.truncate(20);
    hello[8] = 4;
    assert_eq!(fixture.answer(&hello), version);
}

#[test]
fn c4_who_makes_calls_is_refused_by_a_server_of_byte_streams() {
    let fixture = Fixture::new(PorterConfig { bytes: true, ..lenient() });
    for transport in [TransportChoice::Auto, TransportChoice::SharedMemory, TransportChoice::Socket]
    {
        let result = fixture.attach_somehow(transport);
        assert!(
            matches!(result, Err(ConnectError::Rejected(RejectReason::ByteStreamsOnly))),
            "{transport:?}: {result:?}"
        );
    }
    assert_eq!(fixture.rejected(RejectReason::ByteStreamsOnly), 3);
    for asked in [TransportAsked::Shared, TransportAsked::Socket] {
        let hello = Hello { transport: asked, ..a_hello() };
        assert_eq!(fixture.refusal(hello), golden("wire-2/reject-byte-streams-only.bin"));
    }
    // Nothing was taken for them.
    eventually("nothing half-open", || count(&fixture.handle().counters().half_open) == 0);
    assert_eq!(count(&fixture.handle().counters().joined), 0);
    let mut clients = Vec::new();
    for transport in [TransportChoice::SharedMemory, TransportChoice::Socket] {
        let options = HelloOptions { bytes: true, transport, ..HelloOptions::default() };
        clients.push(handshake::attach(&fixture.path, &options, soon()).expect("attached"));
        assert!(fixture.joined().bytes);
    }
    // An inspector is no client.
    let inspector = Hello { role: Role::Inspector, ..a_hello() };
    let mut stream = fixture.raw();
    stream.write_all(&inspector.encode()).expect("written");
    let mut head = [0; 16];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(head[12], 5, "segments");
}

#[test]
fn c4_a_byte_stream_is_refused_by_a_server_of_calls() {
    let fixture = Fixture::new(lenient());
    for transport in [TransportChoice::Auto, TransportChoice::SharedMemory, TransportChoice::Socket]
    {
        let options = HelloOptions { bytes: true, transport, ..HelloOptions::default() };
        let result = handshake::attach(&fixture.path, &options, soon());
        assert!(matches!(result, Err(ConnectError::NoByteStreams)), "{transport:?}: {result:?}");
    }
    let bytes = Hello { features: FEATURE_BYTES, ..a_hello() };
    let mut stream = fixture.raw();
    stream.write_all(&bytes.encode()).expect("written");
    let mut message = [0; 16 + 88];
    stream.read_exact(&mut message).expect("an answer");
    assert_eq!((message[12], &message[16 + 68..16 + 72]), (2, &[0; 4][..]), "not granted");
    assert_eq!(count(&fixture.handle().counters().joined), 0);
}
