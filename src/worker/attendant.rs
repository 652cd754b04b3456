//! The one thread of this process that starts workers, reads what they print, and reaps them.
//!
//! It starts them since a parent's death signal goes by thread: a worker is killed when the thread
//! that started it ends, and this one never does before the process. It reads what they print since
//! somebody must: a worker whose pipe is full stands still.

use super::tail::Tail;
use crate::base::sync::{Mutex, lock};
use crate::os::fork::Origin;
use rustix::event::{EventfdFlags, epoll};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

/// What the thread is to do.
enum Order {
    Spawn(Box<Command>, SyncSender<io::Result<Child>>),
    Read(OwnedFd, Arc<Tail>),
    /// A process that was killed and has not ended yet, and its pidfd.
    Reap(Child, OwnedFd),
}

/// The way to the thread.
#[derive(Clone)]
struct Attendant {
    origin: Origin,
    orders: Arc<Mutex<Vec<Order>>>,
    bell: Arc<OwnedFd>,
}

static ATTENDANT: Mutex<Option<Attendant>> = Mutex::new(None);

fn attendant() -> io::Result<Attendant> {
    let mut known = lock(&ATTENDANT);
    if let Some(attendant) = &*known
        && attendant.origin.is_here()
    {
        return Ok(attendant.clone());
    }
    let bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let attendant = Attendant { origin: Origin::here(), orders: Arc::default(), bell };
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &*attendant.bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
    let thread = Thread { own: attendant.clone(), poll, watched: HashMap::new(), next: BELL };
    std::thread::Builder::new().name("ringbell-workers".into()).spawn(move || thread.run())?;
    *known = Some(attendant.clone());
    Ok(attendant)
}

impl Attendant {
    fn order(&self, order: Order) {
        lock(&self.orders).push(order);
        // It fails only if it would overflow: then the thread is awake already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// Starts a process on the thread.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let (sender, receiver) = sync_channel(1);
    attendant()?.order(Order::Spawn(Box::new(command), sender));
    receiver.recv().map_err(|_| io::Error::other("the thread that starts workers is gone"))?
}

/// Has what comes through `pipe` read until its end.
pub(super) fn read(pipe: OwnedFd, tail: Arc<Tail>) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&pipe, true)?;
    attendant()?.order(Order::Read(pipe, tail));
    Ok(())
}

/// Has the end of a process that was killed waited for, so that no zombie is left.
pub(super) fn reap(child: Child, pidfd: OwnedFd) {
    if let Ok(attendant) = attendant() {
        attendant.order(Order::Reap(child, pidfd));
    }
}

/// What the bell is called among the things that the thread waits for.
const BELL: u64 = 0;

/// What the thread waits for.
enum Watched {
    /// What a worker prints.
    Output(OwnedFd, Arc<Tail>),
    /// A process that was killed and has not ended yet, and its pidfd.
    Ending(Child, OwnedFd),
}

struct Thread {
    own: Attendant,
    poll: OwnedFd,
    watched: HashMap<u64, Watched>,
    next: u64,
}

impl Thread {
    fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // Without it nothing can be read any more; workers that print much would stand
                // still.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
            for event in &events {
                match event.data.u64() {
                    BELL => self.take_orders(),
                    id => self.handle(id),
                }
            }
        }
    }

    fn take_orders(&mut self) {
        // First the bell, then the orders: one that comes between rings it again.
        let _ = rustix::io::read(&self.own.bell, &mut [0; 8]);
        let orders = std::mem::take(&mut *lock(&self.own.orders));
        for order in orders {
            match order {
                Order::Spawn(mut command, answer) => {
                    if let Err(unheard) = answer.send(command.spawn())
                        && let Ok(mut child) = unheard.0
                    {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
                Order::Read(pipe, tail) => self.watch(Watched::Output(pipe, tail)),
                Order::Reap(child, pidfd) => self.watch(Watched::Ending(child, pidfd)),
            }
        }
    }

    fn watch(&mut self, watched: Watched) {
        self.next += 1;
        let fd = match &watched {
            Watched::Output(fd, _) | Watched::Ending(_, fd) => fd,
        };
        if epoll::add(&self.poll, fd, epoll::EventData::new_u64(self.next), epoll::EventFlags::IN)
            .is_ok()
        {
            self.watched.insert(self.next, watched);
        } else if let Watched::Output(_, tail) = watched {
            tail.end();
        }
    }

    fn handle(&mut self, id: u64) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        let over = match watched {
            Watched::Ending(child, _) => {
                let _ = child.wait();
                true
            }
            Watched::Output(pipe, tail) => {
                let mut bytes = [0; 8192];
                // One read a turn: one worker that prints without end does not keep the others
                // waiting.
                match rustix::io::read(&*pipe, &mut bytes) {
                    Ok(count @ 1..) => {
                        tail.add(&bytes[..count]);
                        false
                    }
                    Err(Errno::AGAIN | Errno::INTR) => false,
                    Ok(0) | Err(_) => {
                        tail.end();
                        true
                    }
                }
            }
        };
        if over {
            // Closing the descriptor takes it off the list.
            self.watched.remove(&id);
        }
    }
}
