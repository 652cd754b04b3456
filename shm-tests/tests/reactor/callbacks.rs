//! Nothing waits on the reactor's thread, whatever its callbacks ask for.

use crate::{SOON, without_rescue_options};
use ringbell::layout::STREAM_WINDOW;
use ringbell::{OwnedRequest, Responder, ResponseStream, Service, Session};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, say};
use ringbell_shm_tests::server::{Server, serve_with};
use ringbell_shm_tests::{done, wait_until};
use std::time::Duration;

/// Has one stream, to which each callback sends until it is refused.
#[derive(Default)]
struct SendsEverywhere {
    stream: Option<ResponseStream>,
}

impl SendsEverywhere {
    fn send(&mut self, place: &str, timeout: Option<Duration>) {
        let Some(stream) = &mut self.stream else { return };
        let mut sent = 0;
        let refusal = loop {
            match stream.send_timeout(b"item", timeout) {
                Ok(()) => sent += 1,
                Err(refusal) => break refusal,
            }
        };
        say(&format!("refused {place} {sent} {refusal:?}"));
    }
}

impl Service for SendsEverywhere {
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        match request.payload() {
            b"stream" => self.stream = Some(responder.stream()),
            _ => {
                self.send("request", Some(Duration::from_secs(60)));
                responder.reply(b"answer");
            }
        }
    }

    fn opened(&mut self, _: &Session) {
        self.send("opened", None);
    }

    fn closed(&mut self, _: &Session) {
        self.send("closed", None);
    }
}

pub(crate) fn sends_everywhere(arguments: &Arguments) {
    serve_with(arguments, |server| server.run_service(SendsEverywhere::default()));
}

pub(crate) fn nothing_waits_on_the_reactor_in_callbacks() -> Ran {
    let mut server = Server::prepare_role("sends_everywhere")
        .with("wait", "patient")
        .with("slow_client_ms", "never")
        .start();
    let connect =
        |server: &Server| without_rescue_options().connect(server.path()).expect("connect");
    let mut client = connect(&server);
    let stream = client.open_stream(b"stream", None).expect("send");
    wait_until("the stream is there", || server.stats().requests == 1);
    let other = connect(&server);
    let refused = |server: &mut Server| server.process().expect("refused");
    assert_eq!(refused(&mut server), format!("opened {STREAM_WINDOW} WouldBlock"));
    drop(other);
    assert_eq!(refused(&mut server), "closed 0 WouldBlock");
    assert_eq!(client.call_timeout(b"call", Some(SOON)).expect("an answer").payload(), b"answer");
    assert_eq!(refused(&mut server), "request 0 WouldBlock");
    for _ in 0..STREAM_WINDOW {
        assert_eq!(client.next_item(stream, &mut Vec::new(), Some(SOON)), Ok(true));
    }
    drop(client);
    assert_eq!(refused(&mut server), "closed 0 Disconnected");
    server.shut_down();
    done!("in opened, request and closed")
}
