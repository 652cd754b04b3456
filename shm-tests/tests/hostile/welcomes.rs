//! Servers that answer a Hello wrongly: with wrong segments, wrong descriptors, nonsense, or
//! nothing.

use crate::CAPACITY;
use crate::fake::{Fake, welcome_with};
use ringbell::layout::SegmentKind;
use ringbell::{ConnectError, SegmentError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::Stopwatch;
use ringbell_shm_tests::raw::{self, Segments};
use ringbell_shm_tests::{done, observe};
use rustix::fs::SealFlags;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub(crate) fn servers_with_wrong_segments() -> Ran {
    let fake = Fake::new();
    let welcome = raw::welcome(CAPACITY);
    // So that what follows fails for the reason that it should fail for.
    let good = fake.greets(|stream| {
        let segments = Segments::honest(&welcome);
        let descriptors: Vec<_> = segments.descriptors.iter().map(AsFd::as_fd).collect();
        raw::send(&stream, &welcome.encode(), &descriptors);
        assert_eq!(raw::last_words(&stream), [raw::READY, raw::GOODBYE]);
    });
    assert!(good.is_ok(), "{good:?}");
    let mut cases = 0;
    for (index, kind) in raw::KINDS.into_iter().enumerate() {
        let with = |fd: std::os::fd::OwnedFd| {
            let mut descriptors = Segments::honest(&welcome).descriptors;
            descriptors[index] = fd;
            fake.greets(|stream| welcome_with(&stream, &welcome, &descriptors))
                .expect_err("refused")
        };
        let honest = raw::identity(&welcome, kind);
        let seals = raw::seals(kind);
        // Each seal that is needed, and those that would make it useless.
        for missing in seals.iter() {
            let error = with(raw::segment(&honest, honest.total, seals - missing).0);
            assert!(
                matches!(error, ConnectError::BadSegment(SegmentError::Seals { .. })),
                "{kind:?} without {missing:?}: {error:?}"
            );
            cases += 1;
        }
        if matches!(kind, SegmentKind::Request | SegmentKind::Bell) {
            let error =
                with(raw::segment(&honest, honest.total, seals | SealFlags::FUTURE_WRITE).0);
            assert!(
                matches!(error, ConnectError::BadSegment(SegmentError::Seals { .. })),
                "{kind:?}: {error:?}"
            );
            cases += 1;
        }
        for size in [0, 4096, honest.total - 1, honest.total + 1, honest.total * 2] {
            if size == honest.total {
                continue;
            }
            let error = with(raw::segment(&honest, size, seals).0);
            assert!(
                matches!(error, ConnectError::BadSegment(SegmentError::Size { .. })),
                "{kind:?} of {size}: {error:?}"
            );
            cases += 1;
        }
        let wrong = [
            ringbell::layout::Identity { magic: 1, ..honest },
            ringbell::layout::Identity { version: honest.version - 1, ..honest },
            ringbell::layout::Identity { version: honest.version + 1, ..honest },
            ringbell::layout::Identity { kind: 9, ..honest },
            ringbell::layout::Identity { generation: 1, ..honest },
            ringbell::layout::Identity { session: 99, ..honest },
            ringbell::layout::Identity { capacity: 4096 * 4, ..honest },
            ringbell::layout::Identity { total: 1, ..honest },
        ];
        // The client labels its request segment, and the server the other once the session begins.
        let labelled = matches!(kind, SegmentKind::Status | SegmentKind::Bell);
        for identity in wrong.into_iter().filter(|_| labelled) {
            let error = with(raw::segment(&identity, honest.total, seals).0);
            assert!(
                matches!(error, ConnectError::BadSegment(SegmentError::Identity(_))),
                "{identity:?}: {error:?}"
            );
            cases += 1;
        }
        // Things that are no sealed memory at all.
        let null = || std::fs::File::open("/dev/null").expect("/dev/null").into();
        let file = || tempfile::tempfile().expect("a file").into();
        let socket = || UnixStream::pair().expect("sockets").0.into();
        let things: [(&str, &dyn Fn() -> std::os::fd::OwnedFd); 3] =
            [("/dev/null", &null), ("a file", &file), ("a socket", &socket)];
        for (what, thing) in things {
            let error = with(thing());
            assert!(matches!(error, ConnectError::BadSegment(_)), "{what}: {error:?}");
            cases += 1;
        }
    }
    done!("{cases} segments")
}

pub(crate) fn servers_with_wrong_descriptors() -> Ran {
    let fake = Fake::new();
    let before = observe::descriptors(std::process::id());
    let welcome = raw::welcome(CAPACITY);
    for count in [0usize, 1, 3, 5, 6, 40] {
        let error = fake.greets(|stream| {
            let segments = Segments::honest(&welcome);
            let descriptors: Vec<_> =
                segments.descriptors.iter().cycle().take(count).map(AsFd::as_fd).collect();
            raw::send(&stream, &welcome.encode(), &descriptors);
            let _ = raw::last_words(&stream);
        });
        assert!(
            matches!(error, Err(ConnectError::BadDescriptors { want: 4 | 5, .. })),
            "{count} descriptors: {error:?}"
        );
    }
    // In another order than agreed.
    let error = fake.greets(|stream| {
        let mut descriptors = Segments::honest(&welcome).descriptors;
        descriptors.swap(0, 1);
        welcome_with(&stream, &welcome, &descriptors);
    });
    assert!(matches!(error, Err(ConnectError::BadSegment(_))), "{error:?}");
    // A pidfd that was announced and did not come.
    let error = fake.greets(|stream| {
        let welcome = raw::Welcome { has_pidfd: true, ..welcome };
        welcome_with(&stream, &welcome, &Segments::honest(&welcome).descriptors);
    });
    assert!(matches!(error, Err(ConnectError::BadDescriptors { want: 5, have: 4 })), "{error:?}");
    assert_eq!(observe::descriptors(std::process::id()), before, "no descriptor is left over");
    done!("8 handshakes")
}

pub(crate) fn servers_that_answer_nonsense() -> Ran {
    let fake = Fake::new();
    let none = raw::welcome(CAPACITY);
    let mut cases = 0;
    let mut not_ringbell = |what: &str, bytes: &[u8]| {
        let error = fake.greets(|stream| {
            raw::send(&stream, bytes, &[]);
            let _ = raw::last_words(&stream);
        });
        assert!(matches!(error, Err(ConnectError::NotRingbell)), "{what}: {error:?}");
        cases += 1;
    };
    not_ringbell("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n");
    not_ringbell("zeros", &[0; 64]);
    not_ringbell("a Hello", &raw::hello(CAPACITY));
    not_ringbell("an unknown kind", &raw::message(9, &[0; 72]));
    not_ringbell(
        "a body beyond all measure",
        &[&raw::MAGIC.to_le_bytes()[..], &[0xff; 8]].concat(),
    );
    let mut zeros = [0; 88];
    zeros[0] = 2; // the version
    not_ringbell("a short Welcome", &raw::message(raw::kind::WELCOME, &zeros[..87]));
    not_ringbell("a Welcome of zeros", &raw::message(raw::kind::WELCOME, &zeros));
    not_ringbell("a short reject", &raw::message(raw::kind::REJECT, &[0; 3]));
    for (what, welcome) in [
        ("a capacity of 0", raw::Welcome { request_capacity: 0, ..none }),
        ("a capacity of 3000", raw::Welcome { response_capacity: 3000, ..none }),
        ("a huge capacity", raw::Welcome { request_capacity: 1 << 63, ..none }),
        ("a domain beyond the status segment", raw::Welcome { domain: 4, ..none }),
        ("many armed words", raw::Welcome { armed_words: 1 << 40, ..none }),
        ("generation 0", raw::Welcome { generation: 0, ..none }),
        ("session 0", raw::Welcome { session: 0, ..none }),
    ] {
        not_ringbell(what, &welcome.encode());
    }
    let died = |what: &str, bytes: &[u8]| {
        let error = fake.greets(|mut stream| {
            let _ = stream.write_all(bytes);
        });
        assert!(matches!(error, Err(ConnectError::ServerDied)), "{what}: {error:?}");
    };
    died("nothing", b"");
    died("half a header", &raw::hello(CAPACITY)[..7]);
    died("half a Welcome", &none.encode()[..40]);
    let late = |what: &str, bytes: &[u8]| {
        let watch = Stopwatch::start();
        let error = fake.greets(|mut stream| {
            let _ = stream.write_all(bytes);
            let _ = raw::last_words(&stream);
        });
        assert!(matches!(error, Err(ConnectError::TimedOut)), "{what}: {error:?}");
        assert!(
            watch.elapsed() >= Duration::from_millis(300) && watch.awake() < Duration::from_secs(2)
        );
    };
    late("nothing", b"");
    late("half a header", &none.encode()[..7]);
    late("half a Welcome", &none.encode()[..40]);
    let refused = |kind, reason: u32| {
        let body = [&u64::from(reason).to_le_bytes()[..], &[0; 16]].concat();
        fake.greets(|stream| {
            raw::send(&stream, &raw::message(kind, &body), &[]);
            let _ = raw::last_words(&stream);
        })
        .expect_err("refused")
    };
    assert!(matches!(
        refused(raw::kind::REJECT, 2),
        ConnectError::Rejected(ringbell::RejectReason::PermissionDenied)
    ));
    assert!(matches!(refused(raw::kind::REJECT, 1), ConnectError::VersionMismatch { .. }));
    assert!(matches!(
        refused(raw::kind::REJECT, 4711),
        ConnectError::Rejected(ringbell::RejectReason::Unknown(4711))
    ));
    assert!(
        matches!(refused(raw::kind::FALLBACK, 8), ConnectError::NotRingbell),
        "without a session"
    );
    done!("{} answers", cases + 10)
}
