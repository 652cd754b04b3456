//! Why a client gets the socket, and when it gets nothing.

use crate::{over_rings, over_socket, reason};
use ringbell::{ConnectError, ConnectOptions, FallbackReason, RejectReason, Transport};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, scaled};
use std::path::Path;

pub(crate) fn asked_for() -> Ran {
    let mut server = Server::verifying();
    let mut first = Verified::connect(server.path(), over_socket(), Pattern::new(1, 700));
    assert_eq!(reason(first.client()), FallbackReason::Asked);
    let mut second = Verified::connect(server.path(), over_rings(), Pattern::new(2, 700));
    assert_eq!(second.client().transport(), &Transport::SharedMemory);
    for client in [&mut first, &mut second] {
        client.pipeline(1000, 10);
        assert_eq!(client.client().server_pid(), server.id());
        assert_ne!(client.client().generation(), 0);
    }
    assert_eq!(first.client().generation(), second.client().generation());
    assert_ne!(first.client().session(), second.client().session());
    assert_eq!(server.stats().fallbacks, 1);
    first.finish();
    second.finish();
    server.wait_for_sessions(0);
    assert_eq!(server.shut_down().fallbacks, 1, "sessions of the past count");
    done!("one of each")
}

pub(crate) fn a_server_without_shared_memory() -> Ran {
    let server = Server::prepare("verify").with("shared_memory", "off").start();
    let maps = observe::memfd_mappings(std::process::id());
    for number in 0..3 {
        let mut client =
            Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(number, 700));
        assert_eq!(reason(client.client()), FallbackReason::Server(RejectReason::SharedMemoryOff));
        client.pipeline(1000, 10);
        assert_eq!(observe::memfd_mappings(std::process::id()), maps, "nothing is mapped");
        client.finish();
    }
    let refused = over_rings().connect(server.path());
    assert!(matches!(
        refused,
        Err(ConnectError::SharedMemoryRefused(_) | ConnectError::Rejected(_))
    ));
    assert_eq!(server.shut_down().fallbacks, 3);
    done!("3 clients")
}

pub(crate) fn a_user_who_has_used_up_the_memory() -> Ran {
    let rounds = scaled(100);
    let need = 2 * ringbell::layout::ring_segment_size(64 * 1024);
    let mut server = Server::prepare("verify").with("max_bytes_per_uid", need).start();
    let mut first = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(1, 700));
    assert_eq!(first.client().transport(), &Transport::SharedMemory);
    for number in 0..rounds {
        let mut client =
            Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(number, 700));
        let limit = RejectReason::BytesPerUid { limit: need };
        assert_eq!(reason(client.client()), FallbackReason::Server(limit));
        client.pipeline(100, 10);
        first.pipeline(10, 1);
        client.finish();
    }
    assert_eq!(server.stats().fallbacks, rounds);
    // What the first one had is there for another one.
    first.finish();
    server.wait_for_sessions(0);
    let mut next = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(2, 700));
    assert_eq!(next.client().transport(), &Transport::SharedMemory);
    next.pipeline(100, 10);
    next.finish();
    server.shut_down();
    done!("{rounds} clients too many")
}

pub(crate) fn rings_beyond_what_a_client_may_have() -> Ran {
    let limit = 1 << 20;
    let server = Server::prepare("verify").with("max_bytes_per_client", limit).start();
    let large = ConnectOptions::new().ring_capacity(1 << 20);
    let mut client = Verified::connect(server.path(), large, Pattern::new(1, 700));
    let wanted = FallbackReason::Server(RejectReason::BytesPerClient { limit });
    assert_eq!(reason(client.client()), wanted);
    client.pipeline(1000, 10);
    client.finish();
    server.shut_down();
    done!("one")
}

pub(crate) fn nothing_to_fall_back_to() -> Ran {
    let server = Server::prepare("verify").with("fallback", "off").start();
    match over_socket().connect(server.path()) {
        Err(ConnectError::Rejected(RejectReason::SocketOff)) => {}
        other => panic!("{other:?}"),
    }
    let mut client = Verified::connect(server.path(), ConnectOptions::new(), Pattern::new(1, 700));
    client.pipeline(100, 10);
    client.finish();
    assert_eq!(server.shut_down().fallbacks, 0);
    done!("one")
}

pub(crate) fn as_many_clients_as_may_be() -> Ran {
    let mut server = Server::prepare("verify").with("max_clients", 3).start();
    let mut clients: Vec<Verified> = (0..3)
        .map(|sender| {
            let options = if sender == 1 { ConnectOptions::new() } else { over_socket() };
            Verified::connect(server.path(), options, Pattern::new(sender, 100))
        })
        .collect();
    for options in [over_socket(), ConnectOptions::new()] {
        match options.connect(server.path()) {
            Err(ConnectError::Rejected(RejectReason::TooManyClients { limit: 3 })) => {}
            other => panic!("{other:?}"),
        }
    }
    for client in &mut clients {
        client.pipeline(10, 1);
    }
    for client in clients {
        client.finish();
    }
    server.wait_for_sessions(0);
    server.shut_down();
    done!("3 of 5")
}

/// Makes its calls, over what it is told.
pub(crate) fn client(arguments: &Arguments) {
    let options = if arguments.text("over") == "socket" { over_socket() } else { over_rings() };
    let pattern = Pattern::new(arguments.number("sender"), 700).with_large(200, 100_000);
    let mut client = Verified::connect(Path::new(arguments.text("path")), options, pattern);
    say("ready");
    let _ = hear();
    client.pipeline(
        arguments.number("count"),
        usize::try_from(arguments.number("depth")).expect("small"),
    );
    client.finish();
    say("done");
}

pub(crate) fn both_kinds_of_clients_at_once() -> Ran {
    const CLIENTS: u64 = 8;
    let count = scaled(20_000);
    let mut server = Server::verifying();
    let mut processes: Vec<_> = (0..CLIENTS)
        .map(|sender| {
            Start::role("client")
                .with("path", server.path().display())
                .with("sender", sender)
                .with("over", if sender % 2 == 0 { "socket" } else { "rings" })
                .with("count", count)
                .with("depth", 1 + sender * 3)
                .start()
        })
        .collect();
    for process in &mut processes {
        process.expect("ready");
    }
    assert_eq!((server.stats().sessions, server.stats().fallbacks), (CLIENTS, CLIENTS / 2));
    for process in &mut processes {
        process.tell("go");
    }
    for process in &mut processes {
        process.expect("done");
        process.succeed();
    }
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.requests, stats.errors, stats.peer_faults), (CLIENTS * (count + 1), 0, 0));
    done!("{CLIENTS} clients with {count} messages each, half of them over the socket")
}
