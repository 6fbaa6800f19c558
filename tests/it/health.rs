//! What a node's health is, and what it costs to ask for it: the same with 300,000 tags as with a thousand.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use idalloc::alloc::memory::Table;
use idalloc::alloc::watermark::Watermarks;
use idalloc::alloc::{Allocator, AllocatorConfig, Granted, Handle, Health, Outcome, StoreFactory, Want};
use idalloc::store::{Floor, Rest, Rows, SegmentStore, StoreError, StoreReport, TagRow};
use idalloc_testing::server::PATIENCE;

/// How often a measurement asks.
const ASKED: u32 = 1000;

/// A table in memory, and whether it answers.
#[derive(Clone)]
struct Store {
    table: Arc<Table>,
    is_away: Arc<AtomicBool>,
}

impl Store {
    fn pass(&self) -> Result<(), StoreError> {
        match self.is_away.load(Relaxed) {
            true => Err(StoreError::Unavailable("away".to_owned())),
            false => Ok(()),
        }
    }
}

impl SegmentStore for Store {
    fn check(&mut self) -> Result<StoreReport, StoreError> {
        Ok(StoreReport::default())
    }

    fn list_tags(&mut self, _limit: usize) -> Result<Rows<TagRow>, StoreError> {
        self.pass()?;
        Ok(self.table.list().into())
    }

    fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
        self.pass()?;
        self.table.reserve_above(tag, amount, floor)
    }

    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
        Ok(self.table.give_back(rests))
    }
}

struct Site {
    names: Vec<String>,
    store: Store,
    allocator: Allocator,
    handle: Handle,
}

impl Site {
    /// A node with so many tags, of which the first has 10 IDs.
    fn new(tags: usize) -> Site {
        let names: Vec<_> = (0..tags).map(|n| format!("t{n:06}")).collect();
        let table = Table::new(names.iter().map(|name| (name.as_str(), 10)));
        let store = Store { table, is_away: Arc::default() };
        let config = AllocatorConfig {
            refill_threads: 1,
            preload_tags: 1,
            tag_reload: Duration::from_secs(3600),
            failover_steps: None,
            ..AllocatorConfig::default()
        };
        let open: StoreFactory = {
            let store = store.clone();
            Arc::new(move || Box::new(store.clone()))
        };
        let allocator = Allocator::start(config, Watermarks::default(), &open).expect("it starts");
        let site = Site { names, store, handle: allocator.handle(), allocator };
        site.await_health(&Health::Serving);
        site
    }

    fn await_health(&self, health: &Health) {
        let deadline = Instant::now() + PATIENCE;
        while self.handle.health() != *health {
            assert!(Instant::now() < deadline, "it is {:?}, and not {health:?}", self.handle.health());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// What it costs this thread to ask for the health so many times.
    fn cost(&self) -> Duration {
        let before = cpu_time();
        (0..ASKED).for_each(|_| drop(self.handle.health()));
        cpu_time() - before
    }

    fn take(&mut self, tag: usize, want: Want, patience: Duration) -> Granted {
        match self.handle.claim_within(&self.names[tag], want, patience) {
            Ok(granted) => granted,
            claimed => panic!("{tag}: {claimed:?}"),
        }
    }

    fn left(&mut self, tag: usize) -> u64 {
        match self.take(tag, Want::Left, Duration::ZERO) {
            Granted::Left(left) => left,
            granted => panic!("{tag}: {granted:?}"),
        }
    }

    /// Takes what the tag has, and asks for no more. Meanwhile the store is away.
    fn take_all(&mut self, tag: usize) {
        // A refill may have been under way when it went.
        while let left @ 1.. = self.left(tag) {
            self.take(tag, Want::Ids(left), Duration::ZERO);
        }
    }

    /// Has the store go away, and uses up what the first tag has.
    fn run_dry(&mut self) {
        self.store.is_away.store(true, Relaxed);
        while self.handle.claim_within(&self.names[0], Want::Ids(1), Duration::ZERO).is_ok() {}
    }

    /// Somebody asks for each tag in vain, and leaves.
    fn ask_for_all(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for name in &self.names {
            let Outcome::Pending(mut pending) = self.handle.claim(name, Want::Ids(1)) else {
                panic!("{name}")
            };
            assert!(self.handle.poll(&mut pending, &mut cx).is_pending(), "{name}");
        }
    }
}

/// What this thread has used of a processor.
fn cpu_time() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to a `timespec`, which the call fills, as its return value says.
    let time = unsafe {
        assert_eq!(libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()), 0);
        time.assume_init()
    };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Costs with few tags and with many may differ by this: a cache that is cold, and no look at each tag.
fn assert_alike(few: Duration, many: Duration, what: &str) {
    assert!(
        many < 10 * few + Duration::from_millis(20),
        "{what}: {few:?} with 1,000 tags, {many:?} with 300,000"
    );
}

#[test]
fn the_health_costs_the_same_however_many_tags_there_are() {
    let [few, many] = [1_000, 300_000].map(|tags| {
        let mut site = Site::new(tags);
        // Asked for, so that the refill finds out.
        site.run_dry();
        site.await_health(&Health::Starving(vec![format!("app_tag '{}' has no IDs left", site.names[0])]));
        let dry = site.cost();
        site.ask_for_all();
        thread::sleep(Duration::from_millis(600));
        let starving = site.cost();
        assert!(matches!(site.handle.health(), Health::Starving(complaints) if complaints.len() == 10));
        site.allocator.close(Duration::ZERO);
        (dry, starving)
    });
    assert_alike(few.0, many.0, "one tag starves");
    assert_alike(few.1, many.1, "all tags starve");
}

#[test]
fn a_store_that_is_away_costs_the_health_the_same_however_many_tags_there_are() {
    let [few, many] = [1_000, 300_000].map(|tags| {
        let mut site = Site::new(tags);
        site.store.is_away.store(true, Relaxed);
        site.take_all(0);
        site.await_health(&Health::StoreAway);
        let cost = site.cost();
        assert_eq!(site.handle.health(), Health::StoreAway);
        site.allocator.close(Duration::ZERO);
        cost
    });
    assert_alike(few, many, "the store is away");
}

#[test]
fn the_node_serves_until_the_last_id_is_gone_and_again_when_there_is_one() {
    let mut site = Site::new(3);
    for tag in [1, 2] {
        site.take(tag, Want::Ids(1), PATIENCE);
    }
    site.store.is_away.store(true, Relaxed);
    // The store is found to be away when the first chain ends.
    site.take_all(0);
    site.take_all(1);
    for left in (0..site.left(2)).rev() {
        assert_eq!(site.handle.health(), Health::Serving, "IDs are left");
        let want = if left % 2 == 0 { Want::Ids(1) } else { Want::Lease(1) };
        site.take(2, want, Duration::ZERO);
    }
    site.await_health(&Health::StoreAway);
    site.store.is_away.store(false, Relaxed);
    site.await_health(&Health::Serving);
    site.allocator.close(PATIENCE);
}
