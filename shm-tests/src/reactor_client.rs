//! A client of [`react`](crate::reactor_server::react) that knows which answer belongs to which
//! call.

use crate::progress::tick;
use crate::reactor_requests::{Count, ask, item, word, words};
use crate::verified::no_wake_was_lost;
use ringbell::{
    Answer, CallError, CallId, Client, ConnectOptions, RecvError, RemoteError, SendError,
};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// An answer, or the error in its place, and the number of the request that it belongs to.
pub type Numbered = (u64, Result<Vec<u8>, RemoteError>);

/// A client of [`react`](crate::reactor_server::react), which numbers its requests and checks whose
/// answers it gets.
#[derive(Debug)]
pub struct Asking {
    client: Client,
    next: u64,
    waiting: HashMap<CallId, u64>,
}

impl Asking {
    /// Connects.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn connect(path: &Path, options: ConnectOptions) -> Self {
        let client = options
            .connect(path)
            .unwrap_or_else(|error| panic!("cannot connect: {error} ({error:?})"));
        Self { client, next: 1, waiting: HashMap::new() }
    }

    /// The client itself.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The session's number.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.client.session()
    }

    /// The number of the next request.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// The next request.
    pub fn request(&mut self, verb: u8, argument: u64, rest: &[u8]) -> Vec<u8> {
        let request = ask(verb, self.next, argument, rest);
        self.next += 1;
        request
    }

    /// What an answer holds beside its stamp.
    ///
    /// # Panics
    /// If it belongs to another session or call.
    fn unstamped(session: u64, number: u64, answer: &[u8]) -> Vec<u8> {
        assert!(answer.len() >= 16, "an answer of {} bytes", answer.len());
        let found = (word(answer, 0), word(answer, 8));
        assert_eq!(found, (session, number), "an answer went astray");
        answer[16..].to_vec()
    }

    /// A call; what the answer holds beside its stamp.
    ///
    /// # Errors
    /// Those of the call.
    ///
    /// # Panics
    /// If the answer belongs to another session or call.
    pub fn ask(&mut self, verb: u8, argument: u64, rest: &[u8]) -> Result<Vec<u8>, CallError> {
        self.ask_within(verb, argument, rest, None)
    }

    /// A call with a timeout.
    ///
    /// # Errors
    /// Those of the call.
    ///
    /// # Panics
    /// As [`Self::ask`].
    pub fn ask_within(
        &mut self,
        verb: u8,
        argument: u64,
        rest: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, CallError> {
        let number = self.next;
        let request = self.request(verb, argument, rest);
        let session = self.session();
        let answer = self.client.call_timeout(&request, timeout)?;
        Ok(Self::unstamped(session, number, answer.payload()))
    }

    /// A call whose answer must be the echo of `rest`.
    ///
    /// # Panics
    /// If it is not.
    pub fn echoes(&mut self, verb: u8, argument: u64, rest: &[u8]) {
        match self.ask(verb, argument, rest) {
            Ok(answer) => assert_eq!(answer, rest, "the answer to {:?}", verb as char),
            Err(error) => panic!("{:?} failed: {error:?}", verb as char),
        }
    }

    /// The words of an answer.
    ///
    /// # Panics
    /// If the call fails.
    pub fn words(&mut self, verb: u8, argument: u64, rest: &[u8]) -> Vec<u64> {
        words(&self.ask(verb, argument, rest).expect("a call"))
    }

    /// One of the server's counts.
    ///
    /// # Panics
    /// If the call fails.
    pub fn count(&mut self, what: Count) -> u64 {
        self.words(b'c', 0, b"")[what as usize]
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Those of `send_timeout`.
    pub fn send(
        &mut self,
        verb: u8,
        argument: u64,
        rest: &[u8],
        timeout: Option<Duration>,
    ) -> Result<CallId, SendError> {
        let number = self.next;
        let request = self.request(verb, argument, rest);
        let call = self.client.send_timeout(&request, timeout)?;
        assert!(self.waiting.insert(call, number).is_none(), "a call id was used again");
        if number.is_multiple_of(1024) {
            tick();
        }
        Ok(call)
    }

    /// How many requests were sent whose answers were not received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Receives an answer: its number, and what it holds beside its stamp.
    ///
    /// # Errors
    /// Those of `recv`.
    ///
    /// # Panics
    /// If the answer belongs to another session or call, or to none.
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<Numbered, RecvError> {
        let session = self.session();
        let answer = self.client.recv(timeout)?;
        Ok(Self::take(session, &mut self.waiting, &answer))
    }

    fn take(session: u64, waiting: &mut HashMap<CallId, u64>, answer: &Answer<'_>) -> Numbered {
        let number = waiting
            .remove(&answer.call)
            .unwrap_or_else(|| panic!("an answer to nothing: {answer:?}"));
        let outcome = answer.outcome.as_ref().map_err(Clone::clone);
        (number, outcome.map(|response| Self::unstamped(session, number, response.payload())))
    }

    /// The numbers of all answers that are waited for, in the order in which they come.
    ///
    /// # Panics
    /// If one is an error, or does not come.
    pub fn recv_all(&mut self) -> Vec<u64> {
        let mut numbers = Vec::new();
        while !self.waiting.is_empty() {
            let (number, outcome) = self.recv(Some(Duration::from_secs(20))).expect("an answer");
            outcome.unwrap_or_else(|error| panic!("request {number}: {error}"));
            numbers.push(number);
        }
        numbers
    }

    /// Reads a stream of `longest` (see `stream_of`) to its end, checking every item; how many
    /// there were.
    ///
    /// # Errors
    /// With which it ended.
    ///
    /// # Panics
    /// If an item is not what it should be.
    pub fn read_stream(
        &mut self,
        call: CallId,
        number: u64,
        longest: u64,
    ) -> Result<u64, CallError> {
        let session = self.session();
        let (mut got, mut index) = (Vec::new(), 0);
        while self.client.next_item(call, &mut got, Some(Duration::from_secs(20)))? {
            assert_eq!(
                got,
                item(session, number, index, longest),
                "item {index} of request {number}"
            );
            index += 1;
            if index.is_multiple_of(1024) {
                tick();
            }
        }
        Ok(index)
    }

    /// Ends the session.
    ///
    /// # Panics
    /// If a wake was lost.
    pub fn finish(mut self) {
        no_wake_was_lost(&self.client.stats());
    }
}
