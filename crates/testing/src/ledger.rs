//! Every ID of one tag that anybody was given: which, how many, and whether one of them twice.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Beyond this the ledger would take more memory than a test should: 1 GiB.
const ID_LIMIT: i64 = 1 << 33;

/// So many ranges that overlap are enough to understand why.
const OVERLAPS_KEPT: usize = 10;

/// A bit for each ID.
#[derive(Default)]
pub struct Ledger {
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    words: Vec<u64>,
    sums: Sums,
}

/// What a ledger comes to.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// IDs that were entered.
    pub ids: u64,
    /// Of these, how many had been entered before.
    pub duplicates: u64,
    /// Some of the ranges that held them, and to whom they were given the second time.
    pub overlaps: Vec<(Range<i64>, String)>,
    /// The highest ID.
    pub highest: i64,
}

impl Ledger {
    /// Enters IDs that `owner` was given.
    pub fn enter(&self, ids: Range<i64>, owner: &str) {
        self.lock().enter(ids, owner);
    }

    pub fn sums(&self) -> Sums {
        self.lock().sums.clone()
    }

    /// The lowest ID from this one on that was entered.
    pub fn first_from(&self, id: i64) -> Option<i64> {
        self.lock().first_from(id)
    }

    /// Fails the test if an ID was given twice, or one that the table's row does not account for.
    pub fn assert_sound(&self, max_id: i64) {
        let sums = self.sums();
        assert_eq!(sums.duplicates, 0, "given twice: {:?}", sums.overlaps);
        assert!(sums.highest < max_id, "ID {} was given; max_id is {max_id}", sums.highest);
        let bits: u64 = self.lock().words.iter().map(|word| u64::from(word.count_ones())).sum();
        assert_eq!(bits, sums.ids, "the ledger's own books");
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn enter(&mut self, ids: Range<i64>, owner: &str) {
        assert!(ids.start >= 1 && ids.start < ids.end && ids.end <= ID_LIMIT, "{owner} was given {ids:?}");
        let taken: u64 = self.bits_of(&ids).map(|(word, mask)| u64::from((*word & mask).count_ones())).sum();
        self.bits_of(&ids).for_each(|(word, mask)| *word |= mask);
        self.sums.ids += ids.end.abs_diff(ids.start);
        self.sums.highest = self.sums.highest.max(ids.end - 1);
        self.sums.duplicates += taken;
        if taken > 0 && self.sums.overlaps.len() < OVERLAPS_KEPT {
            // At once: if something else fails the test, this must not be lost.
            eprintln!("{taken} of the IDs {ids:?} that {owner} was given were given before");
            self.sums.overlaps.push((ids, owner.to_owned()));
        }
    }

    fn first_from(&self, id: i64) -> Option<i64> {
        let first_word = id as usize / 64;
        let words = self.words.iter().enumerate().skip(first_word);
        let mut rest = words.map(|(index, word)| {
            let from = if index == first_word { u64::MAX << (id % 64) } else { u64::MAX };
            (index, word & from)
        });
        let (index, word) = rest.find(|(_, word)| *word != 0)?;
        Some(index as i64 * 64 + i64::from(word.trailing_zeros()))
    }

    /// The words that hold the bits of `ids`, each with a mask of those.
    fn bits_of(&mut self, ids: &Range<i64>) -> impl Iterator<Item = (&mut u64, u64)> {
        let (first, last) = (ids.start as usize, ids.end as usize - 1);
        let (first_word, last_word) = (first / 64, last / 64);
        if self.words.len() <= last_word {
            self.words.resize((last_word + 1).next_power_of_two(), 0);
        }
        self.words[first_word..=last_word].iter_mut().enumerate().map(move |(index, word)| {
            let from = if index == 0 { u64::MAX << (first % 64) } else { u64::MAX };
            let to = if first_word + index == last_word { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            (word, from & to)
        })
    }
}
