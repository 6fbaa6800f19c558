//! Tasks that the server cannot do without, on the program's runtime. For threads see [`idalloc_core::supervise`], which also
//! tells the program that something was given up.

pub use idalloc_core::supervise::{give_up, given_up, spawn};

use idalloc_core::supervise::Watch;

/// Runs the future that `body` makes, and makes another after each panic, on the runtime of the caller. For what the
/// program does on its main thread, where a panic is kept from the thread by its task.
pub async fn run<F>(name: &str, mut body: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut watch = Watch::new(name);
    loop {
        match tokio::spawn(body()).await {
            Err(ended) if ended.is_panic() => {}
            // It has returned, or the runtime ends.
            _ => return,
        }
        let Some(pause) = watch.pause_before_restart() else { return };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    #[test]
    fn a_task_that_panics_is_started_again() {
        let lives = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run("a task", || {
            let life = lives.fetch_add(1, Relaxed);
            async move { assert!(life > 1, "on purpose") }
        }));
        assert_eq!(lives.load(Relaxed), 3);
    }
}
