//! P13 and H3: what a server's memory group is charged for.

use crate::users::{
    HONEST, HOSTILE, become_the_user, only_one_user, open_server, open_to_all, visit,
};
use ringbell::{Client, ConnectOptions, FallbackReason, RejectReason, Transport};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::reactor_requests::ask;
use ringbell_shm_tests::server::{Prepared, Server};
use ringbell_shm_tests::{becomes_true, done, raw, scaled};
use rustix::fs::SealFlags;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// A memory group of its own. Dropping it removes it.
pub(crate) struct Group {
    directory: PathBuf,
    /// Of version 1.
    first: bool,
}

impl Group {
    /// A new group; what is missing if there can be none.
    pub(crate) fn new() -> Result<Self, String> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let found = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, at, kind, options, ..] = fields[..] else { return None };
            let controlled = || {
                let names = Path::new(at).join("cgroup.subtree_control");
                std::fs::read_to_string(names).is_ok_and(|names| names.contains("memory"))
            };
            match kind {
                "cgroup" if options.split(',').any(|option| option == "memory") => {
                    Some((at.to_owned(), true))
                }
                "cgroup2" if controlled() => Some((at.to_owned(), false)),
                _ => None,
            }
        });
        let (at, first) = found.ok_or("missing: a mounted cgroup with the memory controller")?;
        let directory = Path::new(&at).join(format!("ringbell-test-{}", std::process::id()));
        std::fs::create_dir(&directory).map_err(|error| {
            format!("missing: a memory group ({}: {error})", directory.display())
        })?;
        Ok(Self { directory, first })
    }

    /// A new group with so many bytes.
    fn of(bytes: u64) -> Result<Self, String> {
        let group = Self::new()?;
        let name = if group.first { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::write(group.directory.join(name), bytes.to_string())
            .map_err(|error| format!("missing: a limit of a memory group ({name}: {error})"))?;
        Ok(group)
    }

    pub(crate) fn take_in(&self, pid: u32) {
        std::fs::write(self.directory.join("cgroup.procs"), pid.to_string()).expect("a member");
    }

    /// A shell's script that enters the group and becomes its arguments.
    fn entering(&self) -> String {
        format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.directory.display())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name)).expect("a file of a memory group")
    }

    /// Bytes that are charged to it.
    pub(crate) fn usage(&self) -> u64 {
        let name = if self.first { "memory.usage_in_bytes" } else { "memory.current" };
        self.read(name).trim().parse().expect("a number")
    }

    /// How many of its processes the kernel has killed for lack of memory.
    fn killed(&self) -> u64 {
        let text = self.read(if self.first { "memory.oom_control" } else { "memory.events" });
        let found = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        found.expect("a count").trim().parse().expect("a number")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its members have ended; what they left behind is charged to the parent.
        becomes_true(Duration::from_secs(5), || std::fs::remove_dir(&self.directory).is_ok());
    }
}

/// Rings of a session that is kept.
const KEPT: u64 = 256 << 10;

/// The role: sessions that it ends at once, of which it keeps every mapping, and which it fills
/// then: every other one without having allocated any page before READY.
pub(crate) fn keeper(arguments: &Arguments) {
    become_the_user(arguments);
    let path: &Path = arguments.text("path").as_ref();
    let mut kept = Vec::new();
    say("ready");
    let sessions: u64 = hear().expect("a count").parse().expect("a number");
    for number in 0..sessions {
        let session = raw::Session::open_but_for_ready(path, KEPT);
        if number % 2 == 0 {
            session.say_ready();
        } else {
            let seals = SealFlags::FUTURE_WRITE | SealFlags::SEAL;
            rustix::fs::fcntl_add_seals(&session.descriptors[0], seals).expect("sealed");
            raw::send(&session.stream, &[raw::READY], &[]);
        }
        session.stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
        // The server is done with it.
        let _ = raw::last_words(&session.stream);
        for window in [&session.request, &session.response] {
            for page in (0..window.len()).step_by(4096) {
                let _ = window.peer_word(page).load();
            }
        }
        kept.push((session.request, session.response));
    }
    say(&format!("keeps {}", kept.len()));
    while hear().is_some() {}
}

pub(crate) fn p13_ended_sessions_that_are_kept_do_not_swell_the_server() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let group = match Group::new() {
        Ok(group) => group,
        Err(missing) => return Ran::Skipped(missing),
    };
    let sessions = scaled(500).min(500);
    let (mut server, _dir) = open_server("thread");
    group.take_in(server.id());
    for _ in 0..3 {
        visit(server.path(), HONEST, "calls");
    }
    server.wait_for_sessions(0);
    let mut keeper =
        Start::role("keeper").with("path", server.path().display()).with("uid", HOSTILE).start();
    keeper.expect("ready");
    let before = group.usage();
    keeper.tell(&sessions.to_string());
    assert_eq!(keeper.expect("keeps"), sessions.to_string());
    server.wait_for_sessions(0);
    let grown = group.usage().saturating_sub(before);
    // The kernel's own record of a file is charged to its maker: two, of some 1.5 KiB. And what it
    // counts in advance for each CPU.
    let slack = sessions * 4096 + 2 * MIB;
    assert!(grown < slack, "{sessions} sessions that are kept: {grown} B more");
    visit(server.path(), HONEST, "calls");
    drop(keeper);
    server.shut_down();
    done!("{sessions} sessions with rings of {KEPT} B are kept: {grown} B more")
}

/// The role: clients that ask for rings of `capacity` bytes each. It says how each was served.
pub(crate) fn ring_asker(arguments: &Arguments) {
    let mut clients = Vec::new();
    let options = ConnectOptions::new().ring_capacity(arguments.number("capacity"));
    let request = ask(b'e', 1, 0, &vec![7; 20_000]);
    for _ in 0..arguments.number("clients") {
        let mut client: Client = options.clone().connect(arguments.text("path")).expect("served");
        let answer = client.call(&request).expect("an answer");
        assert_eq!(answer.len(), 16 + 20_000);
        say(&match client.transport() {
            Transport::SharedMemory => "rings".into(),
            Transport::Socket {
                reason: FallbackReason::Server(RejectReason::RingBytes { limit }),
            } => format!("limit {limit}"),
            other => format!("other {other:?}"),
        });
        clients.push(client);
    }
    while hear().is_some() {}
    for client in &mut clients {
        client.call(&request).expect("an answer");
    }
}

/// A server in a group of 24 MiB.
fn server_in(group: &Group, place: &Path) -> Prepared {
    Server::prepare_under_at(place, "sh", &["-c", &group.entering()], "react")
}

pub(crate) fn h3_large_rings_do_not_bring_the_oom_killer() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let mut told = String::new();
    for inside in [false, true] {
        let group = match Group::of(24 * MIB) {
            Ok(group) => group,
            Err(missing) => return Ran::Skipped(missing),
        };
        let place = crate::users::open_directory();
        let socket = place.path().join("test.sock");
        let mut server = server_in(&group, &socket).start();
        let script = group.entering();
        let asker = |capacity: u64, clients: u64| {
            let start = match inside {
                true => Start::role_under("sh", &["-c", &script], "ring_asker"),
                false => Start::role("ring_asker"),
            };
            let start = start.with("path", socket.display()).with("capacity", capacity);
            start.with("clients", clients).start()
        };
        // Rings of 8 MiB take 16 MiB: more than half of what is free.
        let mut large = asker(8 * MIB, 3);
        for _ in 0..3 {
            let limit: u64 = large.expect("limit").parse().expect("a number");
            assert!((2 * MIB..12 * MIB).contains(&limit), "{limit}");
        }
        // Small ones find room until that is used up.
        let mut small = asker(MIB, 8);
        let mut rings = 0;
        let limit: u64 = loop {
            let said = small.hear();
            match said.strip_prefix("limit ") {
                Some(limit) => break limit.parse().expect("a number"),
                None => assert_eq!(said, "rings"),
            }
            rings += 1;
        };
        // A pair has two control pages.
        assert_eq!(rings, limit / (2 * MIB + 8192), "of {limit} B");
        for _ in rings + 1..8 {
            small.expect("limit");
        }
        for mut clients in [small, large] {
            clients.hang_up();
            clients.succeed();
        }
        assert_eq!(group.killed(), 0, "processes of the group were killed");
        // What ended sessions had is free again.
        server.wait_for_sessions(0);
        let mut again = asker(MIB, 1);
        again.expect("rings");
        again.hang_up();
        again.succeed();
        server.shut_down();
        let place = if inside { "inside" } else { "outside" };
        told += &format!("clients {place}: {rings} sessions with rings, of {limit} B; ");
    }
    done!("{told}")
}

pub(crate) fn h3_a_setting_overrides_the_group() -> Ran {
    let server = Server::prepare("react").with("max_ring_bytes", 5 * MIB).start();
    let mut asker = Start::role("ring_asker")
        .with("path", server.path().display())
        .with("capacity", MIB)
        .with("clients", 4)
        .start();
    for expected in ["rings", "rings", "limit 5242880", "limit 5242880"] {
        assert_eq!(asker.hear(), expected);
    }
    asker.hang_up();
    asker.succeed();
    server.shut_down();
    // Where users are strangers, one takes half of what is free to it.
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let place = crate::users::open_directory();
    let path = place.path().join("test.sock");
    let server = open_to_all(Server::prepare_at(&path, "react"));
    let server = server.with("max_ring_bytes", 5 * MIB).start();
    let mut asker = Start::role("ring_asker")
        .with("path", path.display())
        .with("capacity", MIB)
        .with("clients", 2)
        .start();
    for expected in ["rings", "limit 5242880"] {
        assert_eq!(asker.hear(), expected);
    }
    asker.hang_up();
    asker.succeed();
    server.shut_down();
    done!("two of four sessions in 5 MiB; one of a stranger")
}
