//! A server and a client that forbid themselves things, and a process that naps.

use ringbell::{ByteListener, ByteStream, OwnedRequest, Responder, Server, Transport};
use ringbell_shm_tests::driver::Driver;
use ringbell_shm_tests::options;
use ringbell_shm_tests::process::{Arguments, hear, say};
use ringbell_shm_tests::sandbox;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// `refuse` and `errno`: calls, with `+` between them, that fail from now on. `lock_kib`: all
/// memory that is mapped from now on is locked, and no more than so much may be.
fn forbid(arguments: &Arguments) {
    if let Some(kib) = arguments.maybe_number("lock_kib") {
        sandbox::lock_memory(kib * 1024);
    }
    if let Some(call) = arguments.get("refuse") {
        for call in call.split('+') {
            sandbox::refuse(call, arguments.number("errno").try_into().expect("small"));
        }
    }
}

/// A request is answered by its bytes in reverse, each plus one.
fn answer(request: &[u8]) -> Vec<u8> {
    request.iter().rev().map(|byte| byte.wrapping_add(1)).collect()
}

/// Requests of all sizes: in one record, and in many.
fn requests() -> impl Iterator<Item = Vec<u8>> {
    let sizes = (0..200u32).map(|size| size * 3).chain([5_000, 100_000, 300_000]);
    sizes.map(|size| (0..size).map(|at| (at * 7 + size).to_le_bytes()[0]).collect())
}

/// `uid`: whom it becomes.
fn be_somebody(arguments: &Arguments) {
    if let Some(uid) = arguments.maybe_number("uid") {
        sandbox::become_user(uid.try_into().expect("a uid"));
    }
}

/// `most`: the longest request, in bytes.
fn most(arguments: &Arguments) -> usize {
    arguments.maybe_number("most").map_or(usize::MAX, |most| most.try_into().expect("a length"))
}

/// A server with everything at its default. `refuse`, `errno`: see [`forbid`]; `when`: `bound` to
/// forbid it after it has bound. `driver`: see [`Driver`]. `bytes`: it serves byte streams.
///
/// Says `ready`, or `error ..`. A line that it is told is its limit of descriptors from then on; it
/// answers `counted` and how often accepting has paused. Serves until its test hangs up; then says
/// `paused` and how often it paused.
pub(super) fn host(arguments: &Arguments) {
    be_somebody(arguments);
    let late = arguments.get("when") == Some("bound");
    if !late {
        forbid(arguments);
    }
    let path = Path::new(arguments.text("path"));
    if arguments.get("bytes").is_some() {
        return byte_host(path, late.then_some(arguments));
    }
    if let Some(to) = arguments.get("from") {
        std::env::set_current_dir(to).expect("entered");
    }
    let builder = Server::builder().fallback(arguments.get("fallback") != Some("off"));
    let server = match builder.bind(path) {
        Ok(server) => server,
        Err(error) => return say(&format!("error {error}")),
    };
    if let Some(to) = arguments.get("to") {
        std::env::set_current_dir(to).expect("entered");
    }
    let handle = server.handle();
    std::thread::spawn(move || {
        while let Some(limit) = hear() {
            sandbox::limit_descriptors(limit.parse().expect("a limit of descriptors"));
            say(&format!("counted {}", handle.stats().accept_pauses));
        }
        handle.shutdown(Some(Duration::from_secs(1)));
    });
    if late {
        forbid(arguments);
    }
    say("ready");
    let mut kept: Vec<Responder> = Vec::new();
    let service = move |request: OwnedRequest, responder: Responder| match request.payload() {
        b"wait" => kept.push(responder),
        b"open" => {
            for kept in kept.drain(..) {
                kept.reply(b"opened");
            }
            responder.reply(b"");
        }
        payload => responder.reply(&answer(payload)),
    };
    let driver = Driver::named(arguments.get("driver").unwrap_or("thread"));
    match driver.serve(server, service) {
        Ok(stats) => say(&format!("paused {}", stats.pauses)),
        Err(error) => say(&format!("error {error}")),
    }
}

/// `late`: what it forbids once it has bound.
fn byte_host(path: &Path, late: Option<&Arguments>) {
    let listener = match ByteListener::bind(path) {
        Ok(listener) => Arc::new(listener),
        Err(error) => return say(&format!("error {error}")),
    };
    let closer = listener.clone();
    std::thread::spawn(move || {
        while hear().is_some() {}
        closer.close();
    });
    if let Some(arguments) = late {
        forbid(arguments);
    }
    say("ready");
    loop {
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(error) => return say(&format!("over {error}")),
        };
        std::thread::spawn(move || {
            let mut request = Vec::new();
            (&stream).read_to_end(&mut request).expect("read");
            (&stream).write_all(&answer(&request)).expect("written");
            stream.shutdown_write().expect("ended");
        });
    }
}

/// A client that checks its answers. `refuse`, `errno`: see [`forbid`]; `when`: `connected` to
/// forbid it after it has connected. `bytes`: it makes streams. `await`: then it makes a call that
/// is not answered, and says `waiting`. `close`: then it closes all its descriptors, and calls.
///
/// Says `transport ..` or `error ..`, then `done`; `opened` when that call was answered; `called`
/// or `ended ..` after it has closed everything.
pub(super) fn guest(arguments: &Arguments) {
    be_somebody(arguments);
    let late = arguments.get("when") == Some("connected");
    if !late {
        forbid(arguments);
    }
    let path = Path::new(arguments.text("path"));
    if arguments.get("bytes").is_some() {
        return byte_guest(path, late.then_some(arguments));
    }
    let mut client = match options().connect(path) {
        Ok(client) => client,
        Err(error) => return say(&format!("error {error}")),
    };
    say(&format!("transport {}", client.transport()));
    if late {
        forbid(arguments);
    }
    for request in requests().filter(|request| request.len() <= most(arguments)) {
        assert_eq!(*client.call(&request).expect("answered"), answer(&request)[..]);
    }
    say("done");
    if arguments.get("await").is_some() {
        say("waiting");
        assert_eq!(&*client.call(b"wait").expect("answered"), b"opened");
        say("opened");
    }
    if arguments.get("close").is_some() {
        sandbox::close_everything();
        match client.call(b"wait") {
            Ok(_) => say("called"),
            Err(error) => say(&format!("ended {error}")),
        }
    }
    // Stays, and does nothing.
    while hear().is_some() {}
}

/// `late`: what it forbids once it has connected its only stream, over which it sends one request.
fn byte_guest(path: &Path, late: Option<&Arguments>) {
    let mut transport = None;
    let requests: Vec<_> = match late {
        None => requests().collect(),
        Some(_) => requests().last().into_iter().collect(),
    };
    for request in requests {
        let stream = match ByteStream::connect(path) {
            Ok(stream) => stream,
            Err(error) => return say(&format!("error {error}")),
        };
        if transport.is_none() {
            say(&format!("transport {}", stream.transport()));
        }
        transport = Some(stream.transport());
        if let Some(arguments) = late {
            forbid(arguments);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&stream).write_all(&request).expect("written");
                stream.shutdown_write().expect("ended");
            });
            let mut found = Vec::new();
            (&stream).read_to_end(&mut found).expect("read");
            assert_eq!(found, answer(&request));
        });
    }
    assert!(matches!(transport, Some(Transport::SharedMemory | Transport::Socket { .. })));
    say("done");
    while hear().is_some() {}
}

/// Says `napped` after 300 naps of a millisecond, whenever it is told to.
pub(super) fn napper(_: &Arguments) {
    say("ready");
    while hear().is_some() {
        for _ in 0..300 {
            std::thread::sleep(Duration::from_millis(1));
        }
        say("napped");
    }
}
