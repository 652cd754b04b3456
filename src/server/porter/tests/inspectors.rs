//! What inspectors are shown.

use super::*;
use crate::handshake::{Inspector, Role, Survey};
use crate::inspect::{Segment as Decoded, decode};
use crate::memory::layout::CONTROL;
use std::os::fd::OwnedFd;

fn survey(fixture: &Fixture) -> Survey {
    let inspector = Inspector::connect(&fixture.path, Some(PATIENCE)).expect("connected");
    assert_eq!(inspector.listener(), Some(std::process::id()));
    inspector.survey().expect("shown")
}

fn decoded(segment: &OwnedFd) -> Decoded {
    let mut page = vec![0; CONTROL];
    assert_eq!(rustix::io::pread(segment, &mut page, 0), Ok(CONTROL));
    decode(&page).expect("a segment")
}

#[test]
fn an_inspector_sees_all_sessions_and_can_write_nothing() {
    let fixture = Fixture::new(PorterConfig { fallback: true, ..settings() });
    // More than one message takes.
    let clients: Vec<_> = (0..40).map(|_| fixture.join()).collect();
    let shown = survey(&fixture);
    assert_eq!((shown.generation, shown.sockets, shown.pid), (GENERATION, 0, std::process::id()));
    assert_eq!(shown.segments.len(), 1 + 2 * clients.len());
    let mut sessions = Vec::new();
    for (index, segment) in shown.segments.iter().enumerate() {
        match decoded(segment) {
            Decoded::Status(_) => assert_eq!(index, 0),
            Decoded::Request(request) => sessions.push(request.identity.session),
            Decoded::Response(response) => {
                assert_eq!(Some(&response.identity.session), sessions.last())
            }
            Decoded::Bell(bell) => panic!("whoever holds it can write it: {bell:?}"),
        }
        assert!(rustix::io::pwrite(segment, &[1], 0).is_err(), "it is sealed");
        assert!(memmap2::MmapOptions::new().map_raw(segment).is_err(), "for mappings, too");
    }
    let all: Vec<u64> = clients.iter().map(|(_, joined)| joined.session).collect();
    assert_eq!(sessions, all);
    assert_eq!(fixture.handle().counters().rejected_total(), 0);
    assert_eq!(count(&fixture.handle().counters().failed), 0);
    assert_eq!(count(&fixture.handle().counters().joined), 40);

    // What is closed is shown no more, and nobody but the server keeps it.
    fixture.handle().closed(clients[0].1.session);
    eventually("one session less", || survey(&fixture).segments.len() == 1 + 2 * 39);
}

#[test]
fn whoever_could_trace_the_server_is_no_client_for_it() {
    let me = rustix::process::geteuid().as_raw();
    let fixture =
        Fixture::new(PorterConfig { credentials: Credentials::Uids(vec![me + 1]), ..settings() });
    let denied = RejectReason::PermissionDenied.encode_reject();
    assert_eq!(fixture.refusal(a_hello()), denied);
    assert_eq!(survey(&fixture).segments.len(), 1);
    let shut = PeerInfo { pid: 1, uid: me.max(1) + 1, gid: 0, name: String::new() };
    assert!(!shut.may_inspect());
    assert_eq!(
        fixture.refusal(Hello { versions: (7, 9), role: Role::Inspector, ..a_hello() })[12],
        4
    );
}
