//! Servers that send nonsense, break off, or refuse; and many events before an answer.

use crate::frames::header;
use crate::{PEER_FAULT, SLOW_CLIENT, SOON, over_socket};
use ringbell::layout::{Kind, code, flag};
use ringbell::{CallError, PeerFault, RecvError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Chance;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::raw::{self, frame};
use ringbell_shm_tests::{done, scaled, seed};
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};

/// A server that says what it likes to a client that makes one call; how that ends.
fn hear_from_server(say: impl FnOnce(&UnixStream, u64) + Send) -> Result<Vec<u8>, CallError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fake.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut stream = raw::accept(&listener);
            raw::send(&stream, &raw::fallback(100_000), &[]);
            let mut ready = [0];
            stream.read_exact(&mut ready).expect("READY");
            assert_eq!(ready, [raw::READY]);
            let request = raw::receive_frame(&stream).expect("a request");
            assert_eq!(request.kind(), Some(Kind::Request));
            say(&stream, request.call);
            stream
        });
        let mut client = over_socket().connect(&path).expect("connect");
        assert_eq!((client.max_message(), client.generation(), client.session()), (100_000, 77, 5));
        let result = client.call_timeout(b"hello?", Some(SOON)).map(|answer| answer.to_vec());
        if let Err(CallError::PeerFault(fault)) = &result {
            // It is over, for good.
            assert_eq!(client.call(b"again").unwrap_err(), CallError::PeerFault(*fault));
        }
        drop(server.join().expect("the fake server"));
        result
    })
}

pub(crate) fn servers_that_send_nonsense() -> Ran {
    let mut count = 0;
    let mut fault = |what: &str, say: &(dyn Fn(u64) -> Vec<u8> + Sync)| {
        let result = hear_from_server(|stream, call| raw::send(stream, &say(call), &[]));
        count += 1;
        match result {
            Err(CallError::PeerFault(fault)) => fault,
            other => panic!("{what}: {other:?}"),
        }
    };
    for kind in [0, 14, 255, Kind::Padding as u8] {
        fault("an unknown kind", &|_| header(kind, 0, 0));
    }
    for length in [u32::MAX, 64 * 1024 + 25] {
        fault("a length that lies", &|_| header(Kind::Response as u8, 0, length));
    }
    for kind in [Kind::Request, Kind::OneWay, Kind::Cancel, Kind::Credit] {
        fault("what clients say", &|call| frame(kind, 0, 0, call, b""));
    }
    for kind in [Kind::Response, Kind::Error, Kind::StreamItem, Kind::StreamEnd] {
        let said = fault("an answer to nothing", &|call| frame(kind, 0, 0, call + 1, b"x"));
        assert!(matches!(said, PeerFault::UnknownCall(_)), "{said:?}");
    }
    let said = fault("a total beyond the limit", &|call| {
        frame(Kind::Response, flag::MORE, 0, call, &[&100_001u64.to_le_bytes()[..], b"x"].concat())
    });
    assert_eq!(said, PeerFault::TooLong);
    fault("a fragment out of nowhere", &|call| {
        frame(Kind::Response, flag::CONTINUED, 0, call, b"x")
    });
    let mut chance = Chance::new(seed());
    for round in 0..scaled(300) {
        let mut bytes = Vec::new();
        for _ in 0..20 + chance.below(100) {
            bytes.push(chance.draw().to_le_bytes()[0]);
        }
        // Whatever it is, it is no answer. The end of the stream may be seen first.
        let result = hear_from_server(|stream, _| {
            raw::send(stream, &bytes, &[]);
            stream.shutdown(std::net::Shutdown::Both).expect("shutdown");
        });
        assert!(
            matches!(
                result,
                Err(CallError::PeerFault(_)
                    | CallError::Disconnected { .. }
                    | CallError::ShutDown { .. })
            ),
            "round {round}: {result:?}"
        );
        tick();
    }
    done!("{count} kinds, and any bytes")
}

pub(crate) fn servers_that_break_off() -> Ran {
    let mut count = 0;
    for cut in [0, 1, 15, 16, 17, 25] {
        let result = hear_from_server(|stream, call| {
            let answer = frame(Kind::Response, 0, 0, call, b"the answer");
            raw::send(stream, &answer[..cut], &[]);
            stream.shutdown(std::net::Shutdown::Both).expect("shutdown");
        });
        assert_eq!(result, Err(CallError::Disconnected { maybe_executed: true }), "cut at {cut}");
        count += 1;
    }
    // What is whole is good, whatever comes behind it.
    for behind in [&b""[..], b"half a header"] {
        let result = hear_from_server(|stream, call| {
            raw::send(
                stream,
                &[&frame(Kind::Response, 0, 0, call, b"the answer"), behind].concat(),
                &[],
            );
            stream.shutdown(std::net::Shutdown::Both).expect("shutdown");
        });
        assert_eq!(result.as_deref(), Ok(&b"the answer"[..]));
    }
    // Byte by byte, with others in between.
    let result = hear_from_server(|stream, call| {
        let event = frame(Kind::Event, 0, 0, 0, b"by the way");
        for byte in [event, frame(Kind::Response, 0, 0, call, b"the answer")].concat() {
            raw::send(stream, &[byte], &[]);
        }
    });
    assert_eq!(result.as_deref(), Ok(&b"the answer"[..]));
    done!("{count} cuts")
}

pub(crate) fn what_errors_of_a_server_mean() -> Ran {
    let answered = |code| {
        hear_from_server(|stream, call| {
            raw::send(stream, &frame(Kind::Error, 0, code, call, b"text"), &[]);
        })
    };
    assert_eq!(
        answered(code::DEADLINE_EXCEEDED),
        Err(CallError::TimedOut { maybe_executed: false })
    );
    assert_eq!(answered(code::SHUTTING_DOWN), Err(CallError::ShutDown { maybe_executed: false }));
    for code in [code::PANICKED, code::EXHAUSTED, code::APPLICATION, u16::MAX] {
        match answered(code) {
            Err(CallError::Remote(error)) => assert_eq!((error.code, &*error.text), (code, "text")),
            other => panic!("{other:?}"),
        }
    }
    let goodbye = |code| {
        hear_from_server(|stream, _| {
            raw::send(stream, &frame(Kind::Goodbye, 0, code, 0, b""), &[]);
        })
    };
    assert_eq!(goodbye(0x80), Err(CallError::ShutDown { maybe_executed: true }));
    assert_eq!(goodbye(PEER_FAULT), Err(CallError::Disconnected { maybe_executed: true }));
    assert_eq!(goodbye(SLOW_CLIENT), Err(CallError::Disconnected { maybe_executed: true }));
    done!("errors and goodbyes")
}

/// All of it is read from the kernel before all of it is looked at.
pub(crate) fn an_answer_behind_more_events_than_one_look_takes() -> Ran {
    const EVENTS: u64 = 1500;
    let result = hear_from_server(|stream, call| {
        let mut bytes = Vec::new();
        for event in 0..EVENTS {
            bytes.extend(frame(Kind::Event, 0, 0, 0, &event.to_le_bytes()[..1]));
        }
        bytes.extend(frame(Kind::Response, 0, 0, call, b"the answer"));
        raw::send(stream, &bytes, &[]);
    });
    assert_eq!(result.as_deref(), Ok(&b"the answer"[..]));
    done!("{EVENTS} events before it")
}

pub(crate) fn a_server_that_is_gone_behind_more_events_than_one_look_takes() -> Ran {
    // One look takes 1024 of them.
    let numbers = [0, 1, 1023, 1024, 1025, 2048, 2500];
    for events in numbers {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fake.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let mut stream = raw::accept(&listener);
                raw::send(&stream, &raw::fallback(100_000), &[]);
                stream.read_exact(&mut [0]).expect("READY");
                raw::send(&stream, &frame(Kind::Event, 0, 0, 0, b"e").repeat(events), &[]);
            });
            let mut client = over_socket().connect(&path).expect("connect");
            server.join().expect("the fake server");
            assert_eq!(client.check(), Err(RecvError::Disconnected), "behind {events} events");
        });
        tick();
    }
    done!("{numbers:?} events")
}
