//! Odd hosts and poor machines: refused system calls, low limits, poor file systems, namespaces,
//! valgrind. Each ends in sessions that work, or in an error that names the thing.

mod refused;
mod roles;

use refused::*;
use ringbell_shm_tests::suite;
use roles::*;

suite! {
    tests: [
        h2_a_server_without_a_call_serves_or_names_it,
        h2_a_server_without_the_socket_as_transport_names_the_call,
        h2_a_server_in_a_loop_without_a_call_serves_or_names_it,
        h2_a_listener_for_bytes_without_a_call_serves_or_names_it,
        h2_a_client_without_a_call_is_served,
        h2_a_call_that_is_refused_later_costs_no_cpu,
        h2_a_server_that_cannot_accept_any_more_says_so,
    ],
    roles: [host, guest, napper],
}
