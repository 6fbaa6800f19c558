//! Whether a request may take its IDs: the limits of its tag and of its token, which both must agree.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use foldhash::fast::RandomState;
use tracing::warn;

use super::access::Grant;
use super::rate_limit::{Limiter, Refused, Taken};
use super::{Error, ErrorKind};
use crate::config::{ApiSection, RateLimit, TagLimits};
use crate::episode::SharedRecurrence;

/// What refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitedBy {
    /// The limit of its tag.
    Tag,
    /// The limit of its token.
    Token,
}

impl LimitedBy {
    /// Both, in the order of their values.
    pub const ALL: [Self; 2] = [Self::Tag, Self::Token];

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Token => "token",
        }
    }
}

/// Why a request gets no IDs now.
#[derive(Debug)]
struct Refusal {
    /// Which limit it is over.
    by: LimitedBy,
    limit: RateLimit,
    refused: Refused,
}

/// All limits of a server that has any.
#[derive(Debug)]
pub struct Admission {
    named: HashMap<Box<str>, Limiter, RandomState>,
    others: Option<Others>,
    /// What the times of limiters count from.
    started: Instant,
    telling: [SharedRecurrence; LimitedBy::ALL.len()],
}

impl Admission {
    /// The limits of the configuration; `None` if it has none, for tags or for tokens.
    pub fn new(config: &ApiSection) -> Option<Self> {
        let TagLimits { named, others } = &config.tag_limits;
        let tokens = config.tokens.iter().flat_map(|tokens| tokens.0.values());
        let has_limits =
            !named.is_empty() || others.is_some() || tokens.into_iter().any(|token| token.limit.is_some());
        has_limits.then(|| Self {
            named: named.iter().map(|(tag, limit)| (tag.as_str().into(), Limiter::new(*limit))).collect(),
            others: others.map(Others::new),
            started: Instant::now(),
            telling: Default::default(),
        })
    }

    /// Whether requests for IDs of this tag, with this token, are limited.
    pub fn limits(&self, tag: &str, grant: Option<&Grant>) -> bool {
        self.others.is_some() || self.named.contains_key(tag) || grant.and_then(Grant::limiter).is_some()
    }

    /// Has the limits of the tag and of the token take so many IDs, or neither. `is_listed` says which tags there are.
    ///
    /// # Errors
    /// It is over a limit now, or asks for more than a limit allows at once. From time to time the log is told too.
    pub fn take(
        &self,
        tag: &str,
        grant: Option<&Grant>,
        ids: u64,
        is_listed: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        self.try_take(tag, grant, ids, is_listed).map_err(|refusal| self.error(&refusal, tag, grant, ids))
    }

    fn try_take(
        &self,
        tag: &str,
        grant: Option<&Grant>,
        ids: u64,
        is_listed: impl Fn(&str) -> bool,
    ) -> Result<(), Refusal> {
        let token = grant.and_then(Grant::limiter);
        match (self.named.get(tag), &self.others) {
            (None, None) if token.is_none() => Ok(()),
            (None, Some(others)) => {
                let now_ns = self.now_ns();
                let take = |limiter: &Limiter| take_both(Some(limiter), token, ids, now_ns);
                others.with_limiter_of(tag, now_ns, is_listed, take)
            }
            (limiter, _) => take_both(limiter, token, ids, self.now_ns()),
        }
    }

    #[cold]
    fn error(&self, refusal: &Refusal, tag: &str, grant: Option<&Grant>, ids: u64) -> Error {
        let RateLimit { ids_per_second, burst } = refusal.limit;
        let token = grant.and_then(Grant::name);
        let limited = match (refusal.by, token) {
            (LimitedBy::Tag, _) => format!("app_tag '{tag}' has"),
            (LimitedBy::Token, Some(name)) => {
                format!("the token '{name}', which asked for app_tag '{tag}', has")
            }
            (LimitedBy::Token, None) => format!("the token, which asked for app_tag '{tag}', has"),
        };
        let Refused::For(wait) = refusal.refused else {
            let message =
                format!("count is {ids}: {limited} a limit of {burst} IDs at once (burst) on this server");
            return Error::invalid(message);
        };
        self.tell(refusal, tag, token);
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let message = format!(
            "{limited} a limit of {ids_per_second} IDs a second, {burst} at once (burst), on this server; try again in {seconds} s"
        );
        Error::new(ErrorKind::Limited { by: refusal.by, retry_after_s: seconds }, message)
    }

    fn tell(&self, refusal: &Refusal, tag: &str, token: Option<&str>) {
        let Some(refused) = self.telling[refusal.by as usize].happens(self.now_ns()) else { return };
        let RateLimit { ids_per_second, burst } = refusal.limit;
        match refusal.by {
            LimitedBy::Tag => {
                warn!(tag, ids_per_second, burst, refused, "requests over the limit of an app_tag get 429");
            }
            LimitedBy::Token => {
                let token = token.unwrap_or("without a name");
                warn!(
                    token,
                    tag, ids_per_second, burst, refused, "requests over the limit of a token get 429"
                );
            }
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What the tag refuses costs the token nothing, and the other way round.
fn take_both(tag: Option<&Limiter>, token: Option<&Limiter>, ids: u64, now_ns: u64) -> Result<(), Refusal> {
    let refusal = |by, limiter: &Limiter, refused| Refusal { by, limit: limiter.limit(), refused };
    if let Some(limiter) = tag {
        limiter.check(ids, now_ns).map_err(|refused| refusal(LimitedBy::Tag, limiter, refused))?;
    }
    let mut taken: Option<(&Limiter, Taken)> = None;
    if let Some(limiter) = token {
        let from_token = limiter.take(ids, now_ns);
        taken = Some((limiter, from_token.map_err(|refused| refusal(LimitedBy::Token, limiter, refused))?));
    }
    if let Some(limiter) = tag
        && let Err(refused) = limiter.take(ids, now_ns)
    {
        // Others were faster since the look above.
        if let Some((token, taken)) = taken {
            token.give_back(taken);
        }
        return Err(refusal(LimitedBy::Tag, limiter, refused));
    }
    Ok(())
}

/// A limit that each of the tags has that are not named, with a limiter for each that somebody has asked for.
#[derive(Debug)]
struct Others {
    limit: RateLimit,
    /// Of tags that there are, or were lately. Looked up without a lock.
    listed: papaya::HashMap<Box<str>, Limiter, RandomState>,
    /// With so many, those of tags that are gone are dropped.
    prune_at: AtomicUsize,
    /// Of all names together that this server knows no tag of: so they take no memory, and a new tag passes no limit by.
    unlisted: Limiter,
}

/// Fewer limiters than this are not worth a look.
const PRUNE_MIN: usize = 1024;

impl Others {
    fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            listed: papaya::HashMap::default(),
            prune_at: AtomicUsize::new(PRUNE_MIN),
            unlisted: Limiter::new(limit),
        }
    }

    fn with_limiter_of<T>(
        &self,
        tag: &str,
        now_ns: u64,
        is_listed: impl Fn(&str) -> bool,
        use_it: impl FnOnce(&Limiter) -> T,
    ) -> T {
        let listed = self.listed.pin();
        if let Some(limiter) = listed.get(tag) {
            return use_it(limiter);
        }
        if !is_listed(tag) {
            return use_it(&self.unlisted);
        }
        // Relaxed: a number to compare with, no more.
        if listed.len() >= self.prune_at.load(Relaxed) {
            listed.retain(|name, limiter| is_listed(name) || !limiter.is_idle(now_ns));
            self.prune_at.store(PRUNE_MIN.max(2 * listed.len()), Relaxed);
        }
        use_it(listed.get_or_insert_with(tag.into(), || Limiter::new(self.limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { ids_per_second: 10, burst: 10 };

    #[test]
    fn what_one_refuses_costs_the_other_nothing() {
        let (small, large) = (Limiter::new(LIMIT), Limiter::new(RateLimit { burst: 20, ..LIMIT }));
        let by = |tag, token| take_both(Some(tag), Some(token), 8, 0).map_err(|refusal| refusal.by);
        assert_eq!(by(&small, &large), Ok(()));
        for _ in 0..10 {
            assert_eq!(by(&small, &large), Err(LimitedBy::Tag));
            assert_eq!(by(&large, &small), Err(LimitedBy::Token));
        }
        assert!(large.check(12, 0).is_ok() && small.check(2, 0).is_ok());
    }

    #[test]
    fn a_token_gets_back_what_others_were_faster_to_take_from_the_tag() {
        // Here the token itself is who takes of the tag between the look and the taking.
        let both = Limiter::new(LIMIT);
        assert_eq!(take_both(Some(&both), Some(&both), 6, 0).unwrap_err().by, LimitedBy::Tag);
        assert!(both.is_idle(0));
        assert!(take_both(Some(&both), Some(&both), 5, 0).is_ok());
    }

    #[test]
    fn a_token_that_a_tag_refuses_again_and_again_is_good_for_others_meanwhile() {
        const IDS: u64 = 400_000;
        let limit = RateLimit { ids_per_second: 1, burst: IDS };
        let [token, free, empty] = [(); 3].map(|()| Limiter::new(limit));
        empty.take(IDS, 0).unwrap();
        let got = std::thread::scope(|scope| {
            let refused = scope.spawn(|| {
                // Until the token is used up, which refuses too.
                while let Err(refusal) = take_both(Some(&empty), Some(&token), 1, 0) {
                    if token.check(1, 0).is_err() {
                        return Some(refusal.by);
                    }
                }
                None
            });
            let got = (0..IDS).filter(|_| take_both(Some(&free), Some(&token), 1, 0).is_ok()).count();
            assert_eq!(refused.join().unwrap(), Some(LimitedBy::Tag));
            got
        });
        assert_eq!(got as u64, IDS);
    }

    #[test]
    fn tags_that_are_gone_are_forgotten_and_names_that_are_none_are_not_kept() {
        let others = Others::new(LIMIT);
        let take = |tag: &str, now_ns, is_listed: &dyn Fn(&str) -> bool| {
            others.with_limiter_of(tag, now_ns, is_listed, |limiter| limiter.take(10, now_ns).is_ok())
        };
        assert!(take("nobody", 0, &|_| false) && !take("nobody either", 0, &|_| false));
        assert_eq!(others.listed.len(), 0);
        let second = 1_000_000_000;
        for round in 0..10 {
            let now_ns = (1 + round) * 2 * second;
            let is_there = |tag: &str| tag.starts_with(&format!("{round}-"));
            for n in 0..1000 {
                let tag = format!("{round}-{n}");
                assert!(take(&tag, now_ns, &is_there), "each has its own");
                assert!(!take(&tag, now_ns, &is_there), "and only one");
            }
        }
        assert!(others.listed.len() < 4 * PRUNE_MIN, "{}", others.listed.len());
    }
}
