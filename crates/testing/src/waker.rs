//! A waker for tests that poll by themselves.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};

/// A waker that unparks the calling thread.
pub fn unparking() -> Waker {
    Waker::from(Arc::new(Unparking(thread::current())))
}

struct Unparking(Thread);

impl Wake for Unparking {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
