//! What callers suffer, whatever serves them: each scene by what an operator sees.

use crate::engines::{POOL, Stage};
use crate::scene::{codes, finds, has, output, report, say_of, text};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::{done, observe, wait_until};
use serde_json::Value;

/// Looks until a finding says all that is wanted.
fn says(target: &str, (code, severity): (&str, &str), wanted: &[&str]) -> String {
    let mut said = String::new();
    wait_until(&format!("{code} says {wanted:?}"), || {
        said = finds(target, code, severity);
        wanted.iter().all(|part| said.contains(part))
    });
    said
}

/// The age that a finding tells, in seconds, at least.
fn is_told_old(target: &str, code: &str, call: &str) {
    // A time of seconds, not that between two looks.
    wait_until("the age is told", || {
        let said = finds(target, code, "problem");
        let age = said.split_once(call).map_or("", |(_, rest)| rest);
        let number = age.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        number.is_some_and(|ms| ms >= 1_000)
    });
}

pub(crate) fn d1_a_pool_that_is_deadlocked_is_a_problem() -> Ran {
    let stage = Stage::new("pool");
    let mut client = stage.client("async");
    client.tell(&format!("{POOL} lock"));
    client.expect("done");
    let pid = stage.pid();
    let waits = format!("{POOL} wait for a lock or a condition");
    let said = says(
        &pid,
        ("late-answer", "problem"),
        &[&format!("({POOL} are in flight)"), "the server has taken its request", "pool-"],
    );
    // The keeper of the lock waits, too, and so does the thread that hears the test: by a pipe.
    assert!(said.contains("wait for a lock or a condition"), "not {waits:?}: {said}");
    is_told_old(&pid, "late-answer", "waits for at least ");
    let (shown, status) = say_of(&["show", &pid, "--late", "1s"]);
    assert!(status == 1 && !shown.contains("all is well"), "{shown}");
    let (_, status) = say_of(&["show", &pid, "--late", "1000s"]);
    assert_eq!(status, 0, "as long as it may take");
    done!("{POOL} threads of a pool, and as many calls of an AsyncClient")
}

pub(crate) fn d2_a_server_whose_every_answer_is_an_error_is_a_problem() -> Ran {
    let stage = Stage::new("serial");
    let (mut client, mut good) = (stage.client("client"), stage.client("client"));
    good.tell("call echo");
    good.expect("done");
    client.tell("repeat fail");
    client.expect("begun");
    let said = says(&stage.pid(), ("errors", "problem"), &["/s)", "of all"]);
    assert!(said.contains("most of them to session 1"), "{said}");
    client.tell("stop");
    client.expect("done");
    let said = says(&stage.pid(), ("errors", "note"), &["none between the looks"]);
    assert!(said.contains("requests are answered with an error"), "{said}");
    done!("one of two clients gets nothing but errors")
}

pub(crate) fn d2_a_server_whose_every_handler_panics_is_a_problem() -> Ran {
    for engine in ["serial", "pool"] {
        let stage = Stage::new(engine);
        let mut client = stage.client("client");
        client.tell("repeat panic");
        client.expect("begun");
        let said = says(&stage.pid(), ("panics", "problem"), &["/s)", "of all requests"]);
        assert!(said.contains("handlers panic"), "{said}");
        let (report, _) = report(&stage.pid());
        assert!(!codes(&report).iter().any(|(code, _)| code == "errors"), "twice: {report:#}");
        client.tell("stop");
        client.expect("done");
        says(&stage.pid(), ("panics", "note"), &["panicked so far, none between the looks"]);
    }
    done!("a serial server and a pool")
}

pub(crate) fn d2_clients_that_are_turned_away_at_the_limit_are_a_problem() -> Ran {
    let stage = Stage::with("serial", &[("max_clients", "2")]);
    let clients = [stage.client("client"), stage.client("client")];
    says(&stage.pid(), ("clients-at-limit", "note"), &["2 of at most 2", "max_clients"]);
    assert_eq!(report(&stage.pid()).1, 0, "nobody suffers");
    let mut third = stage.client("turned-away");
    let said = says(&stage.pid(), ("rejected", "problem"), &["2 of at most 2", "max_clients"]);
    assert!(said.contains("clients are turned away"), "{said}");
    third.tell("stop");
    third.succeed();
    let said = says(&stage.pid(), ("rejected", "note"), &["none between the looks"]);
    assert!(said.contains("turned away so far"), "{said}");
    done!("{} clients where 2 may be", clients.len() + 1)
}

pub(crate) fn d3_a_responder_that_nobody_answers_is_a_problem() -> Ran {
    let stage = Stage::new("reactor");
    let mut client = stage.client("client");
    client.tell("call keep");
    let pid = stage.pid();
    let said = says(
        &pid,
        ("late-answer", "problem"),
        &["session 1 (pid ", "the handler has not answered", "other thread"],
    );
    assert!(said.contains(&client.id().to_string()), "{said}");
    is_told_old(&pid, "late-answer", "waits for at least ");
    done!("a responder that is kept for ever")
}

pub(crate) fn d3_a_handler_that_waits_for_a_lock_is_told_from_one_that_loops_or_reads() -> Ran {
    let ways = [
        ("lock", "waits for a lock or a condition"),
        ("loop", "loops or computes; it had "),
        ("read", "waits for I/O: read"),
        ("sleep 600000", "waits for a time"),
    ];
    for (order, what) in ways {
        let stage = Stage::new("serial");
        let mut client = stage.client("client");
        client.tell(&format!("call {order}"));
        let pid = stage.pid();
        let tid = format!("thread {pid} (");
        says(&pid, ("server-busy", "problem"), &[what, &tid]);
        says(&pid, ("late-answer", "problem"), &[what, &tid]);
        is_told_old(&pid, "server-busy", "is awake, and for ");
        // And from a file: what was looked at is in it.
        let file = stage.directory.path().join("saved").display().to_string();
        let output = output(&["save", &pid, &file]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        says(&file, ("server-busy", "problem"), &[what, &tid]);
    }
    done!("{} handlers that do not end, live and saved", ways.len())
}

pub(crate) fn d3_a_handler_that_takes_less_than_late_is_no_problem() -> Ran {
    let stage = Stage::new("serial");
    let mut client = stage.client("client");
    client.tell("call sleep 600000");
    let pid = stage.pid();
    says(&pid, ("server-busy", "problem"), &["a handler runs that long"]);
    let (shown, status) = say_of(&["show", &pid, "--late", "86400s", "--json"]);
    let report: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(status, 0, "{report:#}");
    let codes = codes(&report);
    assert!(codes.contains(&("server-busy".into(), "note".into())), "{codes:?}");
    assert!(!codes.iter().any(|(code, _)| code == "late-answer"), "{codes:?}");
    done!("with a day for each call")
}

pub(crate) fn an_embedded_server_whose_handler_is_stuck_is_a_problem() -> Ran {
    let stage = Stage::new("embedded");
    let mut client = stage.client("client");
    client.tell("call lock");
    let what = "waits for a lock or a condition";
    says(&stage.pid(), ("late-answer", "problem"), &["call ", what]);
    done!("its loop is in the handler")
}

pub(crate) fn an_embedded_server_that_is_not_pumped_is_a_problem() -> Ran {
    let stage = Stage::new("embedded");
    let mut client = stage.client("client");
    client.tell("call leave");
    client.expect("done");
    client.tell("call echo");
    let said = says(
        &stage.pid(),
        ("loop-away", "problem"),
        &["its program does not pump it", "waits for a lock or a condition"],
    );
    assert!(said.contains("although the bell was rung"), "{said}");
    let (report, _) = report(&stage.pid());
    assert!(!codes(&report).iter().any(|(code, _)| code == "lost-wake"), "{report:#}");
    done!("armed, woken, and elsewhere")
}

pub(crate) fn a_byte_stream_whose_reader_does_not_read_is_a_problem() -> Ran {
    let stage = Stage::with("bytes", &[("ring", "4096")]);
    let mut client = stage.client("bytes");
    client.tell("flood");
    client.expect("flooding");
    let said = says(&stage.pid(), ("unread-bytes", "problem"), &["the ring is full"]);
    assert!(said.contains("the server's program has read nothing of the request ring"), "{said}");
    let (report, _) = report(&stage.pid());
    let codes = codes(&report);
    for other in ["lost-wake", "server-busy", "full-ring", "late-answer"] {
        assert!(!codes.iter().any(|(code, _)| code == other), "{other}: {report:#}");
    }
    done!("a mebibyte for a ring of 4 KiB")
}

pub(crate) fn a_late_call_over_the_socket_is_a_problem() -> Ran {
    let stage = Stage::new("reactor");
    let mut client = stage.client_with("client", &[("socket", "yes")]);
    client.tell("call keep");
    let socket = stage.path.display().to_string();
    let said = says(&socket, ("late-answer", "problem"), &["session 1 (over the socket)"]);
    is_told_old(&socket, "late-answer", "waits for at least ");
    says(&socket, ("fallback", "note"), &["nothing of them can be seen"]);
    assert!(said.contains("the server has taken its request"), "{said}");
    done!("of which nothing is in shared memory")
}

pub(crate) fn a_handler_that_is_stuck_over_the_socket_is_a_problem() -> Ran {
    let stage = Stage::new("serial");
    let mut client = stage.client_with("client", &[("socket", "yes")]);
    client.tell("call read");
    let said = says(&stage.pid(), ("late-answer", "problem"), &["waits for I/O: read"]);
    assert!(said.contains("a request that cannot be seen from here waits"), "{said}");
    done!("a serial server, and a session of which nothing can be seen")
}

pub(crate) fn an_async_client_whose_loop_is_stuck_is_told() -> Ran {
    let stage = Stage::new("pool");
    let gate = stage.directory.path().join("gate");
    let mut client = stage.client("async");
    client.tell(&format!("1 await {}", gate.display()));
    client.expect("done");
    wait_until("the client sleeps in its loop", || observe::all_threads_sleep(client.id()));
    client.tell("0 block");
    client.expect("blocked");
    std::fs::write(&gate, b"").expect("opened");
    // Late by no measure, whoever says since when it waits.
    let look = || {
        let (shown, _) = say_of(&["show", &stage.pid(), "--late", "86400s", "--json"]);
        serde_json::from_str::<Value>(&shown).expect("JSON")
    };
    wait_until("the client is told", || has(&look(), "slow-client", "note"));
    let said = look()["findings"].to_string();
    let event_loop = "1 answer unread: the client's event loop was woken, and has not taken them";
    assert!(said.contains(event_loop), "{said}");
    assert!(said.contains(&format!("pid {}", client.id())), "{said}");
    says(&stage.pid(), ("slow-client", "problem"), &["the client's event loop was woken"]);
    let (report, _) = report(&stage.pid());
    assert!(!codes(&report).iter().any(|(code, _)| code == "lost-wake"), "{report:#}");
    done!("armed, woken, and elsewhere")
}

pub(crate) fn answers_to_a_client_that_is_gone_are_told() -> Ran {
    let stage = Stage::new("pool");
    let gate = stage.directory.path().join("gate");
    let mut client = stage.client("client");
    client.tell(&format!("post await {}", gate.display()));
    client.expect("done");
    wait_until("it is in the handler", || {
        report(&stage.pid()).0["servers"][0]["counters"]["in_flight"] == 1
    });
    client.kill();
    wait_until("the session is over", || {
        report(&stage.pid()).0["sessions"].as_array().is_some_and(Vec::is_empty)
    });
    std::fs::write(&gate, b"").expect("opened");
    says(&stage.pid(), ("orphans", "note"), &["answers were complete only after", ": 1 so far"]);
    done!("killed while its request was in a handler")
}

pub(crate) fn sessions_that_were_ended_for_slowness_are_told() -> Ran {
    let stage = Stage::with("serial", &[("ring", "4096"), ("slow", "50")]);
    let mut client = stage.client("client");
    for _ in 0..10 {
        client.tell("post size 1000");
        client.expect("done");
    }
    says(
        &stage.pid(),
        ("slow-clients-ended", "note"),
        &["the client did not read its answers: 1 so far"],
    );
    done!("10 answers of 1000 bytes for a ring of 4 KiB, and 50 ms")
}

pub(crate) fn requests_that_come_too_late_to_be_run_are_told() -> Ran {
    let stage = Stage::new("serial");
    let gate = stage.directory.path().join("gate");
    let mut client = stage.client_with("client", &[("deadlines", "yes")]);
    let mut busy = stage.client("client");
    busy.tell(&format!("call await {}", gate.display()));
    says(&stage.pid(), ("server-busy", "problem"), &["a handler runs that long"]);
    client.tell("hurry echo");
    client.expect("begun");
    // Requests that nobody waits for any more stay in its ring.
    says(&stage.pid(), ("timeouts", "problem"), &["/s)"]);
    client.tell("stop");
    client.expect("done");
    std::fs::write(&gate, b"").expect("opened");
    let said = says(&stage.pid(), ("expired", "note"), &["none between the looks"]);
    assert!(said.contains("requests are not run since their deadline had passed"), "{said}");
    done!("5 ms for each call, while another client's takes long")
}

pub(crate) fn calls_that_time_out_are_a_problem() -> Ran {
    let stage = Stage::new("reactor");
    let mut client = stage.client("client");
    client.tell("hurry keep");
    client.expect("begun");
    let said = says(&stage.pid(), ("timeouts", "problem"), &["of all", "/s)"]);
    assert!(said.contains(&format!("pid {}", client.id())), "{said}");
    says(&stage.pid(), ("cancelled", "problem"), &["calls are given up while in flight"]);
    client.tell("stop");
    client.expect("done");
    done!("5 ms for each call, and no answer")
}

pub(crate) fn a_client_at_max_in_flight_is_told_with_its_limit() -> Ran {
    let stage = Stage::with("reactor", &[("max_in_flight", "4"), ("ring", "4096")]);
    let mut client = stage.client("client");
    for _ in 0..12 {
        client.tell("post keep");
        client.expect("done");
    }
    says(&stage.pid(), ("in-flight-limit", "note"), &["4 of at most 4", "max_in_flight"]);
    done!("12 requests where 4 may be in flight")
}

pub(crate) fn bytes_that_are_held_at_the_limit_are_told_with_it() -> Ran {
    let stage = Stage::with("serial", &[("held", "65536"), ("ring", "4096")]);
    let mut client = stage.client("client");
    // Events that the client does not take: they fill its ring, then what may be held for it.
    client.tell("post events 100000");
    client.expect("done");
    let said = says(&stage.pid(), ("held-limit", "note"), &["of at most 65536 bytes"]);
    assert!(said.contains("refusal"), "{said}");
    done!("100 000 events, and room for 64 KiB")
}

pub(crate) fn events_that_are_dropped_are_told() -> Ran {
    let stage = Stage::new("serial");
    let mut client = stage.client_with("client", &[("max_events", "10")]);
    for _ in 0..20 {
        client.tell("call events 100");
        client.expect("done");
    }
    // Events are read along with answers, and kept until they are asked for.
    client.tell("repeat echo");
    client.expect("begun");
    let said = says(&stage.pid(), ("events-dropped", "note"), &["events were dropped"]);
    assert!(said.contains(&format!("pid {}", client.id())), "{said}");
    client.tell("stop");
    client.expect("done");
    done!("2000 events, and room for 10")
}

pub(crate) fn d3_healthy_busy_servers_of_every_engine_have_no_findings() -> Ran {
    let mut looks = 0;
    for engine in ["serial", "reactor", "pool", "embedded", "bytes"] {
        let stage = Stage::new(engine);
        let mut client = stage.client(if engine == "bytes" { "bytes" } else { "client" });
        if engine == "bytes" {
            client.tell("load");
        } else {
            client.tell("repeat echo");
            client.expect("begun");
        }
        for target in [stage.pid(), stage.path.display().to_string(), client.id().to_string()] {
            for _ in 0..4 {
                let (report, status) = report(&target);
                let mut codes = codes(&report);
                // On a machine with more work than CPUs a side that was rung may wait for its turn.
                codes.remove(&("lost-wake".into(), "note".into()));
                assert_eq!((codes.len(), status), (0, 0), "{engine}: {report:#}");
                looks += 1;
            }
        }
        client.tell("stop");
        client.expect("done");
    }
    done!("{looks} looks at 5 engines")
}

pub(crate) fn a_stream_that_is_open_for_long_is_no_late_call() -> Ran {
    let stage = Stage::with("reactor", &[("ring", "4096")]);
    let mut client = stage.client("client");
    client.tell("stream");
    client.expect("waits");
    let age = |report: &Value| report["sessions"][0]["age_ns"].as_u64().expect("an age");
    let (mut looks, since) = (0, age(&report(&stage.pid()).0));
    wait_until("it is open for longer than a call may wait", || {
        let (report, status) = report(&stage.pid());
        assert_eq!((codes(&report).len(), status), (0, 0), "{report:#}");
        looks += 1;
        age(&report) - since > 1_500_000_000
    });
    done!("{looks} looks at one that has brought an item and brings no more")
}

pub(crate) fn every_verdict_is_explained() -> Ran {
    let stage = Stage::new("serial");
    let mut client = stage.client("client");
    client.tell("call lock");
    says(&stage.pid(), ("late-answer", "problem"), &["lock"]);
    wait_until("the client sleeps", || observe::all_threads_sleep(client.id()));
    let (report, _) = report(&stage.pid());
    Stage::explains(&codes(&report));
    for finding in report["findings"].as_array().expect("findings") {
        let advice = finding["advice"].as_str().expect("advice");
        let (shown, _) = say_of(&["explain", finding["code"].as_str().expect("a code")]);
        assert!(shown.contains(advice), "{shown}");
        let (shown, _) = say_of(&["show", &stage.pid(), "--color", "never"]);
        assert_eq!(shown.matches(advice).count(), 1, "once for each code: {shown}");
    }
    let (list, status) = say_of(&["explain"]);
    assert!(status == 0 && list.contains("late-answer") && list.contains("unsealed"), "{list}");
    let wrong = output(&["explain", "late-anser"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("late-answer"), "{}", text(&wrong.stderr));
    done!("in JSON, in the text, and by its word")
}
