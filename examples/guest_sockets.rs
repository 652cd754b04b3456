//! A guest whose sockets live in a host: a process with one event loop and no sockets of its own,
//! which asks another process over Ringbell to listen, connect, send and close, and is told what
//! happens. Nobody polls.
//!
//! ```text
//! cargo run --release --example guest_sockets                     # shows itself: a host, a guest, and who talks to it
//! cargo run --release --example guest_sockets -- host PATH DIR    # one terminal; Unix sockets are made in DIR
//! cargo run --release --example guest_sockets -- guest PATH       # another: echoes over UDP, TCP and Unix, and HTTP
//! cargo run --release --example guest_sockets -- guest PATH poll  # the same guest, looking every 4 ms instead
//! cargo run --release --example guest_sockets -- native DIR       # the same program on sockets of its own
//! ```
//!
//! `guest_sockets/mod.rs` has the picture.

#[allow(dead_code, reason = "the referee uses the rest")]
#[path = "guest_sockets/mod.rs"]
mod sockets;

use ringbell::Server;
use sockets::guest::{Guest, Pace, USUAL};
use sockets::host::{Host, Rules};
use sockets::own::Own;
use sockets::program::{Offer, serve};
use sockets::{Id, Network, News, Outcome, Place, Purpose, Sleeps};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

/// What the program serves.
fn places() -> [(Place, Offer); 5] {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    [
        (Place::Udp(any), Offer::Echo),
        (Place::Tcp(any), Offer::Echo),
        (Place::Unix("echo".into()), Offer::Echo),
        (Place::Tcp(any), Offer::Http),
        (Place::Unix("sleeps".into()), Offer::Sleeps),
    ]
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        [] => show(),
        ["host", path, directory] => host(Path::new(path), directory.into()),
        ["guest", path] => guest(Path::new(path), Pace::Push),
        ["guest", path, "poll"] => guest(Path::new(path), Pace::Poll(USUAL)),
        ["native", directory] => Own::new(directory.into()).and_then(run),
        _ => Err("see the top of this file for what can be asked".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest_sockets: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves guests until standard input ends.
fn host(path: &Path, directory: PathBuf) -> Outcome<()> {
    let host = Host::start(Rules { directory, abroad: false })?;
    let watch = host.watch();
    let server = Server::bind(path)?;
    let handle = server.handle();
    println!("hosting at {}", path.display());
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        handle.shutdown(None);
    });
    let stats = server.run_service(host)?;
    let counts = watch.counts();
    println!(
        "host: {} orders, {} news, {} wakes of the socket thread, {} for nothing; {} lost wakes",
        stats.requests, stats.events, counts.woken, counts.for_nothing, stats.backstop_rescues
    );
    Ok(())
}

/// The program in a guest.
fn guest(path: &Path, pace: Pace) -> Outcome<()> {
    run(Guest::connect(path, pace)?)
}

/// The program, wherever its sockets are. Says where.
fn run(mut network: impl Network) -> Outcome<()> {
    serve(&mut network, &places(), |_, there| {
        for place in there {
            println!("{place}");
        }
        Ok(())
    })
}

// ---- the show ----

/// Killed when dropped.
struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    fn start(arguments: &[&str]) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or("piped")?);
        Ok(Self { child, out })
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        match self.out.read_line(&mut line)? {
            0 => Err("a process ended early".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long plain sockets wait for an answer before something is said to be wrong.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));
const ROUNDS: u32 = 200;
const LARGE: usize = 3 << 20;

fn show() -> Outcome<()> {
    let directory =
        std::env::temp_dir().join(format!("ringbell-guest-sockets-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let shown = show_in(&directory);
    std::fs::remove_dir_all(&directory)?;
    shown
}

fn show_in(directory: &Path) -> Outcome<()> {
    let path = directory.join("host.sock");
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path that is no text");
    let (path_text, directory_text) = (text(&path)?, text(directory)?);
    let mut host = Process::start(&["host", &path_text, &directory_text])?;
    println!("{}", host.line()?.split(' ').next().unwrap_or_default());
    for pace in ["push", "poll"] {
        let mut guest = match pace {
            "poll" => Process::start(&["guest", &path_text, "poll"])?,
            _ => Process::start(&["guest", &path_text])?,
        };
        let mut address = || -> Outcome<SocketAddr> {
            let line = guest.line()?;
            Ok(line.split(' ').nth(1).ok_or("no address")?.parse()?)
        };
        let (udp, tcp) = (address()?, address()?);
        guest.line()?;
        let http: SocketAddr = guest.line()?.split(' ').nth(1).ok_or("no address")?.parse()?;
        guest.line()?;

        let rounds = if pace == "poll" { ROUNDS / 10 } else { ROUNDS };
        echo_datagrams(udp, rounds)?;
        println!("{pace}: {rounds} datagrams over UDP: correct");
        let stream = TcpStream::connect(tcp)?;
        stream.set_read_timeout(PATIENCE)?;
        echo_stream(&stream, &stream, rounds, |stream| stream.shutdown(Shutdown::Write))?;
        println!("{pace}: {rounds} echoes and {LARGE} bytes over TCP: correct");
        let stream = UnixStream::connect(directory.join("echo"))?;
        stream.set_read_timeout(PATIENCE)?;
        echo_stream(&stream, &stream, rounds, |stream| stream.shutdown(Shutdown::Write))?;
        println!("{pace}: {rounds} echoes and {LARGE} bytes over Unix: correct");
        for round in 0..rounds {
            get(http, round)?;
        }
        println!("{pace}: {rounds} GETs over HTTP: correct");
        if pace == "push" {
            let mut other = Guest::connect(&path, Pace::Push)?;
            for place in [Place::Udp(udp), Place::Tcp(tcp), Place::Unix("echo".into())] {
                talk(&mut other, &place, rounds)?;
            }
            println!("{pace}: {rounds} echoes each between two guests: correct");
        }
        let mut line = String::new();
        UnixStream::connect(directory.join("sleeps"))?.read_to_string(&mut line)?;
        let sleeps = Sleeps::read(&line).ok_or("no counts")?;
        println!(
            "{pace}: {} sleeps ended by a timer, {} by nothing",
            sleeps.by_timer, sleeps.for_nothing
        );
        // The guest is killed here: its sockets go with it.
        drop(guest);
        while UnixStream::connect(directory.join("echo")).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("{pace}: the guest is killed, and its sockets are gone");
    }
    drop(host.child.stdin.take());
    println!("{}", host.line()?);
    Ok(())
}

/// A message that no other round has.
fn message(round: u32) -> [u8; 64] {
    let mut message = [b'.'; 64];
    message[..4].copy_from_slice(&round.to_le_bytes());
    message[60..].copy_from_slice(&round.wrapping_mul(0x9e37_79b9).to_le_bytes());
    message
}

fn echo_datagrams(to: SocketAddr, rounds: u32) -> Outcome<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(PATIENCE)?;
    let mut answer = vec![0; 1 << 16];
    for round in 0..rounds {
        let message = message(round);
        socket.send(&message)?;
        let count = socket.recv(&mut answer)?;
        if answer[..count] != message {
            return Err("a wrong datagram".into());
        }
    }
    // More than one record of Ringbell holds, and none at all.
    for len in [40_000, 0] {
        let message = vec![7; len];
        socket.send(&message)?;
        let count = socket.recv(&mut answer)?;
        if answer[..count] != message {
            return Err(format!("a wrong datagram of {count} bytes").into());
        }
    }
    Ok(())
}

fn echo_stream<S>(
    mut from: impl Read,
    stream: &S,
    rounds: u32,
    finish: impl Fn(&S) -> std::io::Result<()> + Sync,
) -> Outcome<()>
where
    for<'s> &'s S: Write,
    S: Sync,
{
    let mut to = stream;
    for round in 0..rounds {
        let mut answer = [0; 64];
        to.write_all(&message(round))?;
        from.read_exact(&mut answer)?;
        if answer != message(round) {
            return Err("a wrong echo".into());
        }
    }
    // Much more than all windows and buffers hold: whoever reads late holds up whoever sends.
    let sent: Vec<u8> = (0..=250).cycle().take(LARGE).collect();
    let mut back = Vec::new();
    std::thread::scope(|scope| -> Outcome<()> {
        let writer = scope.spawn(|| -> std::io::Result<()> {
            let mut to = stream;
            to.write_all(&sent)?;
            finish(stream)
        });
        std::thread::sleep(Duration::from_millis(50));
        from.read_to_end(&mut back)?;
        writer.join().map_err(|_| "the writer panicked")??;
        Ok(())
    })?;
    if back == sent {
        Ok(())
    } else {
        Err(format!("{} bytes came back, or wrong ones", back.len()).into())
    }
}

fn get(from: SocketAddr, round: u32) -> Outcome<()> {
    let body = message(round);
    let path: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut stream = TcpStream::connect(from)?;
    stream.set_read_timeout(PATIENCE)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(&body) {
        Ok(())
    } else {
        Err("a wrong answer to GET".into())
    }
}

/// From within a guest: connects and has everything echoed, one message at a time.
fn talk(network: &mut impl Network, to: &Place, rounds: u32) -> Outcome<()> {
    let socket = network.open(to, Purpose::Connect)?;
    let mut round = 0;
    let mut back = Vec::new();
    loop {
        let came = match network.next()? {
            News::Connected { .. } | News::Listening { .. } => None,
            News::Data { bytes, .. } | News::Datagram { bytes, .. } => Some(bytes),
            News::Room { .. } => continue,
            News::Closed { why: None, .. } if round == rounds => return Ok(()),
            other => return Err(format!("unexpected: {other:?}").into()),
        };
        if let Some(bytes) = came {
            back.extend_from_slice(&bytes);
            network.took(socket, bytes)?;
            if back.len() < message(round).len() {
                continue;
            }
            if back != message(round) {
                return Err("a wrong echo for a guest".into());
            }
            back.clear();
            round += 1;
        }
        if round == rounds {
            network.close(socket)?;
        } else {
            say(network, socket, round)?;
        }
    }
}

fn say(network: &mut impl Network, socket: Id, round: u32) -> Outcome<()> {
    let sent = network.send(socket, &message(round))?;
    if sent == message(round).len() {
        Ok(())
    } else {
        Err("no room for a message of 64 bytes".into())
    }
}
