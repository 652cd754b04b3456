//! What is counted per process: descriptors, mappings, threads. Each test runs in a process of its
//! own.

use super::*;
use crate::handshake::tests::alone;
use std::path::Path;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

fn mappings(kind: &str) -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .expect("procfs")
        .matches(&format!("memfd:ringbell:{kind}"))
        .count()
}

#[test]
fn a_thousand_rounds_leave_nothing_behind() {
    if !alone(module_path!(), "a_thousand_rounds_leave_nothing_behind") {
        return;
    }
    let before = descriptors();
    let fixture = Fixture::new(settings());
    let round = || {
        let (client, server) = fixture.join();
        drop(client);
        assert_eq!(fixture.died(), (server.session, Death::HungUp));
        let session = server.session;
        drop(server);
        fixture.handle().closed(session);
    };
    let settled =
        |fds, maps| eventually("nothing left", || (descriptors(), mappings("")) == (fds, maps));
    round();
    // The spare, which it makes when it has time, and no domain.
    eventually("idle, with a spare", || (mappings("response"), mappings("bell")) == (1, 0));
    let (fds, maps) = (descriptors(), mappings(""));
    for _ in 0..1000 {
        round();
    }
    settled(fds, maps);
    // Failed handshakes leave nothing, either.
    for _ in 0..100 {
        drop(welcomed(&fixture));
        fixture.answer(&noise(100));
    }
    settled(fds, maps);
    drop(fixture);
    assert_eq!((descriptors(), mappings("")), (before, 0));
}

#[test]
fn without_descriptors_clients_are_told_so_and_the_porter_does_not_spin() {
    if !alone(
        module_path!(),
        "without_descriptors_clients_are_told_so_and_the_porter_does_not_spin",
    ) {
        return;
    }
    let fixture = Fixture::new(settings());
    let (_client, server) = fixture.join();
    eventually("a spare beside the two ends of the session", || mappings("response") == 3);
    let old = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // One for the client's socket.
    let limit = highest_descriptor() + 2;
    let set = |current| {
        let new = rustix::process::Rlimit { current, maximum: old.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, new).expect("set");
    };
    set(Some(limit));
    let fill: Vec<_> = std::iter::from_fn(|| server.lifeline.try_clone().ok()).collect();
    drop(fill.last().expect("room for one").try_clone());
    let mut fill = fill;
    for _ in 0..5 {
        fill.pop();
        let open = || std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
        let before = open();
        let result = fixture.attach();
        // Until the porter has its reserve again, one descriptor less is open; filled up now, there
        // would be none.
        eventually("settled", || before.is_some() && open() == before);
        let got = matches!(
            result,
            Err(ConnectError::Rejected(RejectReason::OutOfDescriptors)
                | ConnectError::OutOfDescriptors)
        );
        assert!(got, "{result:?}");
        while let Ok(one) = server.lifeline.try_clone() {
            fill.push(one);
        }
    }
    assert!(fixture.rejected(RejectReason::OutOfDescriptors) > 0);
    drop(fill);
    set(old.current);
    eventually("it lets clients in again", || fixture.attach().is_ok());
}

fn highest_descriptor() -> u64 {
    let names = std::fs::read_dir("/proc/self/fd").expect("procfs");
    names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok()).max().expect("some")
}

/// The calls that wait for an epoll. Only older architectures have the one without `p`.
#[cfg(target_arch = "x86_64")]
const EPOLL_WAITS: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
#[cfg(not(target_arch = "x86_64"))]
const EPOLL_WAITS: &[libc::c_long] = &[libc::SYS_epoll_pwait];

#[test]
fn an_idle_porter_sleeps() {
    if !alone(module_path!(), "an_idle_porter_sleeps") {
        return;
    }
    let fixture = Fixture::new(settings());
    let (_client, _server) = fixture.join();
    let task = porter_task();
    // In the kernel's epoll wait, without a timeout to come.
    eventually("asleep", || {
        let call = std::fs::read_to_string(task.join("syscall")).expect("readable");
        let fields: Vec<_> = call.split_whitespace().collect();
        let number = fields.first().and_then(|number| number.parse().ok());
        number.is_some_and(|number| EPOLL_WAITS.contains(&number))
            && fields.get(4).is_some_and(|timeout| timeout.ends_with("ffffffff"))
    });
}

fn porter_task() -> PathBuf {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let is_porter = |path: &Path| {
        std::fs::read_to_string(path.join("comm"))
            .is_ok_and(|name| name.trim() == "ringbell-porter")
    };
    tasks.filter_map(|task| Some(task.ok()?.path())).find(|path| is_porter(path)).expect("it runs")
}
