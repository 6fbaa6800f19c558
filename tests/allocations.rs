//! A request costs no allocation: counted from bytes to bytes, as a worker of the default engine takes them.

#[path = "../benches/common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::exchange::{Exchange, TAG, traffic};

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn note() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is passed on to the system's allocator as it is; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps what `alloc` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps what `dealloc` asks for, and `pointer` is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller keeps what `realloc` asks for, and `pointer` is the system's.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The allocations of a thousand rounds of `requests`, once everything has grown as large as it must.
fn allocations(exchange: &mut Exchange, requests: &str) -> u64 {
    let mut bytes = requests.to_owned().into_bytes();
    for _ in 0..10 {
        exchange.answer(&mut bytes);
    }
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        exchange.answer(&mut bytes);
    }
    ALLOCATIONS.get() - before
}

#[test]
fn a_request_that_is_served_costs_no_allocation() {
    let mut exchange = Exchange::new();
    let get = |header: &str| format!("GET /alloc?app_tag={TAG} HTTP/1.1\r\nHost: h\r\n{header}\r\n");
    let (one, other) = (get(""), get("Accept: */*\r\n"));
    // What comes often is remembered, and has its tag looked for, anew each time.
    let often_each = [one.repeat(9), other.repeat(9)].concat();
    let filler = format!("GET /alloc?%61={}&app_tag={TAG} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(50));
    let mut cases: Vec<_> = traffic().into_iter().map(|(name, _, requests)| (name, requests)).collect();
    cases.extend([("each often", often_each), ("a name that is encoded", filler + &other)]);
    for (name, requests) in cases {
        let count = allocations(&mut exchange, &requests);
        match name {
            // So the others are counted at all.
            "a malformed tag" => assert!(count >= 1000, "the message of a refusal is allocated"),
            "a batch of 1000" => assert!(count <= 2, "{count}: more than longer IDs make a buffer grow"),
            _ => assert_eq!(count, 0, "{name}"),
        }
    }
}
