//! Clients that tamper with segments: with their own, and with those that they may only read.

use crate::CAPACITY;
use crate::attack::{beside_an_honest_client, producer, publish, word};
use ringbell::layout::{self, Kind, offset};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::raw::{self, Session};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{becomes_true, done, observe};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

pub(crate) fn segments_that_clients_tamper_with() -> Ran {
    let ((), beside) = beside_an_honest_client(|server| {
        let fresh = |server: &Server| Session::open_but_for_ready(server.path(), CAPACITY);
        let size = layout::ring_segment_size(CAPACITY);
        // Seals that are not what they should be: none of the client's, or one of the two.
        for seals in [SealFlags::empty(), SealFlags::SEAL, SealFlags::FUTURE_WRITE] {
            let session = fresh(server);
            rustix::fs::fcntl_add_seals(&session.descriptors[0], seals)
                .expect("a client may do that");
            raw::send(&session.stream, &[raw::READY], &[]);
            let _ = raw::last_words(&session.stream);
        }
        // Punched before READY: harmless, all-zero bytes are an empty ring.
        let session = fresh(server);
        raw::punch(&session.descriptors[0], size).expect("a client may do that before READY");
        session.say_ready();
        let mut pings = producer(&session);
        publish(&mut pings, word(Kind::Ping, 0, 0), 1, &[]);
        session.ring();
        assert!(becomes_true(Duration::from_secs(5), || session
            .response
            .peer_word(offset::TAIL)
            .load()
            > 0));
        // And not afterwards.
        assert_eq!(raw::punch(&session.descriptors[0], size), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&session.descriptors[0], 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&session.descriptors[0], size * 2), Err(Errno::PERM));
        assert_eq!(rustix::io::pwrite(&session.descriptors[0], &[1], 5000), Err(Errno::PERM));
        drop(session);
        // Something else than READY, and nothing but half of a session.
        for bytes in [&b"x"[..], &[raw::WAKE], &[raw::GOODBYE], &[0]] {
            let session = fresh(server);
            raw::send(&session.stream, bytes, &[]);
            let _ = raw::last_words(&session.stream);
        }
        // Descriptors for the server, which takes none.
        let session = fresh(server);
        let zero = std::fs::File::open("/dev/zero").expect("/dev/zero");
        let before = observe::descriptors(server.id());
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let rights = [zero.as_fd()];
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&rights)));
        // Either the kernel refuses them for the server (6.16), or the server drops them.
        let _ = rustix::net::sendmsg(
            &session.stream,
            &[std::io::IoSlice::new(&[raw::READY])],
            &mut control,
            rustix::net::SendFlags::NOSIGNAL,
        );
        drop(session);
        server.wait_for_sessions(1);
        assert!(observe::descriptors(server.id()) <= before);
        assert!(!observe::descriptor_targets(server.id()).contains(&"/dev/zero".to_owned()));
    });
    done!("before READY, with it, and after{beside}")
}

pub(crate) fn memory_that_is_not_theirs() -> Ran {
    let ((), beside) = beside_an_honest_client(|server| {
        let session = Session::open(server.path(), CAPACITY);
        for (what, index, size) in [
            ("response", 1, layout::ring_segment_size(CAPACITY)),
            ("status", 2, layout::status_segment_size(session.welcome.armed_words)),
        ] {
            let fd = &session.descriptors[index];
            assert!(raw::map(fd, size, true).is_err(), "{what}: mapped for writing");
            assert!(rustix::io::pwrite(fd, &[1], 0).is_err(), "{what}: written");
            assert!(raw::punch(fd, size).is_err(), "{what}: punched");
            assert_eq!(rustix::fs::ftruncate(fd, 0), Err(Errno::PERM), "{what}: cut");
            // Opened again, with all rights that this user has.
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            if let Ok(again) = std::fs::OpenOptions::new().read(true).write(true).open(path) {
                assert!(
                    raw::map(&again, size, true).is_err(),
                    "{what}: mapped for writing after opening again"
                );
                assert!((&again).write(&[1]).is_err(), "{what}: written after opening again");
            }
        }
    });
    done!("response and status{beside}")
}
