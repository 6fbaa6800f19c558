//! The dashboard in a real browser, on a real server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use thirtyfour::{Key, TypingData};

use crate::balancer::Nginx;
use crate::chromium::{Browser, DESKTOP, Screen};
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::server::{Client, Server, Setup};

const TOKEN: &str = "a-token-of-the-operators";

/// A server on an embedded store of its own.
struct Site {
    server: Server,
    directory: TempDir,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let server = setup(directory.path()).start();
        server.await_status("/health", 200);
        Site { server, directory }
    }

    fn browser(&self) -> Browser {
        Browser::open(self.server.admin_port())
    }

    fn rows(&self) -> rusqlite::Connection {
        rows(self.directory.path())
    }

    /// Five minutes in which clients come and go, and towards the end one tag's row goes back.
    fn worth_looking_at(&self) {
        let busy = ["orders", "payments", "sessions.eu", "sessions.us"];
        let _refunds = Load::on(&self.server, &["refunds", "orders", "users"]);
        for clients in [1, 3, 2, 3, 1, 2, 3, 2, 1, 3, 2, 3, 4, 3] {
            let _clients: Vec<_> = (0..clients).map(|_| Load::on(&self.server, &busy)).collect();
            thread::sleep(Duration::from_secs(20));
            if clients == 4 {
                self.rows().execute("UPDATE segments SET max_id = 1 WHERE app_tag = 'refunds'", []).unwrap();
            }
        }
    }
}

fn setup(directory: &Path) -> Setup {
    Setup::embedded(&directory.join("ids.db")).admin().key("TagReloadSeconds", 1)
}

fn rows(directory: &Path) -> rusqlite::Connection {
    let rows = rusqlite::Connection::open(directory.join("ids.db")).unwrap();
    rows.busy_timeout(Duration::from_secs(30)).unwrap();
    rows
}

/// Somebody who asks for IDs, a few hundred times a second, until dropped.
struct Load {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn on(server: &Server, tags: &[&str]) -> Load {
        let targets: Vec<_> = tags.iter().map(|tag| format!("/alloc?app_tag={tag}&count=10")).collect();
        let over = Arc::new(AtomicBool::new(false));
        let (port, is_over) = (server.port(), over.clone());
        let thread = thread::spawn(move || {
            let mut client = Client::connect(port);
            // Relaxed: nothing else is handed over.
            for target in targets.iter().cycle().take_while(|_| !is_over.load(Relaxed)) {
                client.get(target);
                thread::sleep(Duration::from_millis(3));
            }
        });
        Load { over, thread: Some(thread) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || !matches!(ended, Some(Err(_))), "the load broke off");
    }
}

/// The row of a tag, as an expression of the page.
fn row(tag: &str) -> String {
    format!(
        "[...document.querySelectorAll('#rows tr')].find((row) => row.querySelector('.open').textContent === {})",
        json!(tag)
    )
}

fn search(browser: &Browser, text: &str, total: &str) {
    browser.fill("#search", text);
    browser.await_text("#range", total);
}

#[test]
fn the_figures_move_under_load_and_nothing_is_asked_of_others() {
    let site = Site::new();
    // Its reservations are small, so there is always a latency of late.
    let insert = "INSERT INTO segments (app_tag, max_id, step) VALUES ('orders', 0, 10)";
    site.rows().execute(insert, []).unwrap();
    let browser = site.browser();
    browser.await_text("#live-text", "Live");
    browser.await_text("#health-text", "Serving");
    browser.await_that(&row("orders"));
    browser.await_that("document.querySelector('#now-ids').textContent === '0'");
    let load = Load::on(&site.server, &["test_business", "orders"]);
    for figure in ["#now-ids", "#now-requests"] {
        browser.await_that(&format!("parseFloat(document.querySelector('{figure}').textContent) > 0"));
    }
    browser
        .await_that(&format!("parseFloat({}?.querySelector('.rate').textContent) > 0", row("test_business")));
    browser.await_that("document.querySelector('#now-latency').textContent.includes('ms')");
    browser.await_that("document.querySelectorAll('.plot canvas').length === 4");
    drop(load);
    browser.await_that("document.querySelector('#now-requests').textContent === '0'");
    browser.assert_quiet();
}

#[test]
fn a_tag_is_added_serves_is_changed_and_is_deleted() {
    let site = Site::new();
    let browser = site.browser();
    browser.await_text("#range", "of 1");
    browser.click("#add");
    browser.fill("#add-tag", "orders");
    browser.fill("#add-step", "0");
    browser.click("#add-dialog [type=submit]");
    browser.await_text("#add-dialog .problem", "step");
    browser.await_that("document.activeElement.id === 'add-step'");
    browser.fill("#add-step", "250");
    browser.fill("#add-start", "9007199254740993");
    browser.click("#add-dialog [type=submit]");
    browser.await_text("#announce", "Tag orders is added.");
    browser.await_that(&row("orders"));
    let first = site.server.await_status("/alloc?app_tag=orders", 200);
    assert!(first.body.contains("\"id\":9007199254740993"), "{first:?}");
    browser.await_that(&format!("{}.textContent.includes('Serving')", row("orders")));

    browser.eval(&format!("{}.querySelector('.edit').click()", row("orders")));
    // Above 2^53 a number of JavaScript would show another digit at the end.
    browser.await_that("/9,007,199,254,74\\d,\\d{3}/.test(document.querySelector('#tag-facts').textContent)");
    browser.fill("#edit-step", "999999999");
    browser.click("#tag-dialog [type=submit]");
    browser.await_that("!document.querySelector('#tag-dialog').open");
    let step = "SELECT step FROM segments WHERE app_tag = 'orders'";
    let step: i64 = site.rows().query_row(step, [], |row| row.get(0)).unwrap();
    assert_eq!(step, 999_999_999);
    let shown = "querySelector('.step').textContent === '999,999,999'";
    browser.await_that(&format!("{}.{shown}", row("orders")));

    browser.eval(&format!("{}.querySelector('.open').click()", row("orders")));
    browser.await_that("document.querySelector('#tag-dialog').open");
    browser.click("#tag-delete");
    browser.await_that("document.querySelector('#delete-dialog').open");
    browser.fill("#delete-confirm", "order");
    assert_eq!(browser.eval("document.querySelector('#delete-dialog [type=submit]').disabled"), true);
    browser.fill("#delete-confirm", "orders");
    browser.click("#delete-dialog [type=submit]");
    browser.await_text("#announce", "Tag orders is deleted.");
    browser.await_that(&format!("!({})", row("orders")));
    site.server.await_status("/alloc?app_tag=orders", 404);
}

#[test]
fn a_fenced_tag_is_red_and_first_and_is_advanced() {
    let database = MariaDb::start();
    database.exec("UPDATE segments SET step = 10 WHERE app_tag = 'test_business'");
    database.exec("INSERT INTO segments (app_tag, max_id, step) VALUES ('a', 0, 10), ('z', 0, 10)");
    let directory = tempfile::tempdir().unwrap();
    let watermark = directory.path().join("watermark.db");
    let setup = Setup::on(&database.dsn()).admin().key("TagReloadSeconds", 1);
    let server = setup.key("WatermarkPath", watermark.to_str().unwrap()).start();
    server.await_status("/health", 200);
    let browser = Browser::open(server.admin_port());
    browser.await_text("#range", "of 3");
    browser
        .await_that(&format!("{} === document.querySelector('#rows tr:nth-child(2)')", row("test_business")));

    const ALLOC: &str = "/alloc?app_tag=test_business";
    assert_eq!(server.get(&format!("{ALLOC}&count=1000")).ids().len(), 1000);
    // What a failover to a replica that lagged looks like.
    database.exec("UPDATE segments SET max_id = 500 WHERE app_tag = 'test_business'");
    server.await_status(&format!("{ALLOC}&count=100"), 503);

    let fenced = row("test_business");
    browser.await_that(&format!("{fenced}.textContent.includes('Fenced')"));
    browser.await_that(&format!("{fenced} === document.querySelector('#rows tr')"));
    browser.await_text("#fact-fenced", "1");
    browser.await_text("#announce", "1 tag is fenced.");
    assert!(browser.eval("document.title").as_str().unwrap().starts_with("1 fenced"));
    let colors = browser.eval(&format!(
        "[getComputedStyle({fenced}.querySelector('.text')).color, getComputedStyle(document.querySelector('#health')).color]"
    ));
    assert_eq!(colors, json!(["rgb(191, 29, 29)", "rgb(191, 29, 29)"]), "red");
    let fault = browser.eval(&format!("{fenced}.querySelector('.fault').textContent"));
    let granted =
        fault.as_str().unwrap().rsplit("raise max_id to ").next().unwrap().split(' ').next().unwrap();
    let granted: i64 = granted.parse().unwrap_or_else(|_| panic!("{fault}"));

    browser.click("#rows tr:first-child .advance");
    browser.fill("#advance-to", "150");
    browser.click("#advance-dialog [name=sure]");
    browser.click("#advance-dialog [type=submit]");
    browser.await_text("#advance-dialog .problem", "to is 150: ");
    browser.await_that("document.activeElement.id === 'advance-to'");
    assert!(!browser.complaints().is_empty(), "of the 409");
    browser.click("#advance-dialog .cancel");
    browser.click("#rows tr:first-child .advance");
    browser.click("#advance-dialog [type=submit]");
    assert_eq!(
        browser.eval("document.querySelector('#advance-dialog').open"),
        true,
        "not without a confirmation"
    );
    assert_eq!(server.get(ALLOC).status, 503);
    browser.click("#advance-dialog [name=sure]");
    browser.click("#advance-dialog [type=submit]");
    browser.await_text("#announce", "Tag test_business is advanced.");
    browser.await_that(&format!("{fenced}.textContent.includes('Serving')"));
    browser.await_text("#fact-fenced", "0");
    assert!(server.await_status(ALLOC, 200).id() >= granted);
    browser.assert_quiet();
}

#[test]
fn a_description_is_edited_where_there_is_a_column_and_otherwise_left_alone() {
    const TWO_LINES: &str = "第一行\n第二行";
    let site = Site::new();
    let browser = site.browser();
    let edit = || {
        browser.await_that(&row("test_business"));
        browser.eval(&format!("{}.querySelector('.edit').click()", row("test_business")));
        browser.await_that("document.querySelector('#tag-dialog').open");
    };
    let save = || {
        browser.click("#tag-dialog [type=submit]");
        browser.await_that("!document.querySelector('#tag-dialog').open");
    };
    let description = || {
        let select = "SELECT description FROM segments WHERE app_tag = 'test_business'";
        site.rows().query_row(select, [], |row| row.get::<_, String>(0)).unwrap()
    };
    edit();
    assert_eq!(browser.eval("document.querySelector('#edit-description').checkVisibility()"), false);
    browser.click("#tag-dialog .cancel");

    site.rows().execute("ALTER TABLE segments ADD COLUMN description TEXT", []).unwrap();
    site.rows().execute("UPDATE segments SET description = ?1", [TWO_LINES]).unwrap();
    edit();
    browser.fill("#edit-step", "11");
    save();
    browser.await_that(&format!("{}.querySelector('.step').textContent === '11'", row("test_business")));
    assert_eq!(description(), TWO_LINES, "the field holds one line only");
    edit();
    browser.fill("#edit-description", "一行");
    save();
    assert_eq!(description(), "一行");
    browser.assert_quiet();
}

#[test]
fn an_address_that_asks_for_what_there_is_not_shows_the_tags_all_the_same() {
    let site = Site::new();
    let browser = site.browser();
    browser.await_that(&row("test_business"));
    browser.eval("location.hash = '#sort=toString&order=up&limit=7&offset=-3'");
    browser.eval("location.reload()");
    browser.await_that(&format!("document.readyState === 'complete' && {}", row("test_business")));
    assert_eq!(browser.eval("document.querySelector('#sort-select').value"), "state");
    browser.assert_quiet();
}

#[test]
fn every_dialog_is_used_on_a_phone() {
    let site = Site::new();
    let insert = "INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, 9007199254740993)";
    site.rows().execute(insert, ["a_name_that_is_longer_than_a_phone_is_wide_if_it_is_not_broken"]).unwrap();
    site.server.await_status("/alloc?app_tag=test_business", 200);
    let browser = site.browser();
    browser.await_text("#range", "of 2");
    browser.show_on(Screen { width: 320, height: 568, theme: "light" });
    let fits = |dialog: &str| {
        browser.await_that(&format!("document.querySelector('{dialog}').open"));
        let inside = format!(
            "[document.querySelector('{dialog}'), ...document.querySelectorAll('{dialog} button, {dialog} input')]\
             .filter((part) => part.checkVisibility())\
             .every((part) => part.getBoundingClientRect().left >= 0 && part.getBoundingClientRect().right <= 320)"
        );
        assert_eq!(browser.eval(&inside), true, "{dialog} is as wide as the phone at most");
        let scrolls = format!(
            "document.querySelector('{dialog}').scrollWidth > document.querySelector('{dialog}').clientWidth"
        );
        assert_eq!(browser.eval(&scrolls), false, "{dialog}");
    };
    browser.click("#add");
    fits("#add-dialog");
    browser.fill("#add-tag", "by-phone");
    browser.click("#add-dialog [type=submit]");
    browser.await_text("#announce", "Tag by-phone is added.");

    browser.await_that(&row("test_business"));
    browser.eval(&format!("{}.querySelector('.edit').click()", row("test_business")));
    fits("#tag-dialog");
    let broken = "[...document.querySelectorAll('#tag-facts dt, #tag-facts dd')].flatMap((part) =>\
                  [...part.textContent.matchAll(/\\S+/g)].filter(({ 0: word, index }) => {\
                  const range = document.createRange();\
                  range.setStart(part.firstChild, index); range.setEnd(part.firstChild, index + word.length);\
                  return range.getClientRects().length > 1; }).map(([word]) => word))";
    assert_eq!(browser.eval(broken), json!([]), "no word is broken");
    browser.click("#tag-delete");
    fits("#delete-dialog");
    browser.press(Key::Escape);

    let fenced = row("by-phone");
    while site.server.get("/alloc?app_tag=by-phone&count=1000").status == 200 {
        site.rows().execute("UPDATE segments SET max_id = 1 WHERE app_tag = 'by-phone'", []).unwrap();
    }
    browser.await_that(&format!("{fenced}?.textContent.includes('Fenced')"));
    browser.await_that(&format!("{fenced} === document.querySelector('#rows tr')"));
    // What is said lies above the row for a while, and is not in the way.
    browser.click("#rows tr:first-child .advance");
    fits("#advance-dialog");
    browser.click("#advance-dialog [name=sure]");
    browser.click("#advance-dialog [type=submit]");
    browser.await_text("#announce", "Tag by-phone is advanced.");
    browser.assert_quiet();
}

#[test]
fn a_server_that_goes_silent_or_away_makes_the_figures_stale_until_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = setup(directory.path()).start();
    let port = server.admin_port();
    let browser = Browser::open(port);
    browser.await_text("#live-text", "Live");
    let is_stale = "!document.querySelector('#stale').hidden";
    assert_eq!(browser.eval(is_stale), false);

    server.signal(libc::SIGSTOP);
    browser.await_that(is_stale);
    browser.await_text("#stale-text", "old");
    // It does not hope for ever that this very connection comes back.
    browser.await_text("#stale-text", "The server has gone silent.");
    browser.await_text("#announce", "stale");
    server.signal(libc::SIGCONT);
    browser.await_that(&format!("!({is_stale})"));
    browser.await_text("#announce", "live again");
    browser.assert_quiet();

    drop(server);
    browser.await_that(is_stale);
    browser.await_text("#stale-text", "The server does not answer.");
    browser.await_text("#live-text", "Stale");
    browser.await_text("#health-text", "Unknown");
    let again = setup(directory.path()).key("AdminPort", port).start();
    browser.await_that(&format!("!({is_stale})"));
    browser.await_text("#live-text", "Live");
    let _load = Load::on(&again, &["test_business"]);
    browser.await_that("parseFloat(document.querySelector('#now-ids').textContent) > 0");
}

#[test]
fn everything_is_done_with_the_keyboard_alone() {
    let site = Site::new();
    let browser = site.browser();
    browser.await_that(&row("test_business"));
    let focus_is = |selector: &str| {
        browser.eval(&format!("document.activeElement.matches({})", json!(selector))) == true
    };
    let tab_to = |selector: &str| {
        for _ in 0..40 {
            browser.press(Key::Tab);
            let focused = "(({ outlineStyle, outlineWidth }) => outlineStyle !== 'none' && outlineWidth !== '0px')\
                           (getComputedStyle(document.activeElement))";
            assert_eq!(browser.eval(focused), true, "the focus shows on the way to {selector}");
            if focus_is(selector) {
                return;
            }
        }
        panic!("no way to {selector}");
    };
    // The first stop leads past everything else.
    browser.press(Key::Tab);
    assert!(focus_is(".skip"));
    browser.press(Key::Enter);
    tab_to("#add");
    browser.press(Key::Enter);
    browser.await_that("document.activeElement.id === 'add-tag'");
    browser.press(Key::Escape);
    browser.await_that("!document.querySelector('#add-dialog').open && document.activeElement.id === 'add'");
    browser.press(Key::Enter);
    browser.press("by-keyboard");
    tab_to("#add-step");
    browser.press(TypingData::from("7"));
    browser.press(Key::Enter);
    browser.await_text("#announce", "Tag by-keyboard is added.");
    assert!(focus_is("#add"), "the focus is where it was");
    browser.await_that(&row("by-keyboard"));

    tab_to("[data-sort=app_tag] button");
    browser.press(Key::Enter);
    browser.await_that("document.querySelector('[data-sort=app_tag]').ariaSort === 'ascending'");
    browser.await_that("document.querySelector('#rows .open').textContent === 'by-keyboard'");
    tab_to("#rows .open");
    // Many refreshes later the focus is still there.
    let asked =
        "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/api/tags?')).length";
    let before = browser.eval(asked).as_u64().unwrap();
    browser.await_that(&format!("{asked} > {}", before + 2));
    assert!(focus_is("#rows .open"));
    assert_eq!(browser.eval("document.querySelectorAll('#rows tr').length"), 2);
    // A row that changes its place keeps it too; then all is as before.
    let turn = "document.querySelector('[data-sort=app_tag] button').click()";
    browser.eval("document.querySelector('#rows tr:last-child .open').focus()");
    for (first, of_two) in [("test_business", "first"), ("by-keyboard", "last")] {
        browser.eval(turn);
        browser.await_text("#rows tr:first-child .open", first);
        assert!(focus_is(&format!("#rows tr:{of_two}-child .open")), "the focus is on test_business");
    }
    browser.eval("document.querySelector('#rows .open').focus()");
    browser.press(Key::Enter);
    browser.await_that("document.activeElement.id === 'edit-step'");
    browser.press(Key::End);
    browser.press(Key::Backspace);
    browser.press("70");
    browser.press(Key::Enter);
    browser.await_text("#announce", "Tag by-keyboard is changed.");
    browser.await_that(&format!("{}.querySelector('.step').textContent === '70'", row("by-keyboard")));
}

#[test]
fn the_token_is_asked_for_kept_for_the_tab_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let server = setup(directory.path()).key("AdminToken", TOKEN).start();
    let browser = Browser::open(server.admin_port());
    browser.await_that("document.querySelector('#token-dialog').open");
    browser.fill("#token", "some-other-token");
    browser.click("#token-dialog [type=submit]");
    browser.await_text("#token-dialog .problem", "does not take this token");
    browser.await_text("#live-text", "Waiting for the token");
    browser.eval("window.said = []");
    browser.eval(
        "new MutationObserver(() => said.push(document.querySelector('#announce').textContent))\
         .observe(document.querySelector('#announce'), { childList: true })",
    );
    browser.fill("#token", TOKEN);
    browser.click("#token-dialog [type=submit]");
    browser.await_text("#live-text", "Live");
    browser.await_that(&row("test_business"));
    assert_eq!(browser.eval("said"), json!([]), "nothing is stale that was never there");
    assert_eq!(browser.eval("document.querySelector('#stale').hidden"), true);
    assert_eq!(browser.eval("localStorage.length"), 0, "only the tab keeps it");
    browser.complaints();
    browser.reload();
    browser.await_text("#live-text", "Live");
    browser.await_that(&row("test_business"));
    browser.assert_quiet();
    // What one window may see, another does not see without the token.
    browser.open_window();
    browser.await_that("document.querySelector('#token-dialog').open");
    browser.await_text("#live-text", "Waiting for the token");
    assert_eq!(browser.eval("document.querySelector('#fact-total').textContent"), "–");
    browser.close_window();
    browser.go_to(0);
    browser.click("#forget-token");
    browser.await_that("document.querySelector('#token-dialog').open");
    assert_eq!(browser.eval("sessionStorage.length"), 0);
}

/// Adds a tag by the page, which must be live, and has it serve.
fn add_and_see(browser: &Browser, tag: &str) {
    browser.await_text("#live-text", "Live");
    browser.click("#add");
    browser.fill("#add-tag", tag);
    browser.click("#add-dialog [type=submit]");
    browser.await_text("#announce", &format!("Tag {tag} is added."));
    browser.await_that(&row(tag));
}

#[test]
fn it_is_live_behind_nginx_as_it_comes_under_a_path() {
    let site = Site::new();
    let port = site.server.admin_port();
    let nginx = Nginx::start(&format!(
        "location /idalloc/ {{ proxy_pass http://127.0.0.1:{port}/; proxy_set_header Host $http_host; }}"
    ));
    let browser = Browser::open_at(&format!("http://127.0.0.1:{}/idalloc/", nginx.port));
    add_and_see(&browser, "orders");
    // It stays live for longer than it waits for what a proxy holds back.
    browser.eval("window.states = []");
    browser.eval(
        "new MutationObserver(() => states.push(document.querySelector('#live').dataset.state))\
         .observe(document.querySelector('#live'), { attributes: true, attributeFilter: ['data-state'] })",
    );
    browser.eval("window.began = performance.now()");
    browser.await_that("performance.now() - began > 7000");
    assert_eq!(browser.eval("[...new Set(states)].filter((state) => state !== 'live')"), json!([]));
    let _load = Load::on(&site.server, &["orders"]);
    browser.await_that("parseFloat(document.querySelector('#now-ids').textContent) > 0");
    browser.eval(&format!("{}.querySelector('.edit').click()", row("orders")));
    browser.fill("#edit-step", "250");
    browser.click("#tag-dialog [type=submit]");
    browser.await_text("#announce", "Tag orders is changed.");
    // Nothing beside the path is asked for.
    browser.assert_quiet();
}

#[test]
fn what_is_refused_behind_a_proxy_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let server = setup(directory.path()).key("AdminNames", vec!["ops.localhost"]).start();
    server.await_status("/health", 200);
    // Without `proxy_set_header Host`, nginx puts the address of the operator's port in its place.
    let nginx =
        Nginx::start(&format!("location / {{ proxy_pass http://127.0.0.1:{}; }}", server.admin_port()));
    let browser = Browser::open(nginx.port);
    browser.await_text("#live-text", "Live");
    browser.click("#add");
    browser.fill("#add-tag", "orders");
    browser.click("#add-dialog [type=submit]");
    browser.await_text("#add-dialog .problem", &format!("Origin is http://127.0.0.1:{}", nginx.port));
    browser.await_text("#add-dialog .problem", "AdminNames");
    // A name that is in AdminNames will do: the browser says that the page is of where it asks.
    let named = Browser::open_at(&format!("http://ops.localhost:{}/", nginx.port));
    add_and_see(&named, "orders");
    named.assert_quiet();
    // A name that is not.
    let unnamed = Browser::open_at(&format!("http://other.localhost:{}/", server.admin_port()));
    unnamed.await_text("body", &format!("Host is other.localhost:{}", server.admin_port()));
    unnamed.await_text("body", "add it to AdminNames");
}

#[test]
fn eight_tabs_are_all_served() {
    let site = Site::new();
    let browser = site.browser();
    browser.await_text("#live-text", "Live");
    // A browser has six connections for a host, for all its tabs together.
    for _ in 1..8 {
        browser.open_tab();
    }
    add_and_see(&browser, "orders");
    browser.assert_quiet();
}

#[test]
fn visible_windows_share_one_stream_and_another_takes_over() {
    const WINDOWS: usize = 9;
    let site = Site::new();
    let _load = Load::on(&site.server, &["test_business"]);
    let browser = site.browser();
    browser.await_text("#live-text", "Live");
    for _ in 1..WINDOWS {
        browser.open_window();
    }
    // A browser has six connections for a host: with a stream each, six would see something, and nobody could ask.
    let see = |what: &str| {
        for window in 0..browser.windows() {
            browser.go_to(window);
            assert_eq!(browser.eval("document.hidden"), false, "{what}: {window}");
            browser.await_text("#live-text", "Live");
            // All have the past, and see the figures move.
            browser.eval("window.before = document.querySelector('#now-requests').textContent");
            browser.await_that("document.querySelector('#now-requests').textContent !== window.before");
        }
    };
    see("all");
    // One of them has the stream, and in the end the last.
    while browser.windows() > 1 {
        browser.go_to(0);
        browser.close_window();
        see("one is closed");
    }
    add_and_see(&browser, "orders");
    browser.assert_quiet();
}

#[test]
fn hidden_characters_are_shown_and_a_tag_with_them_is_deleted() {
    const NAME: &str = "a\u{202e}b\u{200b}\u{9b}c";
    const SHOWN: &str = r"a\u{202e}b\u{200b}\u{9b}c";
    let site = Site::new();
    let insert = "INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, 0)";
    site.rows().execute(insert, [NAME]).unwrap();
    let browser = site.browser();
    browser.await_that(&row(SHOWN));
    let encoded: String = NAME.bytes().map(|byte| format!("%{byte:02X}")).collect();
    site.server.await_status(&format!("/alloc?app_tag={encoded}"), 503);
    let hidden = r"/[\u202e\u200b\u009b]/.test(document.body.textContent + document.title)";
    browser.await_that(&format!("{}.textContent.includes('Broken')", row(SHOWN)));
    assert_eq!(browser.eval(hidden), false);
    browser.eval(&format!("{}.querySelector('.open').click()", row(SHOWN)));
    browser.await_text("#tag-title", SHOWN);
    browser.click("#tag-delete");
    browser.fill("#delete-confirm", SHOWN);
    browser.click("#delete-dialog [type=submit]");
    browser.await_text("#announce", &format!("Tag {SHOWN} is deleted."));
    assert_eq!(browser.eval(hidden), false);
    let left: i64 = site.rows().query_row("SELECT COUNT(*) FROM segments", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
    browser.assert_quiet();
}

#[test]
fn tags_that_a_path_cannot_name_are_edited() {
    let site = Site::new();
    for tag in [".", "..", "a/b", "%2F"] {
        let insert = "INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, 10)";
        site.rows().execute(insert, [tag]).unwrap();
    }
    let browser = site.browser();
    browser.await_text("#range", "of 5");
    for tag in [".", "..", "a/b", "%2F"] {
        browser.eval(&format!("{}.querySelector('.edit').click()", row(tag)));
        browser.await_that("document.querySelector('#tag-dialog').open");
        browser.fill("#edit-step", "77");
        browser.click("#tag-dialog [type=submit]");
        browser.await_that("!document.querySelector('#tag-dialog').open");
        browser.await_that(&format!("{}.querySelector('.step').textContent === '77'", row(tag)));
    }
    browser.assert_quiet();
}

/// Keeps the texts that were last drawn on each canvas, and where.
const WATCH_LABELS: &str = "
    const { clearRect, fillText } = CanvasRenderingContext2D.prototype;
    window.labels = new Map();
    CanvasRenderingContext2D.prototype.clearRect = function (...where) {
        labels.set(this.canvas, []);
        return clearRect.apply(this, where);
    };
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
        const { width } = this.measureText(text);
        const left = this.textAlign === 'right' ? x - width : this.textAlign === 'center' ? x - width / 2 : x;
        const size = parseFloat(this.font.match(/[0-9.]+px/));
        const top = this.textBaseline === 'top' ? y : this.textBaseline === 'bottom' ? y - size : y - size / 2;
        labels.get(this.canvas)?.push({ text, left, right: left + width, top, bottom: top + size });
        return fillText.call(this, text, x, y);
    };";

#[test]
fn labels_of_charts_are_neither_cut_nor_one_upon_the_other() {
    let site = Site::new();
    let browser = site.browser();
    browser.prepare(WATCH_LABELS);
    let _load = Load::on(&site.server, &["test_business"]);
    for (width, height) in [(1440, 900), (1024, 768), (390, 844), (320, 568)] {
        browser.show_on(Screen { width, height, theme: "light" });
        browser.reload();
        browser.await_that("parseFloat(document.querySelector('#now-ids').textContent) > 0");
        browser.await_that("[...labels.values()].filter((all) => all.length >= 4).length === 4");
        let faults = "[...labels].flatMap(([canvas, all]) => all.filter((one, index) =>
            one.left < 0 || one.right > canvas.width || one.top < 0 || one.bottom > canvas.height ||
            all.slice(index + 1).some((other) => one.left < other.right && other.left < one.right &&
                one.top + 2 < other.bottom && other.top + 2 < one.bottom)))";
        assert_eq!(browser.eval(faults), json!([]), "{width} px");
        let equal =
            "[...labels.values()].some((all) => new Set(all.map(({ text }) => text)).size < all.length)";
        assert_eq!(browser.eval(equal), false, "{width} px: two labels are equal");
    }
}

#[test]
fn a_name_that_looks_like_markup_is_shown_as_it_is() {
    const NAME: &str = "<img src=x onerror=\"document.title='run'\">&amp;";
    let site = Site::new();
    let insert = "INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, 0)";
    site.rows().execute(insert, [NAME]).unwrap();
    let browser = site.browser();
    browser.await_that(&row(NAME));
    let encoded: String = NAME.bytes().map(|byte| format!("%{byte:02X}")).collect();
    // Now it is in the fault and in the node's health as well.
    site.server.await_status(&format!("/alloc?app_tag={encoded}"), 503);
    browser.await_that(&format!("{}.textContent.includes('Broken')", row(NAME)));
    browser.eval(&format!("{}.querySelector('.open').click()", row(NAME)));
    browser.await_text("#tag-title", NAME);
    browser.click("#tag-delete");
    browser.await_text("#delete-title .tag-name", NAME);
    browser.press(Key::Escape);
    search(&browser, "<b>nothing", "No tags");
    browser.await_text("#empty", "<b>nothing");
    assert_eq!(browser.eval("document.querySelectorAll('main img, main b, dialog img, dialog b').length"), 0);
    assert_ne!(browser.eval("document.title"), "run");
    browser.assert_quiet();
}

#[test]
fn a_hundred_thousand_tags_stay_a_page_at_a_time() {
    let site = Site::new();
    let mut rows = site.rows();
    let adding = rows.transaction().unwrap();
    let insert = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
                  INSERT INTO segments (app_tag, max_id, step) SELECT printf('tag-%06d', i), 0, 100 FROM n";
    adding.execute(insert, []).unwrap();
    adding.commit().unwrap();
    let browser = site.browser();
    browser.await_text("#range", "1–50 of 100,001");
    let rows = || browser.eval("document.querySelectorAll('#rows tr').length");
    assert_eq!(rows(), 50);
    browser.click("#last");
    browser.await_text("#range", "100,001–100,001 of 100,001");
    assert_eq!(rows(), 1);
    browser.click("#previous");
    browser.await_text("#range", "99,951–100,000");
    search(&browser, "TAG-0999", "of 100");
    browser.await_that(&row("tag-099900"));
    // The address keeps what is looked at.
    browser.eval("location.reload()");
    browser.await_text("#range", "1–50 of 100");
    browser.await_that(&row("tag-099900"));
    search(&browser, "", "of 100,001");
    browser.click("[data-sort=app_tag] button");
    browser.click("[data-sort=app_tag] button");
    browser.await_that("document.querySelector('#rows .open').textContent === 'test_business'");
    assert_eq!(rows(), 50);
    browser.assert_quiet();
}

/// What the README shows, if `make screenshots` asks for it; in any case that it fits.
#[test]
fn it_fits_a_desktop_and_a_phone_in_light_and_dark() {
    let site = Site::new();
    for (tag, step) in [
        ("orders", 10_000),
        ("payments", 5_000),
        ("users", 1_000),
        ("invoices", 0),
        ("refunds", 100),
        ("sessions.eu", 20_000),
        ("sessions.us", 20_000),
        ("a_name_that_is_longer_than_a_phone_is_wide_if_it_is_not_broken_anywhere", 2_000),
    ] {
        let insert = "INSERT INTO segments (app_tag, max_id, step) VALUES (?1, 0, ?2)";
        site.rows().execute(insert, rusqlite::params![tag, step]).unwrap();
    }
    let browser = site.browser();
    browser.await_text("#range", "of 9");
    let _load = Load::on(&site.server, &["orders", "orders", "orders", "payments", "users", "sessions.eu"]);
    site.server.get("/alloc?app_tag=invoices");
    browser.await_that(&format!("parseFloat({}.querySelector('.rate').textContent) > 0", row("users")));
    browser.await_that(&format!("{}.textContent.includes('Broken')", row("invoices")));
    let screenshots = std::env::var_os("IDALLOC_SCREENSHOTS").map(PathBuf::from);
    if screenshots.is_some() {
        site.worth_looking_at();
        browser.await_that(&format!("{}.textContent.includes('Fenced')", row("refunds")));
    }
    let phone = Screen { width: 360, height: 800, theme: "light" };
    for (name, screen) in [
        ("desktop-light", DESKTOP),
        ("desktop-dark", Screen { theme: "dark", ..DESKTOP }),
        ("phone-light", phone),
        ("phone-dark", Screen { theme: "dark", ..phone }),
    ] {
        browser.show_on(screen);
        browser.await_that(&format!("document.documentElement.dataset.theme === '{}'", screen.theme));
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        browser.await_that(&format!("innerWidth === {} && {fits}", screen.width));
        let is_dark = browser.eval("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)";
        assert_eq!(is_dark, screen.theme == "dark");
        if let Some(directory) = &screenshots {
            // What was said before is over.
            browser.await_that("document.querySelector('#announce').childElementCount === 0");
            browser.screenshot(&directory.join(format!("{name}.png")));
        }
    }
    // The switch goes before what the system says.
    browser.click("#theme");
    browser.await_that("document.documentElement.dataset.theme === 'light'");
    browser.assert_quiet();
}
