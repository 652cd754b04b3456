//! What a peer can do to a server through the kernel: locks of inodes, holes in files, pages that
//! are pinned, waiters on a futex.
//!
//! What must hold: no thread of the server waits for a peer in the kernel, its memory group does
//! not grow, and clients of other uids do not notice. The attackers are processes of another uid,
//! which speak the handshake by hand.

mod beside;
mod faults;
mod file_sizes;
mod groups;
mod holes;
mod listed_calls;
mod locks;
mod pins;
mod strace;
mod users;
mod wakes;

use beside::*;
use file_sizes::*;
use groups::*;
use holes::*;
use listed_calls::*;
use locks::*;
use pins::*;
use ringbell_shm_tests::suite;
use users::*;
use wakes::*;

suite! {
    tests: [
        p1_a_write_lock_on_the_request_memfd_stops_nobody,
        p1_a_write_lock_on_the_request_memfd_stops_no_embedded_server,
        p1_a_server_ends_while_a_write_lock_is_held,
        p3_one_wake_wakes_one,
        p12_holes_are_never_touched_before_ready,
        p12_holes_are_never_touched_after_ready,
        p13_spliced_pages_do_not_swell_the_server,
        p13_ended_sessions_that_are_kept_do_not_swell_the_server,
        h1_a_limit_on_files_leads_to_the_socket,
        h1_a_server_that_can_offer_nothing_says_why,
        h1_a_limited_byte_listener_and_a_limited_client_get_on,
        h3_large_rings_do_not_bring_the_oom_killer,
        h3_a_setting_overrides_the_group,
        a_session_makes_only_the_listed_calls_on_its_descriptors,
        a_byte_stream_makes_only_the_listed_calls_on_its_descriptors,
    ],
    roles: [
        visitor, caller, locker, waiters, puncher, pinner, byte_server, keeper, ring_asker,
        limited_server, limited_binder, limited_client,
    ],
}
