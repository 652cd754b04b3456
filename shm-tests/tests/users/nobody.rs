//! The overflow uid, as which all users without a mapping show in a user namespace.

use super::shares::{asked, become_its_user, start};
use super::{USERS, only_one_user, open_directory};
use ringbell_shm_tests::harness::Ran;
use ringbell_shm_tests::process::{Arguments, Start, say};
use ringbell_shm_tests::server::Server;
use ringbell_shm_tests::{done, raw, wait_until};
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The uid that stands for users without a mapping.
fn overflow_uid() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").expect("procfs");
    text.trim().parse().expect("a number")
}

/// The arguments of `unshare` for a user namespace in which this user is `uid`, and no other user
/// has a mapping.
fn namespace(uid: u32) -> [String; 3] {
    ["--user".into(), format!("--map-user={uid}"), format!("--map-group={uid}")]
}

fn cannot_run() -> Option<Ran> {
    if let Some(skipped) = only_one_user() {
        return Some(skipped);
    }
    let made = Command::new("unshare").args(namespace(overflow_uid())).arg("true").status();
    (!made.is_ok_and(|status| status.success()))
        .then(|| Ran::Skipped("`unshare --user --map-user` makes no namespace here".into()))
}

/// Says Hello as an inspector; says what kind of answer came, and the reason if it is a refusal.
pub(super) fn looks(arguments: &Arguments) {
    if arguments.get("uid").is_some() {
        become_its_user(arguments);
    }
    let stream = raw::connect(Path::new(arguments.text("path")));
    let mut hello = raw::hello(2048);
    hello[16 + 4] = 2; // an inspector
    // It may have been refused before it has said anything.
    let _ = (&stream).write_all(&hello);
    let answer = raw::receive(&stream).expect("an answer");
    if answer.kind == raw::kind::REJECT {
        say(&format!("rejected {}", answer.reason()));
    } else {
        say(&format!("kind {}", answer.kind));
    }
}

/// A server that shows as the overflow uid to itself, in a namespace of its own.
fn server_of_nobody(path: &Path) -> ringbell_shm_tests::server::Prepared {
    let arguments = namespace(overflow_uid());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Server::prepare_under("unshare", &arguments, "do").at(path).with("mode", 0o666)
}

pub(super) fn h4_nobody_is_not_the_servers_user() -> Ran {
    if let Some(skipped) = cannot_run() {
        return skipped;
    }
    let dir = open_directory();
    let path = dir.path().join("test.sock");
    let overflow = overflow_uid().to_string();
    for listed in [None, Some(&overflow)] {
        let mut server = server_of_nobody(&path);
        if let Some(uids) = listed {
            server = server.with("uids", uids);
        }
        let mut server = server.start();
        for uid in USERS {
            assert_eq!(asked(&path, uid), "connect Rejected(PermissionDenied)");
            let mut looks = start("looks", &path, uid).start();
            assert_eq!(looks.hear(), "rejected 2", "an inspector without a mapping");
            looks.succeed();
        }
        // It has a mapping, to the very uid as which the others show: nobody can tell.
        let mut own = Start::role("asks").with("path", path.display()).start();
        assert_eq!(own.hear(), "connect Rejected(PermissionDenied)");
        own.succeed();
        wait_until("they are counted", || server.stats().rejected == 7);
        server.shut_down();
    }
    done!("{} users without a mapping, refused", USERS.len())
}

pub(super) fn h4_nobody_is_let_in_where_everybody_is() -> Ran {
    if let Some(skipped) = cannot_run() {
        return skipped;
    }
    let dir = open_directory();
    let path = dir.path().join("test.sock");
    let server = server_of_nobody(&path).with("anyone", 1).start();
    assert_eq!(asked(&path, USERS[0]), "answer ?");
    let mut looks = start("looks", &path, USERS[0]).start();
    assert_eq!(looks.hear(), "rejected 2", "an inspector without a mapping");
    looks.succeed();
    server.shut_down();
    // Where every uid has a mapping the overflow uid is a user like any other.
    let server =
        Server::prepare_at(&path, "do").with("mode", 0o666).with("uids", overflow_uid()).start();
    assert_eq!(asked(&path, overflow_uid()), "answer ?");
    server.shut_down();
    done!("by a server for anyone, and as a user with a mapping")
}
