//! The operator's sessions with the store: a few, opened when they are needed and kept for the next request.

use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::store::{Backend, TagStore};
use crate::sync::lock;

/// The most sessions.
pub(super) const SESSIONS_MAX: usize = 4;

/// All sessions, at work or idle.
pub struct Sessions {
    backend: Arc<dyn Backend>,
    /// One for each session that may be at work.
    places: Arc<Semaphore>,
    /// The one that was used last is on top.
    idle: Arc<Mutex<Vec<Box<dyn TagStore>>>>,
}

impl Sessions {
    /// The kind of store that they are with.
    pub fn store_kind(&self) -> &'static str {
        self.backend.kind()
    }

    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, places: Arc::new(Semaphore::new(SESSIONS_MAX)), idle: Arc::default() }
    }

    /// Has `ask` talk to the store, on a thread that may block, as soon as a session is free. `None`: it has panicked,
    /// which is in the log.
    pub async fn run<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut dyn TagStore) -> T + Send + 'static,
    ) -> Option<T> {
        let place = self.places.clone().acquire_owned().await;
        let kept = lock(&self.idle).pop();
        let (backend, idle) = (self.backend.clone(), self.idle.clone());
        let answer = spawn_blocking(move || {
            let _place = place;
            let mut session = kept.unwrap_or_else(|| backend.session());
            session.refresh();
            let answer = ask(&mut *session);
            lock(&idle).push(session);
            answer
        });
        answer.await.ok()
    }
}
