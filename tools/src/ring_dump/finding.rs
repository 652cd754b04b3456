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
    ($($(#[doc = $doc:literal])* $code:ident = $word:literal, means: $means:literal, advice: $advice:literal;)*) => {
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
    /// The server is awake and moves nothing: a handler takes long.
    ServerBusy = "server-busy",
        means: "The serving thread is in a handler that neither ends nor lets anything else be served.",
        advice: "Look at the thread that is named: what it waits for, or where it loops. Long work belongs on other threads: `run_on` or `run_reactor`.";
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
        means: "Answers lie in the response ring and the client does not take them.",
        advice: "See what the client does between its calls; raise `response_capacity` only if answers come in bursts.";
    /// A ring is full, and its producer waits.
    FullRing = "full-ring",
        means: "Nothing was read from a ring that is full. Its producer waits for room.",
        advice: "See why the reader does not read: another finding says so.";
    /// A side sleeps although there is something for it.
    LostWake = "lost-wake",
        means: "A side sleeps although there is something in its ring. This never happens unless a ringer was stopped or killed between its ring and its wake.",
        advice: "If it lasts, save the target (`ring-dump save`) and report it.";
    /// The backstop has made good for wakes that were lost.
    Rescued = "rescued",
        means: "A sleeper found work by the clock which nobody had woken it for.",
        advice: "Save the target (`ring-dump save`) and report it.";
    /// A call has waited for long.
    LateAnswer = "late-answer",
        means: "A call waits for its answer longer than `--late` allows. The request was taken, and its handler has not answered.",
        advice: "See what the handler waits for: the thread that is named, or, where answers come from other threads, whoever was given the responder.";
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
        }
    }
}
