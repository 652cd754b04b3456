//! Handlers on an executor: all of them, or those that are not short.

use crate::{connect, remote};
use ringbell::layout::code;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, observe, scaled, wait_until};

pub(crate) fn handlers_on_an_executor() -> Ran {
    let count = scaled(20_000);
    let mut server = Server::prepare("react").with("pool", 4).start();
    let mut client = connect(&server);
    for number in 0..count {
        client.send(b'e', 0, b"pooled", None).expect("send");
        if number % 100 == 99 {
            client.recv_all();
        }
    }
    client.recv_all();
    client.echoes(b'b', 100, b"on");
    assert_eq!(remote(&client.ask(b'p', 0, b"").expect_err("a panic")), code::PANICKED);
    assert_eq!(remote(&client.ask(b'd', 0, b"").expect_err("dropped")), code::DROPPED);
    client.echoes(b'e', 0, b"on");
    let number = client.next_number();
    let request = client.request(b'i', 1000, b"");
    let call = client.client().open_stream(&request, None).expect("send");
    // Here it may wait.
    assert_eq!(client.read_stream(call, number, 0), Ok(1000));
    client.finish();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.inline, stats.dispatched), (0, count + 5));
    done!("{count} calls")
}

pub(crate) fn short_handlers_on_an_executor() -> Ran {
    let count = scaled(20_000);
    let server = Server::prepare("react").with("pool", 2).with("inline", "short").start();
    let mut client = connect(&server);
    for _ in 0..count {
        client.echoes(b'e', 0, b"alone");
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.inline, stats.dispatched), (count, 0), "each was alone");
    let server = Server::prepare("react").with("pool", 2).with("inline", "short").start();
    let mut client = connect(&server);
    client.send(b'h', 1, b"", None).expect("send");
    for _ in 0..100 {
        client.echoes(b'e', 0, b"not alone");
    }
    assert_eq!(client.words(b'r', 1, b""), [1, 0]);
    client.recv_all();
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.inline, stats.dispatched), (0, 102), "one was in flight all the time");
    done!("{count} calls that are alone, 100 that are not")
}

pub(crate) fn measured_handlers_on_an_executor() -> Ran {
    let mut server = Server::prepare("react").with("pool", 2).with("inline", "measured").start();
    let mut client = connect(&server);
    // Until 64 in a row have been short: a handler that is held up may take more.
    let mut calls = 0;
    while server.stats().inline < 200 {
        assert!(calls < 1_000_000, "never: {:?}", server.stats());
        for _ in 0..200 {
            client.echoes(b'e', 0, b"short");
        }
        calls += 200;
        tick();
    }
    assert!(server.stats().dispatched >= 64, "nothing is known of the first 64");
    // Long runs go to the executor again. The first of them may run here.
    client.echoes(b'b', 2000, b"long");
    wait_until("the server sleeps, its counts told", || observe::all_threads_sleep(server.id()));
    let before = server.stats();
    for _ in 0..50 {
        client.echoes(b'b', 200, b"long");
    }
    client.finish();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.inline, stats.dispatched), (before.inline, before.dispatched + 50));
    done!("inline after {calls} calls at most; 50 long ones not")
}
