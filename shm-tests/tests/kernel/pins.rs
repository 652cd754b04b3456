//! P13: a client pins pages that it shares with the server (here in pipes) and punches them out of
//! the file. Whoever touches the hole allocates a new page; the pinned one stays charged to whoever
//! allocated it.

use crate::groups::Group;
use crate::users::{HONEST, HOSTILE, become_the_user, name, only_one_user, open_server};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, hear, say};
use ringbell_shm_tests::{done, raw, scaled};
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use std::time::Duration;

/// What a pipe holds.
const PAGES: u64 = 16;
const PAGE: u64 = 4096;

/// The role: in each round a pipe is filled with pages that the server reads, each of them punched
/// out as soon as the server has touched the hole that was left.
pub(crate) fn pinner(arguments: &Arguments) {
    become_the_user(arguments);
    let session = raw::Session::open(arguments.text("path").as_ref(), 2048);
    let named = |wanted| session.descriptors.iter().find(|fd| name(fd) == wanted);
    let target = named("bell").or(named("request")).expect("a request segment");
    say(&format!("pins {}", name(target)));
    let rounds: u64 = hear().expect("a count").parse().expect("a number");
    let (mut pipes, mut pinned, mut punched, mut filled) = (Vec::new(), 0u64, 0u64, 0u64);
    for _ in 0..rounds {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        for _ in 0..PAGES {
            pinned += pin(target, &writer);
            if raw::punch(target, PAGE).is_ok() {
                punched += 1;
                // The server looks at its bells whenever it goes to sleep. If it does not fill the
                // holes of this file at all, there is no use in waiting for each.
                let limit = Duration::from_millis(if filled == 0 && punched > 3 { 1 } else { 500 });
                let blocks = || rustix::fs::fstat(target).expect("fstat").st_blocks;
                filled += u64::from(becomes_true_at_once(limit, || blocks() != 0));
            }
        }
        pipes.push(reader);
    }
    say(&format!("pinned {pinned} {punched} {filled}"));
    while hear().is_some() {}
}

/// As `becomes_true`, without a pause.
fn becomes_true_at_once(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = std::time::Instant::now() + limit;
    while !condition() {
        if std::time::Instant::now() > until {
            return false;
        }
        rustix::thread::sched_yield();
    }
    true
}

/// Pins the first page of the file; how many pages were.
fn pin(file: &OwnedFd, pipe: &OwnedFd) -> u64 {
    let mut at = 0;
    let page = usize::try_from(PAGE).expect("small");
    match splice(file, Some(&mut at), pipe, None, page, SpliceFlags::NONBLOCK) {
        Ok(count) => u64::from(count != 0),
        Err(error) => panic!("splice: {error}"),
    }
}

pub(crate) fn p13_spliced_pages_do_not_swell_the_server() -> Ran {
    if let Some(skipped) = only_one_user() {
        return skipped;
    }
    let group = match Group::new() {
        Ok(group) => group,
        Err(missing) => return Ran::Skipped(missing),
    };
    let rounds = scaled(500).min(500);
    let (mut server, _dir) = open_server("thread");
    group.take_in(server.id());
    let mut caller = Start::role("caller")
        .with("path", server.path().display())
        .with("uid", HONEST)
        .with("what", "calls")
        .start();
    caller.expect("ready");
    // The server has what it needs for its clients.
    caller.tell("measure 200 5000 100");
    caller.expect("took");
    let mut pinner =
        Start::role("pinner").with("path", server.path().display()).with("uid", HOSTILE).start();
    let what = pinner.expect("pins");
    server.wait_for_sessions(2);
    let before = group.usage();
    pinner.tell(&rounds.to_string());
    // Calls all the while, so that the server goes to sleep all the while.
    let said = loop {
        caller.tell("measure 200 5000 100");
        caller.expect("took");
        if let Some(said) = pinner.hear_within(Duration::ZERO) {
            break said;
        }
    };
    let after = group.usage();
    let grown = after.saturating_sub(before);
    let numbers: Vec<u64> = said
        .strip_prefix("pinned ")
        .expect("what was pinned")
        .split(' ')
        .map(|number| number.parse().expect("a number"))
        .collect();
    let [pinned, punched, filled] = numbers[..] else { panic!("three numbers: {said}") };
    assert_eq!(pinned, rounds * PAGES, "of each page a reference is in a pipe");
    // What the kernel counts in advance for each CPU, and what the server allocates for itself.
    let slack = 2 << 20;
    assert!(
        grown < slack,
        "the server's group grew from {before} to {after} B: {pinned} pages of {what} pinned, \
         {punched} punched out, {filled} holes filled"
    );
    caller.hang_up();
    drop(pinner);
    server.shut_down();
    done!("{grown} B more: {pinned} pages of {what} pinned, {punched} punched out, {filled} filled")
}
