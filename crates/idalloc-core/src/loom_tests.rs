//! Models of a tag under every interleaving: `make loom`.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use loom::future::block_on;
use loom::thread;

use crate::segment::{IdRange, Segment};
use crate::sizing::Policy;
use crate::tag::{Closed, Discarded, Entry, Fault, Job, Need, Parked, Tag, TagHandle};

fn range(start: i64, end: i64) -> IdRange {
    IdRange { start, end }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Three preemptions find what there is to find in models of this size, and keep them to seconds.
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Reserves `[end - amount, end)` for the tag's next job, as a refill thread does.
fn refill(tag: &Tag, end: &mut i64) {
    if !tag.begin_refill(Entry::Urgent) {
        return;
    }
    while let Some(job) = tag.next_job(Duration::ZERO, Instant::now()) {
        let start = *end;
        *end += job.amount();
        tag.complete(job, range(start, *end));
    }
}

fn tag_with(segments: &[IdRange]) -> Arc<Tag> {
    let tag = Arc::new(Tag::new("t", 2, Policy::default(), Instant::now()));
    for segment in segments {
        tag.complete(Job::Extend(2), *segment);
    }
    tag
}

/// Waits for one ID, and says why if there will be none.
async fn next_id(tag: Arc<Tag>) -> Result<i64, Option<Fault>> {
    let mut handle = TagHandle::new(tag.clone());
    let mut waiter = None;
    let result = std::future::poll_fn(|cx| {
        loop {
            if let Some(claim) = handle.claim(1) {
                return Poll::Ready(Ok(claim.ids.start));
            }
            match tag.park(Need::Supply(1), cx.waker(), &mut waiter, Instant::now()) {
                Parked::TryAgain => {}
                Parked::Waiting { .. } => return Poll::Pending,
                Parked::Fault { fault, .. } => return Poll::Ready(Err(Some(fault))),
                Parked::Closed | Parked::Leased(_) | Parked::TooLarge => return Poll::Ready(Err(None)),
            }
        }
    })
    .await;
    if let Some(id) = waiter {
        tag.unpark(id);
    }
    result
}

fn all_distinct(mut ids: Vec<i64>) -> bool {
    ids.sort_unstable();
    let before = ids.len();
    ids.dedup();
    ids.len() == before
}

#[test]
fn claims_of_a_segment_are_disjoint_and_end_at_its_end() {
    check(|| {
        let segment = Arc::new(Segment::new(range(1, 4)));
        let claimer = |count| {
            let segment = segment.clone();
            thread::spawn(move || [segment.claim(count), segment.claim(count)])
        };
        let (one, two) = (claimer(1), claimer(2));
        let claims: Vec<_> =
            [one.join().unwrap(), two.join().unwrap()].into_iter().flatten().flatten().collect();
        let ids = claims.iter().flat_map(|claim| claim.ids.start..claim.ids.end).collect::<Vec<_>>();
        assert_eq!(ids.len(), 3, "three IDs went out, and no more: {ids:?}");
        assert!(all_distinct(ids.clone()) && ids.iter().all(|id| (1..4).contains(id)));
        assert_eq!(claims.iter().filter(|claim| claim.crossed_trigger).count(), 1);
    });
}

#[test]
fn closing_a_segment_returns_just_what_was_not_claimed() {
    check(|| {
        let segment = Arc::new(Segment::new(range(1, 4)));
        let claimer = {
            let segment = segment.clone();
            thread::spawn(move || [segment.claim(1), segment.claim_exactly(2)])
        };
        let rest = segment.close();
        let claimed = claimer.join().unwrap();
        let claimed: u64 = claimed.iter().flatten().map(|claim| claim.ids.len()).sum();
        assert_eq!(claimed + rest.len(), 3);
        assert_eq!(rest.start, 1 + claimed as i64, "the rest is the tail");
        assert_eq!(segment.claim(1), None);
    });
}

#[test]
fn the_head_moves_on_without_losing_or_repeating_an_id() {
    check(|| {
        let tag = tag_with(&[range(1, 2), range(2, 3), range(3, 5)]);
        let claimer = || {
            let mut handle = TagHandle::new(tag.clone());
            thread::spawn(move || [handle.claim(1), handle.claim(1)])
        };
        let (one, two) = (claimer(), claimer());
        let claims = [one.join().unwrap(), two.join().unwrap()];
        let ids: Vec<_> = claims.iter().flatten().flatten().map(|claim| claim.ids.start).collect();
        assert_eq!(ids.len(), 4, "there were four IDs for four claims: {ids:?}");
        assert!(all_distinct(ids));
        assert_eq!(TagHandle::new(tag).claim(1), None);
    });
}

#[test]
fn who_waits_is_woken_by_a_refill() {
    check(|| {
        let tag = tag_with(&[]);
        let waiters = [(); 2].map(|()| {
            let tag = tag.clone();
            thread::spawn(move || block_on(next_id(tag)))
        });
        // Whoever comes first queues the tag; a refill that begins before finds nothing to do.
        let refiller = {
            let tag = tag.clone();
            thread::spawn(move || {
                tag.request_refill();
                refill(&tag, &mut 1);
            })
        };
        let ids = waiters.map(|waiter| waiter.join().unwrap().unwrap());
        refiller.join().unwrap();
        assert_ne!(ids[0], ids[1]);
    });
}

#[test]
fn a_claim_that_ends_the_chain_and_a_refill_do_not_miss_each_other() {
    check(|| {
        let tag = tag_with(&[range(1, 2)]);
        let waiters = [(); 2].map(|()| {
            let tag = tag.clone();
            thread::spawn(move || block_on(next_id(tag)))
        });
        tag.request_refill();
        refill(&tag, &mut 2);
        let ids = waiters.map(|waiter| waiter.join().unwrap().unwrap());
        assert_ne!(ids[0], ids[1]);
    });
}

#[test]
fn a_failed_refill_tells_everyone() {
    check(|| {
        let tag = tag_with(&[]);
        let waiters = [(); 2].map(|()| {
            let tag = tag.clone();
            thread::spawn(move || block_on(next_id(tag)))
        });
        tag.request_refill();
        tag.refuse(Fault::Exhausted);
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Err(Some(Fault::Exhausted)));
        }
    });
}

#[test]
fn closing_a_tag_tells_everyone_and_hands_nothing_out_twice() {
    check(|| {
        let tag = tag_with(&[range(1, 2), range(2, 3)]);
        let waiter = {
            let tag = tag.clone();
            thread::spawn(move || [block_on(next_id(tag.clone())), block_on(next_id(tag))])
        };
        let closed = tag.close();
        let claimed: Vec<_> = waiter.join().unwrap().into_iter().flatten().collect();
        assert_eq!(claimed.len() as u64 + closed.unclaimed.map_or(0, IdRange::len), 2);
        // What is given back lies above everything that was handed out, and the watermark may go down to between them.
        let handed_out_end = claimed.iter().max().map(|id| id + 1);
        assert!(closed.handed_out_end >= handed_out_end && closed.handed_out_end <= Some(3));
        assert!(closed.unclaimed.is_none_or(|rest| closed.handed_out_end <= Some(rest.start)));
        assert_eq!(closed.skipped, []);
    });
}

#[test]
fn a_reservation_that_ends_as_the_tag_is_closed_is_given_back_or_discarded() {
    check(|| {
        let tag = tag_with(&[range(1, 2)]);
        tag.request_refill();
        let refiller = {
            let tag = tag.clone();
            thread::spawn(move || {
                if !tag.begin_refill(Entry::Routine) {
                    return None;
                }
                let job = tag.next_job(Duration::ZERO, Instant::now())?;
                Some(tag.complete(job, range(2, 4)))
            })
        };
        let unclaimed = tag.close().unclaimed;
        let expected = match refiller.join().unwrap() {
            Some(None) => range(1, 4),
            Some(Some(Discarded(range))) => {
                assert_eq!((range.start, range.end), (2, 4));
                self::range(1, 2)
            }
            None => range(1, 2),
        };
        assert_eq!(unclaimed, Some(expected));
        assert_eq!(TagHandle::new(tag).claim(1), None);
    });
}

#[test]
fn a_lease_is_its_callers_or_the_chains_or_nobodys() {
    check(|| {
        let tag = tag_with(&[range(1, 2)]);
        let mut waiter = None;
        let noop = std::task::Waker::noop();
        let parked = tag.park(Need::Lease(2), noop, &mut waiter, Instant::now());
        assert!(matches!(parked, Parked::Waiting { .. }));
        let refiller = {
            let tag = tag.clone();
            thread::spawn(move || {
                let mut discarded = Vec::new();
                assert!(tag.begin_refill(Entry::Urgent));
                let mut end = 2;
                while let Some(job) = tag.next_job(Duration::ZERO, Instant::now()) {
                    let start = end;
                    end += job.amount();
                    discarded.extend(tag.complete(job, range(start, end)));
                }
                (discarded, end)
            })
        };
        let id = waiter.unwrap();
        let mut had: Vec<IdRange> = tag.take_lease(id).into_iter().collect();
        // The caller's patience is at its end, whether it has the lease or not.
        had.extend(tag.unpark(id).map(|Discarded(range)| range));
        let (discarded, end) = refiller.join().unwrap();
        had.extend(discarded.into_iter().map(|Discarded(range)| range));
        let mut handle = TagHandle::new(tag.clone());
        had.extend(std::iter::from_fn(|| handle.claim(1)).map(|claim| claim.ids));
        let ids: Vec<_> = had.iter().flat_map(|range| range.start..range.end).collect();
        assert_eq!(ids.len() as i64, end - 1, "each ID up to {end} is somewhere: {had:?}");
        assert!(all_distinct(ids));
    });
}

#[test]
fn a_lease_is_taken_before_the_end_and_counted_or_not_at_all() {
    check(|| {
        let tag = tag_with(&[range(1, 2)]);
        let mut waiter = None;
        tag.park(Need::Lease(2), std::task::Waker::noop(), &mut waiter, Instant::now());
        let id = waiter.unwrap();
        assert!(tag.begin_refill(Entry::Urgent));
        let refiller = {
            let tag = tag.clone();
            thread::spawn(move || tag.complete(Job::Lease(id, 2), range(2, 4)))
        };
        let taker = {
            let tag = tag.clone();
            thread::spawn(move || tag.take_lease(id))
        };
        let Closed { handed_out_end, unclaimed, skipped } = tag.close();
        let late = refiller.join().unwrap();
        let (unclaimed, taken) = (unclaimed.expect("something is left"), taker.join().unwrap());
        assert_eq!((handed_out_end, skipped), (taken.map(|taken| taken.end), vec![]));
        match (taken, late) {
            (Some(taken), None) => assert_eq!((taken, unclaimed), (range(1, 3), range(3, 4))),
            (None, Some(late)) => assert_eq!((late, unclaimed), (Discarded(range(2, 4)), range(1, 2))),
            // The caller was before its lease.
            (None, None) => assert_eq!(unclaimed, range(1, 4)),
            (Some(taken), Some(late)) => panic!("{taken:?} is from {late:?}"),
        }
    });
}

#[test]
fn a_lease_that_is_cut_from_under_claims_shares_no_id_with_them() {
    check(|| {
        let tag = tag_with(&[range(1, 2), range(2, 4)]);
        let mut waiter = None;
        tag.park(Need::Lease(2), std::task::Waker::noop(), &mut waiter, Instant::now());
        let id = waiter.unwrap();
        assert!(tag.begin_refill(Entry::Urgent));
        let claimers = [(); 2].map(|()| {
            let tag = tag.clone();
            thread::spawn(move || block_on(next_id(tag)).unwrap())
        });
        assert_eq!(tag.complete(Job::Lease(id, 2), range(4, 6)), None);
        let lease = tag.take_lease(id).expect("it was granted");
        let mut ids: Vec<_> = claimers.map(|claimer| claimer.join().unwrap()).into();
        ids.extend(lease.start..lease.end);
        let mut handle = TagHandle::new(tag.clone());
        ids.extend(handle.claim(1).map(|claim| claim.ids.start));
        assert_eq!(handle.claim(1), None);
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
        assert_eq!(tag.close(), Closed { handed_out_end: Some(6), ..Closed::default() });
    });
}

#[test]
fn a_lease_of_what_the_chain_holds_shares_no_id_with_claims() {
    check(|| {
        let tag = tag_with(&[range(1, 2), range(2, 5)]);
        let mut waiter = None;
        tag.park(Need::Lease(2), std::task::Waker::noop(), &mut waiter, Instant::now());
        let id = waiter.unwrap();
        assert!(tag.begin_refill(Entry::Urgent));
        let claimer = {
            let tag = tag.clone();
            thread::spawn(move || [(); 2].map(|()| block_on(next_id(tag.clone())).unwrap()))
        };
        let mut end = 5;
        while let Some(job) = tag.next_job(Duration::ZERO, Instant::now()) {
            let granted = range(end, end + job.amount());
            end = granted.end;
            assert_eq!(tag.complete(job, granted), None);
        }
        let lease = tag.take_lease(id).expect("it was granted");
        let mut ids: Vec<_> = claimer.join().unwrap().into();
        ids.extend(lease.start..lease.end);
        let mut handle = TagHandle::new(tag.clone());
        ids.extend(std::iter::from_fn(|| handle.claim(1)).map(|claim| claim.ids.start));
        ids.sort_unstable();
        assert_eq!(ids, (1..end).collect::<Vec<_>>());
    });
}

#[test]
fn a_fence_and_a_claim_share_no_id_and_nothing_is_claimed_after_it() {
    check(|| {
        let tag = tag_with(&[range(1, 3), range(3, 4)]);
        let claimer = {
            let mut handle = TagHandle::new(tag.clone());
            thread::spawn(move || [handle.claim(1), handle.claim(2)])
        };
        let refused = tag.refuse(Fault::Regression { granted: 4 });
        let discarded = refused.discarded.iter().flat_map(|Discarded(range)| range.start..range.end);
        assert_eq!(TagHandle::new(tag.clone()).claim(1), None);
        let claims = claimer.join().unwrap();
        let claimed = claims.iter().flatten().flat_map(|claim| claim.ids.start..claim.ids.end);
        let ids: Vec<_> = discarded.chain(claimed).collect();
        assert_eq!(ids.len(), 3, "{ids:?}");
        assert!(all_distinct(ids));
        assert_eq!(tag.close().unclaimed, None, "nothing is given back after a fence");
    });
}

#[test]
fn only_one_refill_at_a_time() {
    check(|| {
        let tag = tag_with(&[]);
        tag.request_refill();
        let other = {
            let tag = tag.clone();
            thread::spawn(move || tag.begin_refill(Entry::Routine))
        };
        let mine = tag.begin_refill(Entry::Urgent);
        assert!(mine ^ other.join().unwrap());
        assert_eq!(tag.request_refill(), None, "a running refill looks again by itself");
    });
}
