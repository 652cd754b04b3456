//! One client's way to send requests and receive answers, whatever the transport; and Ringbell's.

use crate::cli::PATIENCE;
use crate::{Failure, say};
use ringbell::config::Ipc;
use ringbell::{CallId, Client, ConnectOptions, ConnectionPool, Transport};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Sends a request and waits for its answer.
pub(crate) trait Call {
    /// The answer to `request`.
    fn call(&mut self, request: &[u8]) -> Result<&[u8], Failure>;
}

/// Pairs an answer with its request.
pub(crate) type Ticket = u64;

/// Sends requests without waiting for each answer.
pub(crate) trait Pipeline {
    /// Sends requests at once; appends the ticket of each.
    fn send<'r>(
        &mut self,
        requests: impl Iterator<Item = &'r [u8]>,
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), Failure>;

    /// The next answer; with `wait` there must be one in flight, without it `None` says that none
    /// has come.
    fn receive(&mut self, wait: bool) -> Result<Option<(Ticket, &[u8])>, Failure>;
}

/// Ringbell.
#[derive(Debug)]
pub(crate) struct Shm {
    client: Client,
    sent: Vec<CallId>,
}

impl Shm {
    pub(crate) fn connect(path: &Path, client: u32, pipeline: usize) -> Result<Self, Failure> {
        let client = ConnectOptions::new()
            .name(format!("ring-echo {client}"))
            .max_in_flight(pipeline)
            .connect(path)
            .map_err(|error| say::of(path, &error))?;
        Ok(Self { client, sent: Vec::new() })
    }

    pub(crate) fn max_message(&self) -> usize {
        self.client.max_message()
    }
}

/// Ringbell, through a pool: each request takes a connection out and gives it back.
#[derive(Debug)]
pub(crate) struct Pooled {
    path: PathBuf,
    pool: ConnectionPool,
    answer: Vec<u8>,
}

impl Pooled {
    pub(crate) fn connect(path: &Path, ipc: &Ipc) -> Result<Self, Failure> {
        let pool = ipc.connections(path).map_err(|error| say::of(path, &error))?;
        Ok(Self { path: path.to_owned(), pool, answer: Vec::new() })
    }

    pub(crate) fn max_message(&self) -> Result<usize, Failure> {
        let connection = self.pool.acquire().map_err(|error| say::of(&self.path, &error))?;
        Ok(connection.max_message())
    }

    /// What carried the requests, and what the pool had to do for it.
    pub(crate) fn describe(&self) -> Result<String, Failure> {
        let transport = match self.pool.acquire()?.transport() {
            Transport::Socket { reason } => format!("the socket ({reason})"),
            _ => "shared memory".to_owned(),
        };
        let stats = self.pool.stats();
        Ok(format!(
            "Through a pool, over {transport}: {} connections were opened, {} of {} requests waited for one.",
            stats.opened, stats.waits, stats.acquired
        ))
    }
}

impl Call for Pooled {
    #[inline]
    fn call(&mut self, request: &[u8]) -> Result<&[u8], Failure> {
        self.pool.call_into(request, &mut self.answer, Some(Instant::now() + PATIENCE))?;
        Ok(&self.answer)
    }
}

impl Call for Shm {
    #[inline]
    fn call(&mut self, request: &[u8]) -> Result<&[u8], Failure> {
        Ok(self.client.call_timeout(request, Some(PATIENCE))?.payload())
    }
}

impl Pipeline for Shm {
    fn send<'r>(
        &mut self,
        requests: impl Iterator<Item = &'r [u8]>,
        tickets: &mut Vec<Ticket>,
    ) -> Result<(), Failure> {
        self.sent.clear();
        self.client.send_batch(requests, &mut self.sent)?;
        tickets.extend(self.sent.iter().map(|call| call.as_u64()));
        Ok(())
    }

    #[inline]
    fn receive(&mut self, wait: bool) -> Result<Option<(Ticket, &[u8])>, Failure> {
        let answer =
            if wait { Some(self.client.recv(Some(PATIENCE))?) } else { self.client.try_recv()? };
        let Some(answer) = answer else { return Ok(None) };
        Ok(Some((answer.call.as_u64(), answer.outcome?.payload())))
    }
}
