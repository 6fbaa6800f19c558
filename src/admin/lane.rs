//! Work that looks at every tag: away from the thread that answers probes.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::problem::Problem;

/// One piece of work at a time, in the order in which they were asked for; with 300,000 tags each takes a core for a while,
/// which the workers of the hot port want too.
pub(super) struct Lane(Arc<Semaphore>);

impl Default for Lane {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Lane {
    /// What `work` returns, when its turn has come. Who no longer waits for its turn is left out.
    ///
    /// # Errors
    /// It has panicked, which is in the log.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.0.clone().acquire_owned().await.map_err(|_| Problem::bug())?;
        let done = spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| Problem::bug())
    }
}
