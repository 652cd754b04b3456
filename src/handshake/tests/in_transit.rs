//! Servers that send what was not announced. What they send is a socket whose close waits for an
//! hour: a client that closes it hangs.

use super::*;
use crate::os::peer_socket::tests::{lingering, on_an_older_kernel};
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::channel;

/// What a client comes to, any that may have the socket itself, whose server does `answer`.
///
/// The server's thread is not waited for: where it is the last one that has the socket, it waits.
fn greeted(
    answer: impl FnOnce(UnixStream, TcpStream) + Send + 'static,
) -> Result<Attached, ConnectError> {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = UnixListener::bind(&path).expect("bound");
    let (socket, peer) = lingering();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut hello = vec![0; a_hello().encode().len()];
        stream.read_exact(&mut hello).expect("a hello");
        answer(stream, socket);
    });
    let result = crate::handshake::attach(&path, &HelloOptions::default(), soon());
    // Until now nothing has ended the wait of whoever closed the socket.
    drop(peer);
    result
}

/// Sends a Welcome, with descriptors that `choose` makes of good ones and the socket.
fn welcomed(
    choose: impl FnOnce(&mut Vec<OwnedFd>, OwnedFd) + Send + 'static,
) -> Result<Attached, ConnectError> {
    greeted(|mut stream, socket| {
        let SentSegments { welcome, mut descriptors } = good_segments();
        choose(&mut descriptors, socket.into());
        let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        send(&stream, &welcome.encode(), &borrowed);
        drop(descriptors);
        let _ = stream.read(&mut [0]);
    })
}

#[test]
fn p5_no_descriptor_of_a_welcome_is_waited_for() {
    let more = welcomed(|descriptors, socket| descriptors.push(socket));
    assert!(matches!(more, Err(ConnectError::BadDescriptors { want: 5, have: 6 })), "{more:?}");
    for place in 0..4 {
        let other = welcomed(move |descriptors, socket| descriptors[place] = socket);
        let memory = matches!(other, Err(ConnectError::BadSegment(SegmentError::NotMemory)));
        assert!(memory, "{other:?}");
    }
    let process = welcomed(|descriptors, socket| descriptors[4] = socket);
    assert!(matches!(process, Err(ConnectError::NotAProcess)), "{process:?}");
}

#[test]
fn p5_no_descriptor_beside_another_answer_is_waited_for() {
    let rejected = greeted(|stream, socket| {
        let reject = RejectReason::ShuttingDown.encode_reject();
        send(&stream, &reject, &[socket.as_fd()]);
        drop(socket);
    });
    let told = matches!(rejected, Err(ConnectError::Rejected(RejectReason::ShuttingDown)));
    assert!(told, "{rejected:?}");
    let nonsense = greeted(|stream, socket| {
        send(&stream, &[7; 64], &[socket.as_fd()]);
        drop(socket);
    });
    assert!(matches!(nonsense, Err(ConnectError::NotRingbell)), "{nonsense:?}");
}

#[test]
fn p5_no_descriptor_inside_a_welcome_is_waited_for() {
    let inside = |mut stream: UnixStream, socket: TcpStream| {
        let SentSegments { welcome, descriptors } = good_segments();
        let bytes = welcome.encode();
        let (most, last) = bytes.split_at(bytes.len() - 1);
        let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        send(&stream, most, &borrowed);
        send(&stream, last, &[socket.as_fd()]);
        drop(socket);
        let _ = stream.read(&mut [0]);
    };
    let attached = on_an_older_kernel(|| greeted(inside));
    assert!(
        matches!(attached, Ok(Attached::Shared(_)) | Err(ConnectError::UnaskedDescriptors)),
        "{attached:?}"
    );
}

/// What is sent as soon as there is a session, to a client that reads nothing more.
#[test]
fn p5_no_descriptor_that_is_left_unread_is_waited_for() {
    on_an_older_kernel(|| {
        let (sent, is_sent) = channel();
        let attached = greeted(move |mut stream, socket| {
            let SentSegments { welcome, descriptors } = good_segments();
            let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
            send(&stream, &welcome.encode(), &borrowed);
            stream.read_exact(&mut [0]).expect("READY");
            stream.write_all(b"WW").expect("sent");
            // Of its own, since that of `greeted` is let go when the client has its session.
            let (lingering, peer) = lingering();
            send(&stream, b"W", &[lingering.as_fd()]);
            drop((lingering, socket));
            sent.send(peer).expect("somebody waits");
        });
        let peer = is_sent.recv().expect("sent");
        drop(attached.expect("a session"));
        drop(peer);
    });
}
