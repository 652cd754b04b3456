//! `watch` and its terminal: how it begins, how it ends, and what reaches it.

use crate::pty::Screen;
use crate::scene::{Scene, output, ring_dump, text};
use crate::screen::{stopped, unwrapped, watch};
use crate::terminal;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start};
use ringbell_shm_tests::{done, observe, wait_until};
use rustix::process::Signal;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Takes the terminal, draws something, and panics when it is told to.
pub(crate) fn panics(_: &Arguments) {
    let taken = terminal::Terminal::take().expect("a terminal");
    std::io::Write::write_all(&mut taken.canvas(), b"drawn").expect("kept");
    wait_until("a key is pressed", || {
        taken.write().expect("written");
        matches!(taken.read(), Ok(Some(bytes)) if !bytes.is_empty())
    });
    panic!("as it was told");
}

pub(crate) fn d7_every_end_leaves_a_clean_terminal() -> Ran {
    let scene = Scene::new();
    let started = || {
        // With the terminal as its own, so that Ctrl-C is a signal.
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_ring-dump"), "watch", &scene.pid()]);
        let mut screen = Screen::start(command, 80, 24);
        screen.wait_for("the screen", |text| text.contains(" 0 sessions "));
        assert!(screen.is_taken());
        screen
    };
    let signals = [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1];
    for signal in signals {
        let mut screen = started();
        screen.signal(signal);
        assert_eq!(screen.end().signal(), Some(signal.as_raw()));
        assert!(screen.is_clean(), "{signal:?}");
    }
    let mut screen = started();
    screen.press(b"\x03");
    assert_eq!(screen.end().signal(), Some(Signal::INT.as_raw()), "Ctrl-C");
    assert!(screen.is_clean());
    // Where no shell could let it go on, Ctrl-Z stops nothing.
    let mut screen = started();
    screen.press(b"\x1a");
    screen.press(b"?");
    screen.wait_for("help", |text| text.contains("select a session"));
    screen.press(b"q");
    assert!(screen.end().success() && screen.is_clean());
    // Stopped without a chance to give the terminal back, it takes it over anew.
    let mut screen = started();
    screen.signal(Signal::STOP);
    wait_until("it is stopped", || observe::state(screen.id()) == Some('T'));
    let before = screen.raw().len();
    screen.signal(Signal::CONT);
    screen.until("all is drawn anew", |screen| {
        let drawn = text(&screen.raw()[before..]);
        drawn.contains("\x1b[?1049h") && drawn.contains("sessions") && screen.is_taken()
    });
    screen.press(b"q");
    assert!(screen.end().success() && screen.is_clean());
    // While it looks at a server that does not answer.
    let mut screen = watch(&scene.socket(), 80, 24);
    screen.wait_for("the screen", |text| text.contains(" 0 sessions "));
    std::fs::remove_file(&scene.path).expect("removed");
    let _mute = UnixListener::bind(&scene.path).expect("bound");
    screen
        .wait_for("that nothing answers", |text| unwrapped(text).contains("does not answer since"));
    screen.signal(Signal::TERM);
    assert_eq!(screen.end().signal(), Some(Signal::TERM.as_raw()));
    assert!(screen.is_clean());
    done!("{} signals, Ctrl-C, Ctrl-Z, q", signals.len() + 1)
}

pub(crate) fn d7_a_closed_terminal_ends_it() -> Ran {
    let scene = Scene::new();
    let mut screen = watch(&scene.pid(), 80, 24);
    screen.wait_for("the screen", |text| text.contains(" 0 sessions "));
    screen.close();
    assert_eq!(screen.end().signal(), Some(Signal::HUP.as_raw()));
    done!("a window is closed")
}

pub(crate) fn d7_a_terminal_that_takes_nothing() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("load 5");
    let mut screen =
        Screen::start(ring_dump(&["watch", &scene.pid(), "--interval", "10ms"]), 200, 60);
    screen.wait_for("the screen", |text| text.contains(" 1 session "));
    // Until nothing more fits: it draws all anew again and again.
    let id = screen.id();
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{id}/io")).expect("it is there");
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("a line");
        line.parse::<u64>().expect("a number")
    };
    let looks = || observe::voluntary_switches(id);
    wait_until("it has written all that fits", || {
        screen.press(b"\x0c");
        let (before, turns) = (written(), looks());
        wait_until("it has gone on for a while", || looks() > turns + 20);
        // What it tells itself is a byte a look.
        written() < before + 200
    });
    let used = observe::cpu_time(id);
    let began = Instant::now();
    wait_until("it has gone on for longer", || began.elapsed() > Duration::from_millis(500));
    let used = (observe::cpu_time(id) - used).as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(used < 0.6, "{used} of a CPU while there is nothing to do");
    screen.signal(Signal::TERM);
    assert_eq!(screen.end_unread().signal(), Some(Signal::TERM.as_raw()));
    assert!(screen.is_clean(), "{}", screen.text());
    client.tell("stop");
    client.expect("done");
    done!("a terminal that is full, {used:.2} of a CPU meanwhile")
}

pub(crate) fn d7_a_panic_leaves_a_clean_terminal() -> Ran {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .env("RINGBELL_TEST_ROLE", "panics")
        .env("RINGBELL_TEST_PARENT", std::process::id().to_string());
    let mut screen = Screen::start(command, 80, 24);
    screen.until("it is drawn", |screen| screen.text().contains("drawn") && screen.is_taken());
    screen.press(b"x");
    let status = screen.end();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert!(screen.is_clean());
    assert!(screen.text().contains("as it was told"), "the panic can be read: {}", screen.text());
    done!("a panic")
}

pub(crate) fn d7_ctrl_z_and_fg() -> Ran {
    let scene = Scene::new();
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "bash", "--norc", "--noprofile", "-i"])
        .env("PS1", "prompt> ")
        .env("HISTFILE", "/dev/null");
    let mut shell = Screen::start(command, 80, 24);
    shell.wait_for("the shell", |text| text.contains("prompt> "));
    let line = format!("{} watch {}\r", env!("CARGO_BIN_EXE_ring-dump"), scene.pid());
    shell.press(line.as_bytes());
    let is_there = |screen: &Screen| screen.text().contains(" 0 sessions ") && screen.is_taken();
    shell.until("the screen", is_there);
    for _ in 0..2 {
        shell.press(b"\x1a");
        shell.until("the shell again", |screen| {
            let text = screen.text();
            text.contains("Stopped") && text.trim_end().ends_with("prompt>") && !screen.is_taken()
        });
        shell.press(b"stty -a | grep -c -e ' icanon' -e ' echo ' -e ' opost'; echo is $?\r");
        shell.wait_for("that lines are edited", |text| text.contains("is 0"));
        shell.press(b"clear; fg\r");
        shell.until("the screen again", is_there);
    }
    shell.press(b"?");
    shell.wait_for("help", |text| text.contains("select a session"));
    shell.press(b"q");
    shell.until("the shell at the end", |screen| {
        screen.text().trim_end().ends_with("prompt>") && !screen.is_taken()
    });
    shell.press(b"echo status $?\r");
    shell.wait_for("its status", |text| text.contains("status 0"));
    shell.press(b"exit\r");
    shell.end();
    done!("stopped and continued twice")
}

pub(crate) fn d7_colours_and_poor_terminals() -> Ran {
    let (scene, _client, _) = stopped();
    // Colours are SGR 30 to 37, 40 to 47, or 38 and 48; `39;49` is none.
    let coloured = |raw: &[u8]| {
        text(raw).split("\x1b[").skip(1).any(|sequence| {
            let Some((numbers, _)) = sequence.split_once('m') else { return false };
            numbers.split(';').any(|number| {
                number.parse::<u8>().is_ok_and(|n| (30..=38).contains(&n) || (40..=48).contains(&n))
            })
        })
    };
    let cases: [(&[&str], Option<&str>, bool); 5] = [
        (&[], None, true),
        (&["--color", "never"], None, false),
        (&[], Some("1"), false),
        (&["--color", "always"], Some("1"), true),
        (&["--color", "auto"], None, true),
    ];
    for (arguments, no_color, wanted) in cases {
        let target = scene.pid();
        let mut command = ring_dump(&[&["watch", &target][..], arguments].concat());
        if let Some(no_color) = no_color {
            command.env("NO_COLOR", no_color);
        }
        let mut screen = Screen::start(command, 80, 24);
        // Without a colour a word says how bad it is.
        screen.wait_for("the verdict", |text| text.contains("problem: "));
        screen.press(b"q");
        assert!(screen.end().success());
        assert_eq!(coloured(screen.raw()), wanted, "{arguments:?} {no_color:?}");
        let selected = screen.raw().windows(4).any(|bytes| bytes == b"\x1b[7m");
        assert!(selected, "the selection is seen without colours: {arguments:?}");
    }
    for term in ["dumb", ""] {
        let mut command = ring_dump(&["watch", &scene.pid()]);
        command.env("TERM", term);
        let mut screen = Screen::start(command, 80, 24);
        assert_eq!(screen.end().code(), Some(2));
        assert!(unwrapped(&screen.text()).contains("use `ring-dump show"), "{}", screen.text());
        assert!(screen.is_clean());
    }
    let piped = output(&["watch", &scene.pid()]);
    assert_eq!(piped.status.code(), Some(2));
    assert!(text(&piped.stderr).contains("use `ring-dump show"), "{}", text(&piped.stderr));
    done!("{} choices of colours, three that have no screen", cases.len())
}

pub(crate) fn d7_names_never_reach_the_terminal_raw() -> Ran {
    // A path, the name of a server and that of a client: all are chosen by others.
    const HARM: &str = "\x1b]0;taken\x07\u{202e}\u{9b}31m\u{200b}x";
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(format!("s{HARM}"));
    let mut server = Start::role("service").with("path", path.display()).start();
    server.expect("ready");
    let start = Start::role("crowd").with("path", path.display()).with("count", 2);
    let mut crowd = start.with("name", HARM).start();
    crowd.expect("connected");
    let target = path.display().to_string();
    let mut screen = watch(&target, 120, 24);
    screen.wait_for("both sessions", |text| text.contains(" 2 sessions "));
    screen.press(b"\r");
    screen.wait_for("one", |text| text.contains(" session 1 "));
    server.kill();
    screen.wait_for("the end", |text| text.contains("dead since"));
    std::fs::remove_file(&path).expect("removed");
    screen.press(b"/\xe2\x80\xae\xc2\x9b\r");
    screen.press(b"\x1b");
    screen.press(b"q");
    assert!(screen.end().success());
    let raw = text(screen.raw());
    for harm in ["\x1b]", "\x07", "\u{202e}", "\u{9b}", "\u{200b}"] {
        assert!(!raw.contains(harm), "{harm:?} has reached the terminal");
    }
    // Errors, too.
    let failed = output(&["watch", &target]);
    let said = text(&failed.stderr);
    assert_ne!(failed.status.code(), Some(0));
    assert!(!said.contains("\x1b]") && !said.contains('\u{202e}'), "{said:?}");
    done!("a path and three names")
}
