//! The list of servers, and how the program is used: statuses, colours, help.

use crate::scene::{Scene, output, ring_dump, say_of, text};
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use rustix::process::Signal;
use serde_json::Value;
use std::process::Command;

pub(crate) fn the_list_and_its_directory() -> Ran {
    let scenes = [Scene::new(), Scene::new()];
    let _client = scenes[0].client();
    let directory = scenes[1].directory.path();
    let not_ours = directory.join("other");
    let listener = std::os::unix::net::UnixListener::bind(&not_ours).expect("bound");
    drop(listener);
    let (text, _) = say_of(&["list", "--json", &directory.display().to_string()]);
    let listing: Value = serde_json::from_str(&text).expect("JSON");
    let servers = listing["servers"].as_array().expect("an array");
    for (scene, sessions) in scenes.iter().zip([1, 0]) {
        let lines: Vec<_> =
            servers.iter().filter(|line| line["pid"] == scene.server.id()).collect();
        assert_eq!(lines.len(), 1, "found in its process, and once only: {listing:#}");
        assert_eq!((&lines[0]["sessions"], &lines[0]["problems"]), (&sessions.into(), &0.into()));
        assert_eq!(lines[0]["listens_at"][0], scene.socket());
    }
    assert_eq!(listing["sockets"][0][0], not_ours.display().to_string());
    scenes[0].server.stop();
    let (text, now) = say_of(&[]);
    let line = text.lines().find(|line| line.contains(&scenes[0].socket())).expect("a line");
    assert!(line.contains("stopped") && line.contains("1 wrong") && now == 1, "{text}");
    done!("2 servers among {}, and a socket that is none", servers.len())
}

pub(crate) fn wrong_use_has_its_status() -> Ran {
    let cases: [(&[&str], i32); 9] = [
        (&["show"], 2),
        (&["show", "1", "--interval", "soon"], 2),
        (&["show", "1", "--json", "--prometheus"], 2),
        (&["nonsense"], 2),
        (&["show", "/nowhere/at/all"], 3),
        (&["show", "/dev/null"], 3),
        (&["show", "4294967295"], 3),
        (&["show", &std::process::id().to_string()], 3),
        (&["list", "/nowhere/at/all"], 3),
    ];
    for (arguments, status) in cases {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
    let scene = Scene::new();
    assert_eq!(output(&["watch", &scene.pid()]).status.code(), Some(2), "no terminal");
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    assert_eq!(output(&["tap", &file]).status.code(), Some(2), "nothing passes in a file");
    // The sentence about NO_COLOR.
    let coloured =
        |command: &mut Command| text(&command.output().expect("started").stdout).contains('\x1b');
    assert!(coloured(&mut ring_dump(&["show", &file, "--color", "always"])));
    assert!(!coloured(&mut ring_dump(&["show", &file])), "not a terminal");
    assert!(!coloured(ring_dump(&["show", &file]).env("NO_COLOR", "1")));
    scene.server.signal(Signal::KILL);
    done!("{} wrong uses", cases.len() + 2)
}

pub(crate) fn help_for_shells_and_manuals() -> Ran {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (script, _) = say_of(&["completions", shell]);
        for word in ["doctor", "prometheus", "max-bytes"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let (page, _) = say_of(&["man"]);
    for word in
        [".TH ring-dump 1", "Status: 0", "TAP", "\\-\\-every", "\\-\\-budget", "\\-\\-prometheus"]
    {
        assert!(page.contains(word), "{word}");
    }
    let (health, _) = say_of(&["doctor", "--json"]);
    let health: Value = serde_json::from_str(&health).expect("JSON");
    let checks = health["checks"].as_array().expect("an array");
    assert!(checks.iter().any(|check| check["name"] == "futex_waitv" && check["level"] == "good"));
    let names = [
        "kernel",
        "memfd and seals",
        "futex",
        "eventfd",
        "pidfd",
        "RLIMIT_NOFILE",
        "RLIMIT_MEMLOCK",
        "RLIMIT_FSIZE",
        "timerfd",
        "SO_PEERPIDFD",
        "ppoll",
        "fallocate",
        "flock",
        "all that rings need",
        "all that servers need",
        "namespaces",
        "max_map_count",
        "seccomp",
        "cgroup CPU limit",
        "cgroup memory limit",
        "CPUs and spinning",
    ];
    for name in names {
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("{name} is not looked at"));
        // What is not as it should be says what that means.
        assert_eq!(check["level"] == "good", check["means"].is_null(), "{check}");
    }
    done!("5 shells, the manual page, {} checks of the doctor", checks.len())
}
