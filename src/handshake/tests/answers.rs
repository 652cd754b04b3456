//! The client against servers that refuse it, hang up, or talk nonsense.

use super::*;
use std::io::Write;

fn answer(bytes: Vec<u8>) -> Result<Attachment, ConnectError> {
    against(move |mut stream| {
        // The client may be gone before it has all.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0]);
    })
}

#[test]
fn a_server_that_hangs_up() {
    assert!(matches!(against(drop), Err(ConnectError::ServerDied)));
    assert!(matches!(answer(vec![]), Err(ConnectError::ServerDied)));
    let reject = RejectReason::BadHello.encode_reject();
    assert!(matches!(answer(reject[..5].to_vec()), Err(ConnectError::ServerDied)));
    assert!(matches!(answer(reject[..HEADER + 3].to_vec()), Err(ConnectError::ServerDied)));
}

#[test]
fn a_server_that_talks_nonsense() {
    let garbage = |bytes: Vec<u8>| assert!(matches!(answer(bytes), Err(ConnectError::NotRingbell)));
    garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    garbage(vec![0; 64]);
    garbage(vec![0xff; 64 * 1024]);
    garbage(a_hello().encode());
    let change = |at: usize, byte: u8| {
        let mut bytes = RejectReason::BadHello.encode_reject();
        bytes[at] = byte;
        bytes
    };
    garbage(change(10, 0xff)); // a huge length
    garbage(change(12, 9)); // an unknown kind
    garbage(change(14, 9)); // another version of the page
    let mut short = RejectReason::BadHello.encode_reject();
    short[8] = 4;
    garbage(short[..HEADER + 4].to_vec());
}

#[test]
fn every_reason_reaches_the_client() {
    for reason in REASONS {
        let result = answer(reason.encode_reject());
        match reason {
            RejectReason::VersionUnsupported { .. } => {
                assert!(matches!(
                    result,
                    Err(ConnectError::VersionMismatch { ours: wire::VERSIONS, theirs: (2, 3) })
                ));
            }
            _ => assert!(matches!(result, Err(ConnectError::Rejected(got)) if got == reason)),
        }
        let result = answer(Fallback { reason, ..a_fallback() }.encode());
        assert!(matches!(result, Err(ConnectError::SharedMemoryRefused(got)) if got == reason));
    }
}

#[test]
fn an_answer_byte_by_byte_is_an_answer() {
    let result = against(|mut stream| {
        for byte in RejectReason::ShuttingDown.encode_reject() {
            stream.write_all(&[byte]).expect("written");
            std::thread::yield_now();
        }
    });
    assert!(matches!(result, Err(ConnectError::Rejected(RejectReason::ShuttingDown))));
}

#[test]
fn a_rejection_before_the_hello_was_read_is_understood() {
    // A full server answers and closes at once: the Hello then hits a closed socket, or is thrown
    // away unread.
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = UnixListener::bind(&path).expect("bound");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            for _ in 0..200 {
                let (stream, _) = listener.accept().expect("a client");
                reject(&stream.into(), RejectReason::ShuttingDown);
            }
        });
        for _ in 0..200 {
            let result = try_attach(&path);
            assert!(
                matches!(result, Err(ConnectError::Rejected(RejectReason::ShuttingDown))),
                "{result:?}"
            );
        }
        server.join().expect("no panic");
    });
}
