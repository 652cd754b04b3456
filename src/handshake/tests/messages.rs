//! Messages on the wire, good ones and any bytes.

use super::*;
use crate::link::lifeline;

#[test]
fn messages_survive_the_wire() {
    let hello = Hello {
        features: 9,
        request_capacity: 4096,
        max_message: 7,
        name: "ä".repeat(24),
        ..a_hello()
    };
    let bytes = hello.encode();
    let (header, body) = split(&bytes);
    assert_eq!((header.kind, Hello::parse(body)), (MessageKind::Hello, Ok(hello)));

    let bytes = a_welcome().encode();
    let (header, body) = split(&bytes);
    assert_eq!((header.kind, Welcome::parse(body)), (MessageKind::Welcome, Ok(a_welcome())));

    let mut numbers = Vec::new();
    for reason in REASONS {
        let reject = reason.encode_reject();
        assert_eq!(
            (split(&reject).0.kind, RejectReason::parse(split(&reject).1)),
            (MessageKind::Reject, Ok(reason))
        );
        let fallback = Fallback { reason, features: 9, ..a_fallback() };
        let bytes = fallback.encode();
        let (header, body) = split(&bytes);
        assert_eq!((header.kind, Fallback::parse(body)), (MessageKind::Fallback, Ok(fallback)));
        assert_eq!(body[..24], *split(&reject).1, "begins as a reject");
        assert!(!reason.to_string().is_empty() && (reason.number() as usize) < RejectReason::COUNT);
        numbers.push(reason.number());
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), REASONS.len(), "every number once");
}

#[test]
fn a_longer_body_of_a_later_version_is_understood() {
    let mut bytes = a_hello().encode();
    bytes.extend([7; 100]);
    assert_eq!(Hello::parse(&bytes[HEADER..]), Ok(a_hello()));
}

#[test]
fn a_long_name_is_cut_at_a_character() {
    let hello = Hello { name: format!("x{}", "ä".repeat(24)), ..a_hello() };
    let parsed = Hello::parse(&hello.encode()[HEADER..]).expect("valid");
    assert_eq!(parsed.name, format!("x{}", "ä".repeat(23)));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
    ) {
        if let Some(head) = bytes.first_chunk() {
            let _ = Header::parse(head);
        }
        let _ = Hello::parse(&bytes);
        let _ = Welcome::parse(&bytes);
        let _ = RejectReason::parse(&bytes);
        let _ = Fallback::parse(&bytes);
    }

    #[test]
    fn no_change_of_a_valid_message_makes_a_parser_panic(
        at in 0usize..88,
        value in proptest::num::u8::ANY,
    ) {
        for mut body in [a_hello().encode(), a_welcome().encode(), a_fallback().encode()] {
            body.drain(..HEADER);
            if let Some(byte) = body.get_mut(at) {
                *byte = value;
            }
            if let Ok(hello) = Hello::parse(&body) {
                assert!(hello.name.len() <= layout::NAME);
            }
            if let Ok(welcome) = Welcome::parse(&body) {
                assert!(u64::from(welcome.domain) < welcome.armed_words);
                assert!(layout::is_capacity(welcome.request_capacity));
            }
            if let Ok(fallback) = Fallback::parse(&body) {
                assert!(fallback.session != 0 && fallback.max_message != 0);
            }
        }
    }
}

#[test]
fn lifeline_bytes_are_what_they_say() {
    use crate::link::lifeline::Farewell;
    for farewell in [
        Farewell::ShutDown,
        Farewell::PeerFault,
        Farewell::SlowClient,
        Farewell::Exhausted,
        Farewell::TooLate,
    ] {
        assert_eq!(Farewell::from_byte(farewell as u8), Some(farewell));
    }
    for byte in [lifeline::READY, lifeline::WAKE, lifeline::GOODBYE, 0xff] {
        assert_eq!(Farewell::from_byte(byte), None);
    }
}
