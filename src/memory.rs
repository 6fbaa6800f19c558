//! The global allocator.

use mimalloc::MiMalloc;

// Answers and waiting claims are small and many: this allocator is the fastest for them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Gives the system back what the calling thread has freed. By itself mimalloc does so only as the thread goes on
/// allocating, which one that has become quiet does not.
pub fn trim() {
    // SAFETY: has no precondition; memory in use is not touched.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
