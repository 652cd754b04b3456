//! The client against servers whose Welcome or segments are not what they should be.

use super::*;
use crate::handshake::wire::Malformed;
use crate::os::peer_socket::tests::send_with;

#[test]
fn good_segments_are_accepted() {
    let attachment = deliver(|_| {}).expect("accepted");
    assert_eq!((attachment.session, attachment.generation, attachment.domain), (5, 77, 3));
    assert_eq!((attachment.request_capacity, attachment.response_capacity), (4096, 8192));
    assert!(attachment.server.is_some());
    attachment.request.window.own_word(layout::offset::TAIL);
    attachment.bell.expect("as announced").window.own_word(layout::offset::SEQ);
    let without_bell = deliver(|sent| {
        sent.welcome.has_bell = false;
        sent.descriptors.remove(3);
    });
    let attachment = without_bell.expect("accepted");
    assert!(attachment.bell.is_none() && attachment.server.is_some());
    attachment.request.window.own_word(layout::offset::SEQ);
    let without = deliver(|sent| {
        sent.welcome.has_pidfd = false;
        sent.descriptors.pop();
    });
    assert!(without.expect("accepted").server.is_none());
}

#[test]
fn a_wrong_number_of_descriptors_is_refused() {
    for keep in 0..5 {
        let result = deliver(|sent| sent.descriptors.truncate(keep));
        assert!(
            matches!(result, Err(ConnectError::BadDescriptors { want: 5, have }) if have == keep)
        );
    }
    for extra in [1, 2, 20] {
        let result = deliver(|sent| {
            for _ in 0..extra {
                let more = sent.descriptors[0].try_clone().expect("duplicated");
                sent.descriptors.push(more);
            }
        });
        assert!(
            matches!(result, Err(ConnectError::BadDescriptors { want: 5, .. })),
            "{extra}: {result:?}"
        );
    }
    let unannounced = deliver(|sent| sent.welcome.has_pidfd = false);
    assert!(matches!(unannounced, Err(ConnectError::BadDescriptors { want: 4, have: 5 })));
    let late = against(|mut stream| {
        let sent = good_segments();
        let bytes = sent.welcome.encode();
        let descriptors: Vec<&dyn AsFd> = sent.descriptors.iter().map(|fd| fd as _).collect();
        send(&stream, &bytes[..HEADER], &[]);
        if send_with(&stream, &bytes[HEADER..], &descriptors).is_err() {
            // The client has refused them by then.
            send(&stream, &bytes[HEADER..], &[]);
        }
        let _ = stream.read(&mut [0]);
    });
    assert!(
        matches!(
            late,
            Err(ConnectError::UnaskedDescriptors
                | ConnectError::BadDescriptors { want: 5, have: 0 })
        ),
        "not on the first byte"
    );
}

#[test]
fn wrong_seals_are_refused() {
    use SealFlags as S;
    let sized = S::SHRINK | S::GROW;
    let all = sized | S::FUTURE_WRITE | S::SEAL;
    let wrong = [
        (0, vec![S::empty(), S::SHRINK, S::GROW, all, sized | S::WRITE, sized | S::FUTURE_WRITE]),
        (
            1,
            vec![S::empty(), sized, sized | S::SEAL, all - S::SHRINK, all - S::GROW, all - S::SEAL],
        ),
        (
            2,
            vec![
                S::empty(),
                sized,
                sized | S::SEAL,
                all - S::SHRINK,
                all - S::GROW,
                all - S::FUTURE_WRITE,
            ],
        ),
        (3, vec![S::empty(), sized, S::SHRINK | S::SEAL, S::GROW | S::SEAL, all]),
    ];
    for (index, seals) in wrong {
        for seals in seals {
            let result = deliver(|sent| {
                let real = &sent.descriptors[index];
                sent.descriptors[index] = memfd(size_of_fd(real), seals, Some(real));
            });
            assert!(
                matches!(&result, Err(ConnectError::BadSegment(SegmentError::Seals { have, .. }))
                    if *have & !0x20 == seals.bits()),
                "{index} {seals:?}: {result:?}"
            );
        }
    }
}

#[test]
fn a_wrong_size_is_refused() {
    use SealFlags as S;
    let sized = S::SHRINK | S::GROW;
    let seals = [
        sized,
        sized | S::FUTURE_WRITE | S::SEAL,
        sized | S::FUTURE_WRITE | S::SEAL,
        sized | S::SEAL,
    ];
    for (index, seals) in seals.into_iter().enumerate() {
        for change in [-4096, -1, 1, 4096] {
            let result = deliver(|sent| {
                let real = &sent.descriptors[index];
                let size = size_of_fd(real).saturating_add_signed(change);
                sent.descriptors[index] = memfd(size, seals, (size >= 64).then_some(real));
            });
            assert!(
                matches!(&result, Err(ConnectError::BadSegment(SegmentError::Size { want, have }))
                    if want.saturating_add_signed(change) == *have),
                "{index} {change}: {result:?}"
            );
        }
    }
}

#[test]
fn what_is_no_memory_is_refused() {
    let open = |path: &str| OwnedFd::from(std::fs::File::open(path).expect("there"));
    for index in 0..4 {
        let exe = std::env::current_exe().expect("there");
        let files = [open("/dev/null"), open("/"), open(exe.to_str().expect("utf-8")), {
            let (socket, _) = UnixStream::pair().expect("made");
            socket.into()
        }];
        for file in files {
            let result = deliver(|sent| sent.descriptors[index] = file);
            assert!(
                matches!(
                    result,
                    Err(ConnectError::BadSegment(
                        SegmentError::NotMemory | SegmentError::Seals { .. }
                    ))
                ),
                "{result:?}"
            );
        }
    }
}

#[test]
fn a_segment_that_is_another_one_is_refused() {
    let identity = |result: Result<Attachment, ConnectError>| match result {
        Err(ConnectError::BadSegment(SegmentError::Identity(field))) => field,
        other => panic!("{other:?}"),
    };
    let swapped = |a: usize, b: usize| deliver(move |sent| sent.descriptors.swap(a, b));
    assert!(matches!(swapped(0, 1), Err(ConnectError::BadSegment(SegmentError::Seals { .. }))));
    assert!(matches!(swapped(1, 2), Err(ConnectError::BadSegment(SegmentError::Size { .. }))));
    assert_eq!(identity(deliver(|sent| sent.welcome.generation += 1)), "generation");
    assert_eq!(identity(deliver(|sent| sent.welcome.domain += 1)), "session");
    // Same size in pages, another number of words.
    assert_eq!(identity(deliver(|sent| sent.welcome.armed_words -= 1)), "capacity");
    let changed = |at: u64, bytes: &[u8]| {
        identity(deliver(|sent| {
            let seals = SealFlags::SHRINK | SealFlags::GROW;
            let (real, status) = (&sent.descriptors[2], memfd(8192, SealFlags::empty(), None));
            let mut head = [0; 64];
            rustix::io::pread(real, &mut head, 0).expect("read");
            rustix::io::pwrite(&status, &head, 0).expect("written");
            rustix::io::pwrite(&status, bytes, at).expect("written");
            let seals = seals | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&status, seals).expect("sealed");
            sent.descriptors[2] = status;
        }))
    };
    assert_eq!(changed(0, &[0; 64]), "magic");
    assert_eq!(changed(0, &[0]), "magic");
    assert_eq!(changed(8, &[99]), "layout version");
    assert_eq!(changed(12, &[99]), "kind");
    assert_eq!(changed(40, &[99]), "size");
}

#[test]
fn the_client_labels_its_request_segment_itself() {
    // Whatever is in the pages, which are its own.
    let attachment = deliver(|sent| {
        rustix::io::pwrite(&sent.descriptors[0], &[9; 64], 0).expect("written");
        sent.welcome.session += 1;
    });
    let attachment = attachment.expect("accepted");
    let word = |at| attachment.request.window.peer_word(layout::offset::IDENTITY + at).load();
    assert_eq!((word(0), word(16), word(24), word(32)), (layout::MAGIC, 77, 6, 4096));
}

#[test]
fn a_welcome_that_cannot_be_is_refused() {
    let mangle = |change: fn(&mut Welcome)| {
        let mut welcome = a_welcome();
        change(&mut welcome);
        assert_eq!(Welcome::parse(&welcome.encode()[HEADER..]), Err(Malformed::Content));
    };
    mangle(|welcome| welcome.request_capacity = 3);
    mangle(|welcome| welcome.response_capacity = 1 << 40);
    mangle(|welcome| welcome.domain = 64);
    mangle(|welcome| welcome.armed_words = 1 << 20);
    mangle(|welcome| welcome.armed_words = 0);
    mangle(|welcome| welcome.generation = 0);
    mangle(|welcome| welcome.session = 0);
    mangle(|welcome| welcome.max_message = 0);
    let later = deliver(|sent| sent.welcome.version = 3);
    assert!(matches!(later, Err(ConnectError::VersionMismatch { theirs: (3, 3), .. })));
}

#[test]
fn p13_rings_that_are_larger_than_asked_for_are_not_allocated() {
    let ask = |request_capacity, response_capacity| {
        let options =
            HelloOptions { request_capacity, response_capacity, ..HelloOptions::default() };
        deliver_to(&options, |_| {})
    };
    // A server may grant less, and choose what was not asked for.
    for (request, response) in [(4096, 8192), (8192, 16384), (0, 8192), (4096, 0)] {
        ask(request, response).expect("4096 and 8192 are granted");
    }
    for (request, response) in [(2048, 8192), (4096, 4096), (0, 4096)] {
        let refused = ask(request, response);
        assert!(matches!(refused, Err(ConnectError::NotRingbell)), "{refused:?}");
    }
}

#[test]
fn samples_are_taken_where_either_side_wants_them() {
    // What the client says, what the server grants, what the server would like: what comes of it.
    for (own, features, wish, every) in [
        (None, 0, 0, 0),
        (None, 0, 9, 0),
        (None, FEATURE_SAMPLES, 9, 9),
        (Some(3), FEATURE_SAMPLES, 0, 3),
        (Some(3), FEATURE_SAMPLES, 9, 3),
        (Some(3), FEATURE_ORDERED, 9, 0),
        (Some(0), FEATURE_SAMPLES, 9, 0),
    ] {
        let options = HelloOptions { sample_every: own, ..HelloOptions::default() };
        let got = deliver_to(&options, |sent| {
            (sent.welcome.features, sent.welcome.sample_every) = (features, wish);
        });
        assert_eq!(got.expect("accepted").sample_every, every, "{own:?} {features} {wish}");
    }
    // Nothing of a Welcome may be missing.
    let bytes = a_welcome().encode();
    for missing in [1, 8, 16] {
        let body = &bytes[HEADER..bytes.len() - missing];
        assert_eq!(Welcome::parse(body), Err(Malformed::Content));
    }
}
