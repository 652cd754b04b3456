//! Messages that are too large, and messages of no length.

use crate::{SOON, connect, reacting, remote};
use ringbell::layout::code;
use ringbell::{CallError, SendError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::reactor_requests::{Count, StreamEnd, stream_of};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, scaled};

pub(crate) fn too_large_either_way() -> Ran {
    const MOST: u64 = 100_000;
    let server = Server::prepare("react").with("max_message", MOST).start();
    let mut client = connect(&server);
    let request = vec![b'e'; 100_001];
    let too_large = CallError::TooLarge { len: 100_001, max: 100_000 };
    assert_eq!(client.client().call(&request).unwrap_err(), too_large);
    assert_eq!(
        client.client().send_one_way(&request, None),
        Err(SendError::TooLarge { len: 100_001, max: 100_000 })
    );
    for verb in [b'z', b'Z', b'Z', b'Z'] {
        let request = client.request(verb, MOST, b"");
        assert_eq!(
            client.client().call(&request).expect("as large as may be").payload(),
            &[0; 100_000]
        );
        let error = client.ask(verb, MOST + 1, b"").expect_err("too large");
        assert_eq!(remote(&error), code::TOO_LARGE, "{error}");
        client.echoes(b'e', 0, b"on");
    }
    // An item that is too large is told to its producer, and the stream goes on.
    let too_long = stream_of(100_001, StreamEnd::Good);
    let request = client.request(b'S', 5, &too_long);
    let mut stream = client.client().call_stream(&request).expect("send");
    assert_eq!(stream.next(Some(SOON)), Ok(None));
    drop(stream);
    assert_eq!(client.count(Count::TooLarge), 5);
    let request = client.request(b'S', 5, &stream_of(100_000, StreamEnd::Good));
    let mut stream = client.client().call_stream(&request).expect("send");
    for _ in 0..5 {
        assert_eq!(stream.next(Some(SOON)).expect("an item"), Some(&[0; 100_000][..]));
    }
    assert_eq!(stream.next(Some(SOON)), Ok(None));
    drop(stream);
    assert_eq!(client.words(b'V', 2, &100_001u32.to_le_bytes()), [0, 0, 0, 2]);
    client.finish();
    server.shut_down();
    done!("requests, answers, items and events")
}

pub(crate) fn no_length_either_way() -> Ran {
    let rounds = scaled(5000);
    let server = reacting();
    let mut client = connect(&server);
    for _ in 0..rounds {
        // Inline and on a thread in turn.
        assert_eq!(client.client().call(b"").expect("nothing for nothing").payload(), b"");
        let request = client.request(b'Z', 0, b"");
        assert_eq!(client.client().call(&request).expect("nothing for something").payload(), b"");
    }
    let request = client.request(b'S', 300, &stream_of(0, StreamEnd::Good));
    let mut stream = client.client().call_stream(&request).expect("send");
    for _ in 0..300 {
        assert_eq!(stream.next(Some(SOON)).expect("an item"), Some(&b""[..]));
    }
    assert_eq!(stream.next(Some(SOON)), Ok(None));
    drop(stream);
    assert_eq!(client.words(b'V', 1, &0u32.to_le_bytes()), [1, 0, 0, 0]);
    assert_eq!(client.client().next_event(Some(SOON)), Ok(Vec::new()));
    client.client().send_one_way(b"", None).expect("send");
    client.echoes(b'e', 0, b"");
    client.finish();
    server.shut_down();
    done!("{rounds} of each")
}
