//! A client in a plain epoll loop, beside a timer of the program's own: nobody parks, nobody polls.
//!
//! ```text
//! cargo run --example epoll
//! ```

use ringbell::{Arming, Client, RecvError, Server};
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::fd::AsFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::time::Duration;

const CLIENT: u64 = 0;
const TIMER: u64 = 1;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::temp_dir().join(format!("ringbell-epoll-{}.sock", std::process::id()));
    let server = Server::bind(&socket)?;
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        server.run(|request, response| {
            // Long enough for the client to fall asleep.
            std::thread::sleep(Duration::from_millis(2));
            response.extend_from_slice(request.payload());
            Ok(())
        })
    });

    let mut client = Client::connect(&socket)?;
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
    let every = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    rustix::time::timerfd_settime(
        &timer,
        TimerfdTimerFlags::empty(),
        &Itimerspec { it_interval: every, it_value: every },
    )?;

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(&epoll, client.as_fd(), EventData::new_u64(CLIENT), edges)?;
    epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;

    let (mut sent, mut answered, mut ticks) = (0, 0, 0);
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 8];
    while answered < 10 {
        // Pump: until nothing is there.
        loop {
            match client.try_recv() {
                Ok(Some(answer)) => {
                    println!("{}", String::from_utf8_lossy(&answer.outcome?));
                    answered += 1;
                }
                Ok(None) | Err(RecvError::NothingInFlight) => break,
                Err(over) => return Err(over.into()),
            }
        }
        if answered == 10 || client.arm() == Arming::Busy {
            continue;
        }
        // Armed: whatever comes now is reported. No timeout.
        let ready = epoll::wait(&epoll, &mut events, None)?;
        // For whichever reason it woke.
        client.disarm();
        for event in &events[..ready] {
            if event.data.u64() == TIMER {
                let mut expirations = [0; 8];
                rustix::io::read(&timer, &mut expirations)?;
                ticks += 1;
                if sent < 10 {
                    sent += 1;
                    client
                        .send_timeout(format!("answer {sent}").as_bytes(), Some(Duration::ZERO))?;
                }
            }
        }
    }

    drop(client);
    handle.shutdown(None);
    let stats = serving.join().expect("the server does not panic")?;
    println!("{} requests, {ticks} ticks, {} wakes", stats.requests, stats.wakes_sent);
    Ok(())
}
