//! A server in a plain epoll loop, beside a timer of the program's own, on one thread: what
//! requests and ticks both work on needs no lock. Nobody parks in a futex, nobody polls, and the
//! server has no thread.
//!
//! ```text
//! cargo run --example embedded
//! ```

use ringbell::{Arming, Client, OwnedRequest, Responder, Server, ServerStats, Turn};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::error::Error;

const SERVER: u64 = 0;
const TIMER: u64 = 1;

/// What the program is about.
#[derive(Default)]
struct State {
    ticks: u64,
    /// Whoever asked for the next tick.
    waiting: Vec<Responder>,
    stopping: bool,
}

impl State {
    fn tick(&mut self, ticks: u64) {
        self.ticks += ticks;
        // Answered from the loop, long after the handler has returned.
        for responder in self.waiting.drain(..) {
            responder.reply(&self.ticks.to_le_bytes());
        }
    }

    fn request(&mut self, request: OwnedRequest, responder: Responder) {
        match request.payload() {
            b"ticks" => responder.reply(&self.ticks.to_le_bytes()),
            b"next tick" => self.waiting.push(responder),
            b"stop" => {
                self.stopping = true;
                responder.reply(b"");
            }
            echo => responder.reply(echo),
        }
    }
}

/// Serves until a client says stop.
pub(crate) fn serve(server: Server) -> Result<ServerStats, Box<dyn Error>> {
    let mut server = server.embed()?;
    let mut state = State::default();
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
    let every = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let ticking = Itimerspec { it_interval: every, it_value: every };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticking)?;

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        server.as_fd(),
        EventData::new_u64(SERVER),
        EventFlags::IN | EventFlags::ET,
    )?;
    epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 8];
    loop {
        match server.pump(&mut |request: OwnedRequest, responder: Responder| {
            state.request(request, responder)
        })? {
            Turn::Over => return Ok(server.stats()),
            Turn::Idle => {}
            // There may be more. A loop with much else to do would look at that first.
            _ => continue,
        }
        if std::mem::take(&mut state.stopping) {
            server.handle().shutdown(None);
            continue;
        }
        if server.arm() == Arming::Busy {
            continue;
        }
        // Armed: whatever comes now is reported. No timeout.
        let ready = match epoll::wait(&epoll, &mut events, None) {
            Ok(ready) => ready,
            Err(Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        // For whichever reason it woke.
        server.disarm();
        for event in &events[..ready] {
            if event.data.u64() == TIMER {
                let mut expirations = [0; 8];
                rustix::io::read(&timer, &mut expirations)?;
                state.tick(u64::from_ne_bytes(expirations));
            }
        }
    }
}

#[allow(dead_code, reason = "the tests have a `main` of their own")]
fn main() -> Result<(), Box<dyn Error>> {
    let socket =
        std::env::temp_dir().join(format!("ringbell-embedded-{}.sock", std::process::id()));
    let server = Server::bind(&socket)?;
    // Other processes, really.
    let client = std::thread::spawn(move || -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut client = Client::connect(&socket)?;
        for _ in 0..5 {
            let ticks = client.call(b"next tick")?;
            println!("tick {}", u64::from_le_bytes(ticks.payload().try_into()?));
        }
        for _ in 0..1000 {
            assert_eq!(&*client.call(b"hello")?, b"hello");
        }
        client.call(b"stop")?;
        Ok(())
    });
    let stats = serve(server)?;
    client.join().expect("the client does not panic").map_err(|error| error.to_string())?;
    println!("{} requests, {} sleeps, {} wakes", stats.requests, stats.parks, stats.wakes_sent);
    Ok(())
}
