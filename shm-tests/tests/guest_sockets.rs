//! The host of the example `guest_sockets` and its guests: those that do as they should, those that
//! do not, those that are slow, and those that die. Nobody has a timer: what is not told hangs the
//! test, and the watchdog says so.

#[allow(dead_code, reason = "the example uses the rest")]
#[path = "../../examples/guest_sockets/mod.rs"]
mod sockets;

use ringbell::{Client, Server};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, observe, options, scaled_for, suite, wait_until};
use sockets::guest::{Guest, Pace};
use sockets::host::{Host, Rules};
use sockets::program::{Offer, serve};
use sockets::protocol::{HEAD, NEWS_MOST, Offence, Order, QUARTER, Sign, WINDOW};
use sockets::{ACCEPTED, Bytes, Network, News, Place, Purpose, Sleeps};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

suite! {
    both: [
        a_guest_serves_and_nobody_polls,
        a_killed_guest_takes_its_sockets_along,
        nothing_is_believed,
        what_is_refused_harms_nobody,
        a_slow_program_holds_up_whoever_sends_to_it,
        a_stopped_guest_loses_nothing,
    ],
    tests: [],
    roles: [host, guest],
}

/// Role: serves guests at `path`; Unix sockets are in `directory`.
fn host(arguments: &Arguments) {
    let rules = Rules { directory: PathBuf::from(arguments.text("directory")), abroad: false };
    let host = Host::start(rules).expect("a host");
    let watch = host.watch();
    let server = Server::bind(arguments.text("path")).expect("bind");
    let handle = server.handle();
    std::thread::spawn(move || {
        while hear().is_some() {
            let counts = watch.counts();
            let (stats, sockets) = (handle.stats(), counts.sockets);
            say(&format!(
                "{} {} {sockets} {} {}",
                counts.for_nothing, counts.dismissed, stats.backstop_rescues, stats.sessions
            ));
        }
        handle.shutdown(None);
    });
    say("ready");
    server.run_service(host).expect("served");
}

/// Role: the example's program, with the host at `path`.
fn guest(arguments: &Arguments) {
    let client = options().connect(arguments.text("path")).expect("connects");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let places = [
        (Place::Udp(any), Offer::Echo),
        (Place::Tcp(any), Offer::Echo),
        (Place::Unix("echo".into()), Offer::Echo),
        (Place::Unix("sleeps".into()), Offer::Sleeps),
    ];
    let mut network = Guest::over(client, Pace::Push).expect("a guest");
    let ended = serve(&mut network, &places, |_, there| {
        let [Place::Udp(udp), Place::Tcp(tcp), ..] = there else {
            return Err("other places".into());
        };
        say(&format!("{udp} {tcp}"));
        Ok(())
    });
    eprintln!("the guest ends: {ended:?}");
}

/// A host in a process of its own.
struct Hosting {
    process: Process,
    directory: tempfile::TempDir,
}

/// What a host tells of itself.
struct Told {
    for_nothing: u64,
    dismissed: u64,
    sockets: u64,
    lost_wakes: u64,
    sessions: u64,
}

impl Hosting {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("host.sock");
        let start = Start::role("host").with("path", path.display());
        let mut process = start.with("directory", directory.path().display()).start();
        process.expect("ready");
        Self { process, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("host.sock")
    }

    fn unix(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn told(&mut self) -> Told {
        self.process.tell("counts");
        let line = self.process.hear();
        let numbers: Vec<u64> =
            line.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [for_nothing, dismissed, sockets, lost_wakes, sessions] = numbers[..] else {
            panic!("{line}")
        };
        Told { for_nothing, dismissed, sockets, lost_wakes, sessions }
    }

    /// A guest that runs the program, and where it serves datagrams and TCP.
    fn guest(&self) -> (Process, SocketAddr, SocketAddr) {
        let mut guest = Start::role("guest").with("path", self.path().display()).start();
        let line = guest.hear();
        let (udp, tcp) = line.split_once(' ').expect("two addresses");
        (guest, udp.parse().expect("an address"), tcp.parse().expect("an address"))
    }

    /// A session with the host, for guests of the test itself.
    fn client(&self) -> Client {
        options().connect(self.path()).expect("connects")
    }
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    let stamp = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    stamp
        .into_iter()
        .cycle()
        .zip(0..=250)
        .map(|(stamp, place)| stamp ^ place)
        .cycle()
        .take(len)
        .collect()
}

fn echo_datagrams(to: SocketAddr, count: u64) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    socket.connect(to).expect("connect");
    let mut answer = vec![0; 1 << 16];
    for number in 0..count {
        // Now and then one that takes several records, and an empty one.
        let len = [64, 0, 20_000, 1][usize::try_from(number % 4).expect("small")];
        let payload = payload(number, len);
        socket.send(&payload).expect("send");
        let count = socket.recv(&mut answer).expect("recv");
        assert_eq!(answer[..count], payload, "datagram {number}");
        tick();
    }
}

fn echo(mut stream: impl Read + Write, count: u64, len: usize) {
    for number in 0..count {
        let payload = payload(number, len);
        let mut answer = vec![0; len];
        stream.write_all(&payload).expect("write");
        stream.read_exact(&mut answer).expect("read");
        assert!(answer == payload, "echo {number}");
        tick();
    }
}

fn sleeps_of(at: &Path) -> Sleeps {
    let mut line = String::new();
    UnixStream::connect(at).expect("connect").read_to_string(&mut line).expect("read");
    Sleeps::read(&line).expect("a line")
}

fn a_guest_serves_and_nobody_polls() -> Ran {
    let mut hosting = Hosting::start();
    let (_guest, udp, tcp) = hosting.guest();
    let count = scaled_for(4_000, 1_000);
    echo_datagrams(udp, count);
    echo(TcpStream::connect(tcp).expect("connect"), count, 64);
    echo(TcpStream::connect(tcp).expect("connect"), count / 20 + 1, 64 << 10);
    echo(UnixStream::connect(hosting.unix("echo")).expect("connect"), count, 64);
    for _ in 0..count {
        echo(UnixStream::connect(hosting.unix("echo")).expect("connect"), 1, 64);
    }
    let sleeps = sleeps_of(&hosting.unix("sleeps"));
    assert_eq!((sleeps.by_timer, sleeps.for_nothing), (0, 0), "{sleeps:?}");
    // The connections are closed by their guest: one after the other, soon.
    wait_until("only those are left that listen", || hosting.told().sockets == 4);
    let told = hosting.told();
    assert_eq!((told.for_nothing, told.lost_wakes, told.dismissed), (0, 0, 0));
    done!("{count} of each kind; {} sleeps, none ended by a timer", sleeps.sleeps)
}

fn a_killed_guest_takes_its_sockets_along() -> Ran {
    let mut hosting = Hosting::start();
    let (_other, other_udp, _) = {
        // Its Unix sockets would be in the way of the other's.
        let mut network = Guest::over(hosting.client(), Pace::Push).expect("a guest");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        network.open(&Place::Udp(any), Purpose::Listen).expect("opens");
        let Ok(News::Listening { at: Place::Udp(at), .. }) = network.next() else {
            panic!("it listens")
        };
        (network, at, ())
    };
    let descriptors = observe::descriptors(hosting.process.id());
    let count = scaled_for(60, 40);
    for _ in 0..count {
        let (mut guest, udp, tcp) = hosting.guest();
        echo_datagrams(udp, 4);
        let mut attached = TcpStream::connect(tcp).expect("connect");
        echo(&mut attached, 1, 64);
        guest.kill();
        // Its end, or a reset.
        assert!(matches!(attached.read(&mut [0; 8]), Ok(0) | Err(_)));
        wait_until("its sockets are gone", || {
            UnixStream::connect(hosting.unix("echo")).is_err() && TcpStream::connect(tcp).is_err()
        });
        wait_until("only the other guest is left", || {
            let told = hosting.told();
            told.sockets == 1 && told.sessions == 1
        });
        tick();
    }
    wait_until("no descriptor is left over", || {
        observe::descriptors(hosting.process.id()) <= descriptors + observe::SPARE
    });
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    socket.send_to(&[1], other_udp).expect("the other guest's socket is there");
    done!("{count} guests killed")
}

/// A guest that says what it likes.
struct Raw(Client);

impl Raw {
    fn say(&mut self, bytes: &[u8]) {
        self.0.send_one_way(bytes, None).expect("the session stays");
    }

    fn order(&mut self, order: &Order<'_>) {
        let mut bytes = Vec::new();
        order.encode(&mut bytes);
        self.say(&bytes);
    }

    fn open(&mut self, socket: u32, place: Place) {
        self.order(&Order::Open { socket, place, purpose: Purpose::Listen });
    }

    fn hear(&mut self) -> Vec<u8> {
        self.0.next_event(None).expect("news")
    }

    fn hears_of_its_dismissal(&mut self) -> Offence {
        loop {
            if let Some(Sign::Dismissed { why }) = Sign::decode(&self.hear()) {
                return why;
            }
        }
    }
}

fn local() -> Place {
    Place::Udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// What a guest does, what that is, and how.
type Case<'a> = (&'a str, Offence, &'a dyn Fn(&mut Raw));

fn nothing_is_believed() -> Ran {
    let mut hosting = Hosting::start();
    let (_guest, udp, _) = hosting.guest();
    let flood = vec![7; 4096];
    let cases: [Case<'_>; 11] = [
        ("nothing", Offence::NoOrder, &|raw| raw.say(&[])),
        ("too short a head", Offence::NoOrder, &|raw| raw.say(&[3; HEAD - 1])),
        ("no kind", Offence::NoOrder, &|raw| raw.say(&[250; HEAD])),
        ("a place without an address", Offence::NoOrder, &|raw| {
            raw.say(&[1, 2, 0, 0, 1, 0, 0, 0, 4])
        }),
        ("a number that is not its own to choose", Offence::NoOrder, &|raw| {
            raw.open(ACCEPTED + 1, local())
        }),
        ("a way out of the directory", Offence::NoOrder, &|raw| {
            raw.open(1, Place::Unix("../escape".into()));
        }),
        ("a number that is in use", Offence::Number, &|raw| {
            raw.open(1, local());
            raw.open(1, local());
        }),
        ("more than a window holds", Offence::Overrun, &|raw| {
            raw.open(1, local());
            for _ in 0..=WINDOW / 4096 {
                raw.order(&Order::Send { socket: 1, more: true, bytes: &flood });
            }
        }),
        ("credit for what never came", Offence::Credit, &|raw| {
            raw.open(1, local());
            raw.order(&Order::Took { socket: 1, cost: 1 });
        }),
        ("more news seen than were told", Offence::Credit, &|raw| {
            raw.open(1, local());
            raw.order(&Order::Seen { news: u32::MAX });
        }),
        ("opens and closes, and hears nothing of it", Offence::Deaf, &|raw| {
            for _ in 0..2 * NEWS_MOST + 4 * 256 {
                raw.open(1, Place::Tcp(SocketAddr::from(([192, 0, 2, 1], 80))));
            }
        }),
    ];
    for (number, (what, offence, act)) in cases.iter().enumerate() {
        let mut raw = Raw(hosting.client());
        act(&mut raw);
        assert_eq!(raw.hears_of_its_dismissal(), *offence, "{what}");
        // Whatever it says now is heard by nobody.
        raw.open(9, local());
        assert_eq!(hosting.told().dismissed, number as u64 + 1, "{what}");
        wait_until("its sockets are gone", || hosting.told().sockets == 4);
        echo_datagrams(udp, 4);
        tick();
    }
    wait_until("only the guest is left", || hosting.told().sessions == 1);
    done!("{} offences, each the end of its guest's service alone", cases.len())
}

fn what_is_refused_harms_nobody() -> Ran {
    let hosting = Hosting::start();
    let mut raw = Raw(hosting.client());
    // Numbers that it does not have, or no longer: as if it had been closed a moment ago.
    for order in [
        Order::Send { socket: 77, more: false, bytes: b"to nobody" },
        Order::SendTo {
            socket: 77,
            to: SocketAddr::from((Ipv4Addr::LOCALHOST, 9)),
            bytes: b"to nobody",
        },
        Order::Finish { socket: 77 },
        Order::Close { socket: ACCEPTED + 77 },
        Order::Took { socket: 77, cost: QUARTER },
    ] {
        raw.order(&order);
    }
    // Somebody else's socket has the same number.
    let mut other = Raw(hosting.client());
    other.open(1, local());
    let Some(Sign::Listening { socket: 1, at: Place::Udp(at) }) = Sign::decode(&other.hear())
    else {
        panic!("it listens");
    };
    raw.order(&Order::Close { socket: 1 });
    // Beyond this machine.
    raw.open(2, Place::Tcp(SocketAddr::from(([192, 0, 2, 1], 80))));
    let denied = Some(rustix::io::Errno::ACCESS.raw_os_error());
    assert_eq!(Sign::decode(&raw.hear()), Some(Sign::Closed { socket: 2, why: denied }));
    // More sockets than a guest may have.
    for socket in 10..10 + 257 {
        raw.open(socket, local());
        let heard = raw.hear();
        let many = Some(rustix::io::Errno::MFILE.raw_os_error());
        match Sign::decode(&heard) {
            Some(Sign::Listening { .. }) if socket < 10 + 256 => {}
            Some(Sign::Closed { why, .. }) if socket == 10 + 256 => assert_eq!(why, many),
            other => panic!("socket {socket}: {other:?}"),
        }
        if socket % 64 == 0 {
            raw.order(&Order::Seen { news: 32 });
        }
        tick();
    }
    // The other one's socket is still there.
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    socket.send_to(b"hello", at).expect("send");
    let heard = other.hear();
    let Some(Sign::Datagram { socket: 1, bytes: b"hello", .. }) = Sign::decode(&heard) else {
        panic!("a datagram");
    };
    done!("5 orders for sockets that are not there, a place that is forbidden, 257 sockets")
}

/// A program that takes nothing of one socket, while it goes on with another.
fn a_slow_program_holds_up_whoever_sends_to_it() -> Ran {
    const TOTAL: usize = 4 << 20;
    let hosting = Hosting::start();
    let mut network = Guest::over(hosting.client(), Pace::Push).expect("a guest");
    network.open(&Place::Unix("slow".into()), Purpose::Listen).expect("opens");
    let Ok(News::Listening { .. }) = network.next() else { panic!("it listens") };
    let at = hosting.unix("slow");
    let sent = payload(5, TOTAL);
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || UnixStream::connect(at).expect("connect").write_all(&sent).expect("write")
    });
    let Ok(News::Accepted { socket: slow, .. }) = network.next() else { panic!("a connection") };
    let mut held: VecDeque<Bytes> = VecDeque::new();
    let mut came = Vec::new();
    while came.len() < WINDOW as usize {
        let Ok(News::Data { socket, bytes }) = network.next() else { panic!("data") };
        assert_eq!(socket, slow);
        came.extend_from_slice(&bytes);
        held.push_back(bytes);
        assert!(came.len() <= WINDOW as usize, "{} bytes are held", came.len());
        tick();
    }
    // The window is full. Another socket does not notice.
    let udp = network.open(&local(), Purpose::Listen).expect("opens");
    let Ok(News::Listening { at: Place::Udp(at), .. }) = network.next() else {
        panic!("it listens")
    };
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let mut answer = [0; 64];
    for number in 0..200 {
        let datagram = payload(number, 64);
        peer.send_to(&datagram, at).expect("send");
        let Ok(News::Datagram { socket, from, bytes }) = network.next() else {
            panic!("a datagram, and no data")
        };
        assert_eq!(socket, udp);
        assert!(network.send_to(udp, from, &bytes).expect("sends"));
        network.took(udp, bytes).expect("takes");
        assert_eq!(peer.recv(&mut answer).expect("recv"), 64);
        assert_eq!(answer[..], datagram);
        tick();
    }
    assert!(!writer.is_finished(), "somebody has read {TOTAL} bytes");
    // It wakes up.
    loop {
        while let Some(bytes) = held.pop_front() {
            network.took(slow, bytes).expect("takes");
        }
        match network.next().expect("news") {
            News::Data { bytes, .. } => {
                came.extend_from_slice(&bytes);
                held.push_back(bytes);
            }
            News::Ended { socket } if socket == slow => break,
            other => panic!("{other:?}"),
        }
        tick();
    }
    writer.join().expect("the writer has written");
    assert!(came == sent, "{} bytes came", came.len());
    done!("{TOTAL} bytes, {WINDOW} of them held, and then all in order")
}

/// A guest that looks at nothing, since it is stopped: what is sent to it stays where it is, and
/// comes later.
fn a_stopped_guest_loses_nothing() -> Ran {
    const TOTAL: usize = 6 << 20;
    let hosting = Hosting::start();
    let (guest, _, _) = hosting.guest();
    let mut other = Guest::over(hosting.client(), Pace::Push).expect("a guest");
    let udp = other.open(&local(), Purpose::Listen).expect("opens");
    let Ok(News::Listening { at: Place::Udp(at), .. }) = other.next() else { panic!("it listens") };
    let mut stream = UnixStream::connect(hosting.unix("echo")).expect("connect");
    echo(&mut stream, 1, 64);
    let before = observe::private_bytes(hosting.process.id());
    guest.stop();
    let sent = payload(9, TOTAL);
    let writer = std::thread::spawn({
        let (sent, mut stream) = (sent.clone(), stream.try_clone().expect("dup"));
        move || {
            stream.write_all(&sent).expect("write");
            stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        }
    });
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    for number in 0..200 {
        let datagram = payload(number, 64);
        peer.send_to(&datagram, at).expect("send");
        let Ok(News::Datagram { socket, bytes, .. }) = other.next() else { panic!("a datagram") };
        assert_eq!((socket, &bytes[..]), (udp, &datagram[..]));
        other.took(udp, bytes).expect("takes");
        tick();
    }
    assert!(!writer.is_finished(), "somebody has read {TOTAL} bytes");
    let grown = observe::private_bytes(hosting.process.id()).saturating_sub(before);
    assert!(grown < 4 << 20, "the host has grown by {grown} bytes");
    guest.go_on();
    let mut came = Vec::new();
    let mut part = vec![0; 1 << 16];
    loop {
        match stream.read(&mut part).expect("read") {
            0 => break,
            count => came.extend_from_slice(&part[..count]),
        }
        tick();
    }
    writer.join().expect("the writer has written");
    assert!(came == sent, "{} bytes came back", came.len());
    done!("{TOTAL} bytes for a stopped guest: the host grew by {grown}; and then all echoed")
}
