//! The only door to atomics and locks for what is checked with loom ([`segment`](crate::segment) and
//! [`tag`](crate::tag)): std's and arc-swap's, or loom's under `cfg(loom)`.

#[cfg(not(loom))]
mod imp {
    pub use arc_swap::ArcSwapOption;
    pub use std::sync::atomic::AtomicU64;
    pub use std::sync::{Mutex, MutexGuard};
}

#[cfg(loom)]
mod imp {
    use std::sync::Arc;

    pub use loom::sync::atomic::AtomicU64;
    pub use loom::sync::{Mutex, MutexGuard};

    /// What this crate uses of `arc_swap::ArcSwapOption`, made of a mutex: loom explores who comes first,
    /// and arc-swap's own algorithm is tested by its authors.
    pub struct ArcSwapOption<T>(Mutex<Option<Arc<T>>>);

    impl<T> ArcSwapOption<T> {
        pub fn empty() -> Self {
            Self(Mutex::new(None))
        }

        pub fn load_full(&self) -> Option<Arc<T>> {
            super::lock(&self.0).clone()
        }

        pub fn store(&self, new: Option<Arc<T>>) {
            *super::lock(&self.0) = new;
        }

        pub fn compare_and_swap(&self, current: &Arc<T>, new: Option<Arc<T>>) {
            let mut slot = super::lock(&self.0);
            if slot.as_ref().is_some_and(|held| Arc::ptr_eq(held, current)) {
                *slot = new;
            }
        }
    }
}

pub use imp::*;

/// Locks `mutex`. What it guards is kept consistent at every step, so a panic elsewhere does not spoil it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
