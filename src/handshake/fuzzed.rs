//! Every parser of handshake messages at once, for `fuzzing.rs`.

use super::wire::{
    FEATURE_CLOCK, FEATURE_ORDERED, FEATURE_SAMPLES, Fallback, HEADER, Header, Hello, MAX_BODY,
    RejectReason, Role, Segments, TransportAsked, VERSIONS, Welcome,
};
use crate::memory::layout::{self, NAME};

/// Gives a header and what follows it to every parser; how many took it.
pub(crate) fn fuzzed(bytes: &[u8]) -> usize {
    let body = match bytes.first_chunk::<HEADER>().map(Header::parse) {
        Some(Ok(header)) => {
            assert!(header.length <= MAX_BODY);
            let body = &bytes[HEADER..];
            &body[..body.len().min(header.length)]
        }
        _ => bytes,
    };
    let hello = Hello::parse(body);
    if let Ok(hello) = &hello {
        assert!(hello.name.len() <= NAME && hello.versions.0 <= hello.versions.1);
        // What was understood can be said again, and means the same.
        assert_eq!(Hello::parse(&hello.encode()[HEADER..]).as_ref(), Ok(hello));
    }
    let welcome = Welcome::parse(body);
    if let Ok(welcome) = &welcome {
        assert!(
            u64::from(welcome.domain) < welcome.armed_words
                && layout::is_capacity(welcome.request_capacity)
        );
        assert_eq!(Welcome::parse(&welcome.encode()[HEADER..]).as_ref(), Ok(welcome));
    }
    let fallback = Fallback::parse(body);
    if let Ok(fallback) = &fallback {
        assert!(fallback.session != 0 && fallback.max_message != 0);
        // The number of an unknown reason is forgotten.
        let fallback = Fallback { reason: RejectReason::SocketAsked, ..*fallback };
        assert_eq!(Fallback::parse(&fallback.encode()[HEADER..]), Ok(fallback));
    }
    let reject = RejectReason::parse(body);
    let segments = Segments::parse(body);
    if let Ok(segments) = &segments {
        assert_eq!(Segments::parse(&segments.encode()[HEADER..]).as_ref(), Ok(segments));
    }
    [hello.is_ok(), welcome.is_ok(), fallback.is_ok(), reject.is_ok(), segments.is_ok()]
        .into_iter()
        .filter(|taken| *taken)
        .count()
}

/// One of each message.
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let hello = |role, transport| Hello {
        versions: VERSIONS,
        role,
        transport,
        features: FEATURE_ORDERED | FEATURE_SAMPLES | FEATURE_CLOCK,
        request_capacity: 4096,
        response_capacity: 0,
        max_message: 1 << 20,
        name: "a name".into(),
    };
    let welcome = Welcome {
        version: VERSIONS.1,
        has_pidfd: true,
        has_bell: true,
        domain: 3,
        generation: 77,
        session: 5,
        request_capacity: 4096,
        response_capacity: 8192,
        max_message: 1 << 20,
        armed_words: 64,
        pid: 1234,
        features: FEATURE_SAMPLES | FEATURE_CLOCK,
        sample_every: 64,
        server_ns: 1 << 40,
    };
    let reason = RejectReason::TooManyClients { limit: 64 };
    let fallback = Fallback {
        reason,
        version: VERSIONS.1,
        features: FEATURE_CLOCK,
        generation: 77,
        session: 5,
        max_message: 1 << 20,
        pid: 1234,
        server_ns: 1 << 40,
    };
    let segments = Segments {
        version: VERSIONS.1,
        more: false,
        count: 3,
        generation: 77,
        pid: 1234,
        sockets: 1,
        server_ns: 1 << 40,
    };
    vec![
        hello(Role::Client, TransportAsked::Shared).encode(),
        hello(Role::Inspector, TransportAsked::Socket).encode(),
        welcome.encode(),
        fallback.encode(),
        reason.encode_reject(),
        segments.encode(),
    ]
}
