//! A program with sockets, seen by those who talk to it: on sockets of its own, and in a guest
//! whose sockets live in a host, which pushes or is polled. The client is the same for all: plain
//! blocking sockets.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use ringbell::{Server, ServerHandle};

use crate::guest_sockets::{ECHO, Host, Own, Pace, Place, Rules, SLEEPS, Sleeps, run};
use crate::outcome::Outcome;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Counts, Ready, Setup, System};

/// The program on its own sockets.
pub(crate) static NATIVE: Sockets = Sockets { name: "sockets-native", guest: None };

/// The program in a guest that is told what happens.
pub(crate) static PUSH: Sockets = Sockets { name: "sockets-guest-push", guest: Some(Pace::Push) };

/// The program in a guest that looks every 4 ms.
pub(crate) static POLL: Sockets = Sockets {
    name: "sockets-guest-poll",
    guest: Some(Pace::Poll(std::time::Duration::from_millis(4))),
};

/// Where the program's sockets are.
#[derive(Debug)]
pub(crate) struct Sockets {
    name: &'static str,
    guest: Option<Pace>,
}

/// The host of this process, if it is one, and where the program tells how it slept.
static HOST: OnceLock<ServerHandle> = OnceLock::new();
static TOLD_AT: OnceLock<PathBuf> = OnceLock::new();

/// Beside the socket of a trial.
fn beside(setup: &Setup, name: &str) -> PathBuf {
    setup.path.with_file_name(name)
}

/// Where clients find the program's address and the guest's process.
const ADDRESS: &str = "address";
const GUEST: &str = "guest";

fn write_address(setup: &Setup, place: &str) -> Outcome<()> {
    // Of a Unix socket only the name is known, and that is fixed.
    fs::write(beside(setup, ADDRESS), place.split(' ').nth(1).unwrap_or_default())?;
    Ok(())
}

impl System for Sockets {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        Case::sockets()
    }

    fn server_counts(&self) -> Option<fn() -> Option<Counts>> {
        Some(counts)
    }

    fn helper(&self, setup: &Setup) -> Outcome<Option<u32>> {
        match self.guest {
            None => Ok(None),
            Some(_) => Ok(Some(fs::read_to_string(beside(setup, GUEST))?.parse()?)),
        }
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let directory = setup.path.parent().ok_or("a path without a directory")?.to_owned();
        let _ = TOLD_AT.set(directory.join(SLEEPS));
        let scenario = setup.case.scenario;
        let Some(pace) = self.guest else {
            return run(Own::new(directory)?, scenario, |place: &Place| {
                write_address(setup, &place.to_string())?;
                ready()
            });
        };
        let host = Host::start(Rules { directory, abroad: false })?;
        let server = Server::bind(&setup.path)?;
        let _ = HOST.set(server.handle());
        let serving = thread::spawn(move || server.run_service(host));
        let mut guest = Command::new("/proc/self/exe");
        guest.arg("guest").arg(&setup.path).arg(serde_json::to_string(&scenario)?);
        if pace != Pace::Push {
            guest.arg("--poll");
        }
        let mut guest = guest.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut place = String::new();
        BufReader::new(guest.stdout.take().ok_or("piped")?).read_line(&mut place)?;
        write_address(setup, place.trim_end())?;
        fs::write(beside(setup, GUEST), guest.id().to_string())?;
        ready()?;
        // Neither ends before this process is killed, and the guest with it.
        let ended = guest.wait()?;
        drop(serving);
        Err(format!("the guest ended: {ended}").into())
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        let address =
            || -> Outcome<SocketAddr> { Ok(fs::read_to_string(beside(setup, ADDRESS))?.parse()?) };
        let unix = beside(setup, ECHO);
        Ok(match setup.case.scenario {
            Scenario::UdpEchoSmall => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.connect(address()?)?;
                Box::new(Datagrams(socket))
            }
            Scenario::UnixEchoSmall => Box::new(Echo(UnixStream::connect(unix)?)),
            Scenario::UnixAccept => Box::new(Dialer(unix)),
            Scenario::TcpEcho64k => {
                let stream = TcpStream::connect(address()?)?;
                stream.set_nodelay(true)?;
                Box::new(Echo(stream))
            }
            _ => Box::new(Getter { server: address()?, path: String::new() }),
        })
    }
}

/// What host and program counted.
fn counts() -> Option<Counts> {
    let told = told(TOLD_AT.get()?).ok()?;
    let mut counts = Counts {
        parks: told.sleeps,
        called_off: told.called_off,
        by_timer: Some(told.by_timer + told.for_nothing),
        ..Counts::default()
    };
    if let Some(host) = HOST.get() {
        let stats = host.stats();
        counts.parks += stats.parks;
        counts.called_off += stats.arms_called_off;
        counts.wakes += stats.wakes_sent;
        counts.rescues += stats.backstop_rescues;
    }
    Some(counts)
}

fn told(at: &Path) -> Outcome<Sleeps> {
    let mut line = String::new();
    UnixStream::connect(at)?.read_to_string(&mut line)?;
    Sleeps::read(&line).ok_or_else(|| "the program tells nothing of its sleeps".into())
}

/// Echoes of datagrams. On the loopback interface none is lost while there is room.
struct Datagrams(UdpSocket);

impl Client for Datagrams {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.0.send(request)?;
        answer.resize(request.len() + 1, 0);
        let count = self.0.recv(answer)?;
        answer.truncate(count);
        Ok(())
    }
}

/// Echoes over a stream.
struct Echo<S>(S);

impl<S: Read + Write> Client for Echo<S> {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.0.write_all(request)?;
        answer.resize(request.len(), 0);
        self.0.read_exact(answer)?;
        Ok(())
    }
}

/// A connection for each echo.
struct Dialer(PathBuf);

impl Client for Dialer {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        Echo(UnixStream::connect(&self.0)?).call(request, answer)
    }
}

/// A GET for each call, which names the body that it wants.
struct Getter {
    server: SocketAddr,
    path: String,
}

impl Client for Getter {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.path.clear();
        self.path.push_str("GET /");
        for byte in request {
            self.path.push(char::from(DIGITS[usize::from(byte >> 4)]));
            self.path.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        self.path.push_str(" HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut stream = TcpStream::connect(self.server)?;
        stream.write_all(self.path.as_bytes())?;
        answer.clear();
        stream.read_to_end(answer)?;
        if !answer.starts_with(b"HTTP/1.1 200 OK\r\n") {
            return Err("not the status 200".into());
        }
        let body = answer.windows(4).position(|end| end == b"\r\n\r\n").ok_or("no body")? + 4;
        answer.drain(..body);
        Ok(())
    }
}
