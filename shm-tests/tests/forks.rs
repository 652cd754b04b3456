//! `fork` and `exec`: a session belongs to the process that connected.

use futures_core::Stream;
use ringbell::{CallError, Client, ConnectOptions, EventError, RecvError, SendError, ServeError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::progress::Stopwatch;
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{becomes_true, done, options, scaled, signals, suite, wait_until};
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Builder;

suite! {
    both: [a_forked_child_leaves_its_parents_tasks_alone],
    tests: [
        a_forked_child_cannot_use_its_parents_client,
        a_child_beside_other_threads_does_not_hang,
        a_child_that_looks_at_an_answer_leaves_it_there,
        a_forked_server_does_not_serve,
        a_childs_hold_on_the_lifeline_keeps_no_dead_client_alive,
        a_childs_hold_on_the_lifeline_keeps_no_dead_server_alive,
        nothing_is_inherited_through_exec,
    ],
    roles: [
        forking_client, forking_tasks, forking_beside_threads, forking_viewer, forking_server,
        dying_client, serving_parent, executing
    ],
}

/// Forks again and again while it has a session.
fn forking_client(arguments: &Arguments) {
    let path = Path::new(arguments.text("path"));
    let mut parent = Verified::connect(path, ConnectOptions::new(), Pattern::new(1, 500));
    for round in 0..arguments.number("rounds") {
        parent.pipeline(20, 4);
        let flying = round % 2 == 0;
        if flying {
            parent.send(None).expect("send");
        }
        let parent_has = &mut parent;
        let status = signals::in_a_fork(move || {
            let client = parent_has.client();
            let forked = client.call(b"x").map(drop) == Err(CallError::Forked)
                && client.call_timeout(b"x", Some(Duration::ZERO)).map(drop)
                    == Err(CallError::Forked)
                && client.call_view(b"x", None, |_| ()) == Err(CallError::Forked)
                && client.call_into(b"x", &mut Vec::new(), None) == Err(CallError::Forked)
                && client.send(b"x").map(drop) == Err(SendError::Forked)
                && client.send_batch([&b"x"[..]], &mut Vec::new()) == Err(SendError::Forked)
                && client.claim(1, None).map(drop) == Err(SendError::Forked)
                && client.recv(None).map(drop) == Err(RecvError::Forked)
                && client.try_recv().map(drop) == Err(RecvError::Forked);
            if !forked {
                return 1;
            }
            // Numbers are only looked at, but the child must not write its parent's page.
            let _ = client.stats();
            0
        });
        assert_eq!(status, 0, "a method worked in a forked child");
        // The child drops what it has a copy of, and connects by itself.
        let mut whole = Some(parent);
        let whole_has = &mut whole;
        let status = signals::in_a_fork(move || {
            drop(whole_has.take());
            let mut own = Verified::connect(path, ConnectOptions::new(), Pattern::new(2, 500));
            own.pipeline(20, 4);
            let grandchild = signals::in_a_fork(|| {
                u8::from(own.client().call(b"x").map(drop) != Err(CallError::Forked))
            });
            own.call(None).expect("the child's own session");
            own.finish();
            grandchild
        });
        assert_eq!(status, 0, "the child's own session");
        parent = whole.expect("this is the parent");
        if flying {
            parent.recv(None).expect("the parent's answer");
        }
        parent.call(None).expect("the parent's session goes on");
    }
    parent.finish();
    say("done");
}

fn a_forked_child_cannot_use_its_parents_client() -> Ran {
    let rounds = scaled(50);
    let mut server = Server::verifying();
    let mut client = Start::role("forking_client")
        .with("path", server.path().display())
        .with("rounds", rounds)
        .start();
    client.expect("done");
    client.succeed();
    server.wait_for_sessions(0);
    let stats = server.shut_down();
    assert_eq!((stats.accepted, stats.peer_faults), (rounds + 1, 0));
    done!("{rounds} times two children and a grandchild")
}

/// Runs a role that forks so often, with a server that must find no fault with it.
fn unnoticed_by_the_server(role: &str, rounds: u64) {
    let server = Server::prepare("react").start();
    let start = Start::role(role).with("path", server.path().display());
    let mut process = start.with("rounds", rounds).start();
    process.expect("done");
    process.succeed();
    assert_eq!(server.shut_down().peer_faults, 0);
}

/// One poll, by whoever does not wait.
fn polled<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// Forks while its tasks wait for an event, for an answer, and for items.
fn forking_tasks(arguments: &Arguments) {
    let path = Path::new(arguments.text("path"));
    let mut other = Client::connect(path).expect("connect");
    for round in 0..arguments.number("rounds") {
        let mut runtime =
            Some(Builder::new_current_thread().enable_all().build().expect("a runtime"));
        let run = runtime.as_ref().expect("there");
        let client = run.block_on(options().connect_async(path)).expect("connect");
        // More than a ring's worth, so that a child that writes where the parent has long been does
        // harm.
        let echo = async |number: u64, len: usize| {
            let request = ask(b'e', number, 0, &vec![7; len]);
            let answer = client.call(&request).await.expect("an answer");
            assert_eq!(&answer[answer.len() - len..], &vec![7; len]);
        };
        run.block_on(async {
            for number in 0..200 {
                echo(number, 700).await;
            }
            client.call(&ask(b'm', 0, 0, b"")).await.expect("an answer");
        });
        let mut events = client.events();
        let mut held = Box::pin(client.call_owned(ask(b'h', 1, round, b"")));
        let rest = [&8_u32.to_le_bytes()[..], &[0]].concat();
        let mut items =
            run.block_on(client.call_stream(&ask(b's', 1, 500, &rest))).expect("a stream");
        assert!(polled(|cx| held.as_mut().poll(cx)).is_none());
        assert!(polled(|cx| Pin::new(&mut events).poll_next(cx)).is_none());
        run.block_on(async {
            let item = poll_fn(|cx| Pin::new(&mut items).poll_next(cx)).await;
            item.expect("more").expect("an item");
            // The driver takes in more of them, and goes to sleep.
            tokio::time::sleep(Duration::from_millis(5)).await;
        });
        let has = &mut runtime;
        let mut waiting = Some((held, events, items));
        let them = &mut waiting;
        let status = signals::in_a_fork(|| {
            let (mut held, mut events, mut items) = them.take().expect("copies");
            let mut fresh = Box::pin(client.call(b"x"));
            let mut one_way = Box::pin(client.send_one_way(b"x"));
            let refused = polled(|cx| fresh.as_mut().poll(cx)) == Some(Err(CallError::Forked))
                && polled(|cx| one_way.as_mut().poll(cx)) == Some(Err(SendError::Forked))
                && polled(|cx| held.as_mut().poll(cx)) == Some(Err(CallError::Forked))
                && matches!(
                    polled(|cx| Pin::new(&mut events).poll_next(cx)),
                    Some(Some(Err(EventError::Forked)))
                )
                && (0..100).all(|_| {
                    matches!(
                        polled(|cx| Pin::new(&mut items).poll_next(cx)),
                        Some(Some(Err(CallError::Forked)) | None)
                    )
                });
            if round % 2 == 0
                && let Some(copy) = has.take()
            {
                // Its epoll is the parent's, too. Its threads are not there to be waited for.
                copy.shutdown_background();
            }
            u8::from(!refused)
        });
        assert_eq!(status, 0, "a forked child got something");
        let run = runtime.as_ref().expect("this is the parent");
        let (held, mut events, mut items) = waiting.expect("this is the parent");
        // From another session, so that nothing but this event wakes the tasks of this one.
        let pushed = other.call(&ask(b'y', 1, client.session(), b"")).map(|answer| answer[16]);
        assert_eq!(pushed, Ok(1), "it was pushed");
        run.block_on(async {
            let event = poll_fn(|cx| Pin::new(&mut events).poll_next(cx)).await;
            assert_eq!(event.expect("more").expect("an event"), b"from another");
            for number in 0..50 {
                echo(number, 700).await;
            }
            client.call(&ask(b'r', 1, round, b"")).await.expect("an answer");
            held.await.expect("the held answer");
            let mut more = 0;
            while let Some(item) = poll_fn(|cx| Pin::new(&mut items).poll_next(cx)).await {
                item.expect("an item");
                more += 1;
            }
            assert_eq!(more, 499);
        });
    }
    say("done");
}

/// What a child does with an asynchronous client, its streams and its runtime: its parent notices
/// nothing.
fn a_forked_child_leaves_its_parents_tasks_alone() -> Ran {
    let rounds = scaled(40).max(4);
    unnoticed_by_the_server("forking_tasks", rounds);
    done!("{rounds} children that used calls, streams and the runtime of their parent")
}

/// Forks while tasks on other threads call: one of them may hold whatever lock there is.
fn forking_beside_threads(arguments: &Arguments) {
    let path = Path::new(arguments.text("path"));
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let client = runtime.block_on(options().connect_async(path)).expect("connect");
    let calling: Vec<_> = (0..2)
        .map(|task| {
            let client = client.clone();
            runtime.spawn(async move {
                loop {
                    client.call(&ask(b'e', task, 0, b"on and on")).await.expect("an answer");
                }
            })
        })
        .collect();
    for _ in 0..arguments.number("rounds") {
        let status = signals::in_a_fork(|| {
            let copy = client.clone();
            let mut events = copy.events();
            let mut fresh = Box::pin(copy.call(b"x"));
            let refused = polled(|cx| fresh.as_mut().poll(cx)) == Some(Err(CallError::Forked))
                && matches!(
                    polled(|cx| Pin::new(&mut events).poll_next(cx)),
                    Some(Some(Err(EventError::Forked)))
                )
                && copy.session() == client.session()
                && copy.in_flight() == 0;
            let _ = copy.stats();
            drop((fresh, events));
            u8::from(!refused)
        });
        assert_eq!(status, 0, "a forked child got something");
    }
    calling.iter().for_each(tokio::task::JoinHandle::abort);
    runtime.block_on(client.call(&ask(b'e', 9, 0, b"the parent"))).expect("the session goes on");
    say("done");
}

fn a_child_beside_other_threads_does_not_hang() -> Ran {
    let rounds = scaled(200).max(20);
    unnoticed_by_the_server("forking_beside_threads", rounds);
    done!("{rounds} children beside two threads that call")
}

/// Forks while it looks at an answer in the ring; the child comes back from that when its parent is
/// far ahead.
fn forking_viewer(arguments: &Arguments) {
    let mut client = Client::connect(arguments.text("path")).expect("connect");
    // A quarter of the ring every second time, which is when its head is published.
    let request = |number: u64| ask(b'e', number, 0, &[1; 7900]);
    for round in 0..arguments.number("rounds") {
        let (mut far_ahead, mut tell) = std::io::pipe().expect("a pipe");
        let mut child = None;
        let seen = client.call_view(&request(round), None, |view| {
            child = signals::fork();
            if child.is_none() {
                let _ = far_ahead.read(&mut [0]);
            }
            view.len()
        });
        let Some(child) = child else { signals::leave(u8::from(seen != Err(CallError::Forked))) };
        seen.expect("an answer");
        for number in 0..round % 11 {
            client.call(&request(number)).expect("an answer");
        }
        tell.write_all(&[1]).expect("it waits");
        assert_eq!(signals::result_of(child), 0, "a forked child saw an answer");
        for number in 0..12 {
            client.call(&request(number)).expect("the session goes on");
        }
    }
    say("done");
}

fn a_child_that_looks_at_an_answer_leaves_it_there() -> Ran {
    let rounds = scaled(60).max(12);
    unnoticed_by_the_server("forking_viewer", rounds);
    done!("{rounds} children")
}

/// Binds, forks, and serves; the child must not.
fn forking_server(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    let server = ringbell::Server::bind(&path).expect("bind");
    let mut server = Some(server);
    let has = &mut server;
    let status = signals::in_a_fork(move || match has.take().expect("a copy").run(|_, _| Ok(())) {
        Err(ServeError::Forked) => 0,
        Ok(_) | Err(_) => 1,
    });
    assert_eq!(status, 0, "a forked child served");
    let has = &mut server;
    let status = signals::in_a_fork(move || {
        drop(has.take());
        0
    });
    assert_eq!(status, 0);
    assert!(path.exists(), "the child removed its parent's socket");
    let server = server.expect("this is the parent");
    let handle = server.handle();
    std::thread::spawn(move || {
        let _ = hear();
        handle.shutdown(None);
    });
    say("ready");
    server
        .run(|request, response| {
            response.extend_from_slice(request.payload());
            Ok(())
        })
        .expect("serve");
    assert!(!path.exists(), "the socket goes with its server");
    say("done");
}

fn a_forked_server_does_not_serve() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let mut server = Start::role("forking_server").with("path", path.display()).start();
    server.expect("ready");
    let mut client = Client::connect(&path).expect("connect");
    for _ in 0..1000 {
        assert_eq!(&*client.call(b"hello").expect("a call"), b"hello");
    }
    server.tell("stop");
    server.expect("done");
    server.succeed();
    done!("1000 calls of the parent")
}

/// Leaves a child behind that holds all of its descriptors for two seconds.
fn leave_a_child_behind() {
    std::thread::spawn(|| {
        signals::in_a_fork(|| {
            std::thread::sleep(Duration::from_secs(2));
            0
        })
    });
}

/// Connects, forks, and waits for its end.
fn dying_client(arguments: &Arguments) {
    let mut client = Client::connect(arguments.text("path")).expect("connect");
    client.call(b"e").expect("a call");
    leave_a_child_behind();
    // Once the child is there.
    let children = format!("/proc/self/task/{}/children", std::process::id());
    let _ = becomes_true(Duration::from_millis(200), || {
        std::fs::read_to_string(&children).is_ok_and(|text| !text.is_empty())
    });
    say("ready");
    let _ = hear();
}

fn a_childs_hold_on_the_lifeline_keeps_no_dead_client_alive() -> Ran {
    let mut server = Server::prepare("do").start();
    let mut client = Start::role("dying_client").with("path", server.path().display()).start();
    client.expect("ready");
    server.wait_for_sessions(1);
    client.kill();
    let died = Stopwatch::start();
    server.wait_for_sessions(0);
    let took = died.awake();
    assert!(took < Duration::from_secs(1), "only after {took:?}, when the child let go");
    server.shut_down();
    done!("learnt after {took:?}")
}

/// A server that leaves a child behind.
fn serving_parent(arguments: &Arguments) {
    let server = ringbell::Server::bind(arguments.text("path")).expect("bind");
    say("ready");
    server
        .run(|request, response| {
            if request.payload() == b"fork" {
                leave_a_child_behind();
            }
            response.extend_from_slice(request.payload());
            Ok(())
        })
        .expect("serve");
}

fn a_childs_hold_on_the_lifeline_keeps_no_dead_server_alive() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("test.sock");
    let mut server = Start::role("serving_parent").with("path", path.display()).start();
    server.expect("ready");
    let mut client = Client::connect(&path).expect("connect");
    client.call(b"fork").expect("a call");
    // The thread that forks may take a moment.
    let children = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.id()))
            .into_iter()
            .flatten()
            .flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .any(|text| !text.is_empty())
    };
    let _ = becomes_true(Duration::from_millis(500), children);
    server.kill();
    let died = Stopwatch::start();
    let error = client.call(b"x").map(|answer| answer.len());
    let took = died.awake();
    assert_eq!(error, Err(CallError::Disconnected { maybe_executed: true }));
    assert!(took < Duration::from_secs(1), "only after {took:?}, when the child let go");
    // The child still holds the listening socket, so a new server cannot have the path before it
    // ends.
    wait_until("a new server gets in", || match ringbell::Server::bind(&path) {
        Ok(_) => true,
        Err(ringbell::BindError::AlreadyListening(_)) => false,
        Err(error) => panic!("{error:?}"),
    });
    let again = died.elapsed();
    done!("learnt after {took:?}; a new server got in after {again:?}, when the child had ended")
}

/// Is server and client in one, and runs another program.
fn executing(arguments: &Arguments) {
    let path = PathBuf::from(arguments.text("path"));
    let server = ringbell::Server::bind(&path).expect("bind");
    let handle = server.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            server.run(|request, response| {
                response.extend_from_slice(request.payload());
                Ok(())
            })
        });
        let mut client = Client::connect(&path).expect("connect");
        client.call(b"x").expect("a call");
        let listed =
            std::process::Command::new("ls").args(["-l", "/proc/self/fd"]).output().expect("ls");
        client.call(b"x").expect("a call");
        for line in
            String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains("->"))
        {
            say(&format!("holds {line}"));
        }
        handle.shutdown(None);
    });
    say("done");
}

fn nothing_is_inherited_through_exec() -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let mut process =
        Start::role("executing").with("path", dir.path().join("test.sock").display()).start();
    let mut held = Vec::new();
    loop {
        let line = process.hear();
        if line == "done" {
            break;
        }
        held.push(line);
    }
    process.succeed();
    assert!(held.len() >= 3, "{held:?}");
    for line in &held {
        let is_ours = ["memfd:ringbell:", "socket:", "eventfd", "eventpoll", "pidfd"]
            .iter()
            .any(|word| line.contains(word));
        assert!(!is_ours, "{line}");
    }
    done!("{} descriptors, none of them ours", held.len())
}
