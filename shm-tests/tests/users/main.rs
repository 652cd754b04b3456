//! Users beside each other: shares of what a server has, users without a mapping, and what one
//! user's doings cost another.

mod neighbours;
mod nobody;
mod shares;

use neighbours::*;
use nobody::*;
use ringbell_shm_tests::suite;
use shares::*;

suite! {
    tests: [
        p8_silent_connections_leave_room_for_a_third_user,
        p8_silent_connections_leave_room_for_strangers,
        p8_clients_leave_room_for_a_third_user,
        p8_each_user_has_limits_of_its_own,
        p6_large_rings_cost_the_user_that_asks_for_them,
        p7_cancels_cost_the_user_that_sends_them,
        p7_a_cancel_among_many_finds_its_call,
        h4_nobody_is_not_the_servers_user,
        h4_nobody_is_let_in_where_everybody_is,
    ],
    roles: [
        silent,
        clients,
        asks,
        impatient,
        looks,
        victim,
        asks_for_large_rings,
        cancels_unknown_calls,
    ],
}

/// Users of these tests, none of whom exists.
const USERS: [u32; 3] = [41_001, 41_002, 41_003];

/// Why a test with several users cannot run here; `None` if it can.
fn only_one_user() -> Option<ringbell_shm_tests::harness::Ran> {
    let may = rustix::process::geteuid().is_root();
    (!may).then(|| {
        ringbell_shm_tests::harness::Ran::Skipped("only root can become another user".into())
    })
}

/// A directory that everybody may enter.
fn open_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    dir
}

fn uids(users: &[u32]) -> String {
    users.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}
