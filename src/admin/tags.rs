//! The tags: a page of them, searched and sorted, from memory.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Query, State};
use memchr::memmem;
use serde::Serialize;

use super::Admin;
use super::answer::Json;
use super::overview::{Line, supply_s};
use super::problem::Problem;
use super::status::epoch_ms;
use crate::alloc::tag::{Tag, TagFigures, TagState};
use crate::store::TagDetails;

/// The most tags of one answer, and how many there are where nothing is said.
const LIMIT_MAX: usize = 1000;
const LIMIT_DEFAULT: usize = 100;

/// A tag as operators see it.
#[derive(Debug, Serialize)]
pub struct TagView {
    app_tag: String,
    step: i64,
    state: &'static str,
    fault: Option<String>,
    rate_per_s: f64,
    left: String,
    supply_s: Option<f64>,
    segments: usize,
    last_amount: Option<u64>,
    last_reserved_at_ms: Option<u64>,
    issued: String,
    /// Lists are from memory.
    #[serde(flatten)]
    row: Option<RowView>,
}

/// What only the store knows of a tag.
#[derive(Debug, Serialize)]
struct RowView {
    max_id: String,
    /// `None`: the table has no such column.
    description: Option<String>,
}

/// A page of tags.
#[derive(Debug, Serialize)]
pub struct TagPage {
    /// How many tags the search has found, on this page and on others.
    total: usize,
    offset: usize,
    limit: usize,
    tags: Vec<TagView>,
}

/// `GET /api/tags`
pub async fn list(
    State(admin): State<Arc<Admin>>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<TagPage>, Problem> {
    let wish = Wish::from_parameters(&parameters)?;
    let lane = admin.clone();
    lane.lists.run(move || Json(wish.page(&admin))).await
}

impl TagView {
    /// A row as it was just read, with what is in memory of it. May take a while.
    fn of(admin: &Admin, row: TagDetails) -> Self {
        let now = Instant::now();
        let view = |line: &Line| Self::new(line, &admin.monitor.figures(&line.tag, now));
        let view = admin.look(|overview| overview.line(&row.name).map(view)).unwrap_or_else(|| {
            // Not listed yet.
            let tag = Arc::new(Tag::new(&row.name, row.step, admin.config.allocator.policy(), now));
            view(&Line::new(tag))
        });
        let seen = RowView { max_id: row.max_id.to_string(), description: row.description };
        Self { step: row.step, row: Some(seen), ..view }
    }

    fn new(line: &Line, figures: &TagFigures) -> Self {
        Self {
            app_tag: line.tag.name().to_owned(),
            step: figures.step,
            state: state_name(figures.state),
            fault: figures.fault.as_ref().map(ToString::to_string),
            rate_per_s: rounded(line.rate_per_s.into()),
            left: figures.left.to_string(),
            supply_s: supply_s(figures.left, line.rate_per_s).map(rounded),
            segments: figures.segments,
            last_amount: figures.newest.map(|newest| newest.amount),
            last_reserved_at_ms: figures.newest.map(|newest| epoch_ms(newest.at)),
            issued: figures.issued.to_string(),
            row: None,
        }
    }
}

/// `GET /api/tags/{tag}` and the answers to changes: a row as it was just read, with what is in memory of it.
pub async fn view_of(admin: &Arc<Admin>, row: TagDetails) -> Result<Json<TagView>, Problem> {
    let of = admin.clone();
    admin.figures.run(move || Json(TagView::of(&of, row))).await
}

/// A state as operators read it.
pub fn state_name(state: TagState) -> &'static str {
    match state {
        TagState::Fenced => "fenced",
        TagState::Starving => "starving",
        TagState::Broken => "broken",
        TagState::Exhausted => "exhausted",
        TagState::Serving => "serving",
        TagState::Idle => "idle",
    }
}

/// To three decimals: more would only look exact.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Which tags, and in which order.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    /// In lower case.
    search: String,
    sort: Sort,
    descending: bool,
    offset: usize,
    limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    State,
    Name,
    Rate,
    Left,
    Supply,
}

impl Wish {
    fn from_parameters(parameters: &[(String, String)]) -> Result<Self, Problem> {
        let mut wish = Self {
            search: String::new(),
            sort: Sort::Name,
            descending: false,
            offset: 0,
            limit: LIMIT_DEFAULT,
        };
        for (name, value) in parameters {
            match name.as_str() {
                "search" => wish.search = value.to_ascii_lowercase(),
                "sort" => {
                    wish.sort = Sort::named(value).ok_or_else(|| {
                        let allowed = "allowed is state, app_tag, rate, left or supply";
                        Problem::bad("sort", format!("sort is {value:?}: {allowed}"))
                    })?;
                }
                "order" => {
                    wish.descending = match value.as_str() {
                        "asc" => false,
                        "desc" => true,
                        _ => {
                            let message = format!("order is {value:?}: allowed is asc or desc");
                            return Err(Problem::bad("order", message));
                        }
                    }
                }
                "offset" => wish.offset = number("offset", value, 0, u32::MAX as usize)?,
                "limit" => wish.limit = number("limit", value, 1, LIMIT_MAX)?,
                // As on the hot port.
                _ => {}
            }
        }
        Ok(wish)
    }

    fn page(&self, admin: &Admin) -> TagPage {
        let now = Instant::now();
        let view = |line: &Line| TagView::new(line, &admin.monitor.figures(&line.tag, now));
        admin.look(|overview| {
            let (total, page) = self.pick(overview.lines());
            let tags = page.into_iter().map(view).collect();
            TagPage { total, offset: self.offset, limit: self.limit, tags }
        })
    }

    /// How many tags are found, and those of the page. Equal ones are in the order of their names.
    fn pick<'a>(&self, lines: &'a [Line]) -> (usize, Vec<&'a Line>) {
        let mut found = self.search(lines);
        let total = found.len();
        let end = self.offset.saturating_add(self.limit).min(total);
        let by = |a: &(usize, &Line), b: &(usize, &Line)| {
            let order = self.sort.compare(a.1, b.1);
            let order = if self.descending { order.reverse() } else { order };
            order.then(if self.descending && self.sort == Sort::Name { b.0.cmp(&a.0) } else { a.0.cmp(&b.0) })
        };
        if end < total {
            found.select_nth_unstable_by(end, by);
            found.truncate(end);
        }
        found.sort_unstable_by(by);
        (total, found.into_iter().skip(self.offset).map(|(_, line)| line).collect())
    }

    /// The tags whose names hold what is searched for, whatever the case of ASCII letters, and their places.
    fn search<'a>(&self, lines: &'a [Line]) -> Vec<(usize, &'a Line)> {
        let finder = memmem::Finder::new(&self.search);
        let mut name = Vec::new();
        let mut holds = |line: &Line| {
            name.clear();
            name.extend(line.tag.name().bytes().map(|byte| byte.to_ascii_lowercase()));
            finder.find(&name).is_some()
        };
        let all = lines.iter().enumerate();
        if self.search.is_empty() { all.collect() } else { all.filter(|(_, line)| holds(line)).collect() }
    }
}

impl Sort {
    fn named(name: &str) -> Option<Self> {
        match name {
            "state" => Some(Self::State),
            "app_tag" => Some(Self::Name),
            "rate" => Some(Self::Rate),
            "left" => Some(Self::Left),
            "supply" => Some(Self::Supply),
            _ => None,
        }
    }

    /// Lines are by name already: there it is their places that count.
    fn compare(self, a: &Line, b: &Line) -> Ordering {
        // What nobody asks for lasts for ever.
        let supply = |line: &Line| supply_s(line.left, line.rate_per_s).unwrap_or(f64::INFINITY);
        match self {
            Self::State => a.state.cmp(&b.state),
            Self::Name => Ordering::Equal,
            Self::Rate => a.rate_per_s.total_cmp(&b.rate_per_s),
            Self::Left => a.left.cmp(&b.left),
            Self::Supply => supply(a).total_cmp(&supply(b)),
        }
    }
}

fn number(field: &'static str, value: &str, min: usize, max: usize) -> Result<usize, Problem> {
    let digits = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| Problem::bad(field, format!("{field} is {value:?}: allowed is {min} to {max}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alloc::sizing::Policy;

    fn line(name: &str, state: TagState, left: u64, rate_per_s: f32) -> Line {
        let mut line = Line::new(Arc::new(Tag::new(name, 1, Policy::default(), Instant::now())));
        (line.state, line.left, line.rate_per_s) = (state, left, rate_per_s);
        line
    }

    fn wish(parameters: &[(&str, &str)]) -> Result<Wish, Problem> {
        let owned: Vec<_> = parameters.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Wish::from_parameters(&owned)
    }

    fn names(parameters: &[(&str, &str)], lines: &[Line]) -> String {
        let (_, page) = wish(parameters).unwrap().pick(lines);
        page.iter().map(|line| line.tag.name()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_page_is_sorted_whatever_its_bounds() {
        let lines = [
            line("a", TagState::Serving, 50, 10.0),
            line("b", TagState::Fenced, 0, 0.0),
            line("c", TagState::Idle, 0, 0.0),
            line("d", TagState::Serving, 7, 1.0),
            line("e", TagState::Starving, 0, 3.0),
        ];
        let urgent = ["fenced", "starving", "broken", "exhausted", "serving", "idle"];
        let states = [
            TagState::Idle,
            TagState::Broken,
            TagState::Serving,
            TagState::Exhausted,
            TagState::Starving,
            TagState::Fenced,
        ];
        let of_each = states.map(|state| line(state_name(state), state, 0, 0.0));
        assert_eq!(names(&[("sort", "state")], &of_each), urgent.join(" "));
        let sorted = |sort, order| names(&[("sort", sort), ("order", order)], &lines);
        assert_eq!(names(&[], &lines), "a b c d e");
        assert_eq!(sorted("app_tag", "desc"), "e d c b a");
        assert_eq!(sorted("state", "asc"), "b e a d c");
        assert_eq!(sorted("state", "desc"), "c a d e b");
        assert_eq!(sorted("rate", "desc"), "a e d b c");
        assert_eq!(sorted("left", "asc"), "b c e d a");
        assert_eq!(sorted("supply", "asc"), "e a d b c");
        for sort in ["state", "app_tag", "rate", "left", "supply"] {
            for order in ["asc", "desc"] {
                let page = |offset: usize, limit: usize| {
                    let (offset, limit) = (offset.to_string(), limit.to_string());
                    names(&[("sort", sort), ("order", order), ("offset", &offset), ("limit", &limit)], &lines)
                };
                assert_eq!(format!("{} {}", page(0, 2), page(2, 3)), sorted(sort, order), "{sort} {order}");
                assert_eq!(page(5, 1), "");
            }
        }
    }

    #[test]
    fn a_search_finds_what_holds_the_text_in_either_case() {
        let lines =
            ["Orders", "orders.eu", "users", "B\u{e4}R"].map(|name| line(name, TagState::Idle, 0, 0.0));
        assert_eq!(names(&[("search", "ORDERS")], &lines), "Orders orders.eu");
        assert_eq!(names(&[("search", ".")], &lines), "orders.eu");
        assert_eq!(names(&[("search", "b\u{e4}r")], &lines), "B\u{e4}R");
        assert_eq!(wish(&[("search", "ers"), ("limit", "1")]).unwrap().pick(&lines).0, 3, "all are counted");
    }

    #[test]
    fn a_bad_parameter_is_named_with_what_is_allowed() {
        let bad = |name, value| format!("{:?}", wish(&[(name, value)]).unwrap_err());
        for (name, value, expected) in [
            ("sort", "age", "allowed is state, app_tag, rate, left or supply"),
            ("order", "up", "allowed is asc or desc"),
            ("offset", "-1", "allowed is 0 to 4294967295"),
            ("limit", "0", "allowed is 1 to 1000"),
            ("limit", "1001", "allowed is 1 to 1000"),
            ("limit", "+5", "allowed is 1 to 1000"),
            ("limit", "", "allowed is 1 to 1000"),
        ] {
            let problem = bad(name, value);
            assert!(problem.contains(expected) && problem.contains(&format!("Some({name:?})")), "{problem}");
        }
    }
}
