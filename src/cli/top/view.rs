//! What is drawn.

use std::time::Instant;

use idalloc::escape::{shown, visible};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, RenderDirection, Row, Sparkline, Table};

use super::app::{App, Sample, Sort, Tag};

/// Lines for the curves, where there is room for them and for a few tags.
const CURVES_HEIGHT: u16 = 6;
const CURVES_SCREEN_HEIGHT_MIN: u16 = 18;

/// What is drawn where.
struct Areas {
    title: Rect,
    store: Rect,
    curves: Rect,
    counts: Rect,
    tags: Rect,
    detail: Rect,
    keys: Rect,
}

impl Areas {
    fn of(screen: Rect) -> Areas {
        let curves = if screen.height >= CURVES_SCREEN_HEIGHT_MIN { CURVES_HEIGHT } else { 0 };
        let heights = [1, 1, curves, 1].map(Constraint::Length).into_iter();
        let heights = heights.chain([Constraint::Min(0), Constraint::Length(1), Constraint::Length(1)]);
        let [title, store, curves, counts, tags, detail, keys] = Layout::vertical(heights).areas(screen);
        Areas { title, store, curves, counts, tags, detail, keys }
    }
}

/// How many tags a screen has room for.
pub(super) fn rows(screen: Rect) -> usize {
    Areas::of(screen).tags.height.saturating_sub(1).into()
}

/// Draws everything, as it is now.
pub(super) fn draw(frame: &mut Frame, app: &App, now: Instant) {
    let areas = Areas::of(frame.area());
    let sample = app.samples.back();
    frame.render_widget(title(app), areas.title);
    let stale = app.stale(now);
    let health = if stale.is_some() { "STALE".bold().reversed() } else { health(sample) };
    frame.render_widget(Line::from(health).alignment(Alignment::Right), areas.title);
    match stale {
        Some((age, why)) => {
            let text = format!(
                "nothing new for {}: {}; trying again",
                span_of_time(age.as_secs_f64()),
                visible(why)
            );
            frame.render_widget(Line::from(text).bold().reversed(), areas.store);
        }
        None => frame.render_widget(store(app), areas.store),
    }
    if areas.curves.height > 0 {
        draw_curves(frame, app, areas.curves);
    }
    frame.render_widget(counts(app, sample), areas.counts);
    draw_tags(frame, app, now, areas.tags);
    frame.render_widget(detail(app), areas.detail);
    frame.render_widget(keys(app), areas.keys);
}

fn title(app: &App) -> Line<'_> {
    let uptime = match app.status.uptime_s {
        seconds @ ..10 => format!("{seconds} s"),
        seconds => span_of_time(seconds as f64),
    };
    Line::from(vec![
        Span::from(format!("idalloc {} ", app.status.version)).bold(),
        Span::from(format!("{}  up {uptime}", app.server)),
    ])
}

fn health(sample: Option<&Sample>) -> Span<'_> {
    let Some(sample) = sample else { return Span::from("connecting") };
    let color = if sample.health == "serving" { Color::Green } else { Color::Red };
    Span::from(format!(" {} ", visible(&sample.health))).fg(color).bold().reversed()
}

fn store(app: &App) -> Line<'_> {
    let store = &app.status.store;
    let place = store.host.as_deref().map_or(String::new(), |host| format!(" {}", shown(host)));
    let mut line = Line::from(format!("store {}{place} ", visible(&store.kind)));
    let is_well = store.state == "answering";
    line.push_span(Span::from(visible(&store.state)).fg(if is_well { Color::Green } else { Color::Red }));
    if let (false, Some(error)) = (is_well, &store.last_error) {
        line.push_span(format!(": {}", shown(error)));
    }
    if let Some(detail) = app.samples.back().and_then(|sample| sample.health_detail.as_deref()) {
        line.push_span(Span::from(format!("   {}", shown(detail))).fg(Color::Red));
    }
    line
}

// ---- the curves ----

fn draw_curves(frame: &mut Frame, app: &App, area: Rect) {
    let [left, middle, right] = Layout::horizontal([Constraint::Fill(1); 3]).areas(area);
    let last = app.samples.back();
    let ids = last.map_or("-".to_owned(), |sample| rate(sample.ids_per_s));
    draw_curve(frame, app, left, format!(" {ids} IDs/s "), |sample| sample.ids_per_s);

    let requests = last.map_or("-".to_owned(), |sample| {
        format!("{} requests/s, {} waiting", rate(sample.requests_per_s), sample.waiting)
    });
    draw_curve(frame, app, middle, format!(" {requests} "), |sample| sample.requests_per_s);

    let reservations = last.map_or("-".to_owned(), |sample| {
        let latency = |latency_ms: Option<f64>| latency_ms.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        let (p50, p99) = (latency(sample.reservation_p50_ms), latency(sample.reservation_p99_ms));
        format!("{} refills/s, p50 {p50} p99 {p99} ms", rate(sample.reservations_per_s))
    });
    // Refills are so few that the store's latency says more.
    draw_curve(frame, app, right, format!(" {reservations} "), |s| {
        s.reservation_p99_ms.unwrap_or(0.0) * 1000.0
    });
}

fn draw_curve(frame: &mut Frame, app: &App, area: Rect, title: String, value: impl Fn(&Sample) -> f64) {
    let block = Block::bordered().title(title);
    // The newest is at the right edge.
    let values: Vec<u64> = app
        .samples
        .iter()
        .rev()
        .take(area.width.into())
        .map(|sample| value(sample).max(0.0) as u64)
        .collect();
    let curve = Sparkline::default().data(values).direction(RenderDirection::RightToLeft).block(block);
    frame.render_widget(curve.style(Style::new().fg(Color::Cyan)), area);
}

// ---- the tags ----

fn counts<'a>(app: &App, sample: Option<&Sample>) -> Line<'a> {
    let Some(Sample { tags, connections, .. }) = sample else { return Line::default() };
    let mut line = Line::from(format!("{} tags", tags.total));
    for (count, state) in [
        (tags.fenced, "fenced"),
        (tags.broken, "broken"),
        (tags.exhausted, "exhausted"),
        (tags.starving, "starving"),
    ] {
        let style = if count > 0 { state_style(state) } else { Style::new() };
        line.extend([Span::from(", "), Span::styled(format!("{count} {state}"), style)]);
    }
    line.push_span(format!("   {connections} connections"));
    if !app.query.search.is_empty() {
        line.push_span(format!("   {} match {}", app.page.total, shown(&app.query.search)));
    }
    line
}

/// A column of the table: its title, what sorts by it, its width, and what a tag has in it.
struct Column {
    title: &'static str,
    sort: Option<Sort>,
    width: u16,
    cell: fn(&Tag, Option<u64>) -> String,
}

/// The most telling first: a narrow screen has no room for the last ones.
const COLUMNS: [Column; 9] = [
    Column {
        title: "APP_TAG",
        sort: Some(Sort::AppTag),
        width: 16,
        cell: |tag, _| shown(&tag.app_tag).into(),
    },
    Column { title: "STATE", sort: Some(Sort::State), width: 10, cell: |tag, _| visible(&tag.state).into() },
    Column { title: "IDS/S", sort: Some(Sort::Rate), width: 8, cell: |tag, _| rate(tag.rate_per_s) },
    Column { title: "LEFT", sort: Some(Sort::Left), width: 10, cell: |tag, _| count(&tag.left) },
    Column {
        title: "SUPPLY",
        sort: Some(Sort::Supply),
        width: 9,
        cell: |tag, _| tag.supply_s.map_or("-".to_owned(), span_of_time),
    },
    Column { title: "STEP", sort: None, width: 10, cell: |tag, _| count(&tag.step.to_string()) },
    Column { title: "LAST REFILL", sort: None, width: 12, cell: last_refill },
    Column {
        title: "AMOUNT",
        sort: None,
        width: 10,
        cell: |tag, _| tag.last_amount.map_or("-".to_owned(), |amount| count(&amount.to_string())),
    },
    Column { title: "SEGMENTS", sort: None, width: 8, cell: |tag, _| tag.segments.to_string() },
];

fn last_refill(tag: &Tag, server_time_ms: Option<u64>) -> String {
    let (Some(at), Some(now)) = (tag.last_reserved_at_ms, server_time_ms) else { return "-".to_owned() };
    format!("{} ago", span_of_time(now.saturating_sub(at) as f64 / 1000.0))
}

fn draw_tags(frame: &mut Frame, app: &App, now: Instant, area: Rect) {
    let columns = fitting_columns(area.width);
    let server_time_ms = app.server_time_ms(now);
    let rows = app.page.tags.iter().enumerate().map(|(index, tag)| {
        let is_selected = app.page.offset + index == app.selected;
        let cells = columns.iter().enumerate().map(|(at, column)| {
            let text = (column.cell)(tag, server_time_ms);
            let style = if column.title == "STATE" { state_style(&tag.state) } else { Style::new() };
            Line::from(Span::styled(text, style)).alignment(alignment(at))
        });
        let style = if is_selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        Row::new(cells).style(style)
    });
    let titles = columns.iter().enumerate().map(|(at, column)| {
        let arrow = match (column.sort == Some(app.query.sort), app.query.descending) {
            (true, false) => "▲",
            (true, true) => "▼",
            (false, _) => "",
        };
        Line::from(format!("{}{arrow}", column.title)).alignment(alignment(at))
    });
    let widths = columns.iter().enumerate().map(|(at, column)| match at {
        0 => Constraint::Min(column.width),
        _ => Constraint::Length(column.width),
    });
    let header = Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED));
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

/// As many as there is room for, at least the first two.
fn fitting_columns(width: u16) -> &'static [Column] {
    let mut used = 0;
    let fit = COLUMNS.iter().take_while(|column| {
        used += column.width + 1;
        used <= width + 1
    });
    &COLUMNS[..fit.count().max(2)]
}

/// Text to the left, numbers to the right.
fn alignment(column: usize) -> Alignment {
    if column < 2 { Alignment::Left } else { Alignment::Right }
}

fn state_style(state: &str) -> Style {
    match state {
        "fenced" | "broken" | "exhausted" => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        "starving" => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
        "serving" => Style::new().fg(Color::Green),
        _ => Style::new().add_modifier(Modifier::DIM),
    }
}

/// What is wrong with the tag that the cursor is on.
fn detail(app: &App) -> Line<'_> {
    let fault = app.selected_tag().and_then(|tag| Some((tag, tag.fault.as_deref()?)));
    fault.map_or(Line::default(), |(tag, fault)| {
        Line::from(format!("{}: {}", shown(&tag.app_tag), shown(fault))).fg(Color::Red)
    })
}

fn keys(app: &App) -> Line<'_> {
    if app.search_before.is_some() {
        return Line::from(vec![
            Span::from(" search ").reversed(),
            Span::from(format!(" {}", app.query.search)),
            Span::from("▏").slow_blink(),
            Span::from("  Enter keep  Esc cancel").dim(),
        ]);
    }
    let sorts = Sort::KEYS.map(|(key, sort)| format!("{key} {}", sort.name())).join("  ");
    Line::from(format!("q quit  / search  ↑ ↓ PgUp PgDn  sort: {sorts}  (again: reverse)")).dim()
}

// ---- numbers ----

/// A number that people can take in: three digits and a unit.
fn short(value: f64) -> String {
    const UNITS: [(f64, &str); 6] =
        [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    // What rounds up to the next unit gets it.
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| value >= unit * 0.9995) else {
        return format!("{value:.0}");
    };
    let scaled = value / unit;
    let decimals = if scaled >= 99.95 { 0 } else { usize::from(scaled < 9.995) + 1 };
    format!("{scaled:.decimals$}{name}")
}

fn rate(per_s: f64) -> String {
    if per_s > 0.0 && per_s < 9.95 { format!("{per_s:.1}") } else { short(per_s) }
}

/// Decimal text; what is short enough stays exact.
fn count(digits: &str) -> String {
    match digits.parse::<f64>() {
        Ok(value) if digits.len() > 7 => short(value),
        _ => digits.to_owned(),
    }
}

fn span_of_time(seconds: f64) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 60.0 * MINUTE;
    const DAY: f64 = 24.0 * HOUR;
    match seconds {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        _ if seconds < MINUTE => format!("{seconds:.0} s"),
        _ if seconds < HOUR => format!("{:.0} min", (seconds / MINUTE).floor()),
        _ if seconds < 2.0 * DAY => format!("{:.0} h", (seconds / HOUR).floor()),
        _ if seconds < 1000.0 * DAY => format!("{:.0} d", (seconds / DAY).floor()),
        _ => "years".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::super::app::Message;
    use super::super::fixtures::{app, history, page, sample, tag};
    use super::*;

    fn picture(app: &mut App, width: u16, height: u16, now: Instant) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("no error");
        app.resize(rows(Rect::new(0, 0, width, height)));
        terminal.draw(|frame| draw(frame, app, now)).expect("no error");
        terminal.backend().buffer().clone()
    }

    fn line(buffer: &Buffer, y: u16) -> String {
        let (mut text, mut x) = (String::new(), 0);
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            text += symbol;
            x += Span::from(symbol).width().max(1) as u16;
        }
        text.trim_end().to_owned()
    }

    fn lines(buffer: &Buffer) -> Vec<String> {
        (0..buffer.area.height).map(|y| line(buffer, y)).collect()
    }

    fn busy(now: Instant) -> App {
        let mut app = app(now);
        app.resize(10);
        app.update(history(&[0.0, 400_000.0, 800_000.0]), now);
        app.update(sample(1_234_567.0), now);
        let tags = [tag("orders", "fenced"), tag("a\u{1b}[31m", "starving"), tag("订单", "serving")];
        app.update(page(&app, 100_000, &tags), now);
        app
    }

    #[test]
    fn the_whole_picture() {
        let now = Instant::now();
        let expected = "\
idalloc 0.1.0 127.0.0.1:8881  up 3 h                                                                            serving
store mysql 10.0.0.1:3306 answering
┌ 1.23M IDs/s ─────────────────────────┐┌ 812 requests/s, 3 waiting ───────────┐┌ 1.5 refills/s, p50 0.8 p99 12.3 ms ──┐
│                                     █││                                  ████││                                  ████│
│                                    ▄█││                                  ████││                                  ████│
│                                   ▂██││                                  ████││                                  ████│
│                                   ███││                                  ████││                                  ████│
└──────────────────────────────────────┘└──────────────────────────────────────┘└──────────────────────────────────────┘
100000 tags, 1 fenced, 0 broken, 0 exhausted, 2 starving   64 connections
APP_TAG                             STATE▲        IDS/S       LEFT    SUPPLY       STEP  LAST REFILL     AMOUNT SEGMENTS
orders                              fenced        1.23k     199996     2 min       1000    5.0 s ago     100000        2
\"a\\u{1b}[31m\"                       starving      1.23k     199996     2 min       1000    5.0 s ago     100000        2
订单                                serving       1.23k     199996     2 min       1000    5.0 s ago     100000        2



orders: its max_id in the table is below 500; raise max_id to 500 or more
q quit  / search  ↑ ↓ PgUp PgDn  sort: s state  n app_tag  r rate  l left  u supply  (again: reverse)";
        let shown = lines(&picture(&mut busy(now), 120, 18, now));
        assert_eq!(shown, expected.split('\n').collect::<Vec<_>>(), "\n{}", shown.join("\n"));
    }

    #[test]
    fn a_small_screen_shows_the_most_telling_part() {
        let now = Instant::now();
        let shown = lines(&picture(&mut busy(now), 40, 9, now));
        assert_eq!(shown[2], "100000 tags, 1 fenced, 0 broken, 0 exhau");
        assert_eq!(shown[3], "APP_TAG              STATE▲        IDS/S");
        assert_eq!(shown[4], "orders               fenced        1.23k");
    }

    #[test]
    fn no_screen_is_too_small_or_too_large() {
        let now = Instant::now();
        for width in (0..30).chain([79, 80, 81, 500]) {
            for height in (0..25).chain([200]) {
                for mut app in [app(now), busy(now)] {
                    picture(&mut app, width, height, now);
                }
            }
        }
    }

    #[test]
    fn states_are_told_apart_by_colour_too_and_the_row_of_the_cursor_is_marked() {
        let now = Instant::now();
        let mut app = busy(now);
        app.update(Message::Key(KeyEvent::from(KeyCode::Down)), now);
        let buffer = picture(&mut app, 120, 18, now);
        let style = |y| buffer[(36, y)].style();
        assert_eq!([10, 11, 12].map(|y| style(y).fg), [Color::Red, Color::Yellow, Color::Green].map(Some));
        let is_marked = |y| style(y).add_modifier.contains(Modifier::REVERSED);
        assert_eq!([10, 11, 12].map(is_marked), [false, true, false]);
        assert_eq!(line(&buffer, 16), "", "this one has no fault");
    }

    #[test]
    fn stale_data_is_said_to_be_with_the_cause_and_no_longer_once_there_is_news() {
        let now = Instant::now();
        let mut app = busy(now);
        app.update(Message::NoSamples("cannot reach 127.0.0.1:8881: Connection refused".to_owned()), now);
        let shown = lines(&picture(&mut app, 100, 20, now + Duration::from_secs(2)));
        assert!(shown[0].ends_with(" serving"), "{}", shown[0]);
        let later = now + Duration::from_secs(70);
        let shown = lines(&picture(&mut app, 100, 20, later));
        assert!(shown[0].ends_with(" STALE"), "{}", shown[0]);
        let expected = "nothing new for 1 min: cannot reach 127.0.0.1:8881: Connection refused; trying again";
        assert_eq!(shown[1], expected);
        app.update(sample(1.0), later);
        let shown = lines(&picture(&mut app, 100, 20, later));
        assert!(
            shown[1].starts_with("nothing new for 1 min: nothing new comes; "),
            "the tags are: {}",
            shown[1]
        );
        app.update(page(&app, 0, &[]), later);
        let shown = lines(&picture(&mut app, 100, 20, later));
        assert_eq!(shown[1], "store mysql 10.0.0.1:3306 answering");
    }

    #[test]
    fn trouble_of_the_node_is_shown() {
        let now = Instant::now();
        let mut app = busy(now);
        let store = &mut app.status.store;
        (store.state, store.last_error) = ("away".to_owned(), Some("no answer\nin time".to_owned()));
        let sample = app.samples.back_mut().expect("a sample");
        (sample.health, sample.health_detail) =
            ("starving".to_owned(), Some("app_tag 'x' has no IDs".to_owned()));
        let buffer = picture(&mut app, 120, 18, now);
        let expected = r#"store mysql 10.0.0.1:3306 away: "no answer\nin time"   app_tag 'x' has no IDs"#;
        assert_eq!(line(&buffer, 1), expected);
        assert!(line(&buffer, 0).ends_with(" starving"));
        assert_eq!(buffer[(113, 0)].style().fg, Some(Color::Red));
    }

    #[test]
    fn what_is_searched_for_is_shown_while_it_is_typed_and_after() {
        let now = Instant::now();
        let mut app = busy(now);
        for key in ['/', 'q', 's'] {
            app.update(Message::Key(KeyEvent::from(KeyCode::Char(key))), now);
        }
        let shown = lines(&picture(&mut app, 120, 18, now));
        assert_eq!(shown[17], " search  qs▏  Enter keep  Esc cancel");
        app.update(Message::Key(KeyEvent::from(KeyCode::Enter)), now);
        app.update(page(&app, 7, &[tag("qs", "idle")]), now);
        let shown = lines(&picture(&mut app, 120, 18, now));
        assert!(shown[8].ends_with("64 connections   7 match qs"), "{}", shown[8]);
        assert!(shown[17].starts_with("q quit  / search"), "{}", shown[17]);
    }

    #[test]
    fn the_order_is_marked_at_its_column() {
        let now = Instant::now();
        let mut app = busy(now);
        for (key, expected) in
            [('r', "IDS/S▼"), ('r', "IDS/S▲"), ('u', "SUPPLY▲"), ('n', "APP_TAG▲"), ('l', "LEFT▲")]
        {
            app.update(Message::Key(KeyEvent::from(KeyCode::Char(key))), now);
            let header = line(&picture(&mut app, 120, 18, now), 9);
            assert!(header.contains(expected) && header.matches(['▲', '▼']).count() == 1, "{header}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (9_994.0, "9.99k"),
            (9_996.0, "10.0k"),
            (99_960.0, "100k"),
            (999_600.0, "1.00M"),
            (1_234_567.0, "1.23M"),
            (9.2e18, "9.20E"),
        ] {
            assert_eq!(short(value), expected, "{value}");
        }
        assert_eq!([0.0, 0.04, 1.25, 9.9, 12.4].map(rate), ["0", "0.0", "1.2", "9.9", "12"]);
        assert_eq!(["0", "1234567", "12345678", "x"].map(count), ["0", "1234567", "12.3M", "x"]);
        let spans = [0.0, 9.94, 59.4, 60.0, 3_599.0, 3_600.0, 172_799.0, 172_800.0, 1e9].map(span_of_time);
        assert_eq!(spans, ["0.0 s", "9.9 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 d", "years"]);
    }
}
