//! Threads that the server cannot do without.
//!
//! A panic ends a thread, and nobody else would notice: the process would stay, and do half of its work. So each of these
//! threads is started again after a panic. One that panics again and again is given up, and [`given_up`] tells the program,
//! which ends then. A thread that is given up while the program ends anyway changes nothing.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::error;

use crate::sync::lock;

/// So many panics within [`WINDOW`] are survived; one more gives the thread up.
pub const RESTARTS_MAX: usize = 5;
/// See [`RESTARTS_MAX`].
pub const WINDOW: Duration = Duration::from_secs(60);
/// The pause after the first panic; it doubles with each further one within [`WINDOW`].
const PAUSE_FIRST: Duration = Duration::from_millis(10);

/// The name of the first thread that was given up. A matter of the whole process, so there is one.
static GIVEN_UP: Mutex<Option<String>> = Mutex::new(None);
static NEWS: Notify = Notify::const_new();

/// Starts a thread that runs `body` until that returns, and again after each panic. `None` is the result of a thread that
/// was given up.
///
/// # Errors
/// The system has no threads left.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    mut body: impl FnMut() -> T + Send + 'static,
) -> io::Result<JoinHandle<Option<T>>> {
    let name = name.into();
    let thread = thread::Builder::new().name(name.clone());
    thread.spawn(move || {
        let watch = Watch(name);
        let mut restarts = Restarts::default();
        loop {
            // What the body shares with others is kept consistent at every step: see `sync::lock`.
            match catch_unwind(AssertUnwindSafe(&mut body)) {
                Ok(result) => return Some(result),
                Err(_) => thread::sleep(watch.pause_before_restart(&mut restarts)?),
            }
        }
    })
}

/// Runs the future that `body` makes, and makes another after each panic, on the runtime of the caller. For what the
/// program does on its main thread, where a panic is kept from the thread by its task.
pub async fn run<F>(name: &str, mut body: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let watch = Watch(name.to_owned());
    let mut restarts = Restarts::default();
    loop {
        match tokio::spawn(body()).await {
            Err(ended) if ended.is_panic() => {}
            // It has returned, or the runtime ends.
            _ => return,
        }
        let Some(pause) = watch.pause_before_restart(&mut restarts) else { return };
        tokio::time::sleep(pause).await;
    }
}

/// Waits until something is given up, and returns its name.
pub async fn given_up() -> String {
    loop {
        let news = NEWS.notified();
        if let Some(name) = lock(&GIVEN_UP).clone() {
            return name;
        }
        news.await;
    }
}

/// For what cannot be started again.
pub(crate) fn give_up(name: &str) {
    error!(name, "has ended by a panic: ending the process");
    lock(&GIVEN_UP).get_or_insert_with(|| name.to_owned());
    NEWS.notify_waiters();
}

/// Gives its thread up when it is dropped by a panic: one outside `body` must not end the thread unnoticed either.
struct Watch(String);

impl Watch {
    /// `None` when there is to be no restart.
    fn pause_before_restart(&self, restarts: &mut Restarts) -> Option<Duration> {
        let Self(name) = self;
        let pause = restarts.pause(Instant::now());
        match pause {
            Some(_) => error!(name, "has ended by a panic: it is started again"),
            None => give_up(name),
        }
        pause
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            give_up(&self.0);
        }
    }
}

/// When a thread was started again, within [`WINDOW`].
#[derive(Default)]
struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// The pause before the next start; `None` when there were too many.
    fn pause(&mut self, now: Instant) -> Option<Duration> {
        while self.0.front().is_some_and(|at| now.saturating_duration_since(*at) > WINDOW) {
            self.0.pop_front();
        }
        let doublings = u32::try_from(self.0.len()).ok().filter(|_| self.0.len() < RESTARTS_MAX)?;
        self.0.push_back(now);
        Some(PAUSE_FIRST.saturating_mul(1 << doublings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::{Arc, mpsc};

    #[test]
    fn a_thread_that_panics_is_started_again_with_its_name_and_what_it_holds() {
        let (tell, told) = mpsc::channel();
        let mut lives = 0;
        let thread = spawn("a-test", move || {
            lives += 1;
            tell.send(thread::current().name().map(str::to_owned)).unwrap();
            assert!(lives > 3, "on purpose");
            lives
        });
        assert_eq!(thread.unwrap().join().unwrap(), Some(4));
        assert_eq!(told.iter().collect::<Vec<_>>(), vec![Some("a-test".to_owned()); 4]);
    }

    #[test]
    fn a_thread_that_panics_again_and_again_is_given_up_and_the_program_is_told() {
        let lives = Arc::new(AtomicUsize::new(0));
        let counted = lives.clone();
        let thread = spawn("hopeless", move || {
            counted.fetch_add(1, Relaxed);
            panic!("on purpose");
        });
        assert_eq!(thread.unwrap().join().unwrap(), None::<()>);
        assert_eq!(lives.load(Relaxed), RESTARTS_MAX + 1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(given_up()), "hopeless");
    }

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

    #[test]
    fn pauses_grow_and_old_panics_are_forgotten() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let pauses: Vec<_> = (0..RESTARTS_MAX).map_while(|_| restarts.pause(start)).collect();
        let expected = [10, 20, 40, 80, 160].map(Duration::from_millis);
        assert_eq!(pauses, expected);
        assert_eq!(restarts.pause(start + WINDOW), None);
        assert_eq!(restarts.pause(start + WINDOW * 2), Some(PAUSE_FIRST));
    }
}
