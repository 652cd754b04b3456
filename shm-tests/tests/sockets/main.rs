//! The socket as transport: why a client gets it, peers that are not honest, and peers that die.

mod choice;
mod frames;
mod leaving;
mod servers;

use choice::*;
use frames::*;
use leaving::*;
use ringbell::layout::Kind;
use ringbell::sync::{Ordering, PlainU64};
use ringbell::{ConnectOptions, FallbackReason, Transport, TransportChoice};
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::progress::Stopwatch;
use ringbell_shm_tests::raw::SocketSession;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::suite;
use ringbell_shm_tests::verified::Verified;
use servers::*;
use std::time::Duration;

suite! {
    // All of them are about sockets: their clients choose what carries them.
    tests: [
        asked_for,
        a_server_without_shared_memory,
        a_user_who_has_used_up_the_memory,
        rings_beyond_what_a_client_may_have,
        nothing_to_fall_back_to,
        as_many_clients_as_may_be,
        both_kinds_of_clients_at_once,
        frames_that_cannot_be,
        frames_that_are_strange_and_allowed,
        any_bytes,
        half_a_frame_and_silence,
        an_end_within_a_frame,
        byte_by_byte,
        small_buffers,
        deadlines_that_have_passed,
        a_client_that_never_reads,
        clients_that_do_not_wait_for_their_answers,
        killed_clients,
        killed_servers,
        servers_that_send_nonsense,
        servers_that_break_off,
        what_errors_of_a_server_mean,
        an_answer_behind_more_events_than_one_look_takes,
        a_server_that_is_gone_behind_more_events_than_one_look_takes,
    ],
    roles: [client],
}

const PEER_FAULT: u16 = 0x81;
const SLOW_CLIENT: u16 = 0x82;
const SOON: Duration = Duration::from_secs(20);

fn over_socket() -> ConnectOptions {
    ConnectOptions::new().transport(TransportChoice::Socket)
}

fn over_rings() -> ConnectOptions {
    ConnectOptions::new().transport(TransportChoice::SharedMemory)
}

fn reason(client: &ringbell::Client) -> FallbackReason {
    match client.transport() {
        Transport::Socket { reason } => *reason,
        other => panic!("carried by {other:?}"),
    }
}

/// Runs `attack` on a server that two honest clients use all the while, one of each kind; what the
/// attack says.
fn beside_honest_clients<T>(attack: impl FnOnce(&mut Server) -> T) -> (T, String) {
    struct Stop<'a>(&'a PlainU64);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(1, Ordering::Relaxed);
        }
    }
    let mut server = Server::prepare("verify").with("max_clients", 16).start();
    let path = server.path().to_owned();
    let stop = PlainU64::new(0);
    let honest = |options: ConnectOptions, sender| {
        let mut client =
            Verified::connect(&path, options, Pattern::new(sender, 700).with_large(50, 200_000));
        let mut slowest = Duration::ZERO;
        while stop.load(Ordering::Relaxed) == 0 {
            let watch = Stopwatch::start();
            client.call(None).expect("an honest client notices nothing");
            slowest = slowest.max(watch.awake());
            std::thread::sleep(Duration::from_micros(300));
        }
        let calls = client.sent();
        client.finish();
        (calls, slowest)
    };
    let (result, calls, slowest) = std::thread::scope(|scope| {
        let both = [
            scope.spawn(|| honest(over_socket(), 8)),
            scope.spawn(|| honest(ConnectOptions::new(), 9)),
        ];
        let stop = Stop(&stop);
        server.wait_for_sessions(2);
        let result = attack(&mut server);
        server.wait_for_sessions(2);
        drop(stop);
        let told = both.map(|client| client.join().expect("an honest client"));
        (result, told[0].0 + told[1].0, told[0].1.max(told[1].1))
    });
    assert!(slowest < Duration::from_secs(2), "an honest call took {slowest:?}");
    let stats = server.shut_down();
    assert_eq!(stats.panics, 0);
    (result, format!("; beside {calls} honest calls, the slowest of {slowest:?}"))
}

/// That the server says why and hangs up.
fn is_put_out(session: &SocketSession, why: u16, what: &str) {
    let mut last = None;
    while let Some(frame) = session.receive() {
        last = Some(frame);
    }
    let last = last.unwrap_or_else(|| panic!("{what}: not a word"));
    assert_eq!((last.kind(), last.header.code()), (Some(Kind::Goodbye), why), "{what}: {last:?}");
}
