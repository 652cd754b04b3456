//! The screen of `watch`.

use crate::pty;
use crate::pty::Screen;
use crate::scene::{Scene, ring_dump};
use ringbell::{Client, ConnectOptions, Server};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Process, Start, hear, say};
use ringbell_shm_tests::{done, observe};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

pub(crate) fn watch_on_a_terminal() -> Ran {
    let scene = Scene::with(&[("sample", "16")]);
    let mut client = scene.client();
    let mut other = scene.client_with(&[("park", "yes")]);
    client.tell("load 5");
    // A picture is for people, who look for longer.
    let picture = std::env::var_os("RINGBELL_SCREENSHOT");
    let interval = if picture.is_some() { "1s" } else { "100ms" };
    let mut screen =
        pty::Screen::start(ring_dump(&["watch", &scene.pid(), "--interval", interval]), 110, 30);
    screen.wait_for("both sessions", |text| {
        text.contains(" 2 sessions ")
            && text.contains(&client.id().to_string())
            && text.contains("all is well")
    });
    screen.wait_for("rates", |text| {
        let line = text.lines().find(|line| line.contains(&client.id().to_string()));
        line.is_some_and(|line| line.contains('█') || line.contains('▇'))
    });
    if let Some(path) = picture {
        screen.resize(80, 24);
        other.tell("post echo taken by nobody");
        other.expect("done");
        other.stop();
        screen.wait_for("a verdict", |text| text.contains("problem: "));
        for _ in 0..12 {
            std::thread::sleep(Duration::from_secs(1));
            screen.wait_for("more", |text| !text.is_empty());
        }
        std::fs::write(path, screen.svg()).expect("written");
        other.go_on();
        screen.resize(110, 30);
    }
    screen.press(b"s");
    screen.wait_for("another order", |text| text.contains("sort: fill"));
    screen.press(b"ss");
    screen.wait_for("the order after that", |text| text.contains("sort: oldest call"));
    screen.press(b"s");
    screen.wait_for("the first order", |text| text.contains("sort: session"));
    screen.press(b"\x1b[B\r");
    screen.wait_for("the second session alone", |text| {
        text.contains(" session 2 caller") && text.contains("request ring, B")
    });
    // What is wrong appears by itself, and a pause holds it.
    scene.server.stop();
    screen.wait_for("the verdict", |text| text.contains("is stopped by a signal"));
    screen.press(b"p");
    screen.wait_for("the pause", |text| text.contains("PAUSED"));
    scene.server.go_on();
    other.tell("call echo 1");
    other.expect("done");
    assert!(screen.text().contains("is stopped by a signal"), "nothing changes in a pause");
    screen.press(b"p");
    screen.wait_for("the end of the pause", |text| {
        !text.contains("PAUSED") && text.contains("all is well")
    });
    screen.press(b"q");
    assert!(screen.end().success());
    client.tell("stop");
    client.expect("done");
    done!("a terminal of 110 x 30: table, order, one session, a verdict, a pause, the end")
}

/// Many sessions of one process: `count`, named `name` and a number.
pub(crate) fn crowd(arguments: &Arguments) {
    let name = arguments.get("name").unwrap_or("crowd");
    let clients: Vec<Client> = (0..arguments.number("count"))
        .map(|number| {
            let options = ConnectOptions::new().name(format!("{name}{number}"));
            options.connect(arguments.text("path")).expect("connected")
        })
        .collect();
    say("connected");
    while hear().is_some() {}
    drop(clients);
}

/// One process with two servers, at `path` and `other`.
pub(crate) fn twins(arguments: &Arguments) {
    for key in ["path", "other"] {
        let server = Server::bind(arguments.text(key)).expect("bound");
        std::thread::spawn(move || server.run(|_, _| Ok(())));
    }
    say("ready");
    while hear().is_some() {}
}

pub(crate) fn watch(target: &str, columns: u16, rows: u16) -> Screen {
    Screen::start(ring_dump(&["watch", target, "--interval", "100ms"]), columns, rows)
}

/// The text of the screen in one line, as if it had not been wrapped.
pub(crate) fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A stopped server with a request, and the whole sentence on that.
pub(crate) fn stopped() -> (Scene, Process, String) {
    let scene = Scene::new();
    let mut client = scene.client_with(&[("park", "yes")]);
    client.tell("call echo 1");
    client.expect("done");
    scene.server.stop();
    client.tell("post echo nobody");
    client.expect("done");
    let sentence = crate::scene::finds(&scene.pid(), "server-stopped", "problem");
    let sentence = sentence.lines().next().expect("a verdict").to_owned();
    (scene, client, sentence)
}

pub(crate) fn d7_the_first_verdict_is_shown_whole() -> Ran {
    let (scene, client, sentence) = stopped();
    assert!(sentence.len() > 80, "it is to be wrapped: {sentence}");
    let mut screen = watch(&scene.socket(), 80, 24);
    let whole = |text: &str| unwrapped(text).contains(&sentence);
    let pid = client.id().to_string();
    for (columns, rows) in [(80, 24), (40, 10), (200, 60), (60, 15), (80, 24)] {
        screen.resize(columns, rows);
        let name = format!("the whole verdict at {columns} x {rows}");
        screen.wait_for(&name, |text| {
            // And the session below it.
            let verdict = text.find("problem: ");
            let table = text.lines().position(|line| line.contains(&pid) && !line.contains('('));
            whole(text) && verdict.is_some() && table.is_some()
        });
        let lines: Vec<String> = screen.text().lines().map(str::to_owned).collect();
        let row = |word: &str| lines.iter().position(|line| line.contains(word));
        assert!(row("problem: ") < row("ID PID"), "verdicts first:\n{}", screen.text());
        if rows >= 24 {
            assert!(unwrapped(&screen.text()).contains("kill -CONT"), "its advice");
        }
    }
    scene.server.go_on();
    screen.wait_for("that all is well", |text| text.contains("all is well"));
    screen.press(b"q");
    assert!(screen.end().success() && screen.is_clean());
    done!("a verdict of {} characters at four sizes", sentence.len())
}

pub(crate) fn d7_no_size_is_too_small() -> Ran {
    let (scene, _client, _) = stopped();
    let mut screen = watch(&scene.socket(), 80, 24);
    screen.wait_for("the verdict", |text| text.contains("problem: "));
    let mut sizes = 0;
    for over in [&b""[..], b"\r", b"?", b"v"] {
        screen.press(over);
        for (columns, rows) in
            [(1, 1), (2, 1), (1, 2), (1, 60), (200, 1), (3, 3), (10, 4), (20, 6), (39, 9)]
        {
            screen.resize(columns, rows);
            // It has drawn that, and lives.
            let before = screen.raw().len();
            screen.press(b"\x0c");
            screen.until("it is drawn", |screen| screen.raw().len() > before);
            sizes += 1;
        }
        screen.resize(80, 24);
        screen.wait_for("the header", |text| text.contains("stopped"));
        screen.press(b"\x1b");
        screen.wait_for("the table", |text| text.contains("q quit  ? help"));
    }
    screen.press(b"q");
    assert!(screen.end().success() && screen.is_clean());
    done!("{sizes} small screens")
}

pub(crate) fn d7_the_selection_follows_the_session() -> Ran {
    let scene = Scene::new();
    let _first = scene.client_with(&[("park", "yes")]);
    let mut busy = scene.client();
    let _third = scene.client_with(&[("park", "yes")]);
    let mut screen = watch(&scene.pid(), 80, 24);
    screen.wait_for("three sessions", |text| text.contains(" 3 sessions "));
    let line = |pid: u32| format!(" {pid} ");
    // The second one.
    let selected = line(busy.id());
    screen.press(b"\x1b[B");
    screen.until("it is selected", |screen| screen.is_inverse(&selected));
    busy.tell("load 0");
    screen.press(b"ss");
    screen.until("it is the first, and selected", |screen| {
        let text = screen.text();
        let first = text.lines().skip_while(|line| !line.contains("PID")).nth(1);
        text.contains("sort: rate")
            && first.is_some_and(|line| line.contains(&selected))
            && screen.is_inverse(&selected)
    });
    screen.press(b"ss");
    screen.until("it is the second again", |screen| {
        let text = screen.text();
        let second = text.lines().skip_while(|line| !line.contains("PID")).nth(2);
        text.contains("sort: session")
            && second.is_some_and(|line| line.contains(&selected))
            && screen.is_inverse(&selected)
    });
    busy.tell("stop");
    busy.expect("done");
    screen.press(b"q");
    assert!(screen.end().success());
    done!("three sessions in two orders")
}

pub(crate) fn d7_a_session_that_leaves_is_told_of() -> Ran {
    let scene = Scene::new();
    let mut clients: Vec<Process> = (0..4).map(|_| scene.client()).collect();
    let mut screen = watch(&scene.socket(), 80, 24);
    screen.wait_for("four sessions", |text| text.contains(" 4 sessions "));
    let line = |client: &Process| format!(" {} ", client.id());
    // One above the selected one leaves: nothing else is selected.
    let third = line(&clients[2]);
    screen.press(b"\x1b[B\x1b[B");
    screen.until("the third is selected", |screen| screen.is_inverse(&third));
    clients[0].kill();
    screen.until("the third stays selected", |screen| {
        screen.text().contains(" 3 sessions ") && screen.is_inverse(&third)
    });
    assert!(!screen.text().contains("has ended"), "nobody has asked about that one");
    // The selected one leaves.
    clients[2].kill();
    let fourth = line(&clients[3]);
    screen.until("that is said, and the nearest selected", |screen| {
        screen.text().contains("session 3 has ended") && screen.is_inverse(&fourth)
    });
    // The same when it is open.
    screen.press(b"\r");
    screen.wait_for("the fourth alone", |text| text.contains(" session 4 caller"));
    clients[3].kill();
    screen.wait_for("that is said, and the nearest open", |text| {
        text.contains("session 4 has ended") && text.contains(" session 2 caller")
    });
    clients[1].kill();
    screen.wait_for("that none is left", |text| {
        text.contains("session 2 has ended") && text.contains(" 0 sessions ")
    });
    screen.press(b"q");
    assert!(screen.end().success());
    done!("four sessions leave")
}

/// A server at a path that is there already; the scene's own is gone.
fn again(scene: &Scene) -> Process {
    let mut server = Start::role("service").with("path", scene.path.display()).start();
    server.expect("ready");
    server
}

pub(crate) fn d7_a_server_that_dies_is_said_at_once() -> Ran {
    for by_socket in [true, false] {
        let mut scene = Scene::new();
        let mut client = scene.client();
        client.tell("load 5");
        let target = if by_socket { scene.socket() } else { scene.pid() };
        // No look for an hour: it is told of the end itself.
        let mut screen =
            Screen::start(ring_dump(&["watch", &target, "--interval", "3600s"]), 80, 24);
        let rates = |text: &str| {
            text.lines().any(|line| line.contains(" requests/s") && !line.contains("- requests/s"))
        };
        screen.wait_for("rates", |text| rates(text) && text.contains("alive"));
        scene.server.kill();
        screen.wait_for("the end, and no rates", |text| {
            let said = unwrapped(text);
            said.contains(&format!("pid {} is dead since ", scene.pid()))
                && said.contains("what follows is the last that was seen")
                && !text.contains("alive at")
                && !rates(text)
        });
        let (text, pid) = (screen.text(), format!(" {} ", client.id()));
        assert!(!text.contains("all is well"), "{text}");
        let session =
            text.lines().find(|line| line.contains(&pid)).expect("the last that was seen");
        assert!(session.contains(" - "), "no rate: {session}");
        screen.press(b"q");
        assert!(screen.end().success());
        let _ = client.wait_within(Duration::from_secs(30));
    }
    done!("by socket and by pid")
}

pub(crate) fn d7_a_server_that_comes_back_is_followed() -> Ran {
    for by_socket in [true, false] {
        let mut scene = Scene::new();
        let mut client = scene.client_with(&[("park", "yes")]);
        let target = if by_socket { scene.socket() } else { scene.pid() };
        let mut screen = watch(&target, 80, 24);
        screen.wait_for("a session", |text| text.contains(" 1 session "));
        scene.server.kill();
        screen.wait_for("the end", |text| text.contains("dead since"));
        client.kill();
        let second = again(&scene);
        screen.wait_for("the other one", |text| {
            let said = unwrapped(text);
            said.contains("another server is here since")
                && said.contains(&format!("pid {} alive", second.id()))
                && !said.contains("dead since")
                && said.contains(" 0 sessions ")
                && said.contains("all is well")
        });
        assert!(!screen.text().contains("session 1 has ended"), "{}", screen.text());
        screen.press(b"q");
        assert!(screen.end().success());
    }
    done!("by socket and by pid")
}

pub(crate) fn d7_a_server_that_is_out_of_reach_is_said() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("load 5");
    let mut screen = watch(&scene.socket(), 80, 24);
    screen.wait_for("rates", |text| text.contains("alive") && text.contains(" 1 session "));
    let aside = scene.directory.path().join("aside");
    std::fs::rename(&scene.path, &aside).expect("renamed");
    screen.wait_for("that it cannot be looked at", |text| {
        let said = unwrapped(text);
        said.contains("cannot be looked at since") && said.contains("- requests/s")
    });
    let text = screen.text();
    assert!(!text.lines().next().unwrap_or_default().contains("alive"), "not known: {text}");
    // Now somebody is there, and says nothing.
    let mute = UnixListener::bind(&scene.path).expect("bound");
    screen.wait_for("that nothing answers", |text| {
        unwrapped(text).contains("there was no session in time")
    });
    // Keys are answered meanwhile.
    screen.press(b"?");
    screen.wait_for("help", |text| text.contains("select a session"));
    screen.press(b"?");
    drop(mute);
    std::fs::remove_file(&scene.path).expect("removed");
    std::fs::rename(&aside, &scene.path).expect("renamed");
    screen.wait_for("that all is well again", |text| {
        let said = unwrapped(text);
        !said.contains("since") && !said.contains("- requests/s") && said.contains("all is well")
    });
    client.tell("stop");
    client.expect("done");
    screen.press(b"q");
    assert!(screen.end().success());
    done!("away, mute, back")
}

pub(crate) fn d7_help_and_all_verdicts() -> Ran {
    let scene = Scene::new();
    let clients: Vec<Process> = (0..12).map(|_| scene.client_with(&[("park", "yes")])).collect();
    for client in &clients {
        client.stop();
    }
    let mut screen = watch(&scene.pid(), 80, 24);
    screen.wait_for("many verdicts", |text| {
        text.contains("more verdicts: v shows all") && text.contains(" 12 sessions ")
    });
    screen.press(b"v");
    screen.wait_for("all of them", |text| {
        text.contains(" 12 verdicts ") && text.contains("session 1 ") && text.contains("1 to ")
    });
    screen.press(b"\x1b[F");
    screen.wait_for("the last", |text| text.contains("session 12 (pid"));
    screen.press(b"\x1b");
    screen.wait_for("the table", |text| text.contains(" 12 sessions "));
    // Only those with a verdict.
    clients[4].go_on();
    screen.press(b"n");
    screen.wait_for("all but one", |text| text.contains(" 11 of 12 sessions "));
    screen.press(b"\x1b");
    screen.wait_for("all", |text| text.contains(" 12 sessions "));
    screen.press(b"?");
    screen.wait_for("help", |text| text.contains("the next server of a process"));
    screen.resize(40, 10);
    screen.press(b"\x1b[6~\x1b[6~\x1b[6~\x1b[6~");
    screen.wait_for("its end", |text| unwrapped(text).contains("the handler, the response ring."));
    screen.press(b"q");
    assert!(screen.end().success());
    done!("12 verdicts, and help, by pages")
}

pub(crate) fn d7_a_thousand_sessions() -> Ran {
    const COUNT: usize = 1000;
    let scene = Scene::with(&[("ring", "4096"), ("crowd", "yes")]);
    let mut crowd =
        Start::role("crowd").with("path", scene.path.display()).with("count", COUNT).start();
    assert_eq!(crowd.hear_within(Duration::from_secs(120)).as_deref(), Some("connected"));
    let mut screen = watch(&scene.pid(), 80, 24);
    let all = format!(" {COUNT} sessions ");
    let at = |row: usize| format!(" {row} of {COUNT}");
    screen.wait_for("all of them", |text| text.contains(&all) && text.contains(&at(1)));
    screen.press(b"\x1b[F");
    screen.until("the last", |screen| {
        screen.text().contains(&at(COUNT)) && screen.is_inverse("crowd999")
    });
    screen.press(b"\x1b[5~");
    screen.until("a page before that", |screen| {
        !screen.text().contains(&at(COUNT)) && !screen.is_inverse("crowd999")
    });
    screen.press(b"\x1b[H\x1b[B");
    screen.until("the second", |screen| screen.text().contains(&at(2)));
    screen.press(b"/crowd77");
    screen.wait_for("a filter", |text| {
        text.contains("filter: crowd77") && text.contains(&format!(" 11 of {COUNT} sessions "))
    });
    screen.press(b"7\r");
    screen.until("one", |screen| {
        screen.text().contains(&format!(" 1 of {COUNT} sessions ")) && screen.is_inverse("crowd777")
    });
    // The session stays selected when the others are back.
    screen.press(b"\x1b");
    screen
        .until("all again", |screen| screen.text().contains(&all) && screen.is_inverse("crowd777"));
    screen.press(b"/no such name\r");
    screen.wait_for("none", |text| text.contains(&format!(" 0 of {COUNT} sessions ")));
    screen.press(b"\r\x1b[B\x1b[6~\x1b");
    screen.wait_for("all once more", |text| text.contains(&all));
    screen.press(b"q");
    assert!(screen.end().success());
    done!("{COUNT} sessions: pages, a filter")
}

pub(crate) fn d7_two_servers_of_one_process() -> Ran {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, other) = (directory.path().join("one"), directory.path().join("two"));
    let start = Start::role("twins").with("path", path.display()).with("other", other.display());
    let mut server = start.start();
    server.expect("ready");
    let crowd = |path: &std::path::Path, count: usize, name: &str| {
        let start = Start::role("crowd").with("path", path.display()).with("count", count);
        let mut crowd = start.with("name", name).start();
        crowd.expect("connected");
        crowd
    };
    let _crowds = [crowd(&path, 2, "first"), crowd(&other, 3, "second")];
    let mut screen = watch(&server.id().to_string(), 80, 24);
    let of = |text: &str, count: usize, session: &str, not: &str| {
        text.contains("of 2 (Tab)")
            && text.contains(&format!(" {count} sessions "))
            && text.contains(session)
            && !text.contains(not)
    };
    let one = |text: &str| of(text, 2, "first0", "second");
    let two = |text: &str| of(text, 3, "second2", "first");
    // Which one is the first is a matter of their generations.
    screen.wait_for("one of them", |text| one(text) || two(text));
    let first_is_one = one(&screen.text());
    screen.press(b"\t");
    screen.wait_for("the other", |text| if first_is_one { two(text) } else { one(text) });
    screen.press(b"\t");
    screen.wait_for("the first again", |text| if first_is_one { one(text) } else { two(text) });
    screen.press(b"\x1b[Z");
    screen.wait_for("back", |text| if first_is_one { two(text) } else { one(text) });
    screen.press(b"q");
    assert!(screen.end().success());
    done!("two servers, by Tab")
}

pub(crate) fn d7_ten_milliseconds_stay_usable() -> Ran {
    let scene = Scene::with(&[("crowd", "yes")]);
    let start = Start::role("crowd").with("path", scene.path.display()).with("count", 200);
    let mut crowd = start.start();
    crowd.expect("connected");
    let mut screen =
        Screen::start(ring_dump(&["watch", &scene.pid(), "--interval", "10ms"]), 80, 24);
    screen.wait_for("all", |text| text.contains(" 200 sessions ") && text.contains("all is well"));
    let id = screen.id();
    let (began, before) = (Instant::now(), observe::cpu_time(id));
    let mut keys = 0;
    while began.elapsed() < Duration::from_secs(2) {
        keys += 1;
        screen.press(b"?");
        screen.wait_for("help", |text| text.contains("select a session"));
        screen.press(b"\x1b");
        screen.wait_for("the table", |text| text.contains(" 200 sessions "));
    }
    let used = (observe::cpu_time(id) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    // A fifth of a CPU for looks; the rest is drawing what the keys ask for.
    assert!(used < 0.5, "{used} of a CPU");
    screen.press(b"q");
    assert!(screen.end().success());
    done!("{keys} times help and back, {used:.2} of a CPU")
}
