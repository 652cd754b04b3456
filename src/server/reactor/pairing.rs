//! Tests: an answer is checked against its flight, and reaches no other request.

use crate::client::Client;
use crate::memory::layout::Kind;
use crate::server::Server;
use crate::server::flight::{Completion, To};
use std::sync::mpsc::channel;

#[test]
fn an_answer_to_a_flight_that_is_over_reaches_no_other_request() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let server = Server::bind(&path).expect("bound");
    let handle = server.handle();
    let (taken, requests) = channel();
    let serving = std::thread::spawn(move || {
        let take = move |request, responder| taken.send((request, responder)).expect("the test");
        server.run_reactor(take).expect("served");
    });
    let mut client = Client::connect(&path).expect("connected");
    client.send(b"1").expect("sent");
    let (request, responder) = requests.recv().expect("a request");
    let over = request.flight.clone();
    responder.reply(b"one");
    assert_eq!(&*client.recv(None).expect("an answer").outcome.expect("a response"), b"one");

    let second = client.send(b"2").expect("sent");
    let (request, responder) = requests.recv().expect("a request");
    let stale = Completion {
        to: To::Flight(over.clone()),
        kind: Kind::Response,
        code: 0,
        payload: crate::link::held::Held { bytes: b"stale".to_vec(), ..Default::default() },
    };
    assert!(over.caller.completions.push(stale));
    responder.reply(b"two");
    let answer = client.recv(None).expect("an answer");
    assert_eq!(answer.call, second);
    assert_eq!(&*answer.outcome.expect("a response"), b"two");
    assert_eq!(over.table_index(), request.flight.table_index(), "the same place");
    drop(client);
    handle.shutdown(None);
    serving.join().expect("no panic");
    assert_eq!(handle.stats().orphans, 1);
}
