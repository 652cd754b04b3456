//! Aeron IPC, through rusteron. Its media driver runs in the server's process, on a thread of its
//! own that may use every CPU: so its CPU time is counted with the server's. Each client has a
//! stream of its own for answers, named after the session of its requests.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::hint::spin_loop;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rusteron_client::{
    Aeron, AeronContext, AeronExclusivePublication, AeronHeader, AeronSubscription, Handlers,
    IntoCString,
};
use rusteron_media_driver::bindings::aeron_threading_mode_t;
use rusteron_media_driver::{AeronDriver, AeronDriverContext};
use rustix::thread::{CpuSet, sched_yield};

use crate::outcome::Outcome;
use crate::pause::{be_punctual, sleep};
use crate::pin::pin;
use crate::scenario::{Case, Scenario};
use crate::system::{Client, Ready, Setup, System};
use crate::work::Handler;

/// Both sides poll without a pause; terms that stay in the caches, and fragments as large as they
/// may be.
pub(crate) static SPINNING: AeronIpc = AeronIpc { name: "aeron-spin", tuned: true };

/// As it comes, with the idle strategy that is its default: spin, yield, then sleeps of 1 us up to
/// 1 ms.
pub(crate) static BACK_OFF: AeronIpc = AeronIpc { name: "aeron-backoff", tuned: false };

/// A way to use Aeron.
#[derive(Debug)]
pub(crate) struct AeronIpc {
    name: &'static str,
    tuned: bool,
}

/// The stream of requests.
const REQUESTS: i32 = 1001;

/// How long the driver may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fragments that one look takes at most; the samples' own choice.
const FRAGMENTS: usize = 10;

/// Flags of a frame that carries a whole message, and of the last one of several.
const WHOLE: u8 = 0xc0;
const LAST: u8 = 0x40;

/// The largest MTU that IPC can have.
const MTU: usize = 65_504;

/// Where driver and clients meet.
fn directory(setup: &Setup) -> PathBuf {
    let trial = setup.path.parent().and_then(|parent| parent.file_name()).unwrap_or_default();
    PathBuf::from("/dev/shm").join(format!("{}-aeron", trial.to_string_lossy()))
}

/// An end of Aeron in this process.
fn attach(setup: &Setup) -> Outcome<Aeron> {
    let context = AeronContext::new()?;
    context.set_dir(&directory(setup).to_string_lossy().into_c_string())?;
    let aeron = Aeron::new(&context)?;
    aeron.start()?;
    Ok(aeron)
}

impl AeronIpc {
    /// The channel of both directions.
    fn channel(&self, setup: &Setup) -> CString {
        let uri = match (self.tuned, setup.case.size) {
            (false, _) => "aeron:ipc",
            // A message is at most an eighth of a term.
            (true, size) if size <= 4 << 10 => "aeron:ipc?term-length=1m",
            (true, _) => "aeron:ipc?term-length=16m",
        };
        uri.into_c_string()
    }

    fn idle(&self) -> Idle {
        Idle { sleeps: !self.tuned, turns: 0 }
    }

    /// Starts the media driver.
    fn drive(&self, setup: &Setup) -> Outcome<()> {
        let context = AeronDriverContext::new()?;
        context.set_dir(&directory(setup).to_string_lossy().into_c_string())?;
        context.set_dir_delete_on_start(true)?;
        context.set_threading_mode(aeron_threading_mode_t::AERON_THREADING_MODE_SHARED)?;
        if self.tuned {
            context.set_ipc_mtu_length(MTU)?;
        }
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).collect();
        let driver = thread::spawn(move || -> Outcome<()> {
            pin(&all)?;
            let (stop, _) = AeronDriver::launch_embedded(context, false);
            // Until the process is killed.
            std::mem::forget(stop);
            Ok(())
        });
        driver.join().map_err(|_| "the media driver panicked")?
    }
}

/// What to do when there was nothing to do.
#[derive(Clone, Copy, Debug)]
struct Idle {
    sleeps: bool,
    turns: u32,
}

impl Idle {
    fn found(&mut self) {
        self.turns = 0;
    }

    /// The default strategy's numbers: 10 spins, 20 yields, then sleeps from 1 us, doubling up to 1
    /// ms.
    fn nothing(&mut self) -> Outcome<()> {
        const SPINS: u32 = 10;
        const YIELDS: u32 = 20;
        if !self.sleeps || self.turns < SPINS {
            spin_loop();
        } else if self.turns < SPINS + YIELDS {
            sched_yield();
        } else {
            sleep(1000_i64 << (self.turns - SPINS - YIELDS).min(10))?;
        }
        self.turns = self.turns.saturating_add(1);
        Ok(())
    }
}

/// Puts fragments of one stream together.
#[derive(Debug, Default)]
struct Assembly(Vec<u8>);

impl Assembly {
    /// Calls `whole` with the message that the fragment is, or completes.
    fn add(&mut self, fragment: &[u8], flags: u8, whole: impl FnOnce(&[u8])) {
        if flags & WHOLE == WHOLE {
            whole(fragment);
            return;
        }
        self.0.extend_from_slice(fragment);
        if flags & LAST != 0 {
            whole(&self.0);
            self.0.clear();
        }
    }
}

/// Publishes a message, waiting while there is no room, or nobody there yet.
fn offer(publication: &AeronExclusivePublication, message: &[u8]) -> Outcome<()> {
    loop {
        match publication.offer(message) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_fatal() => return Err(format!("aeron: {error}").into()),
            Err(_) => spin_loop(),
        }
    }
}

/// The session and the flags of a fragment.
fn head(header: &AeronHeader) -> Outcome<(i32, u8)> {
    let frame = header.get_values()?.frame;
    Ok((frame.session_id, frame.flags))
}

impl System for AeronIpc {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = if self.tuned { Case::few() } else { Case::glance() };
        // Nobody wakes anybody: it cannot sleep as the case demands.
        cases.retain(|case| case.scenario != Scenario::Parked);
        cases.extend([Case::new(Scenario::Echo, 48), Case::stream()]);
        cases
    }

    fn serve(&self, setup: &Setup, ready: Ready<'_>) -> Outcome<()> {
        be_punctual()?;
        self.drive(setup)?;
        let aeron = attach(setup)?;
        let channel = self.channel(setup);
        let subscription =
            aeron.add_subscription(&channel, REQUESTS, Handlers::NONE, Handlers::NONE, PATIENCE)?;
        let mut sessions: HashMap<i32, Answers> = HashMap::new();
        let mut handler = Handler::of(&setup.case);
        let mut idle = self.idle();
        ready()?;
        loop {
            let mut failure = None;
            let mut take = |fragment: &[u8], header: AeronHeader| -> Outcome<()> {
                let (session, flags) = head(&header)?;
                let answers = match sessions.entry(session) {
                    std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::hash_map::Entry::Vacant(new) => {
                        new.insert(Answers::to(&aeron, &channel, session)?)
                    }
                };
                let Answers { publication, assembly } = answers;
                let mut done = Ok(());
                assembly.add(fragment, flags, |request| {
                    if handler.admits(request) {
                        done = offer(publication, request);
                    }
                });
                done
            };
            let count = subscription.poll_fn(
                |fragment, header| {
                    if let Err(error) = take(fragment, header) {
                        failure = Some(error);
                    }
                },
                FRAGMENTS,
            )?;
            if let Some(error) = failure {
                return Err(error);
            }
            if count > 0 { idle.found() } else { idle.nothing()? }
        }
    }

    fn connect(&self, setup: &Setup) -> Outcome<Box<dyn Client>> {
        be_punctual()?;
        let aeron = attach(setup)?;
        let channel = self.channel(setup);
        let publication = aeron.add_exclusive_publication(&channel, REQUESTS, PATIENCE)?;
        let session = publication.get_constants()?.session_id();
        let subscription =
            aeron.add_subscription(&channel, session, Handlers::NONE, Handlers::NONE, PATIENCE)?;
        Ok(Box::new(Caller {
            publication,
            subscription,
            assembly: Assembly::default(),
            arrived: Arrived::default(),
            idle: self.idle(),
            _aeron: aeron,
        }))
    }

    fn clean(&self, setup: &Setup) -> Outcome<()> {
        let directory = directory(setup);
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        Ok(())
    }
}

/// Where a client's answers go, and what has come of its next request.
struct Answers {
    publication: AeronExclusivePublication,
    assembly: Assembly,
}

impl Answers {
    fn to(aeron: &Aeron, channel: &CStr, session: i32) -> Outcome<Self> {
        let publication = aeron.add_exclusive_publication(channel, session, PATIENCE)?;
        Ok(Self { publication, assembly: Assembly::default() })
    }
}

/// Messages in buffers that are used again.
#[derive(Debug, Default)]
struct Arrived {
    buffers: Vec<Vec<u8>>,
    filled: usize,
    taken: usize,
}

impl Arrived {
    fn push(&mut self, message: &[u8]) {
        if self.filled == self.buffers.len() {
            self.buffers.push(Vec::new());
        }
        let buffer = &mut self.buffers[self.filled];
        buffer.clear();
        buffer.extend_from_slice(message);
        self.filled += 1;
    }

    /// The next message, in exchange for a buffer. False: there is none.
    fn take(&mut self, message: &mut Vec<u8>) -> bool {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
            return false;
        }
        std::mem::swap(message, &mut self.buffers[self.taken]);
        self.taken += 1;
        true
    }
}

/// The client's end.
struct Caller {
    publication: AeronExclusivePublication,
    subscription: AeronSubscription,
    assembly: Assembly,
    /// What looks brought and nobody took yet.
    arrived: Arrived,
    idle: Idle,
    _aeron: Aeron,
}

impl Client for Caller {
    fn call(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Outcome<()> {
        offer(&self.publication, request)?;
        self.receive(answer)
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        offer(&self.publication, request)
    }

    fn one_way(&mut self, message: &[u8]) -> Outcome<()> {
        offer(&self.publication, message)
    }

    fn receive(&mut self, answer: &mut Vec<u8>) -> Outcome<()> {
        while !self.arrived.take(answer) {
            let Self { subscription, assembly, arrived, .. } = self;
            let mut failure = None;
            let count = subscription.poll_fn(
                |fragment, header| match head(&header) {
                    Ok((_, flags)) => assembly.add(fragment, flags, |whole| arrived.push(whole)),
                    Err(error) => failure = Some(error),
                },
                FRAGMENTS,
            )?;
            if let Some(error) = failure {
                return Err(error);
            }
            if count > 0 { self.idle.found() } else { self.idle.nothing()? }
        }
        Ok(())
    }
}
