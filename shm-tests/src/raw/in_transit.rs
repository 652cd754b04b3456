//! Descriptors whose close waits, for peers that did not ask for them; and threads to which the
//! kernel says that it cannot refuse them.

#![allow(unsafe_code, reason = "a filter of system calls")]

use rustix::io::Errno;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Since Linux 6.16; `asm-generic/socket.h`.
const SO_PASSRIGHTS: u32 = 83;

/// A socket that is sent to others.
#[derive(Debug)]
pub struct Lingering {
    socket: Option<TcpStream>,
    /// Reads nothing. While it is there, the close of the last reference of the socket waits.
    _peer: TcpStream,
}

impl Lingering {
    /// A TCP socket with bytes that it cannot send and an hour of SO_LINGER. No test waits for
    /// that: whoever closes it hangs, until this is dropped.
    ///
    /// # Panics
    /// If it cannot be had.
    #[must_use]
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        let mut socket = TcpStream::connect(address).expect("connect");
        let (peer, _) = listener.accept().expect("accept");
        let hour = Some(Duration::from_secs(3600));
        rustix::net::sockopt::set_socket_linger(&socket, hour).expect("linger");
        socket.set_nonblocking(true).expect("non-blocking");
        loop {
            match socket.write(&[0; 1 << 16]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        Self { socket: Some(socket), _peer: peer }
    }

    /// Sends bytes with the socket on the first of them, and lets go of it.
    ///
    /// # Errors
    /// EPERM if the receiver has the kernel refuse descriptors.
    ///
    /// # Panics
    /// If it was sent before.
    pub fn send(&mut self, stream: &UnixStream, bytes: &[u8]) -> Result<usize, Errno> {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        use std::os::fd::AsFd;
        let socket = self.socket.take().expect("sent once");
        let rights = [socket.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
        let bytes = [std::io::IoSlice::new(bytes)];
        let sent = sendmsg(stream, &bytes, &mut control, SendFlags::NOSIGNAL);
        // If the receiver was faster, this is the last reference, and its close waits: not here.
        std::thread::spawn(move || drop(socket));
        sent
    }
}

impl Default for Lingering {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether this kernel refuses descriptors for those who ask it to: since Linux 6.16.
///
/// # Panics
/// If there is no socket to ask for.
#[must_use]
pub fn rights_can_be_refused() -> bool {
    use std::os::fd::AsRawFd;
    let (socket, _) = UnixStream::pair().expect("a pair");
    let off: libc::c_int = 0;
    let option = SO_PASSRIGHTS.cast_signed();
    let value = (&raw const off).cast();
    // SAFETY: reads an int.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value, 4) == 0 }
}

/// From now on `setsockopt` of SO_PASSRIGHTS fails in this thread and those that it starts, as
/// before Linux 6.16.
///
/// # Panics
/// If the kernel has no filters.
pub fn become_an_older_kernel() {
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
        step(equal, SO_PASSRIGHTS, 0, 1),
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
