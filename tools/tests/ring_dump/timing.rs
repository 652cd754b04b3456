//! Waiting told from working: calls that are timed on their way.

use crate::pty;
use crate::scene::{Scene, finds, report, ring_dump, say_of, segments};
use ringbell::inspect::{self, Segment};
use ringbell::layout::{self, offset};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::{done, wait_until};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is known of the timed calls of the first session.
fn samples(target: &str) -> Value {
    report(target).0["sessions"][0]["samples"].clone()
}

pub(crate) fn waiting_is_told_from_working() -> Ran {
    const LONG: Duration = Duration::from_millis(200);
    let long = u64::try_from(LONG.as_nanos()).expect("small");
    let scene = Scene::with(&[("sample", "1")]);
    let mut client = scene.client();
    let gate = scene.file("gate");
    let on_its_way = |target: &str| samples(target)["on_its_way"].clone();
    // Two requests, of which the first is worked on and the second waits until it is done.
    client.tell(&format!("post await {gate}"));
    client.expect("done");
    for target in [scene.pid(), scene.socket(), client.id().to_string()] {
        wait_until("it is in the handler", || on_its_way(&target)["stage"] == "handler");
    }
    client.tell("post echo behind it");
    client.expect("done");
    let note = finds(&scene.pid(), "late-answer", "problem");
    assert!(note.contains("the server has taken its request"), "{note}");
    let (shown, _) = say_of(&["show", &scene.pid(), "--color", "never"]);
    assert!(shown.contains(" is in the handler for "), "{shown}");
    std::thread::sleep(LONG);
    std::fs::write(&gate, b"").expect("opened");
    // Both are answered, and nobody takes the answers.
    wait_until("an answer lies there", || on_its_way(&scene.pid())["stage"] == "response-ring");
    wait_until("both are answered", || samples(&scene.pid())["handler"]["calls"] == 2);
    assert_eq!(samples(&scene.pid())["response_ring"]["calls"], 0);
    std::thread::sleep(LONG);
    for _ in 0..2 {
        client.tell("take");
        client.expect("done");
    }
    let most = |part: &str| samples(&scene.pid())[part]["most_ns"].as_u64().expect("a number");
    for part in ["handler", "request_ring", "response_ring"] {
        assert_eq!(samples(&scene.pid())[part]["calls"], 2, "{part}");
        assert!(most(part) >= long, "{part}: {} ns", most(part));
    }
    // Of the two, one was worked on for long, and one waited for long.
    let short = |part: &str| samples(&scene.pid())[part]["median_ns"].as_u64().expect("a number");
    assert!(short("handler") < most("handler") && short("request_ring") < most("request_ring"));
    assert!(on_its_way(&scene.pid()).is_null());
    let (shown, _) = say_of(&["show", &scene.pid(), "--color", "never"]);
    assert!(
        shown.contains("  split     request ring ") && shown.contains("median of 2 timed calls"),
        "{shown}"
    );
    let (metrics, _) = say_of(&["show", &scene.pid(), "--prometheus"]);
    for part in ["request-ring", "handler", "response-ring"] {
        let labels = format!("part=\"{part}\"}} ");
        let of_it = |line: &str| {
            line.starts_with("ringbell_session_timed_call_longest_seconds{")
                .then(|| line.split_once(&labels))
                .flatten()
                .map(|pair| pair.1.to_owned())
        };
        let seconds: f64 =
            metrics.lines().find_map(of_it).expect("a metric").parse().expect("a number");
        assert!(seconds >= LONG.as_secs_f64(), "{part}: {seconds}");
    }
    // And from a file.
    let file = scene.file("saved");
    say_of(&["save", &scene.pid(), &file]);
    assert_eq!(samples(&file)["handler"]["most_ns"].as_u64(), Some(most("handler")));
    let mut screen =
        pty::Screen::start(ring_dump(&["watch", &scene.pid(), "--interval", "100ms"]), 110, 30);
    screen.wait_for("the columns", |text| {
        text.contains("WAIT  WORK  WAIT") && text.contains("all is well")
    });
    screen.press(b"\r");
    screen.wait_for("one session", |text| text.contains("split    request ring "));
    screen.press(b"q");
    assert!(screen.end().success());
    done!(
        "a request behind one that takes {} ms and more, an answer that lies as long",
        LONG.as_millis()
    )
}

pub(crate) fn calls_are_timed_on_all_ways() -> Ran {
    let ways: [&[(&str, &str)]; 4] =
        [&[], &[("later", "yes")], &[("ordered", "yes")], &[("later", "yes"), ("ordered", "yes")]];
    let mut timed = 0;
    for way in ways {
        // The client asks, the server does not.
        let scene = Scene::with(&[way, &[("ring", "4096")]].concat());
        let mut client = scene.client_with(&[("sample", "1")]);
        for order in
            ["call echo", "large 3000", "large 100000", "large 0", "view echo", "post echo", "take"]
        {
            client.tell(order);
            client.expect("done");
        }
        wait_until("all have come to their end", || {
            let samples = samples(&scene.pid());
            samples["handler"]["calls"] == 6
                && samples["response_ring"]["calls"] == 6
                && samples["on_its_way"].is_null()
        });
        // More than there are places for.
        client.tell("load 0");
        wait_until("all places are taken", || {
            let samples = samples(&scene.pid());
            samples["handler"]["calls"].as_u64() >= Some(60)
                && samples["request_ring"]["most_ns"] != 0
        });
        client.tell("stop");
        client.expect("done");
        timed += 6 + 64;
    }
    // Of every tenth call one, as the server would like it; a client may know better.
    let scene = Scene::with(&[("sample", "10")]);
    let calls = |options: &[(&str, &str)]| {
        let mut client = scene.client_with(options);
        for _ in 0..21 {
            client.tell("call echo");
            client.expect("done");
        }
        samples(&client.id().to_string())["handler"]["calls"].clone()
    };
    assert_eq!(calls(&[]), 3, "the first, the eleventh, the twenty-first");
    assert_eq!(calls(&[("sample", "20")]), 2);
    assert_eq!(calls(&[("sample", "0")]), Value::Null);
    done!("{} ways of answering, {timed} calls and more", ways.len())
}

pub(crate) fn nothing_is_timed_unless_asked_for() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo");
    client.expect("done");
    assert!(samples(&scene.pid()).is_null());
    let (shown, _) = say_of(&["show", &scene.pid()]);
    assert!(!shown.contains("split"), "{shown}");
    // Nothing was written there, by either side. A status segment has facts in that place.
    let mut rings = 0;
    for image in segments(scene.server.id()) {
        let Ok(Segment::Request(_) | Segment::Response(_)) = inspect::decode(&image) else {
            continue;
        };
        rings += 1;
        let table = &image[offset::SAMPLES..offset::SAMPLES + 32 * layout::SAMPLES];
        assert!(table.iter().all(|byte| *byte == 0));
    }
    assert_eq!(rings, 2, "one session");
    // A socket has no place for it, and goes without.
    let scene = Scene::with(&[("sample", "1")]);
    let mut client = scene.client_with(&[("socket", "yes"), ("sample", "1")]);
    client.tell("call echo");
    client.expect("done");
    assert_eq!(report(&scene.socket()).0["over_sockets"], 1);
    done!("no samples by default, none over a socket")
}

/// A server whose clock is another one: the halves of a timed call meet, and ages are ages.
pub(crate) fn c3_calls_are_timed_across_time_namespaces() -> Ran {
    let unshare = |ahead: &'static str| ["--time", "--monotonic", ahead];
    let tried = Command::new("unshare").args(unshare("1")).arg("true").output();
    match tried {
        Ok(tried) if tried.status.success() => {}
        tried => return Ran::Skipped(format!("no time namespace can be made: {tried:?}")),
    }
    const LONG: Duration = Duration::from_millis(200);
    for ahead in ["100000", "-100"] {
        let began = Instant::now();
        let scene = Scene::under("unshare", &unshare(ahead), &[("sample", "1")]);
        let mut client = scene.client_with(&[("park", "yes")]);
        let target = scene.socket();
        client.tell("batch 20");
        client.expect("done");
        client.tell(&format!("call sleep {}", LONG.as_millis()));
        client.expect("done");
        let gate = scene.file("gate");
        let on_its_way = || samples(&target)["on_its_way"].clone();
        client.tell(&format!("call await {gate}"));
        wait_until("it is in the handler", || on_its_way()["stage"] == "handler");
        std::thread::sleep(LONG);
        let (seen, _) = report(&target);
        let ns = |value: &Value| Duration::from_nanos(value.as_u64().expect("a number"));
        let session = &seen["sessions"][0];
        let samples = &session["samples"];
        for part in ["request_ring", "handler", "response_ring"] {
            assert_eq!(samples[part]["calls"], 21, "{ahead} {part}: {samples:#}");
            assert!(ns(&samples[part]["most_ns"]) <= began.elapsed(), "{part}: {samples:#}");
        }
        assert!(ns(&samples["handler"]["most_ns"]) >= LONG, "{samples:#}");
        for (what, age, least) in [
            ("the call", &samples["on_its_way"]["age_ns"], LONG),
            ("the oldest call", &session["oldest_age_ns"], Duration::ZERO),
            ("the session", &session["age_ns"], 2 * LONG),
            ("the server", &seen["servers"][0]["age_ns"], 2 * LONG),
        ] {
            let age = ns(age);
            assert!(age >= least && age <= began.elapsed(), "{ahead} {what}: {age:?}");
        }
        assert_eq!(seen["servers"][0]["state"], "alive", "{seen:#}");
        std::fs::write(&gate, b"").expect("opened");
        client.expect("done");
    }
    done!("with the server's clock ahead by 100 000 s and behind by 100 s")
}
