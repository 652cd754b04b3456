//! What may be wrong with a target, as it is told.

use serde::{Deserialize, Serialize};

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// Worth knowing; may be in order.
    Note,
    /// Something is wrong: the program ends with status 1.
    Problem,
}

/// Has the enum, the words and the explanations of all codes stand in one place.
macro_rules! codes {
    ($(
        $(#[doc = $doc:literal])*
        $code:ident = $word:literal, means: $means:literal, advice: $advice:literal;
    )*) => {
        /// What is the matter. The words are stable: programs and people look for them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub(crate) enum Code {
            $($(#[doc = $doc])* #[serde(rename = $word)] $code,)*
        }

        impl Code {
            /// Every code.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$code,)*];

            /// Its word.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$code => $word,)* }
            }

            /// What it means, for people.
            pub(crate) fn meaning(self) -> &'static str {
                match self { $(Self::$code => $means,)* }
            }

            /// What to do about it.
            pub(crate) fn advice(self) -> &'static str {
                match self { $(Self::$code => $advice,)* }
            }
        }
    };
}

codes! {
    /// The server's process is kept from running.
    ServerStopped = "server-stopped",
        means: "A signal (SIGSTOP, SIGTSTP) or a debugger keeps the server's process from running. Its clients wait until it goes on or their time is over.",
        advice: "Let it go on: `kill -CONT PID`, or detach the debugger.";
    /// The server's process is gone.
    ServerDead = "server-dead",
        means: "The process that served is gone, and its memory is still held by somebody. Calls end with an error as soon as their callers look.",
        advice: "Start the server again. If this lasts, see who holds its memory: a client that is stopped, or a descriptor that was inherited.";
    /// Memory of a server that is not there.
    Orphan = "orphan",
        means: "A process holds the memory of a server that it is not, and no process that the memory names holds it: the server is gone, or the memory was forged.",
        advice: "See what the process that is named does: a client that is stopped, a child that inherited descriptors. It lets go of the memory when it ends.";
    /// The path of the server's socket is gone.
    SocketDeleted = "socket-deleted",
        means: "The server listens at a socket whose path was deleted. Its clients go on; new ones find nothing.",
        advice: "Restart the server. See who deletes files there (a cleaner of /tmp, another start of the program), and use a directory of its own, such as one in /run.";
    /// The path of the server's socket leads to something else.
    SocketTakenOver = "socket-taken-over",
        means: "The path of the server's socket leads to something else: another process listens there, or there is no socket. New clients do not reach this server.",
        advice: "End one of the two. If it is not one of yours that took the path, see who may write to the directory.";
    /// The server is awake and moves nothing: a handler takes long.
    ServerBusy = "server-busy",
        means: "The serving thread is in one handler, and serves nothing else meanwhile. A problem once that takes longer than `--late`.",
        advice: "Look at the thread that is named: what it waits for, or where it loops (`gdb -p PID`, `perf top -t TID`). Long work belongs on other threads: `run_on` or `run_reactor`.";
    /// An embedded server was woken, and its program does not pump it.
    LoopAway = "loop-away",
        means: "The server is embedded in the event loop of a program. It was woken for requests, and the program does not call `pump`.",
        advice: "See what the program's loop does: the thread that is named. The loop must wait for the server's descriptor and call `pump` when it is readable.";
    /// A call has waited for long.
    LateAnswer = "late-answer",
        means: "A call waits for its answer longer than `--late` allows, whatever serves it. A note if the answer is there and the client does not take it.",
        advice: "See what the handler waits for: the threads that are named, or, where answers come from other places, whoever was given the responder. If such calls are in order, give a longer `--late`.";
    /// Requests are answered with errors.
    Errors = "errors",
        means: "Requests are answered with errors. A problem if more than half of them are.",
        advice: "See what the errors say: `ring-dump tap TARGET --kind error`, or the log of the server.";
    /// Handlers panic.
    Panics = "panics",
        means: "Handlers panic; their calls end with an error. A problem if more than half of the requests do.",
        advice: "See the standard error of the server: each panic prints its message there. `RUST_BACKTRACE=1` adds where it came from.";
    /// Requests come too late to be run.
    Expired = "expired",
        means: "Requests were not run, since their deadline had passed before their turn. A problem if that happens to more than half of them.",
        advice: "The server does not keep up, or the deadlines are too short: see how long handlers take (`sample_calls`), and add threads.";
    /// Clients cancel calls.
    Cancelled = "cancelled",
        means: "Clients give up calls while these are in flight: a timeout, or a future that was dropped. A problem if that happens to more than half of them.",
        advice: "Compare the timeouts of the clients with how long handlers take (`sample_calls`).";
    /// Clients are turned away.
    Rejected = "rejected",
        means: "Clients that want to connect are turned away. A problem while that happens since a limit is reached.",
        advice: "If the limit that is named is too low, raise it. Otherwise see which clients connect so often, or leave connections open.";
    /// As many clients as may be are connected.
    ClientsAtLimit = "clients-at-limit",
        means: "As many clients are connected as may be. The next one is turned away.",
        advice: "Raise `max_clients`, or end clients that need no connection.";
    /// A client has as many requests in flight as it may.
    InFlightLimit = "in-flight-limit",
        means: "A client has as many requests in flight as `max_in_flight` allows. Its next ones stay in the ring.",
        advice: "See why the ones in flight are not answered. Raise `max_in_flight` only if answers are merely slow.";
    /// As much is held for clients as may be.
    HeldLimit = "held-limit",
        means: "The server holds as many bytes for its clients (requests, answers, events) as it may. It reads less, and a problem: refuses requests, answers or events.",
        advice: "See which client does not read its answers. Raise `max_held_bytes` or `max_held_bytes_per_client` if the memory is there.";
    /// Sessions go over the socket.
    Fallback = "fallback",
        means: "Sessions are carried by the socket instead of shared memory. They work, more slowly, and nothing of them can be seen from outside.",
        advice: "If no client asked for that, see why memory cannot be shared: `ring-dump doctor` (memfds, limits), and the log of the client.";
    /// Connections that did not become sessions.
    HandshakesFailed = "handshakes-failed",
        means: "Connections are made whose handshake does not end in time, or breaks off.",
        advice: "See who connects: a program that is no client of Ringbell, a health check, or clients that die while they connect.";
    /// Clients that break the protocol.
    PeerFaults = "peer-faults",
        means: "Sessions were ended since the client wrote what no client writes: its memory is damaged, or it is hostile.",
        advice: "Find out which client it is: the log of the server names it. Look for writes out of bounds in its process.";
    /// Sessions that were ended since their client does not read.
    SlowClientsEnded = "slow-clients-ended",
        means: "Sessions were ended since the client had not read its answers for `slow_client_timeout`.",
        advice: "See what those clients do instead of reading: they asked for more than they take.";
    /// Answers to clients that are gone.
    Orphans = "orphans",
        means: "Answers were complete only after their session was over. They went nowhere, and their work was in vain.",
        advice: "See why clients leave before they have their answers: timeouts, crashes. Handlers can ask `is_cancelled`.";
    /// Streams whose client took nothing.
    StalledStreams = "stalled-streams",
        means: "Streams were ended since the client took no item for `stream_stall_timeout`.",
        advice: "See what those clients do between two items, or raise `stream_stall_timeout`.";
    /// No connections are accepted for a while.
    AcceptPauses = "accept-pauses",
        means: "No connection is accepted for a while, since the process lacks descriptors or memory. Clients wait for their connection.",
        advice: "Raise the limit on descriptors (`ulimit -n`, `LimitNOFILE=`), or find out what holds so many.";
    /// The client's process is kept from running.
    ClientStopped = "client-stopped",
        means: "A signal or a debugger keeps the client's process from running. Its answers stay unread.",
        advice: "Let it go on, or end it; the server ends a session that leaves answers unread for too long.";
    /// The client's process is gone, its session is not.
    ClientDead = "client-dead",
        means: "The client's process is gone, and the server has not ended its session.",
        advice: "Nothing to do if the server runs: it ends the session by itself. Otherwise see why the server does not run.";
    /// The client does not take its answers.
    SlowClient = "slow-client",
        means: "Answers lie in the response ring and the client does not take them. A problem once the ring is full.",
        advice: "See what the client does between its calls; raise `response_capacity` only if answers come in bursts.";
    /// Calls of a client time out.
    Timeouts = "timeouts",
        means: "Calls of a client end with a timeout. A problem if more than half of them do.",
        advice: "See how long its calls take, and where (`sample_calls`): in the ring, in the handler. Then serve faster, or give them more time.";
    /// A client loses events.
    EventsDropped = "events-dropped",
        means: "Events that the server pushed were dropped, since the client did not take them in time. `next_event` tells the client how many it missed.",
        advice: "Take events more often, or raise `max_events` and `max_held_bytes` of the client.";
    /// A byte stream is not read.
    UnreadBytes = "unread-bytes",
        means: "Bytes lie in a ring of a byte stream and its reader does not take them. A problem once the ring is full: the writer waits.",
        advice: "See what the reading process does: its thread for this stream is elsewhere.";
    /// A ring is full, and its producer waits.
    FullRing = "full-ring",
        means: "Nothing was read from a ring that is full. Its producer waits for room.",
        advice: "See why the reader does not read: another finding says so.";
    /// A side sleeps although there is something for it.
    LostWake = "lost-wake",
        means: "A side sleeps although there is something in its ring. Never happens unless a ringer was stopped or killed between its ring and its wake. A note if the side was rung and has a thread that runs or waits for a CPU: then it is being woken.",
        advice: "If it lasts, save the target (`ring-dump save`) and report it.";
    /// The backstop has made good for wakes that were lost.
    Rescued = "rescued",
        means: "A sleeper found work by the clock which nobody had woken it for.",
        advice: "Save the target (`ring-dump save`) and report it.";
    /// Wakes come late.
    LateRings = "late-rings",
        means: "Sleepers often find by the clock what somebody was about to wake them for: the waker was kept from running in between.",
        advice: "The machine has more to run than CPUs. Give it more CPUs or less work; `ring-dump doctor` shows the limits of control groups.";
    /// The kernel refuses to let a side sleep.
    Pauses = "pauses",
        means: "The kernel refuses to let a side sleep, so it pauses instead: answers take longer, and a CPU is kept busy.",
        advice: "See which system calls are denied (seccomp): `ring-dump doctor` in the same sandbox names them.";
    /// A core dump, of a process that a signal ended.
    Crashed = "crashed",
        means: "This is the core dump of a process that a signal ended. What other processes did then is unknown.",
        advice: "Open the dump in a debugger at the thread that is named. Send the request that was in the handler to a test server to see whether it does it again.";
    /// A dump or a file is not whole.
    Cut = "cut",
        means: "A saved file or a core dump is not whole: what is missing cannot be judged.",
        advice: "Save or copy it again. Core dumps: see `ulimit -c`, coredump_filter in core(5) and the limits of what collects them.";
    /// Segments of another version of the layout.
    OtherLayout = "other-layout",
        means: "Some segments have another version of the layout than this program knows. Nothing else is known of them.",
        advice: "Look at them with the ring-dump of their own version.";
    /// Bytes that no implementation writes.
    Damaged = "damaged",
        means: "A segment holds bytes that no implementation writes: memory was overwritten, or a peer is hostile.",
        advice: "End the session. Look for writes out of bounds in the process that owns the segment.";
    /// A segment lacks a seal.
    Unsealed = "unsealed",
        means: "A segment lacks a seal that keeps others from changing its size or its bytes.",
        advice: "Do not trust the process that made it.";
}

impl Code {
    /// The code with this word.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|code| code.word() == word).copied()
    }

    /// The words that look most like one that is none: at most three, the nearest first.
    pub(crate) fn near(word: &str) -> Vec<&'static str> {
        let word = word.to_lowercase();
        let mut near: Vec<_> = Self::ALL
            .iter()
            .map(|code| code.word())
            .map(|known| {
                let part = known.contains(&*word) || word.contains(known);
                (if part && !word.is_empty() { 0 } else { distance(&word, known) }, known)
            })
            .filter(|(distance, known)| *distance <= known.len() / 2)
            .collect();
        near.sort_unstable();
        near.into_iter().take(3).map(|(_, known)| known).collect()
    }
}

/// How many letters have to be put in, left out or replaced to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(100).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// What `explain` says of a code; without one, the list of all.
pub(crate) fn explain(code: Option<Code>) -> String {
    use crate::style::{DIM, END, HEAD};
    match code {
        Some(code) => {
            format!("{HEAD}{}{END}\n{}\n\n{}\n", code.word(), code.meaning(), code.advice())
        }
        None => Code::ALL
            .iter()
            .map(|code| {
                let first = code.meaning().split_inclusive(". ").next().unwrap_or_default();
                format!("{HEAD}{:<20}{END}{DIM}{}{END}\n", code.word(), first.trim_end())
            })
            .collect(),
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How serious it is.
    pub(crate) severity: Severity,
    /// What it is.
    pub(crate) code: Code,
    /// Which server.
    #[serde(serialize_with = "crate::export::hex_or_null")]
    pub(crate) generation: Option<u64>,
    /// Which session, if it is about one.
    #[serde(serialize_with = "crate::export::decimal_or_null")]
    pub(crate) session: Option<u64>,
    /// Which process is at fault, if one is.
    pub(crate) pid: Option<u32>,
    /// The same for people.
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) advice: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_has_a_word_of_its_own_and_says_what_to_do() {
        let words: BTreeSet<_> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.meaning().ends_with('.') && code.advice().ends_with('.'), "{code:?}");
            let json = serde_json::to_string(code).expect("a word");
            assert_eq!(json, format!("\"{}\"", code.word()));
            assert_eq!(Code::of(code.word()), Some(*code));
            assert!(explain(Some(*code)).contains(code.advice()));
        }
        assert_eq!(explain(None).lines().count(), Code::ALL.len());
    }

    #[test]
    fn a_word_that_is_none_has_near_ones() {
        assert_eq!(Code::of("late-calls"), None);
        assert_eq!(Code::near("late-anser")[0], "late-answer");
        assert_eq!(Code::near("busy")[0], "server-busy");
        assert_eq!(Code::near("qqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"), Vec::<&str>::new());
        assert!(Code::near("").len() <= 3 && Code::near(&"x".repeat(10_000)).len() <= 3);
    }

    #[test]
    fn the_manual_has_the_table_of_codes() {
        let manual = include_str!("../../ring-dump.md");
        let missing: String = Code::ALL
            .iter()
            .map(|code| format!("| `{}` | {} |\n", code.word(), code.meaning()))
            .filter(|row| !manual.contains(row))
            .collect();
        assert_eq!(missing, "", "these rows belong into ring-dump.md");
    }
}
