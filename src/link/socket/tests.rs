//! Frames over socket pairs: whole and in pieces, good and bad.

use super::*;
use crate::handshake::tests::{PATIENCE, alone};
use crate::memory::layout::{Kind, flag};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

fn link(stream: UnixStream) -> SocketLink {
    stream.set_nonblocking(true).expect("set");
    SocketLink::new(Arc::new(stream.into()))
}

/// A link, and the bare other end.
fn one() -> (SocketLink, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("made");
    theirs.set_read_timeout(Some(PATIENCE)).expect("set");
    (link(ours), theirs)
}

fn two() -> (SocketLink, SocketLink) {
    let (left, right) = UnixStream::pair().expect("made");
    (link(left), link(right))
}

fn header(kind: Kind) -> HeaderWord {
    HeaderWord::new(kind, 0, 0, 0)
}

fn bytes(header: HeaderWord, call: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short");
    let word = header.with(header.flags(), length).0;
    [&word.to_le_bytes()[..], &call.to_le_bytes(), body].concat()
}

fn push(link: &mut SocketLink, call: u64, payload: &[u8]) {
    assert_eq!(link.try_push(header(Kind::Request), call, &[], payload), Pushed::Done);
}

/// Call id and body of the next frame, which is there.
fn take(link: &mut SocketLink) -> (u64, Vec<u8>) {
    let frame = link.peek().expect("no fault").expect("a frame");
    let got = (frame.call, link.body(&frame).to_vec());
    assert_eq!(got.1.len(), frame.len());
    link.release(frame);
    got
}

#[test]
fn a_frame_is_what_the_page_says() {
    let (mut link, mut other) = one();
    let word = HeaderWord::new(Kind::Error, flag::MORE | flag::DEADLINE, 0x1234, 99);
    assert_eq!(link.try_push(word, 0x0102_0304_0506_0708, &[7, u64::MAX], b"abc"), Pushed::Done);
    assert!(link.has_unsent());
    assert_eq!(link.unsent_bytes(), 35);
    link.flush().expect("sent");
    assert!(!link.has_unsent());
    let mut got = [0; 35];
    other.read_exact(&mut got).expect("read");
    let want = [
        &[19, 0, 0, 0, 3, 9, 0x34, 0x12][..],
        &[8, 7, 6, 5, 4, 3, 2, 1],
        &[7, 0, 0, 0, 0, 0, 0, 0],
        &[0xff; 8],
        b"abc",
    ]
    .concat();
    assert_eq!(got[..], want);

    other.write_all(&want).expect("written");
    assert_eq!(link.fill(), Ok(Filled::Some(35)));
    let frame = link.peek().expect("no fault").expect("a frame");
    assert_eq!(
        (frame.header.word(), frame.call),
        (word.with(word.flags(), 19), 0x0102_0304_0506_0708)
    );
    assert_eq!(link.body(&frame), &want[16..]);
    link.release(frame);
    assert!(!link.has_frame());
}

#[test]
fn frames_arrive_byte_by_byte() {
    let (mut link, mut other) = one();
    let stream =
        [bytes(header(Kind::Ping), 1, b""), bytes(header(Kind::Request), 2, b"hello")].concat();
    assert_eq!(link.fill(), Ok(Filled::Nothing));
    let mut got = Vec::new();
    for byte in stream {
        assert!(!link.has_frame());
        assert!(link.peek().expect("no fault").is_none());
        other.write_all(&[byte]).expect("written");
        assert_eq!(link.fill(), Ok(Filled::Some(1)));
        assert_eq!(link.fill(), Ok(Filled::Nothing));
        if link.has_frame() {
            got.push(take(&mut link));
        }
    }
    assert_eq!(got, [(1, vec![]), (2, b"hello".to_vec())]);
    drop(other);
    assert_eq!(link.fill(), Ok(Filled::End));
    assert!(!link.is_truncated());
}

#[test]
fn an_end_inside_a_frame_is_told_from_one_between_frames() {
    let whole =
        [bytes(header(Kind::Request), 1, b"hello"), bytes(header(Kind::Request), 2, b"world")]
            .concat();
    for cut in 0..=whole.len() {
        let (mut link, mut other) = one();
        other.write_all(&whole[..cut]).expect("written");
        drop(other);
        if cut > 0 {
            assert_eq!(link.fill(), Ok(Filled::Some(cut)));
        }
        for _ in 0..2 {
            assert_eq!(link.fill(), Ok(Filled::End), "and it stays so");
        }
        let mut frames = 0;
        while link.has_frame() {
            assert!(!link.is_truncated());
            take(&mut link);
            frames += 1;
        }
        assert!(link.peek().expect("no fault").is_none());
        assert_eq!((frames, link.is_truncated()), (cut / 21, !cut.is_multiple_of(21)), "{cut}");
    }
}

#[test]
fn a_bad_header_is_a_fault_before_its_body_is_there() {
    let length = |length| HeaderWord::new(Kind::Request, 0, 0, length);
    let limit = u32::try_from(MAX_BODY + EXTENSIONS).expect("small");
    for (word, fault) in [
        (HeaderWord(0), Fault::Kind),
        (HeaderWord(u64::MAX), Fault::Kind),
        (HeaderWord(14 << 32), Fault::Kind),
        (header(Kind::Padding), Fault::Padding),
        (HeaderWord::new(Kind::Request, 32, 0, 0), Fault::Kind),
        (HeaderWord::new(Kind::Request, 0x80, 0, 0), Fault::Kind),
        (length(limit + 1), Fault::Length),
        (length(i32::MAX as u32), Fault::Length),
        (length(u32::MAX), Fault::Length),
    ] {
        let (mut link, mut other) = one();
        other.write_all(&bytes(header(Kind::Request), 1, b"good")).expect("written");
        other.write_all(&word.0.to_le_bytes()).expect("written");
        assert_eq!(link.fill(), Ok(Filled::Some(28)));
        assert_eq!(take(&mut link), (1, b"good".to_vec()));
        assert!(!link.has_frame(), "half a header");
        other.write_all(&[0; 8]).expect("written");
        assert_eq!(link.fill(), Ok(Filled::Some(8)));
        for _ in 0..2 {
            assert!(link.has_frame(), "a fault is something to be found");
            assert_eq!(link.peek().err(), Some(fault), "{word:?}");
        }
        // Whatever follows takes no more memory than any buffer.
        other.set_nonblocking(true).expect("set");
        let _ = other.write(&vec![0; 1 << 20]);
        while matches!(link.fill().expect("alive"), Filled::Some(_)) {}
        assert_eq!(link.fill(), Ok(Filled::Full));
        assert!(link.incoming.capacity() <= KEEP);
    }
}

#[test]
fn a_length_that_is_not_kept_costs_no_more_than_a_frame() {
    let (mut link, mut other) = one();
    let limit = u32::try_from(MAX_BODY + EXTENSIONS).expect("small");
    other.write_all(&HeaderWord::new(Kind::Request, 0, 0, limit).0.to_le_bytes()).expect("written");
    other.write_all(&[0; 8]).expect("written");
    assert_eq!(link.fill(), Ok(Filled::Some(16)));
    assert!(link.peek().expect("no fault").is_none());
    assert_eq!(link.fill(), Ok(Filled::Nothing));
    assert!(link.incoming.capacity() <= MAX_FRAME);
    drop(other);
    assert_eq!(link.fill(), Ok(Filled::End));
    assert!(link.is_truncated());
}

#[test]
fn the_largest_frame_travels() {
    let (mut left, mut right) = two();
    let payload = vec![7; MAX_BODY];
    for call in 0..3 {
        assert_eq!(left.try_push(header(Kind::Response), call, &[1, 2, 3], &payload), Pushed::Done);
        while left.has_unsent() || !right.has_frame() {
            left.flush().expect("alive");
            let _ = right.fill().expect("alive");
        }
        let (got, body) = take(&mut right);
        assert_eq!((got, body.len()), (call, MAX_BODY + EXTENSIONS));
        assert_eq!(body[24..], payload);
    }
}

#[test]
fn a_peer_that_does_not_read_fills_the_buffer_up_to_its_limit() {
    let (mut left, mut right) = two();
    let payload = vec![1; 10_000];
    let mut pushed = 0u64;
    while left.try_push(header(Kind::Request), pushed, &[], &payload) == Pushed::Done {
        pushed += 1;
        left.flush().expect("alive");
        assert!(pushed < 10_000, "no limit");
    }
    assert!(!left.has_room() && left.has_unsent());
    assert!((OUT_LIMIT..OUT_LIMIT + MAX_FRAME).contains(&left.unsent_bytes()));
    // The other end holds little of it, until it takes frames.
    while matches!(right.fill().expect("alive"), Filled::Some(_)) {}
    assert!(right.incoming.capacity() <= MAX_FRAME && right.has_frame());
    for call in 0..pushed {
        while !right.has_frame() {
            left.flush().expect("alive");
            let _ = right.fill().expect("alive");
        }
        assert_eq!(take(&mut right), (call, payload.clone()));
    }
    left.flush().expect("alive");
    assert!(!left.has_unsent() && left.has_room());
}

#[test]
fn buffers_that_are_empty_are_small() {
    let (mut left, mut right) = two();
    for call in 0..4 {
        push(&mut left, call, &vec![1; MAX_BODY]);
    }
    for _ in 0..4 {
        while !right.has_frame() {
            left.flush().expect("alive");
            let _ = right.fill().expect("alive");
        }
        take(&mut right);
    }
    left.flush().expect("alive");
    assert_eq!(right.fill(), Ok(Filled::Nothing));
    assert!(left.outgoing.capacity() <= KEEP && right.incoming.capacity() <= KEEP);
}

#[test]
fn a_small_socket_buffer_makes_short_writes() {
    let (mut left, mut right) = two();
    rustix::net::sockopt::set_socket_send_buffer_size(left.socket(), 1).expect("set");
    let payload: Vec<u8> = (0..=250).cycle().take(60_000).collect();
    push(&mut left, 1, &payload);
    push(&mut left, 2, &payload);
    left.flush().expect("alive");
    let first = left.unsent_bytes();
    assert!((1..2 * 60_016).contains(&first), "a part is on its way: {first} bytes are not");
    let mut got = Vec::new();
    while got.len() < 2 {
        let _ = right.fill().expect("alive");
        left.flush().expect("alive");
        if right.has_frame() {
            got.push(take(&mut right));
        }
    }
    assert_eq!(got, [(1, payload.clone()), (2, payload)]);
}

#[test]
fn what_a_peer_sent_before_it_hung_up_is_read() {
    let (mut link, mut other) = one();
    for call in 0..40 {
        other.write_all(&bytes(header(Kind::Response), call, &[1; 1000])).expect("written");
    }
    drop(other);
    push(&mut link, 7, b"too late");
    assert_eq!(link.flush(), Err(Broken::HungUp));
    assert!(!link.has_unsent());
    push(&mut link, 8, b"nobody reads it");
    assert!(!link.has_unsent());
    assert_eq!(link.flush(), Err(Broken::HungUp), "and it stays so");
    for call in 0..40 {
        while !link.has_frame() {
            assert!(matches!(link.fill(), Ok(Filled::Some(_))));
        }
        assert_eq!(take(&mut link).0, call);
    }
    assert_eq!(link.fill(), Ok(Filled::End));
}

#[test]
fn a_peer_that_left_unread_bytes_behind_has_ended() {
    let (mut link, mut other) = one();
    push(&mut link, 1, b"unread");
    link.flush().expect("sent");
    other.write_all(&bytes(header(Kind::Response), 1, b"last")).expect("written");
    drop(other);
    assert_eq!(link.fill(), Ok(Filled::Some(20)));
    assert_eq!(take(&mut link), (1, b"last".to_vec()));
    assert_eq!(link.fill(), Ok(Filled::End), "by a reset");
    assert_eq!(link.fill(), Ok(Filled::End));
    assert!(!link.is_truncated());
}

#[test]
fn a_half_closed_socket_still_carries_the_other_half() {
    let (mut link, mut other) = one();
    other.write_all(&bytes(header(Kind::Request), 1, b"last")).expect("written");
    other.shutdown(std::net::Shutdown::Write).expect("shut");
    assert_eq!(link.fill(), Ok(Filled::Some(20)));
    assert_eq!(link.fill(), Ok(Filled::End));
    take(&mut link);
    push(&mut link, 1, b"answer");
    link.flush().expect("sent");
    let mut got = [0; 22];
    other.read_exact(&mut got).expect("read");
    assert_eq!(&got[16..], b"answer");
}

/// What happens to a pair of links.
#[derive(Debug, Clone)]
enum Deed {
    Push { kind: u8, flags: u8, code: u16, words: Vec<u64>, len: usize },
    Flush,
    Fill,
    Take,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let len = prop_oneof![4 => 0usize..100, 2 => 0usize..20_000, 1 => (MAX_BODY - 3)..=MAX_BODY];
    let words = proptest::collection::vec(any::<u64>(), 0..=3);
    let push = (1u8..=11, 0u8..=flag::ALL, any::<u16>(), words, len)
        .prop_map(|(kind, flags, code, words, len)| Deed::Push { kind, flags, code, words, len });
    let deed = prop_oneof![
        3 => push,
        2 => Just(Deed::Flush),
        4 => Just(Deed::Fill),
        4 => Just(Deed::Take),
    ];
    proptest::collection::vec(deed, 0..200)
}

/// A frame as the oracle knows it: header word, call id, body.
type Known = (u64, u64, Vec<u8>);

fn take_known(link: &mut SocketLink, oracle: &mut VecDeque<Known>) -> bool {
    let has = link.has_frame();
    let Some(frame) = link.peek().expect("no fault") else {
        assert!(!has);
        return false;
    };
    assert!(has);
    let got = (frame.header.word().0, frame.call, link.body(&frame).to_vec());
    assert!(oracle.pop_front() == Some(got), "another frame than was sent");
    link.release(frame);
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_pushed_comes_out_in_order(deeds in deeds(), small in any::<bool>()) {
        let (mut left, mut right) = two();
        if small {
            rustix::net::sockopt::set_socket_send_buffer_size(left.socket(), 1).expect("set");
        }
        let mut oracle = VecDeque::new();
        let mut call = 0u64;
        for deed in deeds {
            match deed {
                Deed::Push { kind, flags, code, words, len } => {
                    call += 1;
                    let payload = vec![call.to_le_bytes()[0]; len];
                    let word = HeaderWord::new(Kind::from_u8(kind).expect("known"), flags, code, 0);
                    if left.try_push(word, call, &words, &payload) == Pushed::Done {
                        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
                        let mut body = bytes.collect::<Vec<_>>();
                        body.extend(payload);
                        let length = u32::try_from(body.len()).expect("short");
                        oracle.push_back((word.with(flags, length).0, call, body));
                    } else {
                        prop_assert!(left.unsent_bytes() >= OUT_LIMIT);
                    }
                }
                Deed::Flush => left.flush().expect("alive"),
                Deed::Fill => {
                    if right.fill().expect("alive") == Filled::Full {
                        prop_assert!(right.has_frame(), "full of what can be taken");
                    }
                }
                Deed::Take => {
                    take_known(&mut right, &mut oracle);
                }
            }
            prop_assert!(right.incoming.capacity() <= MAX_FRAME);
            prop_assert!(left.unsent_bytes() < OUT_LIMIT + MAX_FRAME);
        }
        while !oracle.is_empty() {
            left.flush().expect("alive");
            let _ = right.fill().expect("alive");
            while take_known(&mut right, &mut oracle) {}
        }
        prop_assert_eq!(right.fill(), Ok(Filled::Nothing));
    }

    #[test]
    fn no_bytes_make_a_link_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        cut in 0usize..300,
    ) {
        let (mut link, mut other) = one();
        for part in [&noise[..cut.min(noise.len())], &noise[cut.min(noise.len())..]] {
            other.write_all(part).expect("written");
            let _ = link.fill().expect("alive");
            while let Ok(Some(frame)) = link.peek() {
                link.release(frame);
            }
        }
        let _ = link.is_truncated();
    }
}

// Signals are those of the whole process, so these tests have one of their own.

#[test]
#[allow(unsafe_code, reason = "the disposition of a signal")]
fn a_broken_pipe_is_no_signal() {
    if !alone(module_path!(), "a_broken_pipe_is_no_signal") {
        return;
    }
    // SAFETY: restores the default action; no handler of this process is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let (mut link, other) = one();
    drop(other);
    push(&mut link, 1, b"into the void");
    assert_eq!(link.flush(), Err(Broken::HungUp));
}

#[test]
#[allow(unsafe_code, reason = "an interval timer and its signal")]
fn interruptions_are_not_seen() {
    if !alone(module_path!(), "interruptions_are_not_seen") {
        return;
    }
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: all-zero bytes are a valid `sigaction`: no SA_RESTART, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as libc::sighandler_t;
    // SAFETY: the handler does nothing.
    let set = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let often = libc::timeval { tv_sec: 0, tv_usec: 50 };
    let timer = libc::itimerval { it_interval: often, it_value: often };
    // SAFETY: reads the timer, which is there.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    let (mut left, mut right) = two();
    let payload = vec![5; 50_000];
    let until = Instant::now() + std::time::Duration::from_millis(200);
    let mut call = 0;
    while Instant::now() < until {
        push(&mut left, call, &payload);
        while !right.has_frame() {
            left.flush().expect("not interrupted");
            let _ = right.fill().expect("not interrupted");
        }
        assert_eq!(take(&mut right).0, call);
        call += 1;
    }
}

/// A link whose large buffers are charged to an account that may hold so much, and the other end.
fn charged(most: u64) -> (SocketLink, UnixStream, Arc<Account>) {
    let (mut link, other) = one();
    let account = Account::alone(most);
    link.charge(account.clone());
    (link, other, account)
}

#[test]
fn p2_what_waits_to_be_sent_is_charged_by_capacity() {
    let (mut link, mut other, account) = charged(1 << 30);
    push(&mut link, 1, &[7; 100]);
    assert_eq!(account.held(), 0, "a small buffer is a part of the session");
    let mut pushed = 1;
    while link.try_push(header(Kind::Response), 2, &[], &[7; 60_000]) == Pushed::Done {
        pushed += 1;
        assert_eq!(account.held(), link.outgoing.capacity() as u64);
        assert!(link.outgoing.capacity() <= OUT_MOST);
    }
    assert!(pushed > 3);
    let all = link.unsent_bytes();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; all];
        other.read_exact(&mut got).expect("all of it");
        other
    });
    while link.has_unsent() {
        link.flush().expect("it reads");
        std::thread::yield_now();
    }
    assert_eq!((account.held(), link.outgoing.capacity()), (0, 0));
    // The peer is gone: what was unsent is dropped, and given back.
    drop(reader.join().expect("no panic"));
    push(&mut link, 3, &[7; 60_000]);
    assert_ne!(account.held(), 0);
    link.flush().expect_err("it is gone");
    assert_eq!(account.held(), 0);
}

#[test]
fn p2_without_room_one_frame_is_sent_at_a_time() {
    let (mut link, mut other, account) = charged(1000);
    let mut got = vec![0; 60_016];
    for call in 0..10 {
        // This one is taken all the same: nothing would ever be sent otherwise.
        push(&mut link, call, &[7; 60_000]);
        assert!(!link.has_room());
        let more = link.try_push(header(Kind::Response), call, &[], &[7; 10]);
        assert_eq!(more, Pushed::Full);
        assert_eq!(account.held(), link.outgoing.capacity() as u64);
        link.flush().expect("sent");
        assert!(link.has_room() && account.held() == 0);
        other.read_exact(&mut got).expect("a frame");
    }
}

#[test]
fn p2_what_is_read_into_is_charged_by_capacity() {
    let (mut link, mut other, account) = charged(1 << 30);
    let fill = |link: &mut SocketLink| {
        while link.peek().expect("no fault").is_none() {
            assert!(matches!(link.fill(), Ok(Filled::Some(_) | Filled::Nothing)));
            std::thread::yield_now();
        }
    };
    other.write_all(&bytes(header(Kind::Request), 1, b"small")).expect("sent");
    fill(&mut link);
    take(&mut link);
    assert!(account.held() == 0 && link.large_buffer() == 0);
    other.write_all(&bytes(header(Kind::Request), 2, &[7; 60_000])).expect("sent");
    fill(&mut link);
    assert_eq!(account.held(), link.incoming.capacity() as u64);
    link.free_incoming();
    assert!(link.large_buffer() > 60_000, "it is not empty");
    take(&mut link);
    link.free_incoming();
    assert!(account.held() == 0 && link.incoming.capacity() == 0 && link.large_buffer() == 0);
    // A header alone announces much, and costs as much.
    let large = bytes(header(Kind::Request), 3, &[7; 60_000]);
    other.write_all(&large[..FRAME_HEADER]).expect("sent");
    assert!(matches!(link.fill(), Ok(Filled::Some(_))));
    assert!(link.peek().expect("no fault").is_none());
    assert_eq!(link.fill(), Ok(Filled::Nothing));
    assert_eq!(account.held(), link.incoming.capacity() as u64);
    drop(link);
    assert_eq!(account.held(), 0);
}
