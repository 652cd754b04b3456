//! What it does to its target: nothing. And who may look.

use crate::scene::{Scene, report, ring_dump, say_of, segments, stopped_pair, text};
use ringbell_shm_tests::done;
use ringbell_shm_tests::suite::Ran;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

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
    let mut tap = ring_dump(&["tap", &scene.pid()]).stderr(Stdio::piped()).spawn().expect("started");
    let mut said = String::new();
    BufReader::new(tap.stderr.take().expect("piped")).read_line(&mut said).expect("read");
    assert!(said.contains("following 1 sessions"), "{said}");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", tap.id())).expect("read");
    assert!(!maps.contains("memfd"), "{maps}");
    let mut held = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", tap.id())).expect("its descriptors").flatten() {
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
    std::fs::set_permissions(scene.directory.path(), PermissionsExt::from_mode(0o755)).expect("set");
    // Where everybody may start it.
    let program = scene.directory.path().join("ring-dump");
    std::fs::copy(env!("CARGO_BIN_EXE_ring-dump"), &program).expect("copied");
    let as_nobody = |arguments: &[&str]| {
        let output =
            Command::new(&program).args(arguments).uid(NOBODY).gid(NOBODY).output().expect("started");
        (output.status.code(), text(&output.stderr))
    };
    let (status, why) = as_nobody(&["show", &scene.pid()]);
    assert!(status == Some(3) && why.contains("may not be looked into"), "{status:?} {why}");
    let (status, why) = as_nobody(&["show", &scene.socket()]);
    assert!(status == Some(3) && why.contains("rejects this client"), "{status:?} {why}");
    assert_eq!(report(&scene.socket()).1, 0, "but not for root");
    done!("another uid, by pid and by socket of a server that serves anyone")
}
