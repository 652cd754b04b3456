//! Odd hosts and poor machines: refused system calls, low limits, poor file systems, namespaces,
//! valgrind. Each ends in sessions that work, or in an error that names the thing.

mod limits;
mod namespaces;
mod places;
mod refused;
mod roles;
mod valgrind;

use limits::*;
use namespaces::*;
use places::*;
use refused::*;
use ringbell_shm_tests::suite;
use roles::*;
use valgrind::*;

suite! {
    tests: [
        h2_a_server_without_a_call_serves_or_names_it,
        h2_a_server_that_cannot_see_pages_offers_the_socket,
        h2_a_server_without_the_socket_as_transport_names_the_call,
        h2_a_server_in_a_loop_without_a_call_serves_or_names_it,
        h2_a_listener_for_bytes_without_a_call_serves_or_names_it,
        h2_a_client_without_a_call_is_served,
        h2_a_call_that_is_refused_later_costs_no_cpu,
        h2_a_server_that_loses_a_call_serves_or_names_it,
        h2_a_client_that_loses_a_call_is_served,
        h2_a_byte_stream_that_loses_a_call_goes_on,
        h2_a_client_whose_host_closes_everything_learns_of_it,
        h2_a_server_that_cannot_accept_any_more_says_so,
        h2_a_lack_of_descriptors_is_waited_out,
        h5_locked_memory_with_a_low_limit_is_an_error_or_the_socket,
        h5_a_full_file_system_is_named,
        h5_a_read_only_file_system_is_named,
        h5_a_foreign_lock_in_a_sticky_directory_is_named,
        h5_a_path_that_is_too_long_is_named,
        h5_a_relative_path_outlives_chdir,
        h5_peers_in_different_namespaces_exchange_requests,
        h6_a_server_and_a_client_run_under_valgrind,
    ],
    roles: [host, guest, napper],
}
