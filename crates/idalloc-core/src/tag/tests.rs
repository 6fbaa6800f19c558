//! A tag as a whole: what its callers, the refill threads and the listing see of it together.

use std::time::Duration;

use super::*;
use crate::sizing::{CHAIN_SEGMENTS_MAX, Policy};

fn ids(start: i64, end: i64) -> IdRange {
    IdRange { start, end }
}

fn tag(step: i64) -> Tag {
    Tag::new("t", step, Policy::default(), Instant::now())
}

/// A tag whose refill is under way.
fn running(step: i64) -> Tag {
    let tag = tag(step);
    tag.request_refill();
    assert!(tag.begin_refill(Entry::Routine));
    tag
}

fn next_job(tag: &Tag) -> Option<Job> {
    tag.next_job(Duration::ZERO, Instant::now())
}

fn park(tag: &Tag, need: Need, id: &mut Option<WaiterId>) -> Parked {
    tag.park(need, Waker::noop(), id, Instant::now())
}

fn closed(handed_out_end: Option<i64>, unclaimed: Option<IdRange>, skipped: &[IdRange]) -> Closed {
    Closed { handed_out_end, unclaimed, skipped: skipped.iter().copied().map(Discarded).collect() }
}

/// A tag whose chain holds these ranges.
fn holding(ranges: &[IdRange]) -> Arc<Tag> {
    let tag = running(10);
    for range in ranges {
        assert_eq!(tag.complete(Job::Extend(10), *range), None);
    }
    Arc::new(tag)
}

/// Parks a lease of so many IDs, and completes it with `granted`. Returns its name.
fn grant_lease(tag: &Tag, granted: IdRange) -> WaiterId {
    let mut lease = None;
    park(tag, Need::Lease(granted.len()), &mut lease);
    let lease = lease.expect("it waits");
    let job = Job::Lease(lease, granted.len().cast_signed());
    assert_eq!(tag.complete(job, granted), None);
    lease
}

#[test]
fn a_quiet_tag_is_loaded_with_two_segments_of_one_step() {
    let tag = running(100);
    assert_eq!(next_job(&tag), Some(Job::Extend(100)));
    assert_eq!(tag.complete(Job::Extend(100), ids(0, 100)), None);
    assert_eq!(next_job(&tag), Some(Job::Extend(100)));
    assert_eq!(tag.complete(Job::Extend(100), ids(100, 200)), None);
    assert_eq!(next_job(&tag), None);
    assert_eq!(tag.left(), Some(199), "0 is never an ID");
}

#[test]
fn a_first_reservation_of_the_id_0_alone_yields_nothing_and_the_next_one_is_due() {
    let tag = running(1);
    assert_eq!(tag.complete(Job::Extend(1), ids(0, 1)), None);
    assert_eq!(tag.left(), None);
    assert_eq!(next_job(&tag), Some(Job::Extend(1)));
}

#[test]
fn callers_who_wait_for_the_chain_go_before_leases_and_these_before_what_stands_by() {
    let tag = running(10);
    let (mut lease, mut batch) = (None, None);
    tag.complete(Job::Extend(10), ids(10, 20));
    park(&tag, Need::Lease(500), &mut lease);
    park(&tag, Need::Supply(30), &mut batch);
    let Some(Job::Extend(amount @ 20..)) = next_job(&tag) else { panic!("the batch is served first") };
    tag.complete(Job::Extend(amount), ids(20, 20 + amount));
    assert_eq!(park(&tag, Need::Supply(30), &mut batch), Parked::TryAgain);
    let job = Job::Lease(lease.unwrap(), 500);
    assert_eq!(next_job(&tag), Some(job));
    assert_eq!(tag.complete(job, ids(1000, 1500)), None);
    assert_eq!(park(&tag, Need::Lease(500), &mut lease), Parked::Leased(ids(1000, 1500)));
}

#[test]
fn a_lease_is_cut_from_the_lowest_ids_in_one_piece_and_the_chain_goes_on_with_the_rest() {
    let tag = holding(&[ids(10, 20), ids(20, 30)]);
    let mut handle = TagHandle::new(tag.clone());
    handle.claim(4).unwrap();
    let lease = grant_lease(&tag, ids(30, 45));
    assert_eq!(tag.take_lease(lease), Some(ids(14, 29)));
    assert_eq!(figures(&tag), (TagState::Serving, 16, 2, 19));
    assert_eq!(handle.claim(100).unwrap().ids, ids(29, 30));
    assert_eq!(tag.close(), closed(Some(30), Some(ids(30, 45)), &[]));

    let tag = holding(&[ids(10, 20), ids(50, 60)]);
    let lease = grant_lease(&tag, ids(60, 75));
    assert_eq!(tag.take_lease(lease), Some(ids(50, 65)), "what is below does not suffice");
    let mut handle = TagHandle::new(tag.clone());
    let claims: Vec<_> = std::iter::from_fn(|| handle.claim(100)).map(|claim| claim.ids).collect();
    assert_eq!(claims, [ids(10, 20), ids(65, 75)]);

    let tag = holding(&[ids(10, 20)]);
    let lease = grant_lease(&tag, ids(30, 45));
    assert_eq!(tag.take_lease(lease), Some(ids(30, 45)), "others have what is between");
    assert_eq!(tag.left(), Some(10));
}

/// Has a lease of so many IDs served from the store, which goes on at `end`. Returns the lease, and the reservations.
fn serve_lease(tag: &Tag, count: u64, end: &mut i64) -> (IdRange, usize) {
    let (mut lease, mut jobs) = (None, 0);
    park(tag, Need::Lease(count), &mut lease);
    while let Some(job) = next_job(tag) {
        let granted = ids(*end, *end + job.amount());
        *end = granted.end;
        assert_eq!(tag.complete(job, granted), None);
        jobs += 1;
    }
    let range = tag.take_lease(lease.unwrap()).expect("it is served");
    assert_eq!(tag.unpark(lease.unwrap()), None);
    (range, jobs)
}

#[test]
fn a_lease_that_the_chain_holds_behind_its_head_costs_no_reservation() {
    let tag = holding(&[ids(10, 20), ids(50, 60), ids(90, 100)]);
    TagHandle::new(tag.clone()).claim(9).unwrap();
    let mut end = 1000;
    assert_eq!(serve_lease(&tag, 7, &mut end), (ids(50, 57), 0));
    assert_eq!(figures(&tag), (TagState::Serving, 14, 3, 16));
    assert_eq!(serve_lease(&tag, 10, &mut end), (ids(90, 100), 0));
    assert_eq!(TagHandle::new(tag.clone()).claim(1).unwrap().ids, ids(19, 20));
    assert_eq!(tag.close(), closed(Some(100), None, &[ids(57, 60)]));
}

#[test]
fn small_leases_share_reservations_of_a_step() {
    let tag = Arc::new(running(10));
    let (mut end, mut leases, mut reservations) = (1, Vec::new(), 0);
    for count in [2, 3, 7, 10, 1, 9].into_iter().cycle().take(600) {
        // The head is left with a single ID again and again.
        let (lease, jobs) = serve_lease(&tag, count, &mut end);
        // Another server has reserved, so what comes next does not adjoin.
        end += 1000;
        leases.push(lease);
        reservations += jobs;
    }
    let leased: u64 = leases.iter().map(|lease| lease.len()).sum();
    leases.sort_unstable_by_key(|lease| lease.start);
    assert!(leases.is_sorted_by(|one, next| one.end <= next.start), "they share no ID");
    let left = tag.left().unwrap();
    assert_eq!(leased + left, 10 * reservations as u64, "nothing is lost");
    assert!(left <= 10 * CHAIN_SEGMENTS_MAX as u64, "{left}");
}

#[test]
fn a_lease_of_all_that_the_chain_holds_has_a_step_reserved_before() {
    let tag = holding(&[ids(10, 20)]);
    let mut end = 20;
    assert_eq!(serve_lease(&tag, 10, &mut end).0, ids(10, 20));
    assert_eq!(tag.close(), closed(Some(20), Some(ids(20, end)), &[]));

    let (tag, mut lease) = (holding(&[ids(10, 20)]), None);
    park(&tag, Need::Lease(10), &mut lease);
    assert_eq!(next_job(&tag), Some(Job::Extend(10)));
    assert_eq!(tag.unpark(lease.unwrap()), None, "the store is away, and nothing was cut");
    assert_eq!(tag.close(), closed(None, Some(ids(10, 20)), &[]));
}

#[test]
fn callers_of_the_chain_are_not_robbed_by_a_lease() {
    let tag = holding(&[ids(10, 20), ids(20, 30)]);
    let (mut lease, mut batch) = (None, None);
    park(&tag, Need::Supply(25), &mut batch);
    park(&tag, Need::Lease(12), &mut lease);
    assert!(matches!(next_job(&tag), Some(Job::Extend(_))));
    assert_eq!(tag.left(), Some(20), "the batch waits for less than before");
}

#[test]
fn leases_do_not_make_the_chain_longer_and_longer() {
    let tag = holding(&[ids(10, 20), ids(100, 5000)]);
    // Others reserve in between, so nothing adjoins.
    for start in (10_000..).step_by(100).take(10 * CHAIN_SEGMENTS_MAX) {
        let lease = grant_lease(&tag, ids(start, start + 11));
        assert_eq!(tag.take_lease(lease).unwrap().len(), 11);
    }
    let segments = tag.lock().chain.segments(&tag.head).len();
    assert_eq!(segments, CHAIN_SEGMENTS_MAX);
    assert_eq!(tag.left(), Some(4910));
}

#[test]
fn a_lease_that_its_caller_did_not_take_goes_back_to_where_it_was_cut_from() {
    let tag = holding(&[ids(10, 20), ids(20, 30)]);
    let lease = grant_lease(&tag, ids(30, 45));
    assert_eq!(tag.unpark(lease), None);
    let mut handle = TagHandle::new(tag.clone());
    assert_eq!(handle.claim(1).unwrap().ids, ids(10, 11));
    assert_eq!(tag.close(), closed(Some(11), Some(ids(11, 45)), &[]));

    let tag = holding(&[ids(10, 20), ids(20, 30)]);
    let lease = grant_lease(&tag, ids(30, 45));
    let mut handle = TagHandle::new(tag.clone());
    assert_eq!(handle.claim(1).unwrap().ids, ids(25, 26));
    assert_eq!(tag.unpark(lease), Some(Discarded(ids(10, 25))), "IDs must not go back");
    assert_eq!(handle.claim(1).unwrap().ids, ids(26, 27));
}

#[test]
fn what_was_handed_out_is_known_after_a_lease_was_cut() {
    let tag = holding(&[ids(10, 20), ids(50, 60)]);
    TagHandle::new(tag.clone()).claim(10).unwrap();
    let lease = grant_lease(&tag, ids(90, 105));
    assert_eq!(tag.unpark(lease), None);
    // Another server has what lies between, and may give it back after us.
    assert_eq!(tag.close(), closed(Some(20), Some(ids(90, 105)), &[ids(50, 60)]));
}

#[test]
fn a_range_whose_lease_has_gone_joins_the_chain_only_below_what_is_untouched() {
    let tag = running(10);
    let first = grant_lease(&tag, ids(100, 150));
    let second = grant_lease(&tag, ids(150, 210));
    assert_eq!(tag.unpark(second), None, "the newest is handed out by the chain");
    assert_eq!(tag.left(), Some(60));
    let tag = Arc::new(tag);
    TagHandle::new(tag.clone()).claim(1).unwrap();
    assert_eq!(tag.unpark(first), Some(Discarded(ids(100, 150))), "IDs must not go back");
}

#[test]
fn a_lease_is_cut_from_the_next_segment_when_the_head_is_spent() {
    let tag = Arc::new(running(10));
    tag.complete(Job::Extend(10), ids(10, 20));
    tag.complete(Job::Extend(10), ids(20, 30));
    let mut handle = TagHandle::new(tag);
    assert_eq!(handle.claim_exactly(10).unwrap().ids, ids(10, 20));
    assert_eq!(handle.claim_exactly(10).unwrap().ids, ids(20, 30));
    assert_eq!(handle.claim_exactly(1), None);
}

#[test]
fn a_tag_has_one_entry_in_each_queue_however_often_it_is_asked_for() {
    let tag = tag(1);
    assert_eq!(tag.request_refill(), Some(Urgency::Routine));
    let mut waiter = None;
    let Parked::Waiting { enqueue, .. } = park(&tag, Need::Supply(1), &mut waiter) else { panic!("empty") };
    assert_eq!(enqueue, Some(Urgency::Urgent));
    assert_eq!(tag.request_refill(), None);
    assert!(tag.begin_refill(Entry::Urgent));
    assert!(!tag.begin_refill(Entry::Routine), "out of date");
    // The store is away and the caller gives up, again and again.
    for _ in 0..3 {
        tag.unpark(waiter.take().unwrap());
        let routine = tag.requeue(true);
        let Parked::Waiting { enqueue, .. } = park(&tag, Need::Supply(1), &mut waiter) else {
            panic!("empty")
        };
        assert_eq!(enqueue, Some(Urgency::Urgent));
        assert!(tag.begin_refill(Entry::Urgent));
        let _ = routine;
    }
    assert_eq!(tag.requeue(true), Some(Urgency::Urgent));
}

#[test]
fn a_postponed_tag_is_left_alone_until_its_pause_is_over() {
    let tag = running(1);
    assert_eq!(tag.postpone(), 1);
    assert_eq!(tag.request_refill(), None);
    assert!(!tag.begin_refill(Entry::Urgent) && !tag.begin_refill(Entry::Routine));
    assert!(tag.begin_refill(Entry::Postponed));
}

#[test]
fn a_tag_whose_callers_ask_for_more_than_it_has_starves_unless_others_are_served() {
    let tag = Arc::new(running(10));
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    tag.complete(Job::Extend(10), ids(10, 20));
    park(&tag, Need::Lease(500), &mut None);
    assert_eq!(
        tag.starvation(Duration::ZERO, later(1)),
        Starvation::None,
        "leases have their own reservation"
    );
    let Parked::Waiting { track: true, .. } = park(&tag, Need::Supply(500), &mut None) else {
        panic!("too few")
    };
    tag.postpone();
    assert_eq!(tag.starvation(Duration::from_secs(5), later(1)), Starvation::Brief);
    assert_eq!(tag.starvation(Duration::from_secs(5), later(6)), Starvation::Starving);
    assert_eq!(tag.figures(Duration::from_secs(5), later(6)).state, TagState::Starving);
    TagHandle::new(tag.clone()).claim(1).unwrap();
    assert_eq!(tag.starvation(Duration::from_secs(5), later(7)), Starvation::Brief, "somebody was served");
    assert_eq!(tag.starvation(Duration::from_secs(5), later(13)), Starvation::Starving, "and nobody since");
    tag.complete(Job::Extend(10), ids(20, 30));
    assert_eq!(tag.starvation(Duration::ZERO, later(13)), Starvation::None);
}

#[test]
fn the_log_is_told_once_that_a_tag_starves_and_once_that_it_does_not() {
    let tag = running(10);
    let now = Instant::now();
    assert!(!tag.note_starving(false, now));
    assert!(tag.note_starving(true, now) && !tag.note_starving(true, now));
    assert!(tag.note_starving(false, now) && !tag.note_starving(false, now));
}

#[test]
fn an_empty_chain_starves_when_it_lasts() {
    let later = Instant::now() + Duration::from_secs(1);
    let mut one = None;
    let tag = running(10);
    let Parked::Waiting { track, .. } = park(&tag, Need::Supply(1), &mut one) else { panic!("empty") };
    assert!(track);
    assert_eq!(tag.starvation(Duration::from_secs(5), later), Starvation::Brief);
    assert_eq!(tag.starvation(Duration::ZERO, later), Starvation::Starving);
    tag.postpone();
    assert_eq!(tag.starvation(Duration::from_secs(5), later), Starvation::Brief, "it is tried again at once");
    tag.complete(Job::Extend(10), ids(10, 20));
    assert_eq!(tag.starvation(Duration::ZERO, later), Starvation::None);
}

#[test]
fn a_row_that_no_server_can_serve_does_not_make_one_starve() {
    for fault in [Fault::Step(0), Fault::NegativeMaxId, Fault::Exhausted] {
        let tag = running(10);
        tag.complete(Job::Extend(10), ids(10, 20));
        tag.withdraw();
        tag.refuse(fault.clone());
        assert_eq!(
            park(&tag, Need::Supply(1), &mut None),
            Parked::Fault { fault, track: false },
            "every other server has the same row"
        );
    }
}

#[test]
fn a_fence_is_not_hidden_by_a_step_that_is_wrong_too() {
    let tag = running(10);
    tag.complete(Job::Extend(10), ids(10, 20));
    tag.refuse(Fault::Regression { granted: 41 });
    assert_eq!(tag.observe_row(0, 40, Instant::now()), None);
    assert_eq!(tag.fault(), Some(Fault::Regression { granted: 41 }));
    assert_eq!(tag.close().unclaimed, None, "the watermark must not be lowered");
    let mended = running(10);
    mended.refuse(Fault::Regression { granted: 41 });
    assert_eq!(mended.observe_row(0, 41, Instant::now()), None);
    assert_eq!(mended.fault(), Some(Fault::Step(0)), "when max_id is mended, step still is not");
}

#[test]
fn a_lease_that_nobody_took_in_time_is_given_back_and_not_handed_out_after_the_end() {
    let tag = running(10);
    let lease = grant_lease(&tag, ids(100, 150));
    assert_eq!(tag.close(), closed(None, Some(ids(100, 150)), &[]));
    assert_eq!(tag.take_lease(lease), None, "its watermark may be lowered by now");
    assert_eq!(park(&tag, Need::Lease(50), &mut Some(lease)), Parked::Closed);
}

#[test]
fn what_lies_below_a_lease_that_was_taken_is_named() {
    let tag = holding(&[ids(10, 20), ids(30, 40)]);
    let lease = grant_lease(&tag, ids(50, 65));
    assert_eq!(tag.take_lease(lease), Some(ids(50, 65)));
    assert_eq!(tag.close(), closed(Some(65), None, &[ids(10, 20), ids(30, 40)]));
    let tag = holding(&[ids(10, 20)]);
    grant_lease(&tag, ids(20, 25));
    assert_eq!(tag.close(), closed(None, Some(ids(10, 25)), &[]), "nobody took it");
}

#[test]
fn a_lease_that_is_too_large_for_what_is_left_is_refused_alone() {
    let tag = running(10);
    let (mut large, mut small) = (None, None);
    park(&tag, Need::Lease(500), &mut large);
    park(&tag, Need::Lease(5), &mut small);
    assert_eq!(next_job(&tag), Some(Job::Lease(large.unwrap(), 500)));
    tag.refuse_lease(large.unwrap());
    assert_eq!(park(&tag, Need::Lease(500), &mut large), Parked::TooLarge);
    assert_eq!(next_job(&tag), Some(Job::Extend(10)), "the next one has its turn, and is a part of a step");
    assert!(small.is_some());
}

#[test]
fn a_row_that_was_seen_below_what_was_granted_gets_nothing_back() {
    let closed_after = |max_id: i64, read_after_grant: bool| {
        let tag = running(10);
        let before = Instant::now();
        tag.complete(Job::Extend(10), ids(10, 20));
        let read_at = if read_after_grant { Instant::now() + Duration::from_millis(1) } else { before };
        tag.observe_row(10, max_id, read_at);
        tag.close().unclaimed
    };
    assert_eq!(closed_after(20, true), Some(ids(10, 20)));
    assert_eq!(closed_after(19, true), None, "another server's range may end where ours did");
    assert_eq!(closed_after(10, false), Some(ids(10, 20)), "it was read before it was raised");
}

#[test]
fn a_row_goes_back_to_0_only_if_it_was_granted_from_there() {
    for (granted, given_back) in [(ids(0, 10), ids(0, 10)), (ids(1, 11), ids(1, 11))] {
        let tag = running(10);
        tag.complete(Job::Extend(10), granted);
        assert_eq!(tag.close().unclaimed, Some(given_back));
    }
}

#[test]
fn what_is_not_durable_is_kept_until_the_tag_ends_or_the_store_goes_back() {
    let tag = running(10);
    assert_eq!(tag.keep_undurable(Job::Extend(10), ids(10, 20)), None);
    assert_eq!(tag.take_undurable(), Some((Job::Extend(10), ids(10, 20))));
    assert_eq!(tag.take_undurable(), None);
    tag.keep_undurable(Job::Extend(10), ids(10, 20));
    assert_eq!(tag.withdraw(), [Discarded(ids(10, 20))]);
    tag.keep_undurable(Job::Extend(10), ids(20, 30));
    assert_eq!(tag.close(), closed(None, Some(ids(20, 30)), &[]), "nobody was given it");
    assert_eq!(tag.keep_undurable(Job::Extend(10), ids(30, 40)), Some(Discarded(ids(30, 40))));
}

#[test]
fn what_adjoins_the_end_is_given_back_and_nothing_below_a_gap() {
    let tag = Arc::new(running(10));
    for start in [10, 30, 40] {
        tag.complete(Job::Extend(10), ids(start, start + 10));
    }
    let mut handle = TagHandle::new(tag.clone());
    handle.claim(4).unwrap();
    let others = "another server has what is between 20 and 30";
    assert_eq!(tag.close(), closed(Some(14), Some(ids(30, 50)), &[ids(14, 20)]), "{others}");
    assert_eq!(handle.claim(1), None);
    assert_eq!(tag.close().unclaimed, None, "once");
}

#[test]
fn a_segment_that_was_begun_is_given_back_from_its_first_unclaimed_id() {
    let tag = Arc::new(running(10));
    tag.complete(Job::Extend(10), ids(10, 20));
    tag.complete(Job::Extend(10), ids(20, 30));
    TagHandle::new(tag.clone()).claim(4).unwrap();
    assert_eq!(tag.close(), closed(Some(14), Some(ids(14, 30)), &[]));
    let spent = Arc::new(running(10));
    spent.complete(Job::Extend(10), ids(10, 20));
    TagHandle::new(spent.clone()).claim(10).unwrap();
    assert_eq!(spent.close(), closed(Some(20), None, &[]));
}

#[test]
fn after_a_regression_nothing_is_handed_out_or_given_back() {
    let tag = Arc::new(running(10));
    tag.complete(Job::Extend(10), ids(10, 20));
    let mut handle = TagHandle::new(tag.clone());
    handle.claim(3).unwrap();
    let refused = tag.refuse(Fault::Regression { granted: 20 });
    assert_eq!(refused, Refused { news: true, discarded: vec![Discarded(ids(13, 20))] });
    assert_eq!(handle.claim(1), None, "others may have been granted the same");
    assert_eq!(tag.starvation(Duration::from_secs(9), Instant::now()), Starvation::None, "nobody asks");
    let Parked::Fault { track: true, .. } = park(&tag, Need::Supply(1), &mut None) else { panic!("fenced") };
    assert_eq!(tag.starvation(Duration::from_secs(9), Instant::now()), Starvation::Starving);
    assert_eq!(tag.close(), Closed::default());
}

#[test]
fn what_was_handed_out_is_known_when_its_segment_is_gone() {
    let tag = Arc::new(running(10));
    for start in [10, 50, 90, 130] {
        tag.complete(Job::Extend(10), ids(start, start + 10));
        if start < 130 {
            TagHandle::new(tag.clone()).claim(10).unwrap();
        }
    }
    // Nobody has moved the head to the last segment yet; then somebody has, and takes nothing.
    assert!(TagHandle::new(tag.clone()).claim_exactly(500).is_none());
    assert_eq!(tag.close(), closed(Some(100), Some(ids(130, 140)), &[]));
    assert_eq!(running(10).close(), Closed::default(), "nothing was handed out");
}

#[test]
fn a_lease_that_was_not_taken_does_not_outlive_a_regression() {
    let tag = running(10);
    let (mut taken, mut waiting) = (None, None);
    park(&tag, Need::Lease(50), &mut taken);
    park(&tag, Need::Lease(60), &mut waiting);
    tag.complete(Job::Lease(taken.unwrap(), 50), ids(100, 150));
    tag.complete(Job::Lease(waiting.unwrap(), 60), ids(150, 210));
    assert_eq!(tag.take_lease(taken.unwrap()), Some(ids(100, 150)));
    let refused = tag.refuse(Fault::Regression { granted: 210 });
    assert_eq!(refused.discarded, [Discarded(ids(150, 210))]);
    assert_eq!(
        (tag.take_lease(waiting.unwrap()), tag.unpark(waiting.unwrap()), tag.left()),
        (None, None, None)
    );
}

#[test]
fn a_tag_with_its_counts_takes_five_cache_lines() {
    assert!(size_of::<Tag>() + 2 * size_of::<usize>() <= 320, "{} bytes", size_of::<Tag>());
}

#[test]
fn what_was_withdrawn_was_not_used_up() {
    let tag = running(10);
    tag.complete(Job::Extend(1_000_000), ids(10, 1_000_010));
    tag.withdraw();
    let later = Instant::now() + Duration::from_secs(2);
    assert_eq!(tag.next_job(Duration::ZERO, later), Some(Job::Extend(10)), "nobody has asked for more");
}

/// Its state, the IDs in memory and in how many segments, and the IDs issued.
fn figures(tag: &Tag) -> (TagState, u64, usize, u64) {
    let figures = tag.figures(Duration::ZERO, Instant::now());
    (figures.state, figures.left, figures.segments, figures.issued)
}

#[test]
fn figures_count_what_was_handed_out_and_nothing_that_was_discarded() {
    let tag = Arc::new(running(10));
    assert_eq!(figures(&tag), (TagState::Idle, 0, 0, 0));
    let (mut lease, mut one) = (None, None);
    park(&tag, Need::Supply(1), &mut one);
    assert_eq!(figures(&tag), (TagState::Starving, 0, 0, 0));
    tag.unpark(one.unwrap());
    tag.complete(Job::Extend(10), ids(0, 10));
    tag.complete(Job::Extend(10), ids(20, 30));
    assert_eq!(figures(&tag), (TagState::Serving, 19, 2, 0));
    let mut handle = TagHandle::new(tag.clone());
    handle.claim(9).unwrap();
    handle.claim(3).unwrap();
    assert_eq!(figures(&tag), (TagState::Serving, 7, 1, 12));
    park(&tag, Need::Lease(50), &mut lease);
    tag.complete(Job::Lease(lease.unwrap(), 50), ids(30, 80));
    assert_eq!(figures(&tag).3, 12, "not before its caller has it");
    assert_eq!(tag.figures(Duration::ZERO, Instant::now()).newest.unwrap().amount, 50);
    tag.take_lease(lease.unwrap()).unwrap();
    assert_eq!(figures(&tag), (TagState::Serving, 7, 1, 62));
    let closed = Arc::new(running(10));
    closed.complete(Job::Extend(10), ids(10, 20));
    TagHandle::new(closed.clone()).claim(4).unwrap();
    closed.close();
    assert_eq!(figures(&closed).3, 4, "what goes back to the store was not handed out");
    tag.refuse(Fault::Regression { granted: 80 });
    assert_eq!(figures(&tag), (TagState::Fenced, 0, 0, 62));
    tag.observe_row(0, 80, Instant::now());
    assert_eq!(figures(&tag).0, TagState::Broken);
    tag.observe_row(1, 80, Instant::now());
    tag.refuse(Fault::Exhausted);
    assert_eq!(figures(&tag).0, TagState::Exhausted);
}

#[test]
fn a_tag_serves_again_when_its_row_is_mended() {
    let tag = Arc::new(running(10));
    tag.complete(Job::Extend(10), ids(10, 20));
    tag.refuse(Fault::Regression { granted: 20 });
    assert_eq!(next_job(&tag), None);
    assert_eq!(tag.observe_row(10, 20, Instant::now()), Some(Urgency::Urgent));
    assert!(tag.begin_refill(Entry::Urgent));
    tag.complete(Job::Extend(10), ids(20, 30));
    assert_eq!(TagHandle::new(tag).claim(1).unwrap().ids, ids(20, 21));
}

#[test]
fn a_mended_row_is_served_and_one_mended_badly_is_not() {
    let tag = tag(0);
    let mut waiter = None;
    let fault = Parked::Fault { fault: Fault::Step(0), track: false };
    assert_eq!(park(&tag, Need::Supply(1), &mut waiter), fault);
    assert_eq!(tag.observe_row(5, 0, Instant::now()), Some(Urgency::Urgent));
    tag.refuse(Fault::Regression { granted: 100 });
    assert_eq!(tag.observe_row(5, 99, Instant::now()), None);
    assert_eq!(tag.observe_row(-1, 100, Instant::now()), None, "max_id is mended, and step is not");
    let fault = Parked::Fault { fault: Fault::Step(-1), track: false };
    assert_eq!(park(&tag, Need::Supply(1), &mut waiter), fault);
}
