//! All tags at one moment, with what they hand out a second: looked at from time to time, so that a list of 100,000
//! tags is sorted and searched without another look at each of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use serde::Serialize;

use crate::alloc::Directory;
use crate::alloc::monitor::Monitor;
use crate::alloc::tag::{Tag, TagFigures, TagState};

/// How often the tags are looked at, at most.
const INTERVAL: Duration = Duration::from_millis(900);
/// A look that takes long is followed by a pause so many times as long.
const INTERVAL_PER_COST: u32 = 50;
/// The longest such pause: what a look seems to take may be a leap of the clock.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The time constant of the mean rate.
const RATE_SECONDS: f64 = 2.0;
/// A mean that has become as small as this is nothing.
const RATE_MIN: f64 = 0.001;
/// How many times the traffic of a tag with figures of its own another must have to take its place.
const DISPLACES: f32 = 2.0;

/// The name under which the figures of the tags are summed that have none of their own in `/metrics`. A tag of this
/// name is summed too.
pub const OTHERS: &str = "(others)";

/// How many tags there are, and how many want an operator.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TagCounts {
    pub total: usize,
    pub fenced: usize,
    pub starving: usize,
    pub broken: usize,
    pub exhausted: usize,
    #[serde(skip)]
    pub serving: usize,
    #[serde(skip)]
    pub idle: usize,
}

impl TagCounts {
    fn add(&mut self, state: TagState) {
        self.total += 1;
        let count = match state {
            TagState::Fenced => &mut self.fenced,
            TagState::Starving => &mut self.starving,
            TagState::Broken => &mut self.broken,
            TagState::Exhausted => &mut self.exhausted,
            TagState::Serving => &mut self.serving,
            TagState::Idle => &mut self.idle,
        };
        *count += 1;
    }
}

/// One tag, when it was looked at last.
pub struct Line {
    pub tag: Arc<Tag>,
    pub left: u64,
    issued: u64,
    /// Of these, how many since the look before.
    issued_since: u64,
    /// IDs handed out per second, in the mean of the last seconds.
    pub rate_per_s: f32,
    segments: u32,
    pub state: TagState,
}

/// What a tag's IDs in memory last for at its present rate, in seconds.
pub fn supply_s(left: u64, rate_per_s: f32) -> Option<f64> {
    (rate_per_s > 0.0).then(|| left as f64 / f64::from(rate_per_s))
}

/// What `/metrics` shows of a tag, or of all those without figures of their own.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Series {
    /// IDs issued since there is this series.
    pub issued: u64,
    pub left: u64,
    pub segments: u64,
}

/// All tags.
pub struct Overview {
    monitor: Monitor,
    directory: Arc<Directory>,
    /// By name.
    lines: Vec<Line>,
    counts: TagCounts,
    taken_at: Instant,
    /// There is no look before, unless the directory has changed.
    next_at: Option<Instant>,
    /// The most tags with figures of their own.
    own_max: usize,
    /// What each of them has issued since it is one, by [`key`].
    own_issued: HashMap<usize, u64, RandomState>,
    others_issued: u64,
}

/// Tells tags apart that have, or had, the same name. Good for as long as the tag is in `Overview::lines`.
fn key(tag: &Arc<Tag>) -> usize {
    Arc::as_ptr(tag).addr()
}

impl Overview {
    /// Nothing yet.
    pub fn new(monitor: Monitor, own_max: usize) -> Self {
        Self {
            monitor,
            directory: Arc::default(),
            lines: Vec::new(),
            counts: TagCounts::default(),
            taken_at: Instant::now(),
            next_at: None,
            own_max,
            own_issued: HashMap::default(),
            others_issued: 0,
        }
    }

    /// Whether the last look was a moment ago, and no tag has come or gone since.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.next_at.is_some_and(|next_at| now < next_at)
            && Arc::ptr_eq(&self.monitor.directory(), &self.directory)
    }

    /// Looks at all tags, unless the last look was a moment ago.
    pub fn refresh(&mut self, now: Instant) {
        if self.is_fresh(now) {
            return;
        }
        let directory = self.monitor.directory();
        if !Arc::ptr_eq(&directory, &self.directory) {
            self.replace_lines(directory);
        }
        self.look(now);
        self.choose_own();
        self.attribute();
        let pause = now.elapsed().saturating_mul(INTERVAL_PER_COST).clamp(INTERVAL, INTERVAL_MAX);
        self.next_at = Some(now + pause);
    }

    /// Takes over what is known of tags that are there still.
    fn replace_lines(&mut self, directory: Arc<Directory>) {
        let mut known: HashMap<usize, Line, RandomState> =
            self.lines.drain(..).map(|line| (key(&line.tag), line)).collect();
        let line = |tag: &Arc<Tag>| known.remove(&key(tag)).unwrap_or_else(|| Line::new(tag.clone()));
        self.lines = directory.tags().map(line).collect();
        self.lines.sort_unstable_by(|a, b| a.tag.name().cmp(b.tag.name()));
        for gone in known.into_keys() {
            self.own_issued.remove(&gone);
        }
        self.directory = directory;
    }

    fn look(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.taken_at).as_secs_f64().max(0.001);
        self.taken_at = now;
        self.counts = TagCounts::default();
        for line in &mut self.lines {
            let figures = self.monitor.figures(&line.tag, now);
            line.update(&figures, seconds);
            self.counts.add(figures.state);
        }
    }

    /// Fills the places with the tags that have the most traffic. Who has a place keeps it, so that its figures do not
    /// come and go, until another has much more traffic.
    fn choose_own(&mut self) {
        let wants = |line: &&Line| {
            !self.own_issued.contains_key(&key(&line.tag))
                && (line.issued > 0 || line.left > 0)
                && !matches!(line.tag.name(), "" | OTHERS)
        };
        let mut waiting: Vec<_> =
            self.lines.iter().filter(wants).map(|line| (line.rate_per_s, key(&line.tag))).collect();
        let by_rate = |(a, _): &(f32, usize), (b, _): &(f32, usize)| b.total_cmp(a);
        if waiting.len() > self.own_max {
            waiting.select_nth_unstable_by(self.own_max, by_rate);
            waiting.truncate(self.own_max);
        }
        waiting.sort_unstable_by(by_rate);
        let own = self.lines.iter().filter(|line| self.own_issued.contains_key(&key(&line.tag)));
        let mut own: Vec<_> = own.map(|line| (line.rate_per_s, key(&line.tag))).collect();
        own.sort_unstable_by(by_rate);
        for (rate, tag) in waiting {
            if self.own_issued.len() >= self.own_max {
                // The first that came in above are no longer compared: they have more traffic.
                match own.pop() {
                    Some((least, displaced)) if rate > least * DISPLACES => {
                        self.own_issued.remove(&displaced)
                    }
                    _ => return,
                };
            }
            self.own_issued.insert(tag, 0);
        }
    }

    /// Adds what was issued since the last look to the series that it belongs to. Each series only grows, whichever
    /// tags have one of their own.
    fn attribute(&mut self) {
        for line in &self.lines {
            *self.own_issued.get_mut(&key(&line.tag)).unwrap_or(&mut self.others_issued) += line.issued_since;
        }
    }

    /// By name.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// How many tags are in which state.
    pub fn counts(&self) -> TagCounts {
        self.counts
    }

    /// The tag of this name, when it was looked at last.
    pub fn line(&self, name: &str) -> Option<&Line> {
        let index = self.lines.binary_search_by(|line| line.tag.name().cmp(name)).ok()?;
        Some(&self.lines[index])
    }

    /// The tags with figures of their own, by name, and the sum of the others.
    pub fn series(&self) -> (Vec<(&Line, Series)>, Series) {
        let (mut own, mut others) = (Vec::new(), Series { issued: self.others_issued, ..Series::default() });
        for line in &self.lines {
            let (left, segments) = (line.left, u64::from(line.segments));
            match self.own_issued.get(&key(&line.tag)) {
                Some(&issued) => own.push((line, Series { issued, left, segments })),
                None => {
                    others.left = others.left.saturating_add(left);
                    others.segments += segments;
                }
            }
        }
        (own, others)
    }
}

impl Line {
    pub fn new(tag: Arc<Tag>) -> Self {
        Self { tag, left: 0, issued: 0, issued_since: 0, rate_per_s: 0.0, segments: 0, state: TagState::Idle }
    }

    /// Takes over what was found `seconds` after the look before.
    fn update(&mut self, figures: &TagFigures, seconds: f64) {
        self.issued_since = figures.issued.saturating_sub(self.issued);
        self.issued = figures.issued;
        self.left = figures.left;
        self.segments = figures.segments as u32;
        self.state = figures.state;
        let sample = self.issued_since as f64 / seconds;
        let weight_of_old = (-seconds / RATE_SECONDS).exp();
        let rate = sample + (f64::from(self.rate_per_s) - sample) * weight_of_old;
        self.rate_per_s = if rate < RATE_MIN { 0.0 } else { rate as f32 };
    }
}
