//! A client that checks every answer, and of which the server checks every request.

use crate::pattern::{Pattern, Way};
use crate::progress::tick;
use ringbell::stats::SessionCounters;
use ringbell::{CallError, CallId, Client, ConnectOptions, RecvError, SendError};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// A client of a server whose handler is `verify`.
#[derive(Debug)]
pub struct Verified {
    client: Client,
    pattern: Pattern,
    /// The next request to be sent.
    next: u64,
    /// What is in flight, in the order in which it was sent and will be answered.
    expected: VecDeque<(CallId, u64)>,
    buffer: Vec<u8>,
}

impl Verified {
    /// Connects and tells the server what will come.
    ///
    /// # Panics
    /// If either fails.
    pub fn connect(path: &Path, options: ConnectOptions, pattern: Pattern) -> Self {
        // The server checks that no number is left out, so it must run what nobody waits for any
        // more.
        let options = options.send_deadlines(false);
        let client = options
            .connect(path)
            .unwrap_or_else(|error| panic!("cannot connect: {error} ({error:?})"));
        Self::open(client, pattern).unwrap_or_else(|error| panic!("the first call failed: {error}"))
    }

    /// Tells the server what will come.
    ///
    /// # Errors
    /// Those of the call.
    pub fn open(mut client: Client, pattern: Pattern) -> Result<Self, CallError> {
        let opening = pattern.opening();
        assert_eq!(&*client.call(&opening)?, &opening[..]);
        Ok(Self { client, pattern, next: 0, expected: VecDeque::new(), buffer: Vec::new() })
    }

    /// The client itself, for what this type does not do.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// How many requests were sent, the opening apart.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.next
    }

    /// How many requests have no answer yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.expected.len()
    }

    /// One request and its answer, with nothing else in flight.
    ///
    /// # Errors
    /// Those of the call. On an error that says that the request was not executed the next call
    /// repeats it.
    ///
    /// # Panics
    /// If the answer is wrong.
    pub fn call(&mut self, timeout: Option<Duration>) -> Result<(), CallError> {
        assert!(self.expected.is_empty());
        let seq = self.next;
        self.buffer.clear();
        self.pattern.fill(seq, Way::Request, &mut self.buffer);
        match self.client.call_timeout(&self.buffer, timeout) {
            Ok(response) => {
                self.next += 1;
                check(&self.pattern, seq, response.payload());
                Ok(())
            }
            Err(CallError::Remote(error)) => panic!("the server complains: {error}"),
            Err(error) => {
                if !matches!(
                    error,
                    CallError::TimedOut { maybe_executed: false }
                        | CallError::Disconnected { maybe_executed: false }
                ) {
                    self.next += 1;
                }
                Err(error)
            }
        }
    }

    /// Sends the next request.
    ///
    /// # Errors
    /// Those of `send_timeout`; the next attempt sends the same request.
    pub fn send(&mut self, timeout: Option<Duration>) -> Result<(), SendError> {
        self.buffer.clear();
        self.pattern.fill(self.next, Way::Request, &mut self.buffer);
        let call = self.client.send_timeout(&self.buffer, timeout)?;
        self.expected.push_back((call, self.next));
        self.next += 1;
        Ok(())
    }

    /// Receives the next answer.
    ///
    /// # Errors
    /// Those of `recv`.
    ///
    /// # Panics
    /// If the answer is wrong.
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<(), RecvError> {
        let answer = self.client.recv(timeout)?;
        Self::take(&self.pattern, &mut self.expected, &answer);
        Ok(())
    }

    /// Receives the next answer, if it is there.
    ///
    /// # Errors
    /// Those of `try_recv`.
    ///
    /// # Panics
    /// If the answer is wrong.
    pub fn try_recv(&mut self) -> Result<bool, RecvError> {
        let Some(answer) = self.client.try_recv()? else { return Ok(false) };
        Self::take(&self.pattern, &mut self.expected, &answer);
        Ok(true)
    }

    fn take(
        pattern: &Pattern,
        expected: &mut VecDeque<(CallId, u64)>,
        answer: &ringbell::Answer<'_>,
    ) {
        let (call, seq) =
            expected.pop_front().unwrap_or_else(|| panic!("an answer to nothing: {answer:?}"));
        assert_eq!(answer.call, call, "a serial server answers in order");
        match &answer.outcome {
            Ok(response) => check(pattern, seq, response.payload()),
            Err(error) => panic!("the server complains: {error}"),
        }
    }

    /// Sends `count` requests and receives their answers, with at most `depth` in flight.
    ///
    /// # Panics
    /// If anything fails.
    pub fn pipeline(&mut self, count: u64, depth: usize) {
        let end = self.next + count;
        while self.next < end {
            while self.next < end && self.in_flight() < depth {
                self.send(None).expect("send");
            }
            // Not one by one: both rings are to fill up.
            while self.in_flight() > depth / 2 {
                self.recv(None).expect("recv");
            }
            if self.next.is_multiple_of(1024) {
                tick();
            }
        }
        while self.in_flight() > 0 {
            self.recv(None).expect("recv");
        }
    }

    /// Ends the session; what it counted.
    ///
    /// # Panics
    /// If a wake was lost, or something is in flight.
    pub fn finish(mut self) -> SessionCounters {
        assert!(self.expected.is_empty(), "something is in flight");
        let counts = self.client.stats();
        no_wake_was_lost(&counts);
        counts
    }

    /// Ends the session, whatever is in flight; what it counted. Whether a wake was lost is for the
    /// caller to see.
    pub fn abandon(mut self) -> SessionCounters {
        self.client.stats()
    }
}

fn check(pattern: &Pattern, seq: u64, bytes: &[u8]) {
    if let Err(mismatch) = pattern.check(seq, Way::Response, bytes) {
        panic!("{}", mismatch.0);
    }
}

/// Asserts that no sleep of this side was ended by the backstop alone.
///
/// # Panics
/// If one was.
pub fn no_wake_was_lost(counts: &SessionCounters) {
    assert_eq!(counts.backstop_rescues, 0, "a client lost wakes: {counts:?}");
}
