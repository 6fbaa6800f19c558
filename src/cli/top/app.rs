//! What is known of the server, and what the operator has chosen to see of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde::Deserialize;

/// The most samples that are kept, one a second.
const SAMPLES_MAX: usize = 300;

/// What is older is said to be stale. There is something new each second.
const STALE_AFTER: Duration = Duration::from_secs(3);

/// The most rows asked for, as the server has it.
const ROWS_MAX: usize = 1000;

/// The longest text that is searched for: as long as a tag, in characters.
const SEARCH_CHARS_MAX: usize = 128;

/// `GET /api/status`, as far as it is shown.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Status {
    pub version: String,
    pub uptime_s: u64,
    pub store: Store,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Store {
    pub kind: String,
    pub host: Option<String>,
    pub state: String,
    pub last_error: Option<String>,
}

/// One second of the server.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Sample {
    pub t_ms: u64,
    pub ids_per_s: f64,
    pub requests_per_s: f64,
    pub waiting: u64,
    pub reservation_p50_ms: Option<f64>,
    pub reservation_p99_ms: Option<f64>,
    pub reservations_per_s: f64,
    pub connections: u64,
    pub health: String,
    pub health_detail: Option<String>,
    pub tags: TagCounts,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct TagCounts {
    pub total: u64,
    pub fenced: u64,
    pub broken: u64,
    pub exhausted: u64,
    pub starving: u64,
}

/// `GET /api/tags`
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Page {
    pub total: usize,
    pub offset: usize,
    pub tags: Vec<Tag>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Tag {
    pub app_tag: String,
    pub step: i64,
    pub state: String,
    pub fault: Option<String>,
    pub rate_per_s: f64,
    /// Decimal text, as all that may exceed what JavaScript's numbers hold.
    pub left: String,
    pub supply_s: Option<f64>,
    pub segments: u64,
    pub last_amount: Option<u64>,
    pub last_reserved_at_ms: Option<u64>,
}

/// Which tags to show, in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    pub search: String,
    pub sort: Sort,
    pub descending: bool,
    pub offset: usize,
    pub limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    State,
    AppTag,
    Rate,
    Left,
    Supply,
}

impl Sort {
    /// By key: as the footer shows them.
    pub const KEYS: [(char, Sort); 5] =
        [('s', Self::State), ('n', Self::AppTag), ('r', Self::Rate), ('l', Self::Left), ('u', Self::Supply)];

    /// As the server names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::AppTag => "app_tag",
            Self::Rate => "rate",
            Self::Left => "left",
            Self::Supply => "supply",
        }
    }

    /// What wants an eye comes first: the worst state, the highest rate, the least left.
    fn descends_at_first(self) -> bool {
        matches!(self, Self::Rate)
    }
}

impl Query {
    /// The request that it is.
    pub fn target(&self) -> String {
        let search = percent_encoding::utf8_percent_encode(&self.search, percent_encoding::NON_ALPHANUMERIC);
        format!(
            "/api/tags?search={search}&sort={}&order={}&offset={}&limit={}",
            self.sort.name(),
            if self.descending { "desc" } else { "asc" },
            self.offset,
            self.limit
        )
    }
}

/// What came from one of the server's two sources, and when.
#[derive(Debug)]
pub(super) struct Feed {
    pub fresh_at: Instant,
    /// Why nothing came since.
    pub trouble: Option<String>,
}

impl Feed {
    fn new(now: Instant) -> Self {
        Self { fresh_at: now, trouble: None }
    }

    fn refreshed(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}

/// What happened.
#[derive(Debug)]
pub(super) enum Message {
    Status(Status),
    History(Vec<Sample>),
    Sample(Box<Sample>),
    /// A page of tags for the query that asked for it.
    Page(Query, Page),
    /// There is no stream of samples.
    NoSamples(String),
    /// There is no page of tags.
    NoPage(String),
    Key(KeyEvent),
    /// Time to look how old everything is, or the terminal has another size.
    Redraw,
}

/// Whether to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Quit,
}

/// Everything that is shown.
pub(super) struct App {
    pub server: String,
    pub status: Status,
    pub samples: VecDeque<Sample>,
    pub page: Page,
    pub samples_feed: Feed,
    pub page_feed: Feed,
    pub query: Query,
    /// The row that the cursor is on, counted from the first of all tags that the search has found.
    pub selected: usize,
    /// What was searched for before, while another text is typed.
    pub search_before: Option<String>,
}

impl App {
    /// A view of the server at `server`, of which nothing but its status is known yet.
    pub fn new(server: &str, status: Status, now: Instant) -> Self {
        Self {
            server: server.to_owned(),
            status,
            samples: VecDeque::new(),
            page: Page::default(),
            samples_feed: Feed::new(now),
            page_feed: Feed::new(now),
            query: Query { search: String::new(), sort: Sort::State, descending: false, offset: 0, limit: 1 },
            selected: 0,
            search_before: None,
        }
    }

    /// How many rows of tags there is room for.
    pub fn resize(&mut self, rows: usize) {
        self.query.limit = rows.clamp(1, ROWS_MAX);
        self.scroll();
    }

    /// Takes note of what happened.
    pub fn update(&mut self, message: Message, now: Instant) -> Flow {
        match message {
            Message::Status(status) => self.status = status,
            Message::History(samples) => {
                // It comes in pieces; and a server that was started again has forgotten what is known here.
                let first_ms = samples.first().map_or(u64::MAX, |sample| sample.t_ms);
                self.samples.retain(|known| known.t_ms < first_ms);
                self.samples.extend(samples);
                self.trim_samples();
                self.samples_feed.refreshed(now);
            }
            Message::Sample(sample) => {
                self.samples.push_back(*sample);
                self.trim_samples();
                self.samples_feed.refreshed(now);
            }
            Message::Page(query, page) => self.take_page(&query, page, now),
            Message::NoSamples(trouble) => self.samples_feed.trouble = Some(trouble),
            Message::NoPage(trouble) => self.page_feed.trouble = Some(trouble),
            Message::Key(key) if key.kind != KeyEventKind::Release => return self.press(key),
            Message::Key(_) | Message::Redraw => {}
        }
        Flow::Continue
    }

    /// How old the oldest of what is shown is, and why, if it is stale.
    pub fn stale(&self, now: Instant) -> Option<(Duration, &str)> {
        let mut feeds = [&self.samples_feed, &self.page_feed];
        feeds.sort_by_key(|feed| feed.fresh_at);
        let age = now.saturating_duration_since(feeds[0].fresh_at);
        let trouble = feeds.iter().find_map(|feed| feed.trouble.as_deref());
        (age >= STALE_AFTER).then(|| (age, trouble.unwrap_or("nothing new comes")))
    }

    /// The tag that the cursor is on.
    pub fn selected_tag(&self) -> Option<&Tag> {
        self.page.tags.get(self.selected.checked_sub(self.page.offset)?)
    }

    /// The server's time, in ms since 1970: its clock need not be ours.
    pub fn server_time_ms(&self, now: Instant) -> Option<u64> {
        let age = now.saturating_duration_since(self.samples_feed.fresh_at);
        Some(self.samples.back()?.t_ms + u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    fn trim_samples(&mut self) {
        self.samples.drain(..self.samples.len().saturating_sub(SAMPLES_MAX));
    }

    fn take_page(&mut self, query: &Query, page: Page, now: Instant) {
        let is_answer = (&query.search, query.sort, query.descending)
            == (&self.query.search, self.query.sort, self.query.descending);
        // It may have been asked for before the last key; the next one is under way.
        if !is_answer {
            return;
        }
        self.page = page;
        self.page_feed.refreshed(now);
        self.select(self.selected);
    }

    fn press(&mut self, key: KeyEvent) -> Flow {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Flow::Quit,
            _ if self.search_before.is_some() => self.type_search(key, is_control),
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Char('/') => self.search_before = Some(self.query.search.clone()),
            KeyCode::Char(letter) => {
                if let Some((_, sort)) = Sort::KEYS.into_iter().find(|(key, _)| *key == letter) {
                    self.sort(sort);
                }
            }
            KeyCode::Up => self.select(self.selected.saturating_sub(1)),
            KeyCode::Down => self.select(self.selected.saturating_add(1)),
            KeyCode::PageUp => self.select(self.selected.saturating_sub(self.query.limit)),
            KeyCode::PageDown => self.select(self.selected.saturating_add(self.query.limit)),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            _ => {}
        }
        Flow::Continue
    }

    /// The list follows what is typed; Enter keeps it, Esc goes back.
    fn type_search(&mut self, key: KeyEvent, is_control: bool) {
        let mut search = self.query.search.clone();
        match key.code {
            KeyCode::Enter => self.search_before = None,
            KeyCode::Esc => search = self.search_before.take().unwrap_or_default(),
            KeyCode::Backspace => drop(search.pop()),
            KeyCode::Char('u') if is_control => search.clear(),
            KeyCode::Char(letter) if !is_control && search.chars().count() < SEARCH_CHARS_MAX => {
                search.push(letter);
            }
            _ => {}
        }
        if search != self.query.search {
            self.query.search = search;
            self.select(0);
        }
    }

    /// Sorts by another figure, or the other way round.
    fn sort(&mut self, sort: Sort) {
        let again = self.query.sort == sort;
        self.query.descending = if again { !self.query.descending } else { sort.descends_at_first() };
        self.query.sort = sort;
        self.select(0);
    }

    /// Moves the cursor, as far as there are rows, and the rows with it.
    fn select(&mut self, row: usize) {
        self.selected = row.min(self.page.total.saturating_sub(1));
        self.scroll();
    }

    fn scroll(&mut self) {
        let lowest = (self.selected + 1).saturating_sub(self.query.limit);
        let highest = self.selected.min(self.page.total.saturating_sub(self.query.limit));
        self.query.offset = self.query.offset.min(highest).max(lowest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{app, history, page, sample, tag};
    use super::*;

    fn press(app: &mut App, keys: impl IntoIterator<Item = KeyCode>) -> Flow {
        let now = Instant::now();
        let mut flow = Flow::Continue;
        for key in keys {
            flow = app.update(Message::Key(KeyEvent::from(key)), now);
        }
        flow
    }

    fn type_text(app: &mut App, text: &str) {
        press(app, text.chars().map(KeyCode::Char));
    }

    /// An app with ten rows of a thousand.
    fn filled() -> App {
        let now = Instant::now();
        let mut app = app(now);
        app.resize(10);
        let tags = [tag("a", "fenced"), tag("b", "serving")];
        app.update(page(&app, 1000, &tags), now);
        app
    }

    #[test]
    fn the_first_query_puts_trouble_first() {
        let mut app = app(Instant::now());
        app.resize(17);
        assert_eq!(app.query.target(), "/api/tags?search=&sort=state&order=asc&offset=0&limit=17");
        app.query.search = "a&b=ü %".to_owned();
        assert!(app.query.target().starts_with("/api/tags?search=a%26b%3D%C3%BC%20%25&sort="));
    }

    #[test]
    fn a_key_sorts_and_the_same_again_the_other_way_round() {
        let mut app = filled();
        let sorted = |app: &App| (app.query.sort, app.query.descending);
        for (key, sort) in Sort::KEYS.into_iter().skip(1).chain([('s', Sort::State)]) {
            press(&mut app, [KeyCode::Char(key)]);
            assert_eq!(sorted(&app), (sort, sort == Sort::Rate));
            press(&mut app, [KeyCode::Char(key)]);
            assert_eq!(sorted(&app), (sort, sort != Sort::Rate));
        }
    }

    #[test]
    fn the_cursor_keeps_to_the_rows_and_the_rows_follow_it() {
        let mut app = filled();
        let mut at = |keys: &[KeyCode]| {
            press(&mut app, keys.iter().copied());
            (app.selected, app.query.offset)
        };
        assert_eq!(at(&[KeyCode::Up]), (0, 0));
        assert_eq!(at(&[KeyCode::Down; 9]), (9, 0));
        assert_eq!(at(&[KeyCode::Down]), (10, 1));
        assert_eq!(at(&[KeyCode::Up; 9]), (1, 1));
        assert_eq!(at(&[KeyCode::Up]), (0, 0));
        assert_eq!(at(&[KeyCode::PageDown; 2]), (20, 11));
        assert_eq!(at(&[KeyCode::PageUp]), (10, 10));
        assert_eq!(at(&[KeyCode::End]), (999, 990));
        assert_eq!(at(&[KeyCode::Down]), (999, 990));
        assert_eq!(at(&[KeyCode::Home]), (0, 0));
        // Fewer rows on the screen, then fewer tags.
        press(&mut app, [KeyCode::End]);
        app.resize(3);
        assert_eq!((app.selected, app.query.offset, app.query.limit), (999, 997, 3));
        app.resize(0);
        assert_eq!((app.query.offset, app.query.limit), (999, 1));
        app.resize(10);
        assert_eq!(app.query.offset, 990);
        app.update(page(&app, 12, &[]), Instant::now());
        assert_eq!((app.selected, app.query.offset), (11, 2));
        app.update(page(&app, 0, &[]), Instant::now());
        assert_eq!((app.selected, app.query.offset), (0, 0));
    }

    #[test]
    fn the_tag_under_the_cursor_is_that_of_the_page_that_is_shown() {
        let mut app = filled();
        assert_eq!(app.selected_tag().map(|tag| tag.app_tag.as_str()), Some("a"));
        press(&mut app, [KeyCode::Down]);
        assert_eq!(app.selected_tag().map(|tag| tag.app_tag.as_str()), Some("b"));
        press(&mut app, [KeyCode::End]);
        assert!(app.selected_tag().is_none(), "its page is not there yet");
        app.update(page(&app, 1000, &[tag("x", "idle")]), Instant::now());
        press(&mut app, [KeyCode::Home]);
        assert!(app.selected_tag().is_none(), "the page is of the end");
    }

    #[test]
    fn a_search_follows_what_is_typed_is_kept_by_enter_and_taken_back_by_esc() {
        let mut app = filled();
        press(&mut app, [KeyCode::End]);
        type_text(&mut app, "/qs");
        assert_eq!((app.query.search.as_str(), app.selected, app.query.offset), ("qs", 0, 0));
        assert_eq!(press(&mut app, [KeyCode::Backspace, KeyCode::Enter]), Flow::Continue);
        assert_eq!(app.query.search, "q");
        type_text(&mut app, "/uery");
        press(&mut app, [KeyCode::Esc]);
        assert_eq!((app.query.search.as_str(), app.query.sort), ("q", Sort::State));
        type_text(&mut app, "/");
        app.update(Message::Key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL)), Instant::now());
        press(&mut app, [KeyCode::Backspace, KeyCode::Enter]);
        assert_eq!(app.query.search, "");
        type_text(&mut app, &format!("/{}", "é".repeat(1000)));
        assert_eq!(app.query.search.chars().count(), SEARCH_CHARS_MAX);
    }

    #[test]
    fn q_esc_and_control_c_quit_but_what_is_typed_does_not() {
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let mut app = filled();
        for key in [KeyCode::Char('q'), KeyCode::Esc] {
            assert_eq!(press(&mut app, [key]), Flow::Quit);
        }
        assert_eq!(press(&mut app, [KeyCode::Char('x'), KeyCode::F(1)]), Flow::Continue);
        assert_eq!(press(&mut app, [KeyCode::Char('/'), KeyCode::Char('q')]), Flow::Continue);
        assert_eq!(app.update(Message::Key(control_c), Instant::now()), Flow::Quit);
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::from(KeyCode::Char('q')) };
        assert_eq!(filled().update(Message::Key(released), Instant::now()), Flow::Continue);
    }

    #[test]
    fn a_page_that_answers_another_question_is_not_shown() {
        let mut app = filled();
        let late = page(&app, 1000, &[tag("late", "idle")]);
        press(&mut app, [KeyCode::Char('r')]);
        app.update(late, Instant::now());
        assert_eq!(app.page.tags[0].app_tag, "a");
        // Another part of the same list is.
        let part = page(&app, 1000, &[tag("part", "idle")]);
        press(&mut app, [KeyCode::End]);
        app.update(part, Instant::now());
        assert_eq!(app.page.tags[0].app_tag, "part");
    }

    #[test]
    fn the_samples_are_those_of_the_last_minutes() {
        let now = Instant::now();
        let mut app = app(now);
        app.update(history(&vec![1.0; SAMPLES_MAX + 5]), now);
        assert_eq!(app.samples.len(), SAMPLES_MAX);
        app.update(sample(2.0), now);
        assert_eq!((app.samples.len(), app.samples.back().map(|s| s.ids_per_s)), (SAMPLES_MAX, Some(2.0)));
        // After a reconnect the server tells all of it again.
        app.update(history(&[3.0]), now);
        assert_eq!(app.samples.len(), 1);
        let later = now + Duration::from_millis(1500);
        assert_eq!(app.server_time_ms(later), Some(1_700_000_001_500));
    }

    #[test]
    fn what_is_stale_is_told_by_the_older_feed_with_its_own_cause() {
        let now = Instant::now();
        let mut app = app(now);
        assert_eq!(app.stale(now), None);
        app.update(Message::NoPage("no pages".to_owned()), now);
        app.update(Message::NoSamples("no samples".to_owned()), now);
        let later = now + STALE_AFTER;
        app.update(page(&app, 0, &[]), later);
        assert_eq!(app.stale(later), Some((STALE_AFTER, "no samples")));
        app.update(sample(1.0), later);
        assert_eq!(app.stale(later), None);
        app.update(Message::NoPage("no pages".to_owned()), later);
        app.update(sample(1.0), later + STALE_AFTER);
        assert_eq!(app.stale(later + STALE_AFTER), Some((STALE_AFTER, "no pages")));
    }
}
