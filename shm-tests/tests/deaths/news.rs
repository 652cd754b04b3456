//! Clients that never wait for long learn of the death, and SIGPIPE kills none of them.

use crate::IN_TIME;
use ringbell::{CallError, ConnectOptions, RecvError, SendError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, options, signals};
use std::time::{Duration, Instant};

fn dead_server() -> (Server, ringbell::Client) {
    let mut server = Server::verifying();
    let mut client = ConnectOptions::new().connect(server.path()).expect("connect");
    let opening = Pattern::new(1, 10).opening();
    client.call(&opening).expect("the first call");
    server.process().kill();
    (server, client)
}

/// What `attempt` says at last, and after how long. It is tried for two seconds at most.
fn until_it_says<E>(mut attempt: impl FnMut() -> Result<(), E>) -> (Option<E>, Duration) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        if let Err(error) = attempt() {
            return (Some(error), began.elapsed());
        }
    }
    (None, began.elapsed())
}

pub(crate) fn a_client_that_receives_with_short_timeouts_learns_of_the_death() -> Ran {
    let (_server, mut client) = dead_server();
    client.send(b"").expect("there is room");
    let (said, after) = until_it_says(|| match client.recv(Some(Duration::from_micros(50))) {
        Err(RecvError::TimedOut) => Ok(()),
        Err(error) => Err(error),
        Ok(answer) => panic!("{answer:?}"),
    });
    assert_eq!(said, Some(RecvError::Disconnected), "recv(50 us) again and again, for {after:?}");
    assert!(after < IN_TIME * 5, "after {after:?}");
    done!("recv(50 us) says so after {after:?}")
}

pub(crate) fn a_client_that_calls_with_short_timeouts_learns_of_the_death() -> Ran {
    let (_server, mut client) = dead_server();
    let (said, after) =
        until_it_says(|| match client.call_timeout(b"", Some(Duration::from_micros(50))) {
            Err(CallError::TimedOut { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(answer) => panic!("{answer:?}"),
        });
    assert!(
        matches!(said, Some(CallError::Disconnected { .. })),
        "call(50 us) again and again, for {after:?}: {said:?}"
    );
    assert!(after < IN_TIME * 5, "after {after:?}");
    done!("call(50 us) says so after {after:?}")
}

pub(crate) fn a_client_that_only_sends_learns_of_the_death() -> Ran {
    let (_server, mut client) = dead_server();
    let (said, after) = until_it_says(|| {
        std::thread::sleep(Duration::from_millis(1));
        client.send_timeout(&[0; 1000], Some(Duration::ZERO)).map(drop).or_else(|error| match error
        {
            SendError::TimedOut => Ok(()),
            error => Err(error),
        })
    });
    assert_eq!(said, Some(SendError::Disconnected), "after {after:?}");
    done!("send says so after {after:?}")
}

/// Outlives its server in a process that SIGPIPE would kill.
pub(crate) fn bereaved(arguments: &Arguments) {
    signals::die_of_sigpipe();
    let connect = || options().connect(arguments.text("path")).expect("connect");
    let mut clients = [connect(), connect(), connect()];
    say("ready");
    let _ = hear();
    let [talking, sending, _silent] = &mut clients;
    assert!(matches!(talking.call(b"x"), Err(CallError::Disconnected { .. })));
    while sending.send_timeout(&[0; 1000], Some(Duration::ZERO)).is_ok() {}
    // And their goodbyes.
    drop(clients);
    say("done");
}

pub(crate) fn sigpipe_kills_nobody() -> Ran {
    let mut server = Server::verifying();
    let mut client = Start::role("bereaved").with("path", server.path().display()).start();
    client.expect("ready");
    server.process().kill();
    client.tell("go");
    client.expect("done");
    client.succeed();
    done!("3 clients; and see the server of `clients_die`")
}
