//! The screen of `watch`.

use crate::pty;
use crate::scene::{Scene, ring_dump};
use ringbell_shm_tests::done;
use ringbell_shm_tests::harness::Ran;
use std::time::Duration;

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
        for seconds in 0..15 {
            std::thread::sleep(Duration::from_secs(1));
            screen.wait_for("more", |text| !text.is_empty() || seconds == 0);
        }
        screen.wait_for("a picture", |_| true);
        std::fs::write(path, screen.svg()).expect("written");
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
