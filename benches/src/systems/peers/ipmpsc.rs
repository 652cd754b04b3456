//! ipmpsc: one ring for all requests, and one of each client for its answers. Messages are
//! serialized with bincode.
#![allow(clippy::disallowed_types, reason = "a number of attachments, no protocol")]

use std::collections::HashMap;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use ipmpsc::{Receiver, Sender, SharedRingBuffer};
use serde_bytes::Bytes;

use crate::outcome::Outcome;
use crate::scenario::Case;
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// Bodies as bytes, which are deserialized where they lie.
pub(crate) static RING: Ipmpsc = Ipmpsc;

/// Bytes of a ring: a message has to fit.
const CAPACITY: u32 = 4 << 20;

/// Calls over rings that stay.
#[derive(Debug)]
pub(crate) struct Ipmpsc;

/// Whose request it is, and the request; the first one is the name of the ring of answers.
type Request<'a> = (u64, &'a Bytes);

fn text(path: &Path) -> Outcome<&str> {
    Ok(path.to_str().ok_or("a path that is no text")?)
}

impl System for Ipmpsc {
    fn name(&self) -> &'static str {
        "ipmpsc"
    }

    fn cases(&self) -> Vec<Case> {
        [Case::few(), vec![Case::stream()]].concat()
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        let mut requests = Receiver::new(SharedRingBuffer::create(text(&setup.path)?, CAPACITY)?);
        let mut clients: HashMap<u64, Sender> = HashMap::new();
        let mut handler = Handler::of(&setup.case);
        ready()?;
        loop {
            let mut context = requests.zero_copy_context();
            let (client, request): Request<'_> = context.recv()?;
            let Some(answers) = clients.get(&client) else {
                let name = std::str::from_utf8(request)?;
                clients.insert(client, Sender::new(SharedRingBuffer::open(name)?));
                continue;
            };
            if handler.admits(request) {
                answers.send(&request)?;
            }
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        // Unique in the trial: a process may attach several times.
        static ATTACHED: AtomicU32 = AtomicU32::new(0);
        let number =
            u64::from(process::id()) << 32 | u64::from(ATTACHED.fetch_add(1, Ordering::Relaxed));
        let path = setup.path.with_extension(number.to_string());
        let answers = Receiver::new(SharedRingBuffer::create(text(&path)?, CAPACITY)?);
        let requests = Sender::new(SharedRingBuffer::open(text(&setup.path)?)?);
        requests.send(&(number, Bytes::new(text(&path)?.as_bytes())))?;
        Ok(Box::new(Caller { requests, answers, number }))
    }
}

/// The client's ends.
struct Caller {
    requests: Sender,
    answers: Receiver,
    number: u64,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        self.send(request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        Ok(self.requests.send(&(self.number, Bytes::new(request)))?)
    }

    fn one_way(&mut self, message: &[u8]) -> Outcome<()> {
        self.send(message)
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        let mut context = self.answers.zero_copy_context();
        let body: &Bytes = context.recv()?;
        answer.clear();
        answer.extend_from_slice(body);
        Ok(())
    }
}
