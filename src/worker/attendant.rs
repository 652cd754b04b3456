//! The one thread of this process that reads what workers print, and reaps those that did not end
//! at once.
//!
//! It reads since somebody must: a worker whose pipe is full stands still. It waits for nothing but
//! for news: it starts nothing ([`starter`](super::starter) does), and what is shown is written by
//! another thread ([`forward`](super::forward)). What it waits for is added and taken away by
//! others, without waking it: to start and to end a worker costs no turn of it. A panic ends what
//! panicked. If the thread ends all the same, another one takes its place.

use super::per_process::PerProcess;
use super::signals::block_all_signals;
use super::spawn::Child;
use super::tail::{Pulled, Tail};
use crate::base::panics::quietly;
use crate::base::sync::{Mutex, lock};
use crate::os::fork::Origin;
use rustix::event::epoll;
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What the thread waits for.
#[derive(Debug)]
enum Watched {
    /// What a worker prints.
    Output(Arc<Tail>),
    /// A process that was killed and has not ended yet.
    Ending(Child),
    #[cfg(test)]
    Faulty(OwnedFd, Fault),
}

#[cfg(test)]
#[derive(Debug)]
enum Fault {
    Panics,
    EndsTheThread,
}

impl Watched {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Output(tail) => tail.pipe(),
            Self::Ending(child) => child.pidfd(),
            #[cfg(test)]
            Self::Faulty(fd, _) => std::os::fd::AsFd::as_fd(fd),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// What is waited for; its descriptor is in `poll` under the same number.
    watched: HashMap<u64, Arc<Watched>>,
    next: u64,
    /// Made with the first thread.
    poll: Option<Arc<OwnedFd>>,
    running: bool,
}

static ATTENDANT: PerProcess<Attendant> = PerProcess::new();

#[derive(Debug, Default)]
struct Attendant(Mutex<State>);

fn of_this_process() -> Arc<Attendant> {
    ATTENDANT.get_or_make(Attendant::default)
}

/// What is read of a worker. It goes on until the end of what it prints, or until this is dropped;
/// a forked child has no part in it.
#[derive(Debug)]
pub(super) struct Reading {
    number: u64,
    origin: Origin,
}

/// Has what a worker prints read.
pub(super) fn read(tail: Arc<Tail>) -> io::Result<Reading> {
    let number = of_this_process().watch(Watched::Output(tail))?;
    Ok(Reading { number, origin: Origin::here() })
}

impl Drop for Reading {
    fn drop(&mut self) {
        // In a child the number may stand for something of its own.
        if self.origin.is_here() {
            of_this_process().forget(self.number);
        }
    }
}

/// Has the end of a process that was killed waited for, so that no zombie is left.
pub(super) fn reap(child: Child) {
    // If there can be no thread, it is waited for when this process ends.
    let _ = of_this_process().watch(Watched::Ending(child));
}

impl Attendant {
    fn watch(self: &Arc<Self>, watched: Watched) -> io::Result<u64> {
        let mut state = lock(&self.0);
        let poll = match &state.poll {
            Some(poll) => poll.clone(),
            None => {
                let poll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
                state.poll.insert(poll).clone()
            }
        };
        if !state.running {
            self.start(&mut state, &poll)?;
        }
        state.next += 1;
        let number = state.next;
        epoll::add(&*poll, watched.fd(), epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        // The thread may have seen it by now; it finds it once the lock is free.
        state.watched.insert(number, Arc::new(watched));
        Ok(number)
    }

    fn start(self: &Arc<Self>, state: &mut State, poll: &Arc<OwnedFd>) -> io::Result<()> {
        let (own, poll) = (self.clone(), poll.clone());
        let thread = std::thread::Builder::new().name("ringbell-workers".into());
        thread.spawn(move || {
            let ended = Ended(own);
            ended.0.run(&poll);
        })?;
        state.running = true;
        Ok(())
    }

    fn run(&self, poll: &OwnedFd) {
        block_all_signals();
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(poll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // Without it nothing can be read any more; workers that print much would stand
                // still.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
            for event in &events {
                let number = event.data.u64();
                let watched = lock(&self.0).watched.get(&number).cloned();
                let Some(watched) = watched else { continue };
                #[cfg(test)]
                if let Watched::Faulty(_, Fault::EndsTheThread) = &*watched {
                    self.forget(number);
                    return;
                }
                // What panics is over.
                let mut over = true;
                quietly(|| over = watched.handle());
                if over {
                    self.forget(number);
                }
            }
        }
    }

    fn forget(&self, number: u64) {
        let mut state = lock(&self.0);
        let Some(watched) = state.watched.remove(&number) else { return };
        if let Some(poll) = &state.poll {
            // Its descriptor may stay open for longer, with the process that it is about.
            let _ = epoll::delete(&**poll, watched.fd());
        }
        drop(state);
        drop(watched);
    }
}

impl Watched {
    /// Does what is to be done now; whether that was all.
    fn handle(&self) -> bool {
        match self {
            Self::Ending(child) => {
                child.clone().status();
                true
            }
            // One read a turn: one worker that prints without end does not keep the others waiting.
            Self::Output(tail) => tail.pull() == Pulled::End,
            #[cfg(test)]
            Self::Faulty(..) => panic!("a piece of work that panics"),
        }
    }
}

/// A thread that ends is replaced; if that is not possible, the next one who needs it tries again.
struct Ended(Arc<Attendant>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.running = false;
        if let Some(poll) = state.poll.clone() {
            let _ = self.0.start(&mut state, &poll);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::time::{Duration, Instant};

    fn is_read(tail: &Tail, wanted: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while !tail.lines().iter().any(|line| line == wanted) {
            assert!(Instant::now() < until, "{wanted} is not read");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn fault(fault: Fault) {
        let ready = eventfd(1, EventfdFlags::CLOEXEC).expect("an eventfd");
        of_this_process().watch(Watched::Faulty(ready, fault)).expect("a thread");
    }

    /// What it reads goes on being read, by another thread if need be.
    #[test]
    fn w1_the_thread_survives_panics_and_is_replaced_when_it_ends() {
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        let tail = Arc::new(Tail::new(from, false).expect("a tail"));
        let reading = read(tail.clone()).expect("a thread");
        rustix::io::write(&to, b"one\n").expect("written");
        is_read(&tail, "one");
        fault(Fault::Panics);
        rustix::io::write(&to, b"two\n").expect("written");
        is_read(&tail, "two");
        fault(Fault::EndsTheThread);
        rustix::io::write(&to, b"three\n").expect("written");
        is_read(&tail, "three");
        drop(reading);
        let until = Instant::now() + Duration::from_secs(30);
        while Arc::strong_count(&tail) > 1 {
            assert!(Instant::now() < until, "the thread has not let go of it");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
