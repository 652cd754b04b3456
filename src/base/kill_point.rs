//! Named points in the protocol at which tests kill the process. Empty unless the feature
//! `kill-points` is on.

/// Ends the process by SIGKILL if the environment says `RINGBELL_KILL_AT=name` or `name:count`, at
/// the `count`-th time that it comes here.
macro_rules! kill_point {
    ($name:literal) => {
        #[cfg(feature = "kill-points")]
        $crate::base::kill_point::reached($name);
    };
}

pub(crate) use kill_point;

/// The points there are, so that tests can go through all of them.
pub const ALL: &[&str] = &[
    "client-connected",
    "client-hello-sent",
    "client-answer-read",
    "client-mapped",
    "client-ready-sent",
    "porter-accepted",
    "handshake-hello-read",
    "handshake-welcome-sent",
    "handshake-ready-read",
    "handshake-mapped",
    "request-claimed",
    "request-posted",
    "rung",
    "response-posted",
    "request-taken",
    "client-armed",
    "server-armed",
];

/// Counts a visit, and kills the process at the one that was asked for.
#[cfg(feature = "kill-points")]
pub fn reached(name: &str) {
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock};
    static AT: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static VISITS: OnceLock<Mutex<HashMap<String, u64>>> = OnceLock::new();
    debug_assert!(ALL.contains(&name), "{name} is not listed");
    let at = AT.get_or_init(|| {
        let wanted = std::env::var("RINGBELL_KILL_AT").ok()?;
        let (name, count) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        Some((name.to_owned(), count.parse().expect("RINGBELL_KILL_AT=name:count")))
    });
    let Some((wanted, count)) = at else { return };
    if wanted != name {
        return;
    }
    let mut visits = VISITS.get_or_init(Mutex::default).lock().expect("no panic while counting");
    let visit = visits.entry(name.to_owned()).or_default();
    *visit += 1;
    if visit == count {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}
