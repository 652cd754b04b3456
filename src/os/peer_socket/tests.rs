//! Descriptors that nobody asked for. A lingering socket waits for an hour, which no test does: one
//! that drops it in a thread of its own hangs.

use super::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::{ErrorKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// A socket whose close waits for an hour, or until the second one, which reads nothing, is
/// dropped.
pub(crate) fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (theirs, _) = listener.accept().expect("accepted");
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&ours, hour).expect("set");
    ours.set_nonblocking(true).expect("set");
    loop {
        match ours.write(&[0; 1 << 16]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    ours.set_nonblocking(false).expect("set");
    (ours, theirs)
}

/// Sends bytes with descriptors on the first of them.
pub(crate) fn send_with(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[&dyn AsFd],
) -> Result<usize, Errno> {
    let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

/// Runs `with` on a thread to which the kernel says that it does not know SO_PASSRIGHTS, as before
/// Linux 6.16.
pub(crate) fn on_an_older_kernel<R: Send>(with: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            forget_the_option();
            with()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Has this thread's `setsockopt` of SO_PASSRIGHTS fail.
fn forget_the_option() {
    const NUMBER: u32 = 0;
    // The low half of the third argument: the option.
    const OPTION: u32 = 16 + 2 * 8;
    #[allow(clippy::cast_possible_truncation, reason = "codes of 16 bits")]
    let step =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOPROTOOPT.cast_unsigned();
    let setsockopt = u32::try_from(libc::SYS_setsockopt).expect("a small number");
    let mut program = [
        step(load, NUMBER, 0, 0),
        step(equal, setsockopt, 0, 3),
        step(load, OPTION, 0, 0),
        step(equal, SO_PASSRIGHTS.cast_unsigned(), 0, 1),
        step(libc::BPF_RET | libc::BPF_K, refuse, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let len = u16::try_from(program.len()).expect("short");
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the kernel copies the program, which lives until then.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) }, 0);
}

/// A socket under test and its other end.
fn pair() -> (PeerSocket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    (ours.into(), theirs)
}

fn receive(socket: &PeerSocket) -> Result<Received, Errno> {
    socket.receive(&mut [0; 64])
}

/// Whether this kernel refuses descriptors.
fn can_refuse() -> bool {
    let (socket, _) = UnixStream::pair().expect("a pair");
    let can = set_refused(&OwnedFd::from(socket)).is_ok();
    if !can {
        eprintln!("not run: this kernel cannot refuse descriptors (before Linux 6.16)");
    }
    can
}

#[test]
fn p4_a_listener_refuses_for_connections_that_are_not_accepted_yet() {
    if !can_refuse() {
        return;
    }
    let scratch = crate::handshake::tests::Scratch::new();
    let listener = UnixListener::bind(scratch.path("s")).expect("bound");
    let early = UnixStream::connect(scratch.path("s")).expect("connected");
    let (file, _) = UnixStream::pair().expect("a pair");
    assert_eq!(send_with(&early, b"x", &[&file]), Ok(1), "nobody refuses yet");
    let socket = PeerSocket::listener(listener.try_clone().expect("duplicated").into(), true);
    assert_eq!(socket.rights(), Rights::Possible, "one is there already");
    let late = UnixStream::connect(scratch.path("s")).expect("connected");
    assert_eq!(send_with(&late, b"x", &[&file]), Err(Errno::PERM), "before it is accepted");
    let accepted = || {
        let (accepted, _) = listener.accept().expect("accepted");
        PeerSocket::accepted(accepted.into())
    };
    let first = accepted();
    assert_eq!(first.rights(), Rights::Possible);
    assert_eq!(send_with(&early, b"x", &[&file]), Err(Errno::PERM), "no more of them");
    assert_eq!(receive(&first), Ok(Received::Descriptors));
    assert_eq!(accepted().rights(), Rights::Refused);
}

#[test]
fn p4_a_new_listener_is_not_looked_at() {
    if !can_refuse() {
        return;
    }
    let scratch = crate::handshake::tests::Scratch::new();
    let path = scratch.path("s");
    let listener = crate::handshake::listen(&path, &crate::handshake::ListenOptions::default())
        .expect("bound");
    assert_eq!(listener.socket.rights(), Rights::Refused);
    let old = on_an_older_kernel(|| {
        let path = scratch.path("old");
        crate::handshake::listen(&path, &crate::handshake::ListenOptions::default())
            .expect("bound")
            .socket
            .rights()
    });
    assert_eq!(old, Rights::Possible);
}

#[test]
fn p5_descriptors_stay_where_they_are() {
    let (socket, other) = pair();
    let (lingering, _peer) = lingering();
    let mut more = Vec::with_capacity(64);
    (&other).write_all(b"ab").expect("sent");
    assert_eq!(receive(&socket), Ok(Received::Bytes(2)));
    (&other).write_all(b"c").expect("sent");
    assert_eq!(send_with(&other, b"d", &[&lingering]), Ok(1));
    drop(lingering);
    for _ in 0..3 {
        assert_eq!(receive(&socket), Ok(Received::Descriptors));
        assert_eq!(socket.receive_more(&mut more), Ok(Received::Descriptors));
        assert!(more.is_empty() && more.capacity() >= 64);
    }
}

#[test]
fn p5_plain_bytes_are_received_whole() {
    for refused in [false, true] {
        let (mut socket, other) = pair();
        if refused {
            socket.rights = Rights::Refused;
        }
        assert_eq!(receive(&socket), Err(Errno::AGAIN));
        (&other).write_all(&[7; 100]).expect("sent");
        let mut more = Vec::with_capacity(70);
        more.extend_from_slice(&[1, 2]);
        let room = more.capacity() - 2;
        assert_eq!(socket.receive_more(&mut more), Ok(Received::Bytes(room.min(100))));
        assert_eq!((&more[..2], &more[2..]), (&[1, 2][..], &vec![7; room.min(100)][..]));
        assert_eq!(receive(&socket), Ok(Received::Bytes(100 - room.min(100))));
        drop(other);
        assert_eq!(receive(&socket), Ok(Received::Bytes(0)));
    }
}

#[test]
fn p5_the_last_owner_does_not_wait_for_what_is_unread() {
    let (socket, other) = pair();
    let (lingering, _peer) = lingering();
    assert_eq!(send_with(&other, b"x", &[&lingering]), Ok(1));
    drop(lingering);
    drop(socket);
    // The other end learns of it all the same.
    assert_eq!(send_with(&other, b"x", &[&other]), Err(Errno::PIPE));
}

#[test]
fn p5_a_clean_queue_is_closed_at_once() {
    let (socket, other) = pair();
    (&other).write_all(&[7; 10_000]).expect("sent");
    other.set_nonblocking(true).expect("set");
    let before = rustix::fs::fstat(&*socket).expect("known").st_ino;
    let raw = socket.as_raw_fd();
    drop(socket);
    // The number is free, or another file's: nobody else holds it.
    let now = std::fs::read_link(format!("/proc/self/fd/{raw}"));
    assert!(
        now.is_err() || now.is_ok_and(|link| link.as_os_str() != &*format!("socket:[{before}]"))
    );
}

#[test]
fn p5_rights_are_refused_from_then_on() {
    if !can_refuse() {
        return;
    }
    let (mut socket, other) = pair();
    (&other).write_all(b"early").expect("sent");
    assert!(socket.refuse_rights());
    assert_eq!(socket.rights(), Rights::Refused);
    assert_eq!(send_with(&other, b"x", &[&other]), Err(Errno::PERM));
    assert_eq!(receive(&socket), Ok(Received::Bytes(5)));

    let (mut socket, other) = pair();
    let (lingering, _peer) = lingering();
    assert_eq!(send_with(&other, b"x", &[&lingering]), Ok(1));
    drop(lingering);
    assert!(!socket.refuse_rights(), "one came before");
    assert_eq!(socket.rights(), Rights::Possible);

    // More than is looked at: there may be some behind it.
    let (mut socket, other) = pair();
    (&other).write_all(&[0; 1000]).expect("sent");
    assert!(socket.refuse_rights());
    assert_eq!(socket.rights(), Rights::Possible);
}

#[test]
fn p5_an_older_kernel_is_looked_after() {
    on_an_older_kernel(|| {
        let (mut socket, other) = pair();
        assert!(socket.refuse_rights());
        assert_eq!(socket.rights(), Rights::Possible);
        let (lingering, _peer) = lingering();
        assert_eq!(send_with(&other, b"x", &[&lingering]), Ok(1));
        drop(lingering);
        assert_eq!(receive(&socket), Ok(Received::Descriptors));
    });
}

/// As [`send_with`], out of band.
fn send_out_of_band(
    socket: &UnixStream,
    byte: u8,
    descriptors: &[&dyn AsFd],
) -> Result<usize, Errno> {
    let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let flags = SendFlags::NOSIGNAL | SendFlags::OOB;
    rustix::net::sendmsg(socket, &[IoSlice::new(&[byte])], &mut control, flags)
}

/// Whether this kernel has out-of-band bytes on such sockets.
fn has_out_of_band() -> bool {
    let (_ours, theirs) = UnixStream::pair().expect("a pair");
    let has = send_out_of_band(&theirs, 1, &[]).is_ok();
    if !has {
        eprintln!("not run: this kernel has no out-of-band bytes (CONFIG_AF_UNIX_OOB)");
    }
    has
}

#[test]
fn p4_descriptors_out_of_band_are_seen() {
    if !has_out_of_band() {
        return;
    }
    on_an_older_kernel(|| {
        let (file, _other) = lingering();
        let (socket, theirs) = pair();
        assert_eq!(send_out_of_band(&theirs, 1, &[&file]), Ok(1));
        drop(file);
        // A receive of what stands behind them would close them here, and wait for an hour.
        assert_eq!(receive(&socket), Ok(Received::Descriptors));
        assert_eq!(send_with(&theirs, b"x", &[]), Ok(1));
        assert_eq!(receive(&socket), Ok(Received::Descriptors));
        drop(socket);
    });
}

#[test]
fn p4_an_out_of_band_byte_is_like_any_other() {
    if !has_out_of_band() {
        return;
    }
    let sent_is_received = || {
        let (mut socket, theirs) = pair();
        for refused in [false, true] {
            assert_eq!(send_out_of_band(&theirs, 1, &[]), Ok(1));
            // The kernel goes on saying that there is something to read: so there must be.
            assert_eq!(receive(&socket), Ok(Received::Bytes(1)), "refused: {refused}");
            assert!(socket.refuse_rights());
        }
    };
    sent_is_received();
    on_an_older_kernel(sent_is_received);
}

#[test]
fn p4_descriptors_out_of_band_are_refused() {
    if !can_refuse() || !has_out_of_band() {
        return;
    }
    let (mut socket, theirs) = pair();
    assert!(socket.refuse_rights());
    assert_eq!(send_out_of_band(&theirs, 1, &[&theirs]), Err(Errno::PERM));
}
