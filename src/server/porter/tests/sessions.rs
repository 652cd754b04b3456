//! Clients that join, what they are granted, and how they leave.

use super::*;
use crate::link::lifeline;
use crate::memory::layout::offset;

#[test]
fn a_client_joins_and_both_see_the_same_memory() {
    let fixture = Fixture::new(settings());
    let options =
        HelloOptions { name: "tester".into(), max_message: 1000, ..HelloOptions::default() };
    let client = attach(&fixture.path, &options, soon()).expect("attached");
    let server = fixture.joined();
    assert_eq!((client.session, server.session, client.generation), (1, 1, GENERATION));
    assert_eq!((client.domain, shared(&server).domain), (0, 0));
    assert_eq!((client.request_capacity, shared(&server).request_capacity), (SMALL, SMALL));
    assert_eq!((client.response_capacity, shared(&server).response_capacity), (SMALL, SMALL));
    assert_eq!((client.max_message, server.max_message), (1000, 1000));
    assert_eq!((server.peer.pid, &*server.peer.name), (std::process::id(), "tester"));
    assert_eq!(server.peer.uid, rustix::process::getuid().as_raw());
    assert_eq!(server.peer.gid, rustix::process::getgid().as_raw());
    assert_eq!(client.server_pid, std::process::id());
    assert!(client.server.is_some());

    client.request.window.own_word(offset::TAIL).store(7, Ordering::Relaxed);
    assert_eq!(shared(&server).request.window.peer_word(offset::TAIL).load(), 7);
    shared(&server).response.window.own_word(offset::TAIL).store(8, Ordering::Relaxed);
    assert_eq!(client.response.window.peer_word(offset::TAIL).load(), 8);
    own_bell(&client).own_word(offset::SEQ).store(9, Ordering::Relaxed);
    assert_eq!(shared(&server).domain_bell.peer_word(offset::SEQ).load(), 9);
    let name = client.response.window.peer_word(offset::PEER + 8).load();
    assert_eq!(name, u64::from_ne_bytes(*b"tester\0\0"));
}

#[test]
fn wanted_capacities_are_granted() {
    let fixture = Fixture::new(settings());
    let mut clients = Vec::new();
    for (request, response) in [(2048, 1 << 20), (0, 8192), (SMALL, 0)] {
        let options = HelloOptions {
            request_capacity: request,
            response_capacity: response,
            max_message: u64::MAX,
            ..HelloOptions::default()
        };
        let client = attach(&fixture.path, &options, soon()).expect("attached");
        let or = |wanted| if wanted == 0 { SMALL } else { wanted };
        assert_eq!(
            (client.request_capacity, client.response_capacity),
            (or(request), or(response))
        );
        assert_eq!(client.max_message, 64 << 20, "no more than the server's");
        let server = fixture.joined();
        assert_eq!(
            shared(&server).request.window.len() as u64,
            layout::ring_segment_size(or(request))
        );
        assert_eq!(
            shared(&server).response.window.len() as u64,
            layout::ring_segment_size(or(response))
        );
        clients.push(client);
    }
}

#[test]
fn a_hang_up_and_a_goodbye_are_told_apart() {
    let fixture = Fixture::new(settings());
    let (client, server) = fixture.join();
    drop(client);
    assert_eq!(fixture.died(), (server.session, Death::HungUp));
    fixture.handle().closed(server.session);

    let (client, server) = fixture.join();
    rustix::io::write(&client.lifeline, &[lifeline::WAKE, lifeline::GOODBYE]).expect("written");
    drop(client);
    assert_eq!(fixture.died(), (server.session, Death::Goodbye));
    assert_eq!(count(&fixture.handle().counters().deaths), 2);
}

#[test]
fn a_half_closed_lifeline_ends_the_session_too() {
    // What a client can do while a forked child of its own holds the descriptor.
    let fixture = Fixture::new(settings());
    let (client, server) = fixture.join();
    rustix::io::write(&client.lifeline, &[lifeline::GOODBYE]).expect("written");
    rustix::net::shutdown(&client.lifeline, rustix::net::Shutdown::Write).expect("shut");
    assert_eq!(fixture.died(), (server.session, Death::Goodbye));
}

#[test]
fn wake_bytes_are_left_to_the_reactor() {
    let fixture = Fixture::new(settings());
    let (client, server) = fixture.join();
    rustix::io::write(&client.lifeline, &[lifeline::WAKE]).expect("written");
    // Whatever the porter does about it, it has done when it has let the next client in.
    let _next = fixture.join();
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(&server.lifeline, &mut bytes), Ok(1));
    assert_eq!(bytes[0], lifeline::WAKE);
}

#[test]
fn sessions_are_numbered_and_domains_shared_by_a_user() {
    let fixture = Fixture::new(settings());
    let clients: Vec<_> = (0..5).map(|_| fixture.join()).collect();
    let sessions: Vec<_> = clients.iter().map(|(_, server)| server.session).collect();
    assert_eq!(sessions, [1, 2, 3, 4, 5]);
    assert!(
        clients.iter().all(|(client, server)| (client.domain, shared(server).domain) == (0, 0))
    );
    own_bell(&clients[0].0).own_word(offset::SEQ).store(5, Ordering::Relaxed);
    assert_eq!(shared(&clients[4].1).domain_bell.peer_word(offset::SEQ).load(), 5, "one bell");
}

#[test]
fn isolated_sessions_have_domains_of_their_own_which_are_used_again() {
    let fixture =
        Fixture::new(PorterConfig { isolation: Isolation::Session, max_clients: 3, ..settings() });
    let mut clients: Vec<_> = (0..3).map(|_| fixture.join()).collect();
    assert!(clients.iter().all(|(client, _)| client.bell.is_none()), "in their request segments");
    let domains = |clients: &[(Attachment, Box<Joined>)]| -> Vec<_> {
        clients.iter().map(|(client, _)| client.domain).collect()
    };
    assert_eq!(domains(&clients), [0, 1, 2]);
    own_bell(&clients[1].0).own_word(offset::SEQ).store(5, Ordering::Relaxed);
    assert_eq!(shared(&clients[2].1).domain_bell.peer_word(offset::SEQ).load(), 0, "a bell each");
    let (client, server) = clients.remove(1);
    drop(client);
    assert_eq!(fixture.died().0, server.session);
    fixture.handle().closed(server.session);
    let (client, server) = fixture.join();
    assert_eq!((client.domain, client.session), (1, 4));
    assert_eq!(shared(&server).domain_bell.peer_word(offset::SEQ).load(), 0, "a new bell");
}

#[test]
fn a_server_of_another_user_than_expected_is_told_nothing() {
    let fixture = Fixture::new(settings());
    let me = rustix::process::geteuid().as_raw();
    let expecting = |uid| HelloOptions { server_uid: Some(uid), ..HelloOptions::default() };
    let error = attach(&fixture.path, &expecting(me + 1), soon()).expect_err("refused");
    assert!(
        matches!(error, ConnectError::WrongServerUid { want, have } if (want, have) == (me + 1, me))
    );
    attach(&fixture.path, &expecting(me), soon()).expect("attached");
    assert_eq!(fixture.joined().session, 1, "the first that said anything");
}

#[test]
fn unknown_sessions_cannot_be_closed() {
    let fixture = Fixture::new(PorterConfig { max_clients: 1, ..settings() });
    let (_client, server) = fixture.join();
    fixture.handle().closed(server.session + 1);
    fixture.handle().closed(0);
    assert!(matches!(
        fixture.attach(),
        Err(ConnectError::Rejected(RejectReason::TooManyClients { limit: 1 }))
    ));
    fixture.handle().closed(server.session);
    fixture.handle().closed(server.session);
    fixture.join();
}

#[test]
fn many_join_at_once() {
    let fixture =
        Fixture::new(PorterConfig { max_clients: 1024, max_handshakes: 64, ..settings() });
    let path = &fixture.path;
    let attach = || attach(path, &HelloOptions::default(), soon()).expect("attached");
    let clients: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..16).map(|_| attach()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut sessions: Vec<_> = clients.iter().map(|client| client.session).collect();
    sessions.sort_unstable();
    assert_eq!(sessions, (1..=128).collect::<Vec<_>>());
    for _ in 0..128 {
        fixture.joined();
    }
}

#[test]
fn generations_differ() {
    let mut all: Vec<_> = (0..1000).map(|_| generation()).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 1000);
    assert_ne!(all[0], 0);
}
