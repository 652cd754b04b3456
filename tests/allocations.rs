//! A warm server allocates nothing for a small request, whether it is answered at once or by
//! another thread.

use ringbell::{Client, OwnedRequest, Responder, Server};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::mpsc::sync_channel;

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has nothing to count with.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

#[allow(unsafe_code, reason = "a global allocator")]
// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is the same.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WARM: u64 = 2_000;
const CALLS: u64 = 2_000;

/// Allocations of the reactor's thread during `CALLS` warm calls, as its handler counts them.
fn allocations(to_a_thread: bool) -> u64 {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let server = Server::bind(&path).expect("bind");
    let handle = server.handle();
    let serving = std::thread::spawn(move || {
        let (work, worker) = sync_channel::<(OwnedRequest, Responder)>(16);
        let working = std::thread::spawn(move || {
            for (request, responder) in worker {
                responder.reply(request.payload());
            }
        });
        let (mut calls, mut before, mut after) = (0, 0, 0);
        server
            .run_reactor(|request, responder| {
                calls += 1;
                if calls == WARM {
                    before = ALLOCATIONS.get();
                }
                if calls == WARM + CALLS {
                    after = ALLOCATIONS.get();
                }
                if to_a_thread {
                    work.send((request, responder)).expect("the worker lives");
                } else {
                    responder.reply(request.payload());
                }
            })
            .expect("serve");
        drop(work);
        working.join().expect("the worker ends");
        assert_eq!(calls, WARM + CALLS);
        after - before
    });
    let mut client = Client::connect(&path).expect("connect");
    for number in 0..WARM + CALLS {
        let request = number.to_le_bytes().repeat(16);
        assert_eq!(client.call(&request).expect("call").payload(), request);
    }
    handle.shutdown(None);
    serving.join().expect("the server ends")
}

#[test]
fn answered_at_once() {
    assert_eq!(allocations(false), 0);
}

#[test]
fn answered_by_another_thread() {
    // Flights and buffers that the worker still holds when the next request comes are made anew,
    // until there are enough of them.
    let allocated = allocations(true);
    assert!(allocated < CALLS / 100, "{allocated} in {CALLS} calls");
}
