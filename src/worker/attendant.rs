//! The one thread of this process that reads what workers print, and reaps those that did not end
//! at once.
//!
//! It reads since somebody must: a worker whose pipe is full stands still. It waits for nothing but
//! for news: it starts nothing ([`starter`](super::starter) does), and what is shown is written by
//! another thread ([`forward`](super::forward)). A panic of one piece of work ends that piece. If
//! the thread ends all the same, another one takes over what it had.

use super::spawn::{Child, block_all_signals};
use super::tail::{Pulled, Tail};
use crate::base::panics::quietly;
use crate::base::sync::{Mutex, lock};
use crate::os::fork::Origin;
use rustix::event::{EventfdFlags, epoll};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// What the thread is to do.
#[derive(Debug)]
enum Order {
    Watch(Watched),
    /// The process is gone. What still holds its pipe is not listened to.
    Forget(Arc<Tail>),
    #[cfg(test)]
    Panic,
    #[cfg(test)]
    End,
}

/// What the thread waits for.
#[derive(Debug)]
enum Watched {
    /// What a worker prints.
    Output(Arc<Tail>),
    /// A process that was killed and has not ended yet.
    Ending(Child),
}

impl Watched {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Output(tail) => tail.pipe(),
            Self::Ending(child) => child.pidfd(),
        }
    }
}

/// The way to a thread.
#[derive(Debug)]
struct Post {
    orders: Mutex<Vec<Order>>,
    bell: OwnedFd,
}

impl Post {
    fn order(&self, order: Order) {
        lock(&self.orders).push(order);
        self.ring();
    }

    fn ring(&self) {
        // It fails only if it would overflow: then the thread is awake already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// The attendant of a process, and that of a child that was forked from it: a child has none of its
/// parent's threads, and the parent's lock may be held by one of them.
struct Node {
    origin: Origin,
    post: Mutex<Option<Arc<Post>>>,
    child: OnceLock<Box<Node>>,
}

impl Node {
    fn new() -> Self {
        Self { origin: Origin::here(), post: Mutex::new(None), child: OnceLock::new() }
    }
}

fn of_this_process() -> &'static Node {
    static FIRST: OnceLock<Node> = OnceLock::new();
    let mut node = FIRST.get_or_init(Node::new);
    while !node.origin.is_here() {
        node = node.child.get_or_init(|| Box::new(Node::new()));
    }
    node
}

/// Has an order carried out, by a thread that is started if there is none.
fn order(order: Order) -> io::Result<()> {
    let node = of_this_process();
    let mut known = lock(&node.post);
    let post = match &*known {
        Some(post) => post,
        None => known.insert(start()?),
    };
    // Under the lock: a thread that ends takes the post away under it, and then all its orders.
    post.order(order);
    Ok(())
}

fn start() -> io::Result<Arc<Post>> {
    let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let post = Arc::new(Post { orders: Mutex::default(), bell });
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &post.bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
    let thread = Thread { post: post.clone(), poll, watched: HashMap::new(), next: BELL };
    std::thread::Builder::new().name("ringbell-workers".into()).spawn(move || {
        let mut thread = thread;
        thread.run();
    })?;
    Ok(post)
}

/// Has what a worker prints read, until its end or until it is forgotten.
pub(super) fn read(tail: Arc<Tail>) -> io::Result<()> {
    order(Order::Watch(Watched::Output(tail)))
}

/// Has no more read of what a worker prints. Does nothing if it has ended.
pub(super) fn forget(tail: Arc<Tail>) {
    // If there is no thread and can be none, nothing is read.
    let _ = order(Order::Forget(tail));
}

/// Has the end of a process that was killed waited for, so that no zombie is left.
pub(super) fn reap(child: Child) {
    let _ = order(Order::Watch(Watched::Ending(child)));
}

/// What the bell is called among the things that the thread waits for.
const BELL: u64 = 0;

struct Thread {
    post: Arc<Post>,
    poll: OwnedFd,
    watched: HashMap<u64, Watched>,
    next: u64,
}

impl Thread {
    fn run(&mut self) {
        block_all_signals();
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
                    BELL if self.take_orders() => {}
                    BELL => return,
                    id => self.handle(id),
                }
            }
        }
    }

    /// Whether the thread is to go on.
    fn take_orders(&mut self) -> bool {
        // First the bell, then the orders: one that comes between rings it again.
        let _ = rustix::io::read(&self.post.bell, &mut [0; 8]);
        let orders = std::mem::take(&mut *lock(&self.post.orders));
        for order in orders {
            match order {
                Order::Watch(watched) => self.watch(watched),
                Order::Forget(tail) => self.forget(&tail),
                #[cfg(test)]
                Order::Panic => quietly(|| panic!("an order that panics")),
                #[cfg(test)]
                Order::End => return false,
            }
        }
        true
    }

    fn watch(&mut self, watched: Watched) {
        self.next += 1;
        let (data, flags) = (epoll::EventData::new_u64(self.next), epoll::EventFlags::IN);
        if epoll::add(&self.poll, watched.fd(), data, flags).is_ok() {
            self.watched.insert(self.next, watched);
        }
    }

    fn forget(&mut self, tail: &Arc<Tail>) {
        let same =
            |watched: &Watched| matches!(watched, Watched::Output(of) if Arc::ptr_eq(of, tail));
        let id = self.watched.iter().find_map(|(id, watched)| same(watched).then_some(*id));
        if let Some(id) = id {
            self.remove(id);
        }
    }

    fn handle(&mut self, id: u64) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        // What panics is over.
        let mut over = true;
        quietly(|| {
            over = match watched {
                Watched::Ending(child) => {
                    child.status();
                    true
                }
                // One read a turn: one worker that prints without end does not keep the others
                // waiting.
                Watched::Output(tail) => tail.pull() == Pulled::End,
            };
        });
        if over {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(watched) = self.watched.remove(&id) {
            // Its descriptor may stay open for longer, with the process that it is about.
            let _ = epoll::delete(&self.poll, watched.fd());
            quietly(|| drop(watched));
        }
    }
}

/// Another thread takes over.
impl Drop for Thread {
    fn drop(&mut self) {
        let node = of_this_process();
        let mut known = lock(&node.post);
        if known.as_ref().is_some_and(|post| Arc::ptr_eq(post, &self.post)) {
            *known = start().ok();
        }
        // If there can be no thread, that is tried again with the next order; what this one had is
        // read when somebody asks for it, and reaped when this process ends.
        let Some(next) = known.as_ref() else { return };
        for (_, watched) in self.watched.drain() {
            next.order(Order::Watch(watched));
        }
        for order in std::mem::take(&mut *lock(&self.post.orders)) {
            next.order(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn is_read(tail: &Tail, wanted: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while !tail.lines().iter().any(|line| line == wanted) {
            assert!(Instant::now() < until, "{wanted} is not read");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What it reads goes on being read, by another thread if need be.
    #[test]
    fn w1_the_thread_survives_panics_and_is_replaced_when_it_ends() {
        let (from, to) = rustix::pipe::pipe().expect("a pipe");
        let tail = Arc::new(Tail::new(from, false).expect("a tail"));
        read(tail.clone()).expect("a thread");
        rustix::io::write(&to, b"one\n").expect("written");
        is_read(&tail, "one");
        order(Order::Panic).expect("a thread");
        rustix::io::write(&to, b"two\n").expect("written");
        is_read(&tail, "two");
        order(Order::End).expect("a thread");
        rustix::io::write(&to, b"three\n").expect("written");
        is_read(&tail, "three");
        forget(tail.clone());
        let until = Instant::now() + Duration::from_secs(30);
        while Arc::strong_count(&tail) > 1 {
            assert!(Instant::now() < until, "the thread has not let go of it");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
