//! Every verdict, provoked for real; and none where all is well.

use crate::scene::{Scene, codes, finds, output, report, say_of, sleeps};
use ringbell::layout;
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::{done, wait_until};

pub(crate) fn a_busy_server_is_well() -> Ran {
    let scene = Scene::new();
    let mut clients = [scene.client(), scene.client()];
    for client in &mut clients {
        client.tell("load 0");
    }
    let looks = 10;
    for target in [scene.pid(), scene.socket(), clients[0].id().to_string()] {
        for _ in 0..looks {
            let (report, status) = report(&target);
            let mut codes = codes(&report);
            // On a machine with more work than CPUs a side that was rung may wait for its turn.
            codes.remove(&("lost-wake".into(), "note".into()));
            assert_eq!((codes.len(), status), (0, 0), "{report:#}");
            let sessions = report["sessions"].as_array().expect("an array");
            assert_eq!(sessions.len(), if target == clients[0].id().to_string() { 1 } else { 2 });
            for session in sessions {
                assert_eq!(
                    (&session["state"], &session["peer"]["name"]),
                    (&"alive".into(), &"caller".into())
                );
                assert_eq!(session["request"]["capacity"], layout::DEFAULT_CAPACITY);
            }
        }
    }
    // It never sleeps, and yet its counters move: they are stored while it is busy, too.
    wait_until("rates are seen", || {
        let (report, _) = report(&scene.pid());
        report["servers"][0]["rates"]["requests"].as_f64().is_some_and(|rate| rate > 100.0)
    });
    for client in &mut clients {
        client.tell("stop");
        client.expect("done");
    }
    done!("{} looks at 2 clients under full load, through pid, socket and client", 3 * looks)
}

pub(crate) fn a_server_that_is_idle_is_well() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo 1");
    client.expect("done");
    for target in [scene.pid(), scene.socket()] {
        for _ in 0..5 {
            let (report, status) = report(&target);
            assert_eq!((codes(&report).len(), status), (0, 0), "{report:#}");
        }
    }
    sleeps(&scene.socket());
    done!("an idle server, asleep, with a session that is awake elsewhere")
}

pub(crate) fn a_stopped_server() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo 1");
    client.expect("done");
    // Then it has said how far it has read.
    sleeps(&scene.socket());
    scene.server.stop();
    client.tell("call echo 2");
    let pid = scene.pid();
    for target in [&pid, &scene.socket(), &client.id().to_string()] {
        wait_until("the oldest call is told", || {
            let texts = finds(target, "server-stopped", "problem");
            texts.contains("1 request queued, oldest at least")
                && texts.contains("server asleep although the bell was rung")
                && texts.contains(&format!("(pid {pid}) is stopped by a signal"))
                && texts.contains(&format!("session 1 (pid {})", client.id()))
        });
    }
    let (shown, status) = say_of(&["show", &pid, "--color", "never"]);
    assert!(
        status == 1 && shown.contains("problem  session 1") && !shown.contains('\x1b'),
        "{shown}"
    );
    scene.server.go_on();
    client.expect("done");
    wait_until("all is well", || report(&pid).1 == 0);
    done!("found by pid, by socket (which does not answer), and by the client's pid")
}

pub(crate) fn a_stopped_client() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client_with(&[("park", "yes")]);
    client.tell("call echo 1");
    client.expect("done");
    client.tell("post size 3000");
    client.expect("done");
    client.stop();
    let texts = finds(&scene.socket(), "client-stopped", "problem");
    assert!(
        texts.contains(&format!("session 1 (pid {}): the client is stopped", client.id())),
        "{texts}"
    );
    assert!(texts.contains("1 answer unread") || texts.contains("2 answers unread"), "{texts}");
    client.go_on();
    wait_until("all is well", || report(&scene.pid()).1 == 0);
    done!("with an answer that it does not take")
}

pub(crate) fn a_full_ring_before_a_long_handler() -> Ran {
    let scene = Scene::with(&[("ring", "4096")]);
    let mut client = scene.client_with(&[("park", "yes")]);
    client.tell("post sleep 600000");
    client.expect("done");
    client.tell("flood");
    client.expect("flooding");
    let texts = finds(&scene.pid(), "full-ring", "problem");
    assert!(texts.contains("the request ring is full"), "{texts}");
    wait_until("it is seen to wait for room", || {
        finds(&scene.pid(), "full-ring", "problem").contains("and the client waits for room")
    });
    let texts = finds(&scene.pid(), "server-busy", "problem");
    assert!(texts.contains("a handler runs that long"), "{texts}");
    // The porter answers inspectors while the reactor is stuck.
    finds(&scene.socket(), "server-busy", "problem");
    done!("a ring of 4 KiB, and a handler of 10 minutes")
}

pub(crate) fn a_slow_client() -> Ran {
    let scene = Scene::with(&[("ring", "4096")]);
    let mut client = scene.client();
    for _ in 0..10 {
        client.tell("post size 1000");
        client.expect("done");
    }
    // It now waits for its next order, and takes no answer.
    let texts = finds(&scene.socket(), "slow-client", "problem");
    assert!(texts.contains("the client is busy elsewhere; the ring is full"), "{texts}");
    assert!(texts.contains(&format!("pid {}", client.id())), "{texts}");
    done!("10 answers of 1000 bytes for a ring of 4 KiB")
}

pub(crate) fn a_dead_client_of_a_stopped_server() -> Ran {
    let scene = Scene::new();
    let mut client = scene.client();
    let other = scene.client();
    let id = client.id();
    scene.server.stop();
    client.kill();
    let texts = finds(&scene.pid(), "client-dead", "problem");
    assert!(texts.contains(&format!("(pid {id}): the client is dead")), "{texts}");
    assert_eq!(texts.lines().count(), 1, "{} lives: {texts}", other.id());
    scene.server.go_on();
    wait_until("the session is gone", || {
        report(&scene.pid()).0["sessions"].as_array().is_some_and(|all| all.len() == 1)
    });
    assert_eq!(report(&scene.pid()).1, 0);
    done!("one of two clients, while its server is stopped")
}

pub(crate) fn a_dead_server() -> Ran {
    let mut scene = Scene::new();
    let mut client = scene.client();
    client.tell("call echo 1");
    client.expect("done");
    client.stop();
    let pid = scene.pid();
    scene.server.kill();
    let texts = finds(&client.id().to_string(), "server-dead", "problem");
    assert!(texts.contains(&format!("the server (pid {pid}) is dead; 1 session left")), "{texts}");
    assert_eq!(output(&["show", &pid]).status.code(), Some(3), "there is no such process");
    done!("seen in the memory of its client")
}

pub(crate) fn a_call_that_takes_long() -> Ran {
    let scene = Scene::with(&[("ring", "4096")]);
    let mut client = scene.client_with(&[("park", "yes")]);
    client.tell("call echo 1");
    client.expect("done");
    client.tell("call sleep 600000");
    // One request: it was read, and its place not given back, since the server does not sleep
    // meanwhile.
    let texts = finds(&scene.pid(), "server-busy", "problem");
    assert!(texts.contains("in its rings: a handler runs that long"), "{texts}");
    wait_until("its age is told", || {
        let (report, _) = report(&scene.pid());
        report["sessions"][0]["oldest_age_ns"].as_u64().is_some_and(|age| age > 1_000_000_000)
            && report["sessions"][0]["in_flight"] == 1
    });
    done!("one call in a handler of 10 minutes, over a second old")
}
