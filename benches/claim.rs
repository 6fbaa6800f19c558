//! What a claim costs, beside the bare `fetch_add` that it cannot beat: `cargo bench --bench claim`.
//!
//! The goal is 1.2 times a bare `fetch_add`, on one thread and on two.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;
use idalloc::alloc::sizing::Policy;
use idalloc::alloc::tag::{Job, Tag, TagHandle};
use idalloc::alloc::watermark::Watermarks;
use idalloc::alloc::{Allocator, AllocatorConfig, OnRegression, Outcome, StoreFactory, Want};
use idalloc::segment::IdRange;
use idalloc::store::{SegmentStore, StoreError, StoreReport, TagRow};

/// More IDs than any run takes, so that the store is never asked.
const ENDLESS: i64 = 1 << 60;

fn endless_tag() -> Arc<Tag> {
    let tag = Arc::new(Tag::new("bench", ENDLESS, Policy::default(), Instant::now()));
    tag.complete(Job::Extend(ENDLESS), IdRange { start: 1, end: ENDLESS });
    tag
}

/// A claim as the handler uses it: what is kept of it is the ID.
#[inline]
fn claim_id(handle: &mut TagHandle) -> Option<i64> {
    handle.claim(1).map(|claim| claim.ids.start)
}

/// Runs `worker`'s step on two threads at once, `iterations` times each; the time from the first start to the last end.
fn on_two_threads<T>(iterations: u64, worker: impl Fn() -> T + Sync) -> Duration
where
    T: FnMut(),
{
    let barrier = Barrier::new(3);
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut step = worker();
                barrier.wait();
                (0..iterations).for_each(|_| step());
            })
        });
        barrier.wait();
        let start = Instant::now();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        start.elapsed()
    })
}

fn claims(c: &mut Criterion) {
    let mut one = c.benchmark_group("one thread");
    let cursor = CachePadded::new(AtomicU64::new(0));
    one.bench_function("bare fetch_add", |b| b.iter(|| black_box(&cursor).fetch_add(1, Relaxed)));
    let mut handle = TagHandle::new(endless_tag());
    one.bench_function("claim", |b| b.iter(|| claim_id(black_box(&mut handle))));
    one.finish();

    let mut two = c.benchmark_group("two threads on one tag");
    two.bench_function("bare fetch_add", |b| {
        b.iter_custom(|iterations| {
            on_two_threads(iterations, || || _ = black_box(cursor.fetch_add(1, Relaxed)))
        });
    });
    let tag = endless_tag();
    two.bench_function("claim", |b| {
        b.iter_custom(|iterations| {
            on_two_threads(iterations, || {
                let mut handle = TagHandle::new(tag.clone());
                move || _ = black_box(claim_id(&mut handle))
            })
        });
    });
    two.finish();
}

/// A table of so many tags, in memory, each with an endless step.
struct Table(usize);

impl SegmentStore for Table {
    fn check(&mut self) -> Result<StoreReport, StoreError> {
        Ok(StoreReport::default())
    }

    fn list_tags(&mut self, _limit: usize) -> Result<Vec<TagRow>, StoreError> {
        let row = |index| TagRow { name: format!("tag-{index}"), step: ENDLESS, max_id: 0 };
        Ok((0..self.0).map(row).collect())
    }

    fn reserve(&mut self, _tag: &str, amount: i64) -> Result<i64, StoreError> {
        Ok(amount)
    }

    fn give_back(&mut self, _tag: &str, _end: i64, _first: i64) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn raise(&mut self, _tag: &str, _to: i64) -> Result<(), StoreError> {
        Ok(())
    }
}

fn by_name(c: &mut Criterion) {
    let mut group = c.benchmark_group("an ID by the tag's name");
    for tags in [1, 1_000, 100_000] {
        let open: StoreFactory = Arc::new(move || Box::new(Table(tags)));
        let config = AllocatorConfig {
            refill_threads: 1,
            preload_tags: 0,
            tag_reload: Duration::from_secs(3600),
            policy: Policy::default(),
            on_regression: OnRegression::Refuse,
        };
        let allocator = Allocator::start(config, Watermarks::default(), &open).expect("the table is there");
        let mut handle = allocator.handle();
        let names: Vec<String> = (0..tags).map(|index| format!("tag-{index}")).collect();
        names.iter().for_each(|name| load(&mut handle, name));
        let mut next = names.iter().cycle();
        group.bench_function(format!("{tags} tags in turn"), |b| {
            b.iter(|| handle.next_id(next.next().expect("an endless cycle")));
        });
        allocator.close(Duration::from_secs(1));
    }
    group.finish();
}

/// Polls until the tag has its first segment.
fn load(handle: &mut idalloc::alloc::Handle, name: &str) {
    let Outcome::Pending(mut pending) = handle.claim(name, Want::Ids(1)) else { return };
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    while handle.poll(&mut pending, &mut cx).is_pending() {
        thread::yield_now();
    }
}

criterion_group!(benches, claims, by_name);
criterion_main!(benches);
