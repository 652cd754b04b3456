//! Two clients of two servers in one loop of mio: what comes first is printed first.
//!
//! ```text
//! cargo run --example mio
//! ```

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use ringbell::{Arming, Client, RecvError, Server, ServerHandle};
use std::os::fd::{AsFd, AsRawFd};
use std::thread::JoinHandle;
use std::time::Duration;

type Serving = (ServerHandle, JoinHandle<Result<ringbell::ServerStats, ringbell::ServeError>>);

/// A server that takes so long over each request, and a client of it.
fn start(name: &str, takes: Duration) -> Result<(Serving, Client), Box<dyn std::error::Error>> {
    let socket = std::env::temp_dir().join(format!("ringbell-mio-{name}-{}.sock", std::process::id()));
    let server = Server::bind(&socket)?;
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        server.run(|request, response| {
            std::thread::sleep(takes);
            response.extend_from_slice(request.payload());
            Ok(())
        })
    });
    Ok(((handle, serving), Client::connect(&socket)?))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (quick_server, quick) = start("quick", Duration::from_millis(2))?;
    let (slow_server, slow) = start("slow", Duration::from_millis(7))?;
    let mut clients = [quick, slow];
    let names = ["quick", "slow"];

    let mut poll = Poll::new()?;
    for (index, client) in clients.iter_mut().enumerate() {
        // mio is edge-triggered: for both, once and for all.
        poll.registry().register(
            &mut SourceFd(&client.as_fd().as_raw_fd()),
            Token(index),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        for call in 0..10 {
            client.send_timeout(format!("{} {call}", names[index]).as_bytes(), Some(Duration::ZERO))?;
        }
    }

    let mut events = Events::with_capacity(8);
    let mut answered = 0;
    while answered < 20 {
        let mut something = false;
        for client in &mut clients {
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
        }
        if answered == 20 {
            break;
        }
        // All are armed before anybody sleeps.
        for client in &mut clients {
            something |= client.arm() == Arming::Busy;
        }
        if !something {
            poll.poll(&mut events, None)?;
        }
        for client in &mut clients {
            client.disarm();
        }
    }

    drop(clients);
    for (handle, serving) in [quick_server, slow_server] {
        handle.shutdown(None);
        println!("{} requests", serving.join().expect("the server does not panic")?.requests);
    }
    Ok(())
}
