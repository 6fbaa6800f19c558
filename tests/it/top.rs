//! `idalloc top` on a real terminal, beside a real server.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::thread;

use idalloc_testing::program::Run;
use idalloc_testing::server::{Server, Setup};
use idalloc_testing::terminal::Terminal;
use tempfile::TempDir;

const TOKEN: &str = "a-token-of-the-operator";

/// The embedded store, with a few tags.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new(tags: &[&str]) -> Site {
        let site = Site { dir: TempDir::new().expect("a directory") };
        assert_eq!(Run::new(site.dir.path(), &["init"]).finish().code, Some(0));
        for tag in tags {
            let run = Run::new(site.dir.path(), &["tag", "add", tag, "--step", "1000"]).finish();
            assert_eq!(run.code, Some(0), "{run:?}");
        }
        site
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("idalloc.db")
    }

    fn setup(&self) -> Setup {
        Setup::embedded(&self.file()).key("TagReloadSeconds", 1)
    }
}

/// top, looking at this operator's port.
fn top(port: u16, env: &[(&str, &str)]) -> Terminal {
    Terminal::idalloc(&["top", "--url", &format!("http://127.0.0.1:{port}")], env, 30, 120)
}

/// The line that holds this text.
fn line<'a>(screen: &'a str, text: &str) -> &'a str {
    screen.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in\n{screen}"))
}

/// Whether everything is as a shell wants it: its own screen, the cursor to be seen, lines and echo.
fn is_given_back(terminal: &Terminal) -> bool {
    let is_shown = |screen: &vt100::Screen| !screen.alternate_screen() && !screen.hide_cursor();
    terminal.await_screen("the terminal is given back", is_shown);
    terminal.is_cooked()
}

/// Asks for an ID of each tag.
fn claim(server: &Server, tags: &[&str]) {
    for tag in tags {
        assert_eq!(server.get(&format!("/alloc?app_tag={tag}")).status, 200, "{tag}");
    }
}

#[test]
fn rates_left_and_refills_of_a_server_are_shown_live() {
    let site = Site::new(&["orders", "users"]);
    let server = site.setup().admin().start();
    claim(&server, &["orders"]);
    let mut terminal = top(server.admin_port(), &[]);
    let screen = terminal.await_screen("a tag serves", |screen| {
        let text = screen.contents();
        text.contains("3 tags")
            && text.lines().any(|line| line.contains("orders") && line.contains("serving"))
    });
    assert!(screen.starts_with(concat!("idalloc ", env!("CARGO_PKG_VERSION"), " 127.0.0.1:")), "{screen}");
    assert!(screen.contains("3 tags, 0 fenced, 0 broken, 0 exhausted, 0 starving"), "{screen}");
    let orders: Vec<&str> = line(&screen, "orders").split_whitespace().collect();
    // Two segments are in memory, less the ID that was claimed.
    assert_eq!((orders[1], orders[3]), ("serving", "1999"), "{screen}");
    assert!(line(&screen, "orders").contains("  1000  "), "its step: {screen}");
    assert!(orders.contains(&"ago"), "{screen}");
    // It follows the traffic.
    terminal.await_screen("IDs are handed out", |screen| {
        let mut client = server.connect();
        (0..100).for_each(|_| assert_eq!(client.get("/alloc?app_tag=orders").status, 200));
        let text = screen.contents();
        !text.contains(" 0 IDs/s ")
            && !text.contains(" 0 requests/s")
            && line(&text, "orders").split_whitespace().nth(2) != Some("0")
    });
    terminal.type_text("q");
    assert!(terminal.wait().success());
    assert!(is_given_back(&terminal));
}

#[test]
fn tags_are_searched_sorted_and_scrolled() {
    let tags: Vec<String> = (0..60).map(|index| format!("tag-{index:02}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).chain(["ORDERS"]).collect();
    let site = Site::new(&tags);
    let server = site.setup().key("PreloadTags", 0).admin().start();
    let terminal = top(server.admin_port(), &[]);
    terminal.await_text("62 tags");
    terminal.type_text("n");
    let screen = terminal.await_text("APP_TAG▲");
    assert!(screen.contains("62 tags"));
    let first_is = |tag: &'static str| {
        move |screen: &vt100::Screen| {
            let text = screen.contents();
            text.lines()
                .skip_while(|line| !line.starts_with("APP_TAG"))
                .nth(1)
                .is_some_and(|line| line.starts_with(tag))
        }
    };
    terminal.await_screen("by name", first_is("ORDERS"));
    terminal.type_text("n");
    terminal.await_screen("by name, the last first", first_is("test_business"));
    terminal.type_text("\u{1b}[F");
    terminal.await_screen("the end", |screen| {
        let text = screen.contents();
        text.contains("ORDERS") && !text.contains("tag-59")
    });
    terminal.type_text("/rDer");
    let screen = terminal.await_text("1 match rDer");
    terminal.await_screen("only what is found", first_is("ORDERS"));
    assert!(line(&screen, "search").contains("Enter keep"), "{screen}");
    terminal.type_text("\r");
    terminal.await_text("q quit");
    terminal.type_text("/\u{15}none\r");
    terminal.await_text("0 match none");
    terminal.await_screen("none is shown", |screen| !screen.contents().contains("ORDERS"));
}

#[test]
fn a_fenced_tag_comes_first_in_red_with_what_mends_it() {
    let site = Site::new(&["aaa"]);
    // So high that one reservation does not get there again, which would mend the row.
    let add = ["tag", "add", "zzz", "--step", "1000", "--start", "1000000000000"];
    assert_eq!(Run::new(site.dir.path(), &add).finish().code, Some(0));
    let server = site.setup().admin().start();
    claim(&server, &["aaa", "zzz"]);
    let terminal = top(server.admin_port(), &[]);
    terminal.await_screen("both serve", |screen| {
        let text = screen.contents();
        ["aaa", "zzz"]
            .iter()
            .all(|tag| text.lines().any(|line| line.starts_with(tag) && line.contains("serving")))
    });
    let file = rusqlite::Connection::open(site.file()).expect("open the file");
    file.execute("UPDATE segments SET max_id = 1 WHERE app_tag = 'zzz'", ()).expect("set max_id back");
    server.await_status("/alloc?app_tag=zzz&count=100", 503);
    let screen = terminal.await_screen("the fence", |screen| {
        let text = screen.contents();
        let first = text.lines().skip_while(|line| !line.starts_with("APP_TAG")).nth(1);
        first.is_some_and(|line| line.starts_with("zzz") && line.contains("fenced"))
            && text.contains("1 fenced")
    });
    assert!(line(&screen, "zzz: its max_id in the table is below").contains("raise max_id to"), "{screen}");
    terminal.await_screen("red", |screen| {
        let row = screen.contents().lines().position(|line| line.starts_with("zzz")).unwrap_or(0) as u16;
        let column =
            (0..120).find(|column| screen.cell(row, *column).is_some_and(|cell| cell.contents() == "f"));
        column
            .and_then(|column| screen.cell(row, column))
            .is_some_and(|cell| cell.fgcolor() == vt100::Color::Idx(1))
    });
}

#[test]
fn a_server_that_goes_is_said_to_be_away_and_followed_again_when_it_is_back() {
    let site = Site::new(&["orders"]);
    let server = site.setup().admin().start();
    let port = server.admin_port();
    let terminal = top(port, &[]);
    terminal.await_text(" serving");
    drop(server);
    let screen = terminal.await_text("nothing new for ");
    assert!(screen.contains("STALE"), "{screen}");
    assert!(line(&screen, "nothing new for ").contains("; trying again"), "{screen}");
    assert!(screen.contains("orders"), "what was known stays: {screen}");
    // Its port may have been taken meanwhile: then somebody else answers, which this test cannot help.
    let server = site.setup().key("AdminPort", port).start();
    claim(&server, &["orders"]);
    terminal.await_screen("it is followed again", |screen| {
        let text = screen.contents();
        !text.contains("STALE")
            && text.lines().any(|line| line.contains("orders") && line.contains("serving"))
    });
}

#[test]
fn the_picture_follows_the_size_of_the_terminal() {
    let tags: Vec<String> = (10..50).map(|index| format!("tag-{index}")).collect();
    let site = Site::new(&tags.iter().map(String::as_str).collect::<Vec<_>>());
    let server = site.setup().admin().start();
    let terminal = top(server.admin_port(), &[]);
    let holds = |screen: &vt100::Screen, rows: usize, parts: &[&str]| {
        let text = screen.contents();
        let listed = text.lines().filter(|line| line.starts_with("tag-")).count();
        listed == rows && text.contains("q quit") && parts.iter().all(|part| text.contains(part))
    };
    terminal.await_screen("18 rows", |screen| holds(screen, 18, &["IDs/s", "LAST REFILL"]));
    terminal.resize(10, 40);
    let screen = terminal.await_screen("a small picture", |screen| holds(screen, 4, &["APP_TAG"]));
    assert!(!screen.contains("LAST REFILL") && !screen.contains("IDs/s"), "{screen}");
    terminal.resize(1, 1);
    terminal.resize(40, 150);
    terminal.await_screen("a large picture", |screen| holds(screen, 28, &["IDs/s", "SEGMENTS"]));
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_given_back() {
    let site = Site::new(&[]);
    let server = site.setup().admin().start();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let mut terminal = top(server.admin_port(), &[]);
        terminal.await_text("test_business");
        assert!(!terminal.is_cooked());
        terminal.signal(signal);
        assert_eq!(terminal.wait().code(), Some(0), "signal {signal}");
        assert!(is_given_back(&terminal), "signal {signal}");
    }
    // In raw mode this is a key.
    let mut terminal = top(server.admin_port(), &[]);
    terminal.await_text("test_business");
    terminal.type_text("\u{3}");
    assert!(terminal.wait().success());
    assert!(is_given_back(&terminal));
}

#[test]
fn the_token_comes_from_the_environment() {
    let site = Site::new(&[]);
    let server = site.setup().key("AdminToken", TOKEN).admin().start();
    for env in [&[][..], &[("IDALLOC_ADMIN_TOKEN", "another-token-than-that")], &[("OTHER", TOKEN)]] {
        let mut terminal = top(server.admin_port(), env);
        assert_eq!(terminal.wait().code(), Some(1));
        terminal.await_text("idalloc: the server refuses access: set IDALLOC_ADMIN_TOKEN to its AdminToken");
        assert!(!terminal.text().contains("another-token"));
    }
    let terminal = top(server.admin_port(), &[("IDALLOC_ADMIN_TOKEN", TOKEN)]);
    terminal.await_text("test_business");
    let url = format!("http://localhost:{}", server.admin_port());
    let args = ["top", "--url", &url, "--token-env", "OTHER"];
    let terminal = Terminal::idalloc(&args, &[("OTHER", TOKEN)], 30, 120);
    terminal.await_text("test_business");
}

#[test]
fn what_it_cannot_look_at_is_said_before_the_screen_is_touched() {
    let port = idalloc_testing::mariadb::free_port();
    let mut terminal = top(port, &[]);
    assert_eq!(terminal.wait().code(), Some(1));
    terminal.await_text(&format!("idalloc: cannot reach 127.0.0.1:{port}: "));
    assert!(is_given_back(&terminal));
    let site = Site::new(&[]);
    let server = site.setup().start();
    let mut terminal = top(server.port(), &[]);
    assert_eq!(terminal.wait().code(), Some(1));
    terminal.await_text("idalloc: the server answered 404");

    let run = |args: &[&str]| Run::new(Path::new("/"), args).finish();
    let ended = run(&["top", "--url", "https://user:secret@host"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
    assert!(ended.stderr.contains("allowed is http://host:port"), "{ended:?}");
    let ended = run(&["top"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
    assert!(ended.stderr.contains("top needs a terminal"), "{ended:?}");
}

/// A peer that accepts and then says nothing must not keep it for ever.
#[test]
fn a_server_that_says_nothing_is_given_up() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("listen");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || (&stream).read_to_end(&mut Vec::new()));
        }
    });
    let mut terminal = top(port, &[]);
    assert_eq!(terminal.wait().code(), Some(1));
    terminal.await_text("idalloc: no answer within 5 s");
}
