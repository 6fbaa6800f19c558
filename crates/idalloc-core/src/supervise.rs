//! Threads that the server cannot do without.
//!
//! A panic ends a thread, and nobody else would notice: the process would stay, and do half of its work. So each of these
//! threads is started again after a panic. One that panics again and again is given up, and [`given_up`] tells the program,
//! which ends then. A thread that is given up while the program ends anyway changes nothing.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use tracing::error;

/// So many panics within [`WINDOW`] are survived; one more gives the thread up.
pub const RESTARTS_MAX: usize = 5;
/// See [`RESTARTS_MAX`].
pub const WINDOW: Duration = Duration::from_secs(60);
/// The pause after the first panic; it doubles with each further one within [`WINDOW`].
const PAUSE_FIRST: Duration = Duration::from_millis(10);

/// What was given up. A matter of the whole process, so there is one.
static GIVEN_UP: Mutex<GivenUp> = Mutex::new(GivenUp { first: None, waiting: Vec::new() });

#[derive(Debug)]
struct GivenUp {
    /// The name of the first thread.
    first: Option<String>,
    /// Who waits to be told.
    waiting: Vec<Waker>,
}

fn lock_given_up() -> MutexGuard<'static, GivenUp> {
    GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        let mut watch = Watch::new(name);
        loop {
            // What the body shares with others is kept consistent at every step: see `sync::lock`.
            match catch_unwind(AssertUnwindSafe(&mut body)) {
                Ok(result) => return Some(result),
                Err(_) => thread::sleep(watch.pause_before_restart()?),
            }
        }
    })
}

/// Waits until something is given up, and returns its name. Any runtime can poll it.
pub async fn given_up() -> String {
    poll_fn(|cx| {
        let mut state = lock_given_up();
        if let Some(name) = &state.first {
            return Poll::Ready(name.clone());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    })
    .await
}

/// For what cannot be started again.
pub fn give_up(name: &str) {
    error!(name, "has ended by a panic: ending the process");
    let waiting = {
        let mut state = lock_given_up();
        state.first.get_or_insert_with(|| name.to_owned());
        mem::take(&mut state.waiting)
    };
    waiting.into_iter().for_each(Waker::wake);
}

/// Gives its thread up when it is dropped by a panic: one outside `body` must not end the thread unnoticed either.
#[derive(Debug)]
pub struct Watch {
    name: String,
    restarts: Restarts,
}

impl Watch {
    /// A watch on the thread, or task, of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Watch {
        Watch { name: name.into(), restarts: Restarts::default() }
    }

    /// To be called after a panic: how long to wait before the next start. `None` when there is to be none; the thread is
    /// then given up.
    pub fn pause_before_restart(&mut self) -> Option<Duration> {
        let Self { name, restarts } = self;
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
            give_up(&self.name);
        }
    }
}

/// When a thread was started again, within [`WINDOW`].
#[derive(Debug, Default)]
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
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::{Arc, mpsc};
    use std::task::Context;

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
        // Given up before it is asked, so the answer is there at once.
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(given_up()).poll(&mut cx), Poll::Ready("hopeless".to_owned()));
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
