//! Handlers that panic, also with payloads that panic when they are dropped.

use crate::{SOON, connect, reacting, remote, without_rescue_options};
use ringbell::layout::code;
use ringbell::{
    CallError, Handler, HandlerError, OwnedRequest, RemoteError, Request, Responder, Service,
    Session, Task,
};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::Arguments;
use ringbell_shm_tests::server::{Server, serve_with};
use ringbell_shm_tests::{done, scaled};
use std::sync::mpsc::channel;

pub(crate) fn panics_of_the_handler() -> Ran {
    let rounds = scaled(1000);
    let server = reacting();
    let mut client = connect(&server);
    for _ in 0..rounds {
        match client.ask(b'p', 0, b"at the disco") {
            Err(CallError::Remote(RemoteError { code: code::PANICKED, text })) => {
                assert!(text.contains("inline: at the disco"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(remote(&client.ask(b'P', 0, b"").expect_err("a panic")), code::PANICKED);
        // The worker that panicked is there for the next one.
        client.echoes(b't', 0, b"on");
    }
    for (verb, number) in [(b'x', 3), (b'X', 4)] {
        let error = client.ask(verb, number, b"text").expect_err("an error");
        let CallError::Remote(error) = error else { panic!("{error:?}") };
        assert_eq!((error.application_code(), &*error.text), (u16::try_from(number).ok(), "text"));
    }
    client.finish();
    let stats = server.shut_down();
    assert_eq!((stats.panics, stats.errors), (2 * rounds, 2 * rounds + 2));
    done!("{rounds} inline and as many on threads")
}

/// A payload that panics when it is dropped, with another one.
struct Spiteful;

impl Drop for Spiteful {
    fn drop(&mut self) {
        panic_spitefully();
    }
}

/// Past the hook, which would report it.
fn panic_spitefully() -> ! {
    std::panic::resume_unwind(Box::new(Spiteful))
}

/// Panics everywhere.
struct Panics;

impl Handler for Panics {
    fn request(
        &mut self,
        request: Request<'_>,
        response: &mut Vec<u8>,
    ) -> Result<(), HandlerError> {
        if request.payload() == b"panic" {
            panic_spitefully();
        }
        response.extend_from_slice(b"answer");
        Ok(())
    }

    fn opened(&mut self, _: &Session) {
        panic_spitefully();
    }

    fn closed(&mut self, _: &Session) {
        panic_spitefully();
    }
}

impl Service for Panics {
    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        answer_or_panic(request, responder);
    }

    fn opened(&mut self, _: &Session) {
        panic_spitefully();
    }

    fn closed(&mut self, _: &Session) {
        panic_spitefully();
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the signature of a handler")]
fn answer_or_panic(request: OwnedRequest, responder: Responder) {
    if request.payload() == b"panic" {
        panic_spitefully();
    }
    responder.reply(b"answer");
}

/// Serves as `engine` says, and panics.
pub(crate) fn panics_everywhere(arguments: &Arguments) {
    let on_a_thread = |task: Task| {
        std::thread::spawn(|| task.run());
    };
    match arguments.text("engine") {
        "serial" => serve_with(arguments, |server| server.run_with(Panics)),
        "reactor" => serve_with(arguments, |server| server.run_service(Panics)),
        "inline" => serve_with(arguments, |server| server.run_on(on_a_thread, answer_or_panic)),
        "executor" => {
            let (tasks, worker) = channel::<Task>();
            let working = std::thread::spawn(move || worker.into_iter().for_each(Task::run));
            serve_with(arguments, |server| {
                server.run_on(
                    move |task| tasks.send(task).expect("the worker lives"),
                    answer_or_panic,
                )
            });
            working.join().expect("the worker lives");
        }
        other => panic!("no engine {other}"),
    }
}

pub(crate) fn payloads_that_panic_when_dropped() -> Ran {
    const ROUNDS: u64 = 10;
    for engine in ["serial", "reactor", "inline", "executor"] {
        let mut prepared = Server::prepare_role("panics_everywhere")
            .with("wait", "patient")
            .with("engine", engine);
        if engine == "inline" {
            prepared = prepared.with("inline", "short");
        }
        let mut server = prepared.start();
        let mut client = without_rescue_options().connect(server.path()).expect("connect");
        for _ in 0..ROUNDS {
            match client.call_timeout(b"panic", Some(SOON)).map(|_| ()) {
                Err(CallError::Remote(error)) => assert_eq!(error.code, code::PANICKED, "{engine}"),
                other => panic!("{engine}: {other:?}"),
            }
            assert_eq!(
                client.call_timeout(b"call", Some(SOON)).expect("an answer").payload(),
                b"answer"
            );
        }
        drop(client);
        server.wait_for_sessions(0);
        let stats = server.shut_down();
        assert_eq!((stats.requests, stats.panics), (2 * ROUNDS, ROUNDS), "{engine}");
    }
    done!("{ROUNDS} each: serial, on the reactor, inline of an executor, on an executor")
}
