//! What a server and its clients cost while they are busy (system calls), and while they are idle (CPU, memory).

use ringbell::{Client, ConnectOptions, WaitSettings};
use ringbell_shm_tests::pattern::Pattern;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, readable, say};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::suite::{Ran, tick};
use ringbell_shm_tests::verified::Verified;
use ringbell_shm_tests::{done, observe, scaled, suite, wait_until};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

suite! {
    tests: [
        no_system_calls_while_busy,
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
    let mut client =
        Verified::connect(Path::new(arguments.text("path")), ConnectOptions::new(), Pattern::new(1, 200));
    client.pipeline(1000, 1);
    say("ready");
    while hear().is_some() {
        for _ in 0..arguments.number("count") {
            client.call(None).expect("a call");
        }
        say("done");
    }
    client.finish();
}

/// strace, attached to a process.
struct Tracer {
    strace: Child,
}

impl Tracer {
    fn attach(pid: u32) -> Result<Self, String> {
        let mut strace = Command::new("strace")
            .args(["-f", "-c", "-U", "name,calls", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace cannot be started: {error}"))?;
        let traced = || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            tasks.map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default()).all(
                |status| {
                    status
                        .lines()
                        .any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
                },
            )
        };
        let until = Instant::now() + Duration::from_secs(10);
        while !traced() {
            if let Ok(Some(status)) = strace.try_wait() {
                let mut said = String::new();
                let _ = strace.stderr.take().expect("piped").read_to_string(&mut said);
                return Err(format!("strace cannot attach ({status}): {}", said.trim()));
            }
            if Instant::now() > until {
                let _ = strace.kill();
                return Err("strace does not attach within 10 s".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { strace })
    }

    /// Detaches; how often each system call was made.
    fn calls(mut self) -> BTreeMap<String, u64> {
        let pid = i32::try_from(self.strace.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("kill");
        let mut stderr = self.strace.stderr.take().expect("piped");
        assert!(readable(&stderr, Duration::from_secs(20)), "strace says nothing");
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("what strace says");
        let _ = self.strace.wait();
        let mut calls = BTreeMap::new();
        for line in said.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(Ok(count)), None) =
                (words.next(), words.next().map(str::parse), words.next())
            {
                if name != "total" {
                    calls.insert(name.to_owned(), count);
                }
            }
        }
        calls
    }
}

/// One burst under strace; what server and client called.
fn traced_burst(server: &Server, client: &mut Process) -> Result<[BTreeMap<String, u64>; 2], String> {
    let server_tracer = Tracer::attach(server.id())?;
    let client_tracer = Tracer::attach(client.id())?;
    client.tell("go");
    client.expect("done");
    Ok([server_tracer.calls(), client_tracer.calls()])
}

fn no_system_calls_while_busy() -> Ran {
    let count = scaled(300_000).max(100_000);
    if std::thread::available_parallelism().map_or(1, std::num::NonZero::get) < 2 {
        return Ran::Skipped("there is one CPU only".into());
    }
    let server = Server::prepare("verify").start();
    let mut client = Start::role("busy").with("path", server.path().display()).with("count", count).start();
    client.expect("ready");
    pin(i32::try_from(server.id()).ok().and_then(rustix::process::Pid::from_raw), 0);
    // Other programs take the CPUs away now and then; then both sides rightly yield and sleep. So: the best burst.
    let mut best: Option<[BTreeMap<String, u64>; 2]> = None;
    let total = |calls: &[BTreeMap<String, u64>; 2]| calls.iter().flat_map(BTreeMap::values).sum::<u64>();
    for _ in 0..12 {
        tick();
        match traced_burst(&server, &mut client) {
            Err(why) => return Ran::Skipped(why),
            Ok(calls) => {
                if best.as_ref().is_none_or(|best| total(&calls) < total(best)) {
                    best = Some(calls);
                }
            }
        }
        if best.as_ref().is_some_and(|best| total(best) * 200 < count) {
            break;
        }
    }
    let best = best.expect("a burst");
    client.hang_up();
    client.succeed();
    server.shut_down();
    let made = total(&best);
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let per_request = made as f64 / count as f64;
    let told = format!(
        "{count} calls: {per_request:.5} system calls a request; server {:?}, client {:?}",
        best[0], best[1]
    );
    println!("    {told}");
    let waking = [
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
    if per_request >= 0.01 {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
        if load > 3.0 {
            return Ran::Skipped(format!("this machine is too busy with other things (load {load}): {told}"));
        }
        panic!("{told}");
    }
    // One or two by which the burst begins and ends: the server may be asleep before it, and the orders to the
    // client come through a pipe.
    for calls in &best {
        for name in waking {
            assert!(calls.get(name).is_none_or(|count| *count <= 3), "{told}");
        }
    }
    done!("{told}")
}

/// Connects, and does nothing, or waits for an answer that takes long.
fn idle(arguments: &Arguments) {
    let mut client =
        ConnectOptions::new().wait(WaitSettings::client()).connect(arguments.text("path")).expect("connect");
    client.call(b"e").expect("a call");
    say("ready");
    if arguments.get("waits").is_some() {
        let _ = client.call(&[&b"s"[..], &5000u64.to_le_bytes()].concat());
        return;
    }
    let _ = hear();
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
    assert!(clients_used < Duration::from_millis(1), "10 idle clients use {clients_used:?} a second");
    drop(clients);
    server.shut_down();
    done!("a second costs the server {server_used:?}, 10 clients together {clients_used:?}")
}

fn waiting_clients_cost_next_to_nothing() -> Ran {
    let server = Server::prepare("do").start();
    let clients = start_idle(&server, 10, true);
    wait_until("all clients sleep", || clients.iter().all(|client| observe::all_threads_sleep(client.id())));
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
    let own = clients.iter().map(|client| observe::shared_bytes(client.id())).max().expect("clients");
    assert!(own < 1 << 20, "a client has touched {own} B of shared memory");
    drop(clients);
    server.shut_down();
    done!("a client costs the server {each} B, and has itself touched {own} B of shared memory")
}
