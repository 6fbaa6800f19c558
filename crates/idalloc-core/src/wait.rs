//! Waiting for IDs: as a thread that blocks, or as a future of any runtime.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::{AllocError, Granted, Handle, Outcome, Want};

/// Why a caller that waits gets nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The IDs did not come within this time.
    #[error("no IDs within {0:?}")]
    TimedOut(Duration),
    /// Waiting longer is of no use.
    #[error(transparent)]
    Failed(#[from] AllocError),
}

impl Handle {
    /// Takes one ID of `tag`, and blocks the thread for up to `timeout` if there is none in memory.
    ///
    /// # Errors
    /// Nothing is taken after an error.
    pub fn next_id_within(&mut self, tag: &str, timeout: Duration) -> Result<i64, WaitError> {
        match self.next_id(tag) {
            Some(id) => Ok(id),
            None => self.claim_within(tag, Want::Ids(1), timeout).map(|granted| only_id(&granted)),
        }
    }

    /// Claims what is wanted of `tag`, and blocks the thread for up to `timeout` if need be.
    ///
    /// # Errors
    /// A batch that is given up may leave a gap: see [`Handle::claim`]. Nothing is the caller's after an error.
    pub fn claim_within(&mut self, tag: &str, want: Want, timeout: Duration) -> Result<Granted, WaitError> {
        let mut pending = match self.claim(tag, want) {
            Outcome::Granted(granted) => return Ok(granted),
            Outcome::Pending(pending) => pending,
        };
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        let began = Instant::now();
        loop {
            if let Poll::Ready(result) = self.poll(&mut pending, &mut cx) {
                return Ok(result?);
            }
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(WaitError::TimedOut(timeout));
            }
            thread::park_timeout(left);
        }
    }

    /// Takes one ID of `tag`, and waits for it if need be. It may wait for long: give it a limit, such as the runtime's own
    /// timeout. When the future is dropped, nothing was taken.
    ///
    /// # Errors
    /// When waiting longer is of no use. Nothing is taken after an error.
    pub async fn next_id_async(&mut self, tag: &str) -> Result<i64, AllocError> {
        match self.next_id(tag) {
            Some(id) => Ok(id),
            None => self.claim_async(tag, Want::Ids(1)).await.map(|granted| only_id(&granted)),
        }
    }

    /// Claims what is wanted of `tag`, and waits for it if need be, like [`Handle::next_id_async`].
    ///
    /// # Errors
    /// When waiting longer is of no use.
    pub async fn claim_async(&mut self, tag: &str, want: Want) -> Result<Granted, AllocError> {
        match self.claim(tag, want) {
            Outcome::Granted(granted) => Ok(granted),
            Outcome::Pending(mut pending) => poll_fn(|cx| self.poll(&mut pending, cx)).await,
        }
    }
}

fn only_id(granted: &Granted) -> i64 {
    match granted {
        Granted::Ids(ranges) => ranges[0].start,
        Granted::Lease(_) | Granted::Left(_) => {
            unreachable!("an ID was asked for, and {granted:?} was granted")
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::memory::Table;
    use crate::watermark::Watermarks;
    use crate::{Allocator, AllocatorConfig, StoreFactory};

    fn allocator(table: &Arc<Table>) -> Allocator {
        let table = table.clone();
        let open: StoreFactory = Arc::new(move || Box::new(table.session()));
        Allocator::start(AllocatorConfig::default(), Watermarks::default(), &open).expect("started")
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_thread_waits_for_its_id_and_no_longer_than_it_may() {
        let table = Table::new([("a", 3)]);
        let allocator = allocator(&table);
        let mut handle = allocator.handle();
        let ids: Vec<_> = (0..10).map(|_| handle.next_id_within("a", PATIENCE).expect("an ID")).collect();
        assert_eq!(ids, (1..=10).collect::<Vec<_>>());
        let unknown = handle.next_id_within("b", PATIENCE);
        assert_eq!(unknown, Err(WaitError::Failed(AllocError::UnknownTag)));
        table.halt();
        let timeout = Duration::from_millis(1);
        let starved = loop {
            if let Err(error) = handle.next_id_within("a", timeout) {
                break error;
            }
        };
        assert_eq!(starved, WaitError::TimedOut(timeout));
    }

    #[test]
    fn a_future_waits_on_any_runtime() {
        let allocator = allocator(&Table::new([("a", 3)]));
        let mut handle = allocator.handle();
        let mut future = pin!(async { handle.claim_async("a", Want::Lease(50)).await });
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut cx = Context::from_waker(&waker);
        let granted = loop {
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(granted) => break granted,
                Poll::Pending => thread::park_timeout(PATIENCE),
            }
        };
        let Ok(Granted::Lease(lease)) = granted else { panic!("{granted:?}") };
        assert_eq!(lease.len(), 50);
    }
}
