//! The tags whose callers found too little, and may find too little still: what the node's health is judged by.
//!
//! A look costs the same however many there are: it judges those that starved at the last look, and a few of the others,
//! in turn.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::sync::lock;
use crate::tag::{Starvation, Tag};

/// How long a tag's chain may be empty while a refill is under way before the node counts as unhealthy.
pub(crate) const EMPTY_GRACE: Duration = Duration::from_millis(500);

/// The most starving tags that are named when the node's health is asked for.
const COMPLAINTS_MAX: usize = 10;

/// How many tags a look judges beside those that are known to starve.
pub(crate) const LOOK_TAGS_MAX: usize = 64;

/// All of them.
#[derive(Default)]
pub(crate) struct Hungry(Mutex<Lists>);

#[derive(Default)]
struct Lists {
    /// Those that starved at the last look: all of them, or as many as are named.
    starving: Vec<Arc<Tag>>,
    /// The others; who has not been looked at for the longest time is in front.
    others: VecDeque<Arc<Tag>>,
}

impl Lists {
    /// Takes out those whose turn it is.
    fn next(&mut self) -> Vec<Arc<Tag>> {
        let few = self.others.len().min(LOOK_TAGS_MAX);
        self.starving.drain(..).chain(self.others.drain(..few)).collect()
    }
}

impl Hungry {
    /// Takes in one more tag.
    pub fn add(&self, tag: Arc<Tag>) {
        lock(&self.0).others.push_back(tag);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let lists = lock(&self.0);
        lists.starving.len() + lists.others.len()
    }

    /// What starving tags lack, in words. The log is told of each when it begins to starve, and when that is over.
    pub fn look(&self, now: Instant) -> Vec<String> {
        let (mut complaints, mut news) = (Vec::new(), Vec::new());
        let mut lists = lock(&self.0);
        for tag in lists.next() {
            let starvation = tag.starvation(EMPTY_GRACE, now);
            let starves = starvation == Starvation::Starving;
            if tag.note_starving(starves, now) {
                news.push((tag.clone(), starves));
            }
            match starvation {
                Starvation::None => {}
                Starvation::Starving if complaints.len() < COMPLAINTS_MAX => {
                    complaints.push(tag.complaint());
                    lists.starving.push(tag);
                }
                Starvation::Starving | Starvation::Brief => lists.others.push_back(tag),
            }
        }
        drop(lists);
        for (tag, starves) in news {
            match starves {
                true => warn!(tag = tag.name(), "callers of the tag wait for IDs in vain"),
                false => info!(tag = tag.name(), "callers of the tag get IDs again"),
            }
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::segment::IdRange;
    use crate::sizing::Policy;
    use crate::tag::{Job, Need};

    /// Tags of which each has had a caller in vain at `since`.
    fn hungry(count: usize, since: Instant) -> (Hungry, Vec<Arc<Tag>>) {
        let hungry = Hungry::default();
        let tags: Vec<_> = (0..count)
            .map(|n| Arc::new(Tag::new(&format!("t{n}"), 10, Policy::default(), since)))
            .inspect(|tag| drop(tag.park(Need::Supply(1), Waker::noop(), &mut None, since)))
            .collect();
        tags.iter().for_each(|tag| hungry.add(tag.clone()));
        (hungry, tags)
    }

    #[test]
    fn a_look_judges_few_tags_and_names_fewer_and_forgets_none() {
        let since = Instant::now();
        let (hungry, tags) = hungry(10 * LOOK_TAGS_MAX, since);
        assert_eq!((hungry.look(since).len(), hungry.len()), (0, tags.len()), "none has waited for long");
        let late = since + 2 * EMPTY_GRACE;
        for _ in 0..20 {
            assert_eq!(hungry.look(late).len(), COMPLAINTS_MAX);
        }
        assert_eq!(hungry.len(), tags.len());
        for tag in &tags {
            assert_eq!(tag.complete(Job::Extend(10), IdRange { start: 1, end: 11 }), None);
        }
        assert!(hungry.look(late).is_empty(), "those that were named are served");
        (0..tags.len().div_ceil(LOOK_TAGS_MAX)).for_each(|_| drop(hungry.look(late)));
        assert_eq!(hungry.len(), 0);
    }

    #[test]
    fn one_that_starves_is_found_among_many_that_do_not() {
        let since = Instant::now();
        let (hungry, tags) = hungry(10 * LOOK_TAGS_MAX, since);
        for tag in tags.iter().rev().skip(1) {
            assert_eq!(tag.complete(Job::Extend(10), IdRange { start: 1, end: 11 }), None);
        }
        let late = since + 2 * EMPTY_GRACE;
        let looks = (1..).find(|_| !hungry.look(late).is_empty()).unwrap();
        assert!(looks <= 10, "{looks}");
        assert_eq!(hungry.len(), 1);
    }
}
