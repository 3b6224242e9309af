//! How much memory a target takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with the bytes counted that are in use. libFuzzer could do so only with a
/// sanitizer, which needs a nightly compiler.
pub(crate) struct Counting;

// SAFETY: everything is left to the system's allocator; the counters touch no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `work`.
///
/// # Panics
/// If it has more than `limit` bytes in use at any time.
pub(crate) fn limited(limit: usize, work: impl FnOnce()) {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    work();
    let most = MOST.load(Relaxed).saturating_sub(before);
    assert!(most <= limit, "{most} bytes in use, {limit} are enough");
}
