//! Clients inside event loops: epoll without a timeout, so that what is not reported hangs the test
//! (and the watchdog says so). Level- and edge-triggered, over rings and over the socket.

use ringbell::{Arming, CallError, Client, EventError, RecvError, SendError};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::{Chance, Pattern};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::reactor_client::Asking;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::transport::over_socket;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{busy_for, done, observe, options, scaled_for, seed, suite, wait_until};
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use std::time::Duration;

suite! {
    both: [
        every_answer_is_reported,
        room_is_reported,
        events_and_items_are_reported,
        a_death_is_reported,
        a_shutdown_is_reported,
        a_method_that_waits_may_come_between,
    ],
    tests: [
        nobody_is_woken_who_is_not_armed,
        a_loop_that_is_always_called_off,
        room_is_not_forgotten,
    ],
    roles: [],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Level,
    Edge,
}

/// An epoll that watches one client.
struct Watch {
    epoll: OwnedFd,
    trigger: Trigger,
    writing: bool,
    reports: u64,
}

impl Watch {
    fn new(client: &Client, trigger: Trigger) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        let watch = Self { epoll, trigger, writing: false, reports: 0 };
        epoll::add(&watch.epoll, client.as_fd(), epoll::EventData::new_u64(0), watch.flags())
            .expect("add");
        watch
    }

    fn flags(&self) -> epoll::EventFlags {
        use epoll::EventFlags as Flags;
        match (self.trigger, self.writing) {
            (Trigger::Edge, _) => Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET,
            (Trigger::Level, true) => Flags::IN | Flags::OUT,
            (Trigger::Level, false) => Flags::IN,
        }
    }

    /// Waits until the client is reported, as long as it takes.
    fn wait(&mut self, client: &Client) {
        if self.trigger == Trigger::Level && self.writing != client.wants_writable() {
            self.writing = !self.writing;
            epoll::modify(&self.epoll, client.as_fd(), epoll::EventData::new_u64(0), self.flags())
                .expect("modify");
        }
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }];
        loop {
            match epoll::wait(&self.epoll, &mut events, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("epoll_wait: {error}"),
            }
        }
        self.reports += 1;
    }

    /// One turn of a loop: arms, and waits unless something came.
    fn turn(&mut self, client: &mut Client, mut delay: impl FnMut()) {
        if client.arm() == Arming::Busy {
            return;
        }
        delay();
        self.wait(client);
        delay();
        client.disarm();
        delay();
    }
}

const TRIGGERS: [Trigger; 2] = [Trigger::Level, Trigger::Edge];

/// Both sides take their time at every place where it may matter: before and after arming, waking,
/// disarming, and in the middle of a pump.
fn every_answer_is_reported() -> Ran {
    let count = scaled_for(30_000, 10_000);
    let mut told = String::new();
    for (trigger, server_waits) in
        TRIGGERS.iter().flat_map(|trigger| ["default", "park"].map(|waits| (*trigger, waits)))
    {
        let server =
            Server::prepare("verify").with("wait", server_waits).with("dawdle_us", 30).start();
        let mut client = Verified::connect(server.path(), options(), Pattern::new(1, 300));
        let mut watch = Watch::new(client.client(), trigger);
        let mut chance = Chance::new(seed());
        while client.sent() < count {
            for _ in 0..=chance.below(4) {
                client.send(Some(Duration::ZERO)).expect("there is room");
            }
            let mut delay = || busy_for(Duration::from_nanos(chance.below(40_000)));
            while client.in_flight() > 0 {
                delay();
                while client.try_recv().expect("an answer") {
                    delay();
                    if client.in_flight() == 0 {
                        break;
                    }
                }
                if client.in_flight() > 0 {
                    watch.turn(client.client(), &mut delay);
                }
            }
            tick();
        }
        let counts = client.finish();
        let stats = server.shut_down();
        // One wake for each sleep at most: what carries the session sends none of its own.
        if !over_socket() {
            assert!(
                stats.wakes_sent <= counts.parks + counts.arms_called_off,
                "{stats:?} {counts:?}"
            );
            assert!(watch.reports > 0, "it never slept");
        }
        told += &format!(
            "\n    {trigger:?}, server {server_waits}: armed {}, called off {}, reports {}, wakes {}",
            counts.parks + counts.arms_called_off,
            counts.arms_called_off,
            watch.reports,
            stats.wakes_sent
        );
    }
    done!("{count} calls for each of 4 ways{told}")
}

/// A full ring, or a full socket: whoever sends without waiting is told when there is room.
fn room_is_reported() -> Ran {
    let count = scaled_for(40_000, 10_000);
    let mut told = String::new();
    for trigger in TRIGGERS {
        let server =
            Server::prepare("verify").with("ring_capacity", 2048).with("dawdle_us", 10).start();
        // Over a socket 256 KiB have to be unsent before there is no room.
        let usual = if over_socket() { 30_000 } else { 490 };
        let mut client = Verified::connect(
            server.path(),
            options().max_in_flight(1 << 20),
            Pattern::new(1, usual),
        );
        let mut watch = Watch::new(client.client(), trigger);
        let mut chance = Chance::new(seed());
        let mut full = 0;
        let count = if over_socket() { count / 4 } else { count };
        // No answer is taken before the ring was full once. So it becomes full, however small the
        // count is and however fast the server is.
        while client.sent() < count || full == 0 || client.in_flight() > 0 {
            while client.sent() < count || full == 0 {
                match client.send(Some(Duration::ZERO)) {
                    Ok(()) => {}
                    Err(SendError::TimedOut) => {
                        full += 1;
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            // Some answers are left unread, so that it also waits for room with answers to read.
            for _ in 0..chance.below(30) {
                if client.in_flight() == 0 || !client.try_recv().expect("an answer") {
                    break;
                }
            }
            if client.sent() < count || client.in_flight() > 0 {
                watch
                    .turn(client.client(), || busy_for(Duration::from_nanos(chance.below(10_000))));
            }
            tick();
        }
        let counts = client.finish();
        server.shut_down();
        told += &format!("; {trigger:?}: no room {full} times, slept {} times", counts.parks);
    }
    done!("{count} calls{told}")
}

fn events_and_items_are_reported() -> Ran {
    let items = scaled_for(20_000, 20_000);
    for trigger in TRIGGERS {
        let server = Server::prepare("react").start();
        let mut client = Asking::connect(server.path(), options().max_events(1 << 20));
        let mut watch = Watch::new(client.client(), trigger);
        // A stream of items, and events from several threads of the server.
        let number = client.next_number();
        let longest = 100_u32;
        let rest = [&longest.to_le_bytes()[..], &[0]].concat();
        let stream = client.request(b's', items, &rest);
        let call = client.client().open_stream(&stream, Some(Duration::ZERO)).expect("a stream");
        let pushing = client.request(b'v', items / 100 + 1, &[4]);
        client.client().send(&pushing).expect("send");
        let session = client.session();
        let (mut got, mut over, mut events, mut answered) = (0, false, 0, None);
        let mut item = Vec::new();
        let mut chance = Chance::new(seed());
        while !over || answered.is_none_or(|pushed| events < pushed) {
            tick();
            let one = client.client();
            loop {
                match one.next_item(call, &mut item, Some(Duration::ZERO)) {
                    Ok(true) => {
                        assert_eq!(
                            item,
                            ringbell_shm_tests::reactor_requests::item(session, number, got, 100)
                        );
                        got += 1;
                    }
                    Ok(false) => over = true,
                    Err(CallError::TimedOut { .. }) => break,
                    Err(CallError::NotAStream) if over => break,
                    Err(error) => panic!("{error}"),
                }
            }
            loop {
                match one.next_event(Some(Duration::ZERO)) {
                    Ok(_) => events += 1,
                    Err(EventError::TimedOut) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            match one.try_recv() {
                Ok(Some(answer)) => {
                    answer.outcome.expect("an answer");
                    // Each of four threads.
                    answered = Some(4 * (items / 100 + 1));
                }
                Ok(None) | Err(RecvError::NothingInFlight) => {}
                Err(error) => panic!("{error}"),
            }
            if !over || answered.is_none_or(|pushed| events < pushed) {
                watch.turn(one, || busy_for(Duration::from_nanos(chance.below(20_000))));
            }
        }
        assert_eq!(got, items);
        client.finish();
        server.shut_down();
    }
    done!("{items} items of a stream, {} events", 4 * (items / 100 + 1))
}

/// Pumps and sleeps until the session is over; why.
fn until_it_is_over(client: &mut Client, watch: &mut Watch, way: usize) -> String {
    loop {
        tick();
        // All ways in which a loop may come to know.
        match way {
            0 => match client.try_recv() {
                Ok(_) | Err(RecvError::NothingInFlight) => {}
                Err(error) => return format!("{error:?}"),
            },
            _ => match client.next_event(Some(Duration::ZERO)) {
                Ok(_) | Err(EventError::TimedOut) => {}
                Err(error) => return format!("{error:?}"),
            },
        }
        watch.turn(client, || {});
    }
}

fn a_death_is_reported() -> Ran {
    let rounds = scaled_for(200, 200).max(8);
    for round in 0..rounds {
        let mut server = Server::prepare("react").start();
        let mut client = Asking::connect(server.path(), options());
        let mut watch = Watch::new(client.client(), TRIGGERS[(round % 2) as usize]);
        if round % 4 < 2 {
            // A call that nobody answers.
            client.send(b'h', 1, b"", Some(Duration::ZERO)).expect("send");
        }
        if round % 3 == 0 {
            // While it sleeps.
            let pid = server.id();
            let us = round * 37 % 1000;
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(us));
                let pid = i32::try_from(pid)
                    .ok()
                    .and_then(rustix::process::Pid::from_raw)
                    .expect("a pid");
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
            });
        } else {
            server.process().kill();
        }
        let why = until_it_is_over(client.client(), &mut watch, usize::from(round % 5 == 0));
        assert_eq!(why, "Disconnected");
        assert_eq!(client.client().arm(), Arming::Busy, "it says so from now on");
        assert!(matches!(client.client().try_recv(), Err(RecvError::Disconnected)));
        // For a socket that takes something, for what came, for the end: not again and again.
        assert!(watch.reports <= 8, "{} reports", watch.reports);
    }
    done!("{rounds} deaths")
}

fn a_shutdown_is_reported() -> Ran {
    for trigger in TRIGGERS {
        for way in 0..2 {
            let server = Server::prepare("react").start();
            let mut client = Asking::connect(server.path(), options());
            client.echoes(b'e', 0, b"hello");
            let mut watch = Watch::new(client.client(), trigger);
            server.shut_down();
            assert_eq!(until_it_is_over(client.client(), &mut watch, way), "ShutDown");
        }
    }
    done!("2 ways to learn of it")
}

/// A call that waits, in the middle of a life in an event loop, armed or not.
fn a_method_that_waits_may_come_between() -> Ran {
    let count = scaled_for(20_000, 4_000);
    let server = Server::verifying();
    let mut client = Verified::connect(server.path(), options(), Pattern::new(1, 300));
    let mut watch = Watch::new(client.client(), Trigger::Edge);
    let mut chance = Chance::new(seed());
    while client.sent() < count {
        match chance.below(3) {
            0 => client.call(None).expect("a call"),
            1 => {
                // Armed, and not disarmed before the call.
                let _ = client.client().arm();
                client.call(None).expect("a call");
            }
            _ => {
                client.send(Some(Duration::ZERO)).expect("send");
                while !client.try_recv().expect("an answer") {
                    watch.turn(client.client(), || {});
                }
            }
        }
        tick();
    }
    let counts = client.finish();
    server.shut_down();
    done!("{count} calls, {} sleeps", counts.parks)
}

/// A loop that finds something whenever it looks pays no system call for it, and neither does the
/// server.
fn nobody_is_woken_who_is_not_armed() -> Ran {
    let count = scaled_for(200_000, 0);
    let server = Server::verifying();
    let mut client = Verified::connect(server.path(), options(), Pattern::new(1, 300));
    // The opening is a call that waits.
    let opening = client.client().stats();
    while client.sent() < count {
        client.send(Some(Duration::ZERO)).expect("send");
        while !client.try_recv().expect("an answer") {
            std::hint::spin_loop();
        }
        if client.sent().is_multiple_of(1024) {
            tick();
        }
    }
    let counts = client.finish();
    assert_eq!(counts.parks, opening.parks);
    let stats = server.shut_down();
    assert!(
        stats.wakes_sent <= opening.parks + opening.arms_called_off,
        "the server woke somebody who was not armed: {stats:?}"
    );
    done!("{count} calls, no wake")
}

/// A loop that woke for something else, while there came to be room: it has not been told yet, so
/// it is now.
fn room_is_not_forgotten() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let server = ringbell::Server::builder().ring_capacity(2048).bind(&path).expect("bind");
    let handle = server.handle();
    let (open, gate) = std::sync::mpsc::channel();
    let (say, told) = std::sync::mpsc::channel();
    let serving = std::thread::spawn(move || {
        let mut gate = Some(gate);
        server.run(|request: ringbell::Request<'_>, _: &mut Vec<u8>| {
            if let Some(gate) = gate.take() {
                gate.recv().expect("opened");
            }
            say.send(request.payload().len()).expect("heard");
            Ok(())
        })
    });
    let mut client = Client::connect(&path).expect("connect");
    let mut sent = 0;
    while client.send_one_way(&[1; 400], Some(Duration::ZERO)).is_ok() {
        sent += 1;
    }
    while client.arm() == Arming::Busy {}
    open.send(()).expect("waits");
    for _ in 0..sent {
        assert_eq!(told.recv().expect("a message"), 400);
    }
    wait_until("the server sleeps", || handle.stats().parks > 0 && handle.stats().in_flight == 0);
    client.disarm();
    assert_eq!(
        client.arm(),
        Arming::Busy,
        "{sent} messages filled the ring, all are gone, and nobody says so"
    );
    client.send_one_way(&[1; 400], Some(Duration::ZERO)).expect("there is room");
    drop(client);
    handle.shutdown(Some(Duration::from_secs(10)));
    serving.join().expect("no panic").expect("served");
    done!("{sent} messages")
}

/// A loop that never comes to wait, since something comes each time that it is about to: its
/// lifeline, which nobody watches, must not fill up.
fn a_loop_that_is_always_called_off() -> Ran {
    let count = scaled_for(100_000, 0);
    let server = Server::verifying();
    let mut client = Verified::connect(server.path(), options(), Pattern::new(1, 100));
    let mut chance = Chance::new(seed());
    let mut called_off = 0;
    while client.sent() < count {
        client.send(Some(Duration::ZERO)).expect("send");
        while !client.try_recv().expect("an answer") {
            busy_for(Duration::from_nanos(chance.below(3_000)));
            // Not waiting either way: as if the loop woke for something else, and did not look at
            // the lifeline.
            called_off += u64::from(client.client().arm() == Arming::Busy);
        }
        tick();
    }
    // What is left on the lifeline is little: the kernel counts its bytes.
    let left = rustix::io::ioctl_fionread(client.client().as_fd()).expect("FIONREAD");
    assert!(left <= 32, "{left} bytes are on the lifeline");
    wait_until("the server sleeps", || observe::all_threads_sleep(server.id()));
    let mut watch = Watch::new(client.client(), Trigger::Edge);
    client.send(Some(Duration::ZERO)).expect("send");
    while !client.try_recv().expect("an answer") {
        watch.turn(client.client(), || {});
    }
    let counts = client.finish();
    server.shut_down();
    done!(
        "{count} calls, {called_off} times called off, {} times not, {left} bytes left",
        counts.parks
    )
}
