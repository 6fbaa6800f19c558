//! The end: every tag is closed, and what nobody was given goes back to the store.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::Shared;
use crate::segment::IdRange;
use crate::skipped::Reason;
use crate::store::{Rest, SegmentStore, StoreError};
use crate::sync::lock;
use crate::tag::Tag;

/// The most rows that one statement gives back: so many take a database a few milliseconds.
const BATCH_ROWS_MAX: usize = 256;
/// A session that fails so often in a row gives back no more.
const FAILURES_MAX: u32 = 2;

/// What the thread returned, if it ended in time and did not panic, of which the log knows already.
pub(crate) fn join_until<T>(thread: JoinHandle<T>, deadline: Instant) -> Option<T> {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(1));
    }
    thread.join().ok()
}

impl Shared {
    /// Closes every tag, and gives back what was never claimed.
    pub(crate) fn settle(&self, stores: Vec<Box<dyn SegmentStore>>, deadline: Instant) {
        let directory = self.directory.load_full();
        let (mut unclaimed, mut lowered) = (Vec::new(), Vec::new());
        for tag in directory.tags() {
            let closed = tag.close();
            self.skipped.note_all(tag.name(), &closed.skipped, Reason::NotGivenBack);
            if closed.handed_out_end.is_some() || closed.unclaimed.is_some() {
                lowered.push((tag.name(), closed.handed_out_end));
            }
            unclaimed.extend(closed.unclaimed.map(|ids| (tag.clone(), ids)));
        }
        // Two servers that end at once lock their rows in the same order.
        unclaimed.sort_unstable_by(|(a, _), (b, _)| a.name().cmp(b.name()));
        // First the watermarks: they may be too low for what was never handed out, but not too high for the next start.
        match self.watermarks.lower(&lowered) {
            Ok(()) => self.give_all_back(unclaimed, stores, deadline),
            Err(cause) => {
                warn!(%cause, "nothing is given back: the watermark file cannot be written");
                self.skip_all(&unclaimed, "the watermark file cannot be written");
            }
        }
        self.skipped.tell_the_rest();
    }

    fn skip_all(&self, unclaimed: &[(Arc<Tag>, IdRange)], why: &str) {
        for (tag, ids) in unclaimed {
            self.skipped.note_because(tag.name(), *ids, Reason::NotGivenBack, why);
        }
    }

    /// Gives back until the deadline, through all of `stores` at once. A statement that takes longer is not waited for.
    fn give_all_back(
        &self,
        unclaimed: Vec<(Arc<Tag>, IdRange)>,
        stores: Vec<Box<dyn SegmentStore>>,
        deadline: Instant,
    ) {
        let batches = Batches::new(unclaimed, stores.len());
        let unclaimed = batches.unclaimed.clone();
        let (reports, reported) = channel();
        let batches = Arc::new(batches);
        for store in stores {
            let (batches, reports) = (batches.clone(), reports.clone());
            let giver = move || batches.give_back(store, &reports, deadline);
            if let Err(error) = thread::Builder::new().name("idalloc-end".to_owned()).spawn(giver) {
                warn!(%error, "no thread to give IDs back with");
            }
        }
        drop(reports);
        let mut is_settled = vec![false; unclaimed.len()];
        while let Ok((batch, verdict)) =
            reported.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            is_settled[batch.clone()].fill(true);
            self.note_verdict(&unclaimed[batch], verdict);
        }
        let cut_off: Vec<_> = unclaimed
            .iter()
            .zip(is_settled)
            .filter(|(_, is_settled)| !is_settled)
            .map(|(rest, _)| rest.clone())
            .collect();
        if !cut_off.is_empty() {
            let ids: u64 = cut_off.iter().map(|(_, ids)| ids.len()).sum();
            warn!(tags = cut_off.len(), ids, "the end came before these were given back");
            self.skip_all(&cut_off, "the end came before they were given back");
        }
    }

    fn note_verdict(&self, batch: &[(Arc<Tag>, IdRange)], verdict: Result<Vec<bool>, StoreError>) {
        match verdict {
            Ok(given_back) => {
                for ((tag, ids), given_back) in batch.iter().zip(given_back) {
                    match given_back {
                        true => debug!(tag = tag.name(), ?ids, "given back"),
                        false => {
                            let why = "others have reserved since";
                            self.skipped.note_because(tag.name(), *ids, Reason::NotGivenBack, why);
                        }
                    }
                }
            }
            Err(cause) => {
                info!(tags = batch.len(), %cause, "IDs cannot be given back");
                self.skip_all(batch, "the store did not take them back");
            }
        }
    }
}

/// What is to be given back, in the order of the tags' names, and which parts of it no session has taken yet.
struct Batches {
    unclaimed: Arc<[(Arc<Tag>, IdRange)]>,
    open: Mutex<VecDeque<Range<usize>>>,
}

/// What the store said to a batch.
type Report = (Range<usize>, Result<Vec<bool>, StoreError>);

impl Batches {
    fn new(unclaimed: Vec<(Arc<Tag>, IdRange)>, sessions: usize) -> Self {
        let rows = unclaimed.len().div_ceil(sessions.max(1)).clamp(1, BATCH_ROWS_MAX);
        let starts = (0..unclaimed.len()).step_by(rows);
        let open = starts.map(|start| start..(start + rows).min(unclaimed.len())).collect();
        Self { unclaimed: unclaimed.into(), open: Mutex::new(open) }
    }

    /// What one session does.
    fn give_back(&self, mut store: Box<dyn SegmentStore>, reports: &Sender<Report>, deadline: Instant) {
        let mut failures = 0;
        while failures < FAILURES_MAX && Instant::now() < deadline {
            let Some(batch) = lock(&self.open).pop_front() else { return };
            let rest = |(tag, ids): &(Arc<Tag>, IdRange)| (tag.clone(), *ids);
            let taken: Vec<_> = self.unclaimed[batch.clone()].iter().map(rest).collect();
            let rests: Vec<_> = taken
                .iter()
                .map(|(tag, ids)| Rest { tag: tag.name(), end: ids.end, first_unclaimed: ids.start })
                .collect();
            match store.give_back(&rests) {
                Err(StoreError::Contended(_) | StoreError::UnknownTag) if batch.len() > 1 => {
                    self.split(batch);
                }
                verdict => {
                    // What became of a batch that failed may be unknown. It is not tried again: the row may end where
                    // ours did and be another server's by now.
                    failures = if verdict.is_err() { failures + 1 } else { 0 };
                    // Nobody listens any more after the deadline.
                    let _ = reports.send((batch, verdict));
                }
            }
        }
    }

    /// Nothing of the batch was done, because of one of its rows: the others are not to suffer for it. They have their
    /// turn when all other batches had theirs.
    fn split(&self, batch: Range<usize>) {
        let middle = batch.start + batch.len() / 2;
        lock(&self.open).extend([batch.start..middle, middle..batch.end]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Barrier;

    use super::*;
    use crate::AllocatorConfig;
    use crate::sizing::Policy;
    use crate::store::{Floor, Rows, StoreReport, TagRow};
    use crate::watermark::Watermarks;

    /// Gives back as it is told to.
    struct Scripted<F>(F);

    impl<F: FnMut(&[Rest<'_>]) -> Result<Vec<bool>, StoreError> + Send> SegmentStore for Scripted<F> {
        fn check(&mut self) -> Result<StoreReport, StoreError> {
            unreachable!("nobody looks")
        }

        fn list_tags(&mut self, _limit: usize) -> Result<Rows<TagRow>, StoreError> {
            unreachable!("nobody lists")
        }

        fn reserve_above(&mut self, _tag: &str, _amount: i64, _floor: Floor) -> Result<i64, StoreError> {
            unreachable!("nobody reserves")
        }

        fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
            (self.0)(rests)
        }
    }

    fn boxed(
        give_back: impl FnMut(&[Rest<'_>]) -> Result<Vec<bool>, StoreError> + Send + 'static,
    ) -> Box<dyn SegmentStore> {
        Box::new(Scripted(give_back))
    }

    fn shared() -> Shared {
        let config =
            AllocatorConfig { refill_threads: 1, failover_steps: None, ..AllocatorConfig::default() };
        Shared::new(config, Watermarks::default())
    }

    fn unclaimed(tags: usize) -> Vec<(Arc<Tag>, IdRange)> {
        let tag = |index| Arc::new(Tag::new(&format!("t{index:04}"), 1, Policy::default(), Instant::now()));
        (0..tags).map(|index| (tag(index), IdRange { start: 1, end: 2 })).collect()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn skipped(shared: &Shared) -> u64 {
        shared.skipped.counts().iter().sum()
    }

    #[test]
    fn every_session_gives_back() {
        const SESSIONS: usize = 3;
        let barrier = Arc::new(Barrier::new(SESSIONS));
        let session = || {
            let barrier = barrier.clone();
            boxed(move |rests| {
                barrier.wait();
                Ok(vec![true; rests.len()])
            })
        };
        let shared = shared();
        let stores = (0..SESSIONS).map(|_| session()).collect();
        shared.give_all_back(unclaimed(SESSIONS), stores, soon());
        assert_eq!(skipped(&shared), 0);
    }

    #[test]
    fn one_row_that_is_locked_costs_no_other_its_turn() {
        let shared = shared();
        let given_back: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
        let store = {
            let given_back = given_back.clone();
            boxed(move |rests| {
                if rests.iter().any(|rest| rest.tag == "t0700") {
                    return Err(StoreError::Contended("locked".to_owned()));
                }
                for rest in rests {
                    *lock(&given_back).entry(rest.tag.to_owned()).or_default() += 1;
                }
                Ok(vec![true; rests.len()])
            })
        };
        shared.give_all_back(unclaimed(1000), vec![store], soon());
        assert_eq!(skipped(&shared), 1);
        let given_back = lock(&given_back);
        assert_eq!(given_back.len(), 999);
        assert!(given_back.values().all(|times| *times == 1));
    }

    /// The row may have been lowered, raised by another server to where it was, and be that server's.
    #[test]
    fn a_batch_of_unknown_outcome_is_not_tried_again() {
        let shared = shared();
        let asked: Arc<Mutex<Vec<usize>>> = Arc::default();
        let store = {
            let asked = asked.clone();
            boxed(move |rests| {
                lock(&asked).push(rests.len());
                Err(StoreError::Unavailable("no answer in time".to_owned()))
            })
        };
        shared.give_all_back(unclaimed(BATCH_ROWS_MAX * 3), vec![store], soon());
        assert_eq!(*lock(&asked), [BATCH_ROWS_MAX; FAILURES_MAX as usize]);
        assert_eq!(skipped(&shared), 3 * BATCH_ROWS_MAX as u64, "none is lost silently");
    }

    #[test]
    fn a_store_that_does_not_answer_does_not_hold_up_the_end() {
        let shared = shared();
        let (hold, held) = channel::<()>();
        let store = boxed(move |_| {
            let _ = held.recv();
            Err(StoreError::Unavailable("gone".to_owned()))
        });
        let began = Instant::now();
        shared.give_all_back(unclaimed(5), vec![store], began + Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_eq!(skipped(&shared), 5);
        drop(hold);
    }
}
