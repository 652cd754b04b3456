//! What a server and its clients use: system calls while they are busy, CPU and memory while they
//! are idle.

use ringbell::{Client, ConnectOptions, WaitSettings};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, readable, say};
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, scaled, suite, wait_until};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

suite! {
    tests: [
        no_system_calls_while_busy,
        no_system_calls_while_a_loop_is_busy,
        idle_clients_cost_nothing,
        waiting_clients_cost_next_to_nothing,
        ten_idle_clients_take_little_memory,
    ],
    roles: [busy, idle],
}

/// Runs on CPU `cpu` only.
fn pin(pid: Option<rustix::process::Pid>, cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(pid, &set).expect("sched_setaffinity");
}

/// Makes bursts of calls when told to.
fn busy(arguments: &Arguments) {
    pin(None, 1);
    let mut client = Verified::connect(
        Path::new(arguments.text("path")),
        ConnectOptions::new(),
        Pattern::new(1, 200),
    );
    client.pipeline(1000, 1);
    say("ready");
    while hear().is_some() {
        for _ in 0..arguments.number("count") {
            if arguments.get("looping").is_some() {
                // As an event loop does that finds something whenever it looks.
                client.send(Some(Duration::ZERO)).expect("there is room");
                while !client.try_recv().expect("an answer") {
                    std::hint::spin_loop();
                }
            } else {
                client.call(None).expect("a call");
            }
        }
        say("done");
    }
    client.finish();
}

/// How often each system call was made; `all` for all of them.
type Calls = BTreeMap<String, u64>;

/// System calls by which one sleeps, wakes, or talks.
const WAKING: [&str; 10] = [
    "futex",
    "futex_waitv",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "epoll_wait",
    "epoll_pwait",
    "poll",
    "ppoll",
];

/// Counts the system calls of two processes meanwhile. perf does not stop them; strace does, and so
/// takes the CPU from them that they would spin on: it is tried where there is no perf.
enum Counter {
    Perf { perf: Child, control: File, answers: File, _dir: tempfile::TempDir },
    Strace(Vec<Child>),
}

fn command(program: &str, arguments: &[String]) -> Result<Child, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|error| format!("{program} cannot be started: {error}"))
}

fn failed(mut child: Child, program: &str) -> String {
    let _ = child.kill();
    let mut said = String::new();
    let _ = child.stderr.take().expect("piped").read_to_string(&mut said);
    let _ = child.wait();
    format!("{program}: {}", said.trim().lines().next().unwrap_or("says nothing"))
}

impl Counter {
    fn start(pids: [u32; 2]) -> Result<Self, String> {
        Self::perf(pids).or_else(|no_perf| {
            Self::strace(pids).map_err(|no_strace| format!("{no_perf}; {no_strace}"))
        })
    }

    fn perf(pids: [u32; 2]) -> Result<Self, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let [control, answers] = ["control", "answers"].map(|name| {
            let path = dir.path().join(name);
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                0o600.into(),
                0,
            )
            .expect("mkfifo");
            // For reading too, so that opening does not wait for the other end.
            let file = File::options().read(true).write(true).open(&path).expect("open");
            (path, file)
        });
        let events: Vec<String> =
            WAKING.iter().map(|name| format!("syscalls:sys_enter_{name}")).collect();
        let arguments = [
            "stat".into(),
            "-x,".into(),
            "-D-1".into(),
            format!("-eraw_syscalls:sys_enter,syscalls:sys_enter_sched_yield,{}", events.join(",")),
            format!("-p{},{}", pids[0], pids[1]),
            format!("--control=fifo:{},{}", control.0.display(), answers.0.display()),
        ];
        let perf = command("perf", &arguments)?;
        let mut counter = Self::Perf { perf, control: control.1, answers: answers.1, _dir: dir };
        match counter.order("enable") {
            Ok(()) => Ok(counter),
            Err(()) => {
                let Self::Perf { perf, .. } = counter else { unreachable!() };
                Err(failed(perf, "perf"))
            }
        }
    }

    /// Gives perf an order, and waits until it is obeyed.
    fn order(&mut self, order: &str) -> Result<(), ()> {
        let Self::Perf { perf, control, answers, .. } = self else { return Ok(()) };
        writeln!(control, "{order}").map_err(drop)?;
        let until = Instant::now() + Duration::from_secs(10);
        while !readable(&*answers, Duration::from_millis(20)) {
            if !matches!(perf.try_wait(), Ok(None)) || Instant::now() > until {
                return Err(());
            }
        }
        let mut answer = [0; 16];
        answers.read(&mut answer).map(drop).map_err(drop)
    }

    fn strace(pids: [u32; 2]) -> Result<Self, String> {
        let mut children = Vec::new();
        for pid in pids {
            let arguments =
                ["-f", "-c", "-U", "name,calls", "-p", &pid.to_string()].map(str::to_owned);
            let mut strace = command("strace", &arguments)?;
            let traced = || {
                let tasks =
                    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
                tasks
                    .map(|task| {
                        std::fs::read_to_string(task.path().join("status")).unwrap_or_default()
                    })
                    .all(|status| {
                        status.lines().any(|line| {
                            line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0")
                        })
                    })
            };
            let until = Instant::now() + Duration::from_secs(10);
            while !traced() {
                if !matches!(strace.try_wait(), Ok(None)) || Instant::now() > until {
                    return Err(failed(strace, "strace"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            children.push(strace);
        }
        Ok(Self::Strace(children))
    }

    /// Ends counting.
    fn calls(mut self) -> Calls {
        self.order("disable").expect("perf obeys");
        match self {
            Self::Perf { perf, .. } => {
                let said = last_words(perf);
                let mut calls = Calls::new();
                for line in said.lines() {
                    let fields: Vec<&str> = line.split(',').collect();
                    if let (Some(Ok(count)), Some(event)) =
                        (fields.first().map(|count| count.parse()), fields.get(2))
                    {
                        let name = if *event == "raw_syscalls:sys_enter" {
                            "all"
                        } else {
                            event.rsplit("sys_enter_").next().expect("one")
                        };
                        calls.insert(name.to_owned(), count);
                    }
                }
                assert!(calls.contains_key("all"), "{said}");
                calls.retain(|_, count| *count > 0);
                calls.entry("all".into()).or_default();
                calls
            }
            Self::Strace(children) => {
                let mut calls = Calls::from([("all".into(), 0)]);
                for said in children.into_iter().map(last_words) {
                    for line in said.lines() {
                        let mut words = line.split_whitespace();
                        if let (Some(name), Some(Ok(count)), None) =
                            (words.next(), words.next().map(str::parse::<u64>), words.next())
                        {
                            let name = if name == "total" { "all" } else { name };
                            *calls.entry(name.into()).or_default() += count;
                        }
                    }
                }
                calls
            }
        }
    }
}

/// Interrupts a tool; what it says.
fn last_words(mut child: Child) -> String {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("kill");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("what it says");
    let _ = child.wait();
    said
}

fn no_system_calls_while_busy() -> Ran {
    quiet(false)
}

/// The same for a client that is made to be armed, and is not, since it is not about to sleep.
fn no_system_calls_while_a_loop_is_busy() -> Ran {
    quiet(true)
}

fn quiet(looping: bool) -> Ran {
    const COUNT: u64 = 5_000;
    let bursts = scaled(300).max(10);
    if cfg!(debug_assertions) {
        return Ran::Skipped(
            "a debug build is too slow for the policy of waiting to settle; see a release build"
                .into(),
        );
    }
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        return Ran::Skipped("there is one CPU only".into());
    }
    let server = Server::prepare("verify").start();
    let client = Start::role("busy").with("path", server.path().display()).with("count", COUNT);
    let mut client = if looping { client.with("looping", 1) } else { client }.start();
    client.expect("ready");
    let server_pid = i32::try_from(server.id()).ok().and_then(rustix::process::Pid::from_raw);
    pin(server_pid, 0);
    let _ = rustix::process::setpriority_process(server_pid, -20);
    // Other programs take the CPUs away now and then; then both sides rightly yield and sleep. So:
    // the best burst.
    let mut best: Option<Calls> = None;
    // One or two by which the burst begins and ends do not count: the server is asleep before it.
    let woke =
        |calls: &Calls| WAKING.iter().any(|name| calls.get(*name).is_some_and(|count| *count > 3));
    let (server_id, client_id) = (server.id(), client.id());
    let ours = || {
        observe::cpu_time(server_id)
            + observe::cpu_time(client_id)
            + observe::cpu_time_with_children()
    };
    let (began, busy_before, ours_before) = (Instant::now(), observe::busy_time(), ours());
    let mut made = 0;
    for _ in 0..bursts {
        tick();
        made += 1;
        let counter = match Counter::start([server_id, client_id]) {
            Ok(counter) => counter,
            Err(why) => return Ran::Skipped(why),
        };
        client.tell("go");
        client.expect("done");
        let calls = counter.calls();
        if best.as_ref().is_none_or(|best| calls["all"] < best["all"]) {
            best = Some(calls);
        }
        if best.as_ref().is_some_and(|best| best["all"] * 100 < COUNT && !woke(best)) {
            break;
        }
    }
    let ours = ours() - ours_before;
    let others = (observe::busy_time() - busy_before).saturating_sub(ours);
    let others = others.as_secs_f64() / began.elapsed().as_secs_f64();
    let best = best.expect("a burst");
    client.hang_up();
    client.succeed();
    server.shut_down();
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let per_request = best["all"] as f64 / COUNT as f64;
    let told = format!(
        "the best of {made} bursts of {COUNT} calls: {per_request:.5} system calls a request: {best:?}; others used {others:.2} CPUs"
    );
    if per_request < 0.01 && !woke(&best) {
        return done!("{told}");
    }
    if others > 0.1 {
        return Ran::Skipped(format!("this machine is too busy with other things: {told}"));
    }
    panic!("{told}");
}

/// Connects, and does nothing, or waits for an answer that takes long.
fn idle(arguments: &Arguments) {
    let mut client = ConnectOptions::new()
        .wait(WaitSettings::client())
        .connect(arguments.text("path"))
        .expect("connect");
    client.call(b"e").expect("a call");
    say("ready");
    let _ = hear();
    if arguments.get("waits").is_some() {
        let _ = client.call(&[&b"s"[..], &5000u64.to_le_bytes()].concat());
    }
}

fn start_idle(server: &Server, count: usize, waits: bool) -> Vec<Process> {
    let mut clients: Vec<Process> = (0..count)
        .map(|_| {
            let start = Start::role("idle").with("path", server.path().display());
            if waits { start.with("waits", 1) } else { start }.start()
        })
        .collect();
    for client in &mut clients {
        client.expect("ready");
    }
    clients
}

/// CPU time that a process uses in a second.
fn cpu_of_a_second(pids: &[u32]) -> Duration {
    let used = || pids.iter().map(|pid| observe::cpu_time(*pid)).sum::<Duration>();
    let before = used();
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        tick();
    }
    used().saturating_sub(before)
}

fn idle_clients_cost_nothing() -> Ran {
    let server = Server::prepare("do").start();
    let clients = start_idle(&server, 10, false);
    wait_until("the server sleeps", || observe::main_thread_in_futex(server.id()));
    let server_used = cpu_of_a_second(&[server.id()]);
    let pids: Vec<u32> = clients.iter().map(Process::id).collect();
    let clients_used = cpu_of_a_second(&pids);
    assert!(server_used < Duration::from_millis(8), "an idle server uses {server_used:?} a second");
    assert!(
        clients_used < Duration::from_millis(1),
        "10 idle clients use {clients_used:?} a second"
    );
    drop(clients);
    server.shut_down();
    done!("a second costs the server {server_used:?}, 10 clients together {clients_used:?}")
}

fn waiting_clients_cost_next_to_nothing() -> Ran {
    let server = Server::prepare("do").start();
    let mut clients = start_idle(&server, 10, true);
    for client in &mut clients {
        client.tell("wait");
    }
    wait_until("all clients sleep", || {
        clients.iter().all(|client| observe::all_threads_sleep(client.id()))
    });
    let pids: Vec<u32> = clients.iter().map(Process::id).collect();
    let used = cpu_of_a_second(&pids);
    assert!(used < Duration::from_millis(80), "10 waiting clients use {used:?} a second");
    done!("a second costs 10 waiting clients together {used:?}")
}

fn ten_idle_clients_take_little_memory() -> Ran {
    const CLIENTS: u64 = 10;
    let server = Server::prepare("do").start();
    drop(Client::connect(server.path()).expect("connect"));
    let taken = || observe::shared_bytes(server.id()) + observe::private_bytes(server.id());
    let before = taken();
    let clients = start_idle(&server, 10, false);
    let each = taken().saturating_sub(before) / CLIENTS;
    assert!(each < 1 << 20, "a client costs the server {each} B");
    let own =
        clients.iter().map(|client| observe::shared_bytes(client.id())).max().expect("clients");
    assert!(own < 1 << 20, "a client has touched {own} B of shared memory");
    drop(clients);
    server.shut_down();
    done!("a client costs the server {each} B, and has itself touched {own} B of shared memory")
}
