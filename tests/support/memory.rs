//! Claims with a limit of patience: what the tests of the allocator stand on.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use idalloc::alloc::{AllocError, Granted, Handle, Outcome, Pending, Want};

#[allow(unused_imports, reason = "not every test binary has a table")]
pub use idalloc::alloc::memory::Table;

/// What came of a claim, for its caller.
#[derive(Debug)]
pub enum Claimed {
    Granted(Granted),
    Failed(AllocError),
    /// The caller lost patience: what it might have got is nobody's.
    GivenUp,
}

/// Claims what is wanted, and waits for it no longer than `patience`.
pub fn claim_within(handle: &mut Handle, tag: &str, want: Want, patience: Duration) -> Claimed {
    match handle.claim(tag, want) {
        Outcome::Granted(granted) => Claimed::Granted(granted),
        Outcome::Pending(pending) => wait_for(handle, pending, patience),
    }
}

fn wait_for(handle: &mut Handle, mut pending: Pending, patience: Duration) -> Claimed {
    let waker = unparking();
    let mut cx = Context::from_waker(&waker);
    let deadline = Instant::now() + patience;
    loop {
        match handle.poll(&mut pending, &mut cx) {
            Poll::Ready(Ok(granted)) => return Claimed::Granted(granted),
            Poll::Ready(Err(error)) => return Claimed::Failed(error),
            Poll::Pending => {}
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Claimed::GivenUp;
        }
        thread::park_timeout(rest);
    }
}

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
