//! What a claim costs, beside the bare `fetch_add` that it cannot beat, and beside what it might have been made of:
//! `cargo bench --bench claim`.
//!
//! The goal is 1.15 times a bare `fetch_add` on one thread, and 1.3 times on two.

mod common;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use common::{ENDLESS, endless_allocator, load, names};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;
use idalloc::alloc::sizing::Policy;
use idalloc::alloc::tag::{Job, Tag, TagHandle};
use idalloc::segment::{IdRange, Segment};

/// As in the program: how segments lie in memory depends on it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where each tag's words are in a cache line that is not at hand. A test, which only runs each bench once, needs no more than
/// a few.
fn most_tags() -> usize {
    let measures = std::env::args().any(|argument| argument == "--bench");
    if measures { 100_000 } else { 2_000 }
}

fn endless_tag() -> Arc<Tag> {
    let tag = Arc::new(Tag::new("bench", ENDLESS, Policy::default(), Instant::now()));
    tag.complete(Job::Extend(ENDLESS), IdRange { start: 1, end: ENDLESS });
    tag
}

/// A claim as the handler uses it: what is kept of it is the ID, when it was seen not to cross the trigger.
#[inline]
fn claim_id(handle: &mut TagHandle) -> Option<i64> {
    let claim = handle.claim(1)?;
    if claim.crossed_trigger {
        call_for_refill();
    }
    Some(claim.ids.start)
}

#[cold]
#[inline(never)]
fn call_for_refill() {
    black_box(());
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
    let mutex = Mutex::new(1..ENDLESS);
    one.bench_function("a mutex and a range", |b| b.iter(|| next_of(black_box(&mutex))));
    let swap = ArcSwap::from_pointee(Segment::new(IdRange { start: 1, end: ENDLESS }));
    one.bench_function("a plain load of an arc-swap", |b| b.iter(|| black_box(&swap).load().claim(1)));
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
    two.bench_function("a mutex and a range", |b| {
        let mutex = Mutex::new(1..ENDLESS);
        b.iter_custom(|iterations| on_two_threads(iterations, || || _ = black_box(next_of(&mutex))));
    });
    two.finish();
}

fn next_of(mutex: &Mutex<std::ops::Range<i64>>) -> Option<i64> {
    mutex.lock().expect("no panic").next()
}

/// Segments of one ID: each claim but the first moves the head.
fn chain_switch(c: &mut Criterion) {
    const SEGMENTS: i64 = 64;
    let chain = || {
        let tag = Arc::new(Tag::new("bench", 1, Policy::default(), Instant::now()));
        for start in 1..=SEGMENTS {
            tag.complete(Job::Extend(1), IdRange { start, end: start + 1 });
        }
        TagHandle::new(tag)
    };
    let mut group = c.benchmark_group("chain");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    group.bench_function("a claim that moves the head", |b| {
        b.iter_batched_ref(
            chain,
            |handle| (0..SEGMENTS).for_each(|_| _ = black_box(claim_id(handle))),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn by_name(c: &mut Criterion) {
    let mut group = c.benchmark_group("an ID by the tag's name");
    let most_tags = most_tags();
    // What no table can beat: so many words in a random order, each in a cache line of its own.
    let mut cursors: Vec<_> = (0..most_tags).map(|_| Box::new(CachePadded::new(AtomicU64::new(0)))).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut cursors);
    let mut next = cursors.iter().cycle();
    group.bench_function(format!("{most_tags} bare fetch_add in turn"), |b| {
        b.iter(|| next.next().expect("an endless cycle").fetch_add(1, Relaxed));
    });
    for tags in [1, most_tags] {
        let names = names(tags);
        let words: HashMap<&str, u64, foldhash::fast::RandomState> =
            (0..).zip(&names).map(|(word, name)| (name.as_str(), word)).collect();
        let mut next = names.iter().cycle();
        group.bench_function(format!("{tags} names looked up in turn, no claim"), |b| {
            b.iter(|| words.get(next.next().expect("an endless cycle").as_str()).copied());
        });
    }
    for tags in [1, 1_000, most_tags] {
        let allocator = endless_allocator(tags);
        let mut handle = allocator.handle();
        let names = names(tags);
        names.iter().for_each(|name| load(&mut handle, name));
        let mut next = names.iter().cycle();
        group.bench_function(format!("{tags} tags in turn"), |b| {
            b.iter(|| handle.next_id(next.next().expect("an endless cycle")).expect("it never runs out"));
        });
        allocator.close(Duration::from_secs(1));
    }
    group.finish();
}

criterion_group!(benches, claims, chain_switch, by_name);
criterion_main!(benches);
