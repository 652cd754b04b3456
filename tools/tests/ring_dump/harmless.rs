//! What it does to its target: nothing. And who may look.

use crate::pty;
use crate::scene::{Scene, report, ring_dump, say_of, segments, stopped_pair, text};
use crate::slices::{Comparison, Triple};
use ringbell::{Client, ConnectOptions, layout};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::progress::tick;
use ringbell_shm_tests::{done, observe};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn nothing_is_written_and_nothing_is_mapped() -> Ran {
    let (scene, client) = stopped_pair("4096");
    let before = segments(scene.server.id());
    assert!(before.len() >= 4);
    let file = scene.file("saved");
    let commands: [&[&str]; 6] = [
        &["show", &scene.pid()],
        &["show", &scene.socket()],
        &["show", &client.id().to_string()],
        &["frames", &scene.pid(), "--all"],
        &["save", &scene.socket(), &file],
        &["tap", &scene.pid(), "--time", "100ms"],
    ];
    for command in commands {
        say_of(command);
    }
    assert_eq!(segments(scene.server.id()), before);

    // While it looks it holds nothing that could be written, and maps nothing.
    let mut tap =
        ring_dump(&["tap", &scene.pid()]).stderr(Stdio::piped()).spawn().expect("started");
    let mut said = String::new();
    BufReader::new(tap.stderr.take().expect("piped")).read_line(&mut said).expect("read");
    assert!(said.contains("following 1 sessions"), "{said}");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", tap.id())).expect("read");
    assert!(!maps.contains("memfd"), "{maps}");
    let mut held = 0;
    for entry in
        std::fs::read_dir(format!("/proc/{}/fd", tap.id())).expect("its descriptors").flatten()
    {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        if link.to_string_lossy().starts_with("/memfd:ringbell:") {
            let info = format!("/proc/{}/fdinfo/{}", tap.id(), entry.file_name().to_string_lossy());
            let info = std::fs::read_to_string(info).expect("read");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
            let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
            assert_eq!(flags & 3, 0, "opened for reading alone: {info}");
            held += 1;
        }
    }
    assert!(held >= 2);
    tap.kill().expect("killed");
    tap.wait().expect("waited for");
    done!(
        "{} commands and {} segments, byte for byte; {held} descriptors, read-only",
        commands.len(),
        before.len()
    )
}

pub(crate) fn other_users_are_refused() -> Ran {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        return Ran::Skipped("it takes root to become somebody else".into());
    }
    let scene = Scene::with(&[("anyone", "yes")]);
    let _client = scene.client();
    std::fs::set_permissions(scene.directory.path(), PermissionsExt::from_mode(0o755))
        .expect("set");
    // Where everybody may start it.
    let program = scene.directory.path().join("ring-dump");
    std::fs::copy(env!("CARGO_BIN_EXE_ring-dump"), &program).expect("copied");
    let as_nobody = |arguments: &[&str]| {
        let output = Command::new(&program)
            .args(arguments)
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .expect("started");
        (output.status.code(), text(&output.stderr))
    };
    let (status, why) = as_nobody(&["show", &scene.pid()]);
    assert!(status == Some(3) && why.contains("may not be looked into"), "{status:?} {why}");
    let (status, why) = as_nobody(&["show", &scene.socket()]);
    assert!(status == Some(3) && why.contains("rejects this client"), "{status:?} {why}");
    assert_eq!(report(&scene.socket()).1, 0, "but not for root");
    done!("another uid, by pid and by socket of a server that serves anyone")
}

/// What it asks of the kernel while it looks, as `strace` sees it: nothing but to read. How many
/// bytes of segments it read.
fn only_reads(trace: &str, own_file: &str) -> u64 {
    let mut read = 0;
    for line in trace.lines() {
        let call = line.split_once(' ').map_or(line, |(_, call)| call).trim_start();
        let name = call.split('(').next().unwrap_or_default();
        match name {
            "mmap" => assert!(!call.contains("MAP_SHARED"), "something is shared: {line}"),
            "openat" | "open" => {
                let writes = ["O_WRONLY", "O_RDWR"].iter().any(|flag| call.contains(flag));
                // What becomes the file once it is whole stands beside it.
                let directory = own_file.rsplit_once('/').map_or("", |(directory, _)| directory);
                let unfinished = format!("{directory}/.ring-dump-");
                // Its own terminal.
                let own = [own_file, &unfinished, "/dev/", "/proc/self/fd/"]
                    .iter()
                    .any(|own| call.contains(own));
                assert!(!writes || own, "something is opened for writing: {line}");
            }
            // One of its own tells it what memfds are.
            "memfd_create" => assert!(call.contains("\"ring-dump\""), "not its own: {line}"),
            // Waking somebody of its own is not shared.
            "futex" => assert!(call.contains("_PRIVATE"), "a futex of others: {line}"),
            "pread64" => {
                read += call
                    .rsplit(" = ")
                    .next()
                    .and_then(|count| count.parse::<u64>().ok())
                    .unwrap_or(0)
            }
            _ => assert!(
                name.starts_with("+++") || name.starts_with("---") || name.starts_with("<..."),
                "a call that does more than reading: {line}"
            ),
        }
    }
    read
}

pub(crate) fn nothing_is_opened_for_writing() -> Ran {
    const CALLS: &str = "trace=openat,open,mmap,pread64,pwrite64,pwritev,pwritev2,process_vm_writev,ptrace,fallocate,\
        ftruncate,memfd_create,userfaultfd,kill,tkill,tgkill,pidfd_send_signal,futex";
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("load 0");
    let (file, trace) = (scene.file("saved"), scene.file("trace"));
    let traced = |arguments: &[&str]| {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", &trace, "-e", CALLS, env!("CARGO_BIN_EXE_ring-dump")]);
        command.args(arguments).stdin(Stdio::null());
        command
    };
    let (pid, socket, peer) = (scene.pid(), scene.socket(), client.id().to_string());
    let commands: [&[&str]; 9] = [
        &["show", &pid],
        &["show", &socket],
        &["show", &peer],
        &["show", &pid, "--json"],
        &["frames", &pid, "--all"],
        &["save", &socket, &file],
        &["tap", &pid, "--time", "200ms"],
        &["tap", &socket, "--time", "200ms", "--all"],
        &["list"],
    ];
    let mut lines = Vec::new();
    for command in commands {
        tick();
        match traced(command).output() {
            Err(error) => return Ran::Skipped(format!("no strace here: {error}")),
            Ok(output) if output.status.code().is_none_or(|code| code > 1) => {
                return Ran::Skipped(format!(
                    "strace may not trace here: {}",
                    text(&output.stderr)
                ));
            }
            Ok(_) => {}
        }
        let read = only_reads(&std::fs::read_to_string(&trace).expect("a trace"), &file);
        assert!(read > 0, "{command:?}");
        lines.push(read / layout::LINE);
    }
    // One look takes the rings once, and their control pages a few times over; no more than that.
    let rings = 2 * layout::DEFAULT_CAPACITY / layout::LINE;
    let pages = 64 * (layout::CONTROL as u64 / layout::LINE);
    assert!(lines[0] <= rings + pages, "{lines:?} lines, where the rings have {rings}");
    let mut screen = pty::Screen::start(traced(&["watch", &pid, "--interval", "100ms"]), 110, 30);
    screen.wait_for("the session", |text| text.contains(&peer));
    screen.press(b"q");
    assert!(screen.end().success());
    only_reads(&std::fs::read_to_string(&trace).expect("a trace"), &file);
    client.tell("stop");
    client.expect("done");
    done!(
        "{} commands and the screen beside full load; show read {} lines",
        commands.len(),
        lines[0]
    )
}

/// Calls a second, for at least so long, and until `over`.
#[allow(clippy::cast_precision_loss, reason = "a rate")]
fn rate(client: &mut Client, mut over: impl FnMut() -> bool) -> f64 {
    let (mut calls, began) = (0u64, Instant::now());
    while began.elapsed() < Duration::from_millis(150) || !over() {
        for _ in 0..100 {
            client.call(b"echo").expect("answered");
        }
        calls += 100;
    }
    tick();
    calls as f64 / began.elapsed().as_secs_f64()
}

/// What a look may cost, of one CPU and of the rate, once a second. Built for debugging it is
/// slower.
const COST: f64 = if cfg!(debug_assertions) { 0.06 } else { 0.02 };

pub(crate) fn show_once_a_second_costs_next_to_nothing() -> Ran {
    let scene = Scene::new();
    let mut client = ConnectOptions::new().connect(&scene.path).expect("connected");
    let mut comparison = Comparison::default();
    let (mut cpu, mut lengths) = (Vec::new(), Vec::new());
    let looks = 25;
    for _ in 0..looks {
        let before = rate(&mut client, || true);
        let began = Instant::now();
        let mut show =
            ring_dump(&["show", &scene.pid()]).stdout(Stdio::null()).spawn().expect("started");
        let id = show.id();
        let with = rate(&mut client, || observe::state(id) == Some('Z'));
        lengths.push(began.elapsed());
        cpu.push(observe::cpu_time(id));
        // A verdict on a moment in which somebody was held up is no failure to look.
        assert!(matches!(show.wait().expect("waited for").code(), Some(0 | 1)));
        let after = rate(&mut client, || true);
        comparison.add(Triple { before, with, after });
    }
    // Its CPU time does not depend on who else is there, or hardly.
    cpu.sort();
    let used = cpu[cpu.len() / 2].as_secs_f64();
    assert!(used <= COST / 2.0, "{used} s of CPU time for a look: {cpu:?}");
    // Of its speed the target lost in each slice what one look costs; one a second costs that once
    // a second. On a machine on which others work this is known within limits only: it fails when
    // even the upper one is too low.
    lengths.sort();
    let lost = |ratio: f64| (1.0 - ratio) * lengths[lengths.len() / 2].as_secs_f64();
    let [low, middle, high] =
        comparison.median().or_else(|| comparison.median_of_all()).expect("25 slices").map(lost);
    assert!(high <= COST, "a look costs {high} s at least, {middle} s probably, of each second");
    done!(
        "{:.1} ms of CPU time; of the rate {:.1} % ({:.1} to {:.1})",
        used * 1e3,
        100.0 - 100.0 * middle,
        100.0 - 100.0 * low,
        100.0 - 100.0 * high
    )
}

pub(crate) fn watch_takes_little_of_a_cpu() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("load 0");
    let mut screen =
        pty::Screen::start(ring_dump(&["watch", &scene.pid(), "--interval", "100ms"]), 110, 30);
    screen.wait_for("rates", |text| {
        text.contains(&client.id().to_string()) && text.contains("all is well")
    });
    let id = screen.id();
    let (before, switches) = (observe::cpu_time(id), observe::voluntary_switches(id));
    // It waits once for each look, and hardly ever besides.
    while observe::voluntary_switches(id) < switches + 30 {
        screen.wait_for("a while", |_| true);
    }
    let looks = u32::try_from(observe::voluntary_switches(id) - switches).expect("few");
    let used = (observe::cpu_time(id) - before).as_secs_f64() / f64::from(looks);
    assert!(used <= COST / 2.0, "{used} s of CPU time for a look and its picture");
    screen.press(b"q");
    assert!(screen.end().success());
    client.tell("stop");
    client.expect("done");
    done!("{:.1} ms of CPU time for each of {looks} looks and their pictures", used * 1e3)
}
