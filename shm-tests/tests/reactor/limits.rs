//! A client at its limit of requests or bytes in flight: its credit is read, and so is its goodbye.

use crate::{SOON, connect_without_rescue, with_and_without_executor};
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::reactor_requests::{Count, StreamEnd, stream_of};
use ringbell_shm_tests::wait_until;

/// Many times what may be sent without credit.
const ITEMS: u64 = 200;

pub(crate) fn credit_is_read_at_the_limit_of_requests_in_flight() -> Ran {
    with_and_without_executor(|prepared| {
        let server = prepared.with("max_in_flight", 1).start();
        let mut client = connect_without_rescue(&server);
        let number = client.next_number();
        let request = client.request(b's', ITEMS, &stream_of(10, StreamEnd::Good));
        let stream = client.client().open_stream(&request, None).expect("send");
        // The credit stands behind these, none of which may be run before the stream is over.
        let calls: Vec<u64> = (0..10)
            .map(|_| {
                let number = client.next_number();
                client.send(b't', 0, b"behind", None).expect("send");
                number
            })
            .collect();
        assert_eq!(client.read_stream(stream, number, 10), Ok(ITEMS));
        assert_eq!(client.recv_all(), calls);
        client.finish();
        server.shut_down();
    });
    done!("a stream of {ITEMS} items before 10 calls")
}

pub(crate) fn credit_is_read_at_the_limit_of_bytes_in_flight() -> Ran {
    with_and_without_executor(|prepared| {
        let server = prepared.with("max_held_bytes_per_client", 1_000_000).start();
        let mut client = connect_without_rescue(&server);
        let number = client.next_number();
        let mut how = stream_of(10, StreamEnd::Good);
        how.resize(300_000, 1);
        let request = client.request(b's', ITEMS, &how);
        let stream = client.client().open_stream(&request, None).expect("send");
        assert_eq!(client.read_stream(stream, number, 10), Ok(ITEMS));
        client.echoes(b't', 0, b"on");
        client.finish();
        server.shut_down();
    });
    done!("a stream of {ITEMS} items, asked for by 300000 bytes, beyond which no request begins")
}

pub(crate) fn a_client_that_leaves_at_the_limit_is_noticed() -> Ran {
    with_and_without_executor(|prepared| {
        let mut server = prepared.with("max_in_flight", 1).start();
        let mut watcher = connect_without_rescue(&server);
        let mut client = connect_without_rescue(&server);
        let endless = stream_of(10, StreamEnd::Good);
        let request = client.request(b's', u64::MAX, &endless);
        let stream = client.client().open_stream(&request, None).expect("send");
        assert_eq!(client.client().next_item(stream, &mut Vec::new(), Some(SOON)), Ok(true));
        // Streams as well, if they were run: they, too, would wait for a client that is gone.
        for _ in 0..3 {
            let request = client.request(b's', u64::MAX, &endless);
            client.client().post(&request).expect("post");
        }
        drop(client);
        wait_until("its stream has ended", || watcher.count(Count::Gone) >= 1);
        assert_eq!(watcher.count(Count::Cancelled), 0, "the client is gone, and cancelled nothing");
        server.wait_for_sessions(1);
        watcher.finish();
        server.shut_down();
    });
    done!("with a stream and three requests behind it")
}
