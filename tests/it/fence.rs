//! A row that was set back: what a fence is ended by, and what is not taken for a loss. Two servers share one table, and
//! every ID that either hands out is in a ledger.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::ledger::Ledger;
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::program::Run;
use idalloc_testing::server::{Client, PATIENCE, Server, Setup};
use tempfile::TempDir;

const TAG: &str = "test_business";
const ALLOC: &str = "/alloc?app_tag=test_business";

/// How long a state must last for nothing to end it: two listings.
const LASTING: Duration = Duration::from_millis(2500);

/// Servers on one database, each with a watermark file of its own.
struct Site {
    database: MariaDb,
    dir: TempDir,
    ledger: Ledger,
}

impl Site {
    fn new() -> Site {
        let site = Site {
            database: MariaDb::start(),
            dir: tempfile::tempdir().expect("a directory"),
            ledger: Ledger::default(),
        };
        site.database.exec("UPDATE segments SET step = 100");
        site
    }

    fn watermark(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A server that has granted itself nothing yet.
    fn begin(&self, name: &str) -> Server {
        Setup::on(&self.database.dsn())
            .key("WatermarkPath", self.watermark(name).to_str().expect("UTF-8"))
            .key("TagReloadSeconds", 1)
            .key("PreloadTags", 0)
            // What is in memory is soon used up.
            .key("MaxStepFactor", 10)
            .admin()
            .start()
    }

    /// A server that has the tag.
    fn start(&self, name: &str) -> Server {
        let server = self.begin(name);
        server.await_status("/health?app_tag=test_business", 200);
        server
    }

    /// Takes so many IDs.
    fn take(&self, server: &Server, count: i64) {
        let answer = server.await_status(&format!("{ALLOC}&count={count}"), 200);
        self.enter(server.port(), &answer.ids());
    }

    /// Asks until the tag is fenced, and returns what the row is to be raised to. What is in memory may be handed out
    /// before.
    fn await_fence(&self, server: u16) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask(server) {
                Err(Some(remedy)) => return remedy,
                _ if Instant::now() < deadline => {}
                answer => {
                    self.assert_no_duplicate_yet();
                    panic!("no fence: {answer:?}");
                }
            }
        }
    }

    /// Asks for a while, whatever is answered.
    fn insist(&self, server: u16) -> Result<(), Option<i64>> {
        let since = Instant::now();
        loop {
            let answer = self.ask(server);
            if since.elapsed() > LASTING {
                return answer;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// One request. An error is that of a fence if it names what the row is to be raised to.
    fn ask(&self, server: u16) -> Result<(), Option<i64>> {
        let answer = Client::connect(server).get(&format!("{ALLOC}&count=200"));
        if answer.status == 200 {
            self.enter(server, &answer.ids());
            return Ok(());
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        let remedy = answer.body.split("raise max_id to ").nth(1);
        Err(remedy.map(|text| text.split(' ').next().and_then(|text| text.parse().ok()).expect("a number")))
    }

    fn enter(&self, server: u16, ids: &[i64]) {
        let owner = format!("the server at {server}");
        ids.iter().for_each(|id| self.ledger.enter(*id..id + 1, &owner));
    }

    /// The server hands out IDs again, from this one on.
    fn assert_serves(&self, server: &Server, first: i64) {
        let ids = server.await_status(&format!("{ALLOC}&count=2000"), 200).ids();
        assert!(ids[0] >= first, "{} is below {first}", ids[0]);
        self.enter(server.port(), &ids);
    }

    fn set_max_id(&self, max_id: i64) {
        self.database.exec(&format!("UPDATE segments SET max_id = {max_id} WHERE app_tag = '{TAG}'"));
    }

    fn max_id(&self) -> i64 {
        self.database.max_id(TAG)
    }

    /// `max_id` once no refill is under way any more.
    fn settled_max_id(&self) -> i64 {
        let mut last = i64::MIN;
        loop {
            match self.max_id() {
                max_id if max_id == last => return max_id,
                max_id => last = max_id,
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// `idalloc tag`, beside the servers.
    fn tag(&self, args: &[&str]) {
        let config = self.dir.path().join("config.json");
        std::fs::write(config, serde_json::json!({"DSN": self.database.dsn()}).to_string())
            .expect("config.json");
        let args = [&["tag"], args, &["--config", "config.json"]].concat();
        let ended = Run::new(self.dir.path(), &args).finish();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// While the row is wherever it was set.
    fn assert_no_duplicate_yet(&self) {
        let sums = self.ledger.sums();
        assert_eq!(sums.duplicates, 0, "IDs that were handed out twice; some of them: {:?}", sums.overlaps);
    }

    fn assert_no_duplicate(&self) {
        self.ledger.assert_sound(self.max_id());
    }
}

/// What the row is set back to: below what either server was granted.
const SET_BACK_TO: i64 = 60;

/// Two servers of which the first was granted far more than the second, and a row that was set back.
fn set_back() -> (Site, [Server; 2]) {
    let site = Site::new();
    let servers = ["ahead", "behind"].map(|name| site.start(name));
    let [ahead, behind] = &servers;
    site.take(behind, 150);
    site.settled_max_id();
    (0..3).for_each(|_| site.take(ahead, 4000));
    assert!(site.settled_max_id() > 12_000);
    site.set_max_id(SET_BACK_TO);
    (site, servers)
}

/// Asks both servers for long. Returns what they name; nothing ends their fences, and nothing is handed out twice.
fn insist_on_fences(site: &Site, servers: &[Server; 2]) -> [i64; 2] {
    let ports = servers.each_ref().map(Server::port);
    let named = ports.map(|port| site.await_fence(port));
    let answers = thread::scope(|scope| {
        ports.map(|port| scope.spawn(move || site.insist(port))).map(|asked| asked.join().expect("answers"))
    });
    site.assert_no_duplicate_yet();
    assert_eq!(answers, named.map(|named| Err(Some(named))), "no fence is over, and each names what it did");
    named
}

/// The refused reservation of the server that was granted more raised the row above all that the other one knew of.
#[test]
fn a_refused_reservation_changes_nothing_and_ends_no_fence_of_another_server() {
    let (site, servers) = set_back();
    let [ahead, behind] = insist_on_fences(&site, &servers);
    assert_eq!(site.max_id(), SET_BACK_TO, "refused, and yet the row has moved");
    assert!(ahead > 12_000 && behind < ahead, "each names what it was granted: {ahead}, {behind}");
    site.tag(&["advance", TAG, "--to", &ahead.to_string()]);
    servers.iter().for_each(|server| site.assert_serves(server, ahead));
    site.assert_no_duplicate();
}

#[test]
fn the_operators_port_ends_the_fences_of_all_servers() {
    let (site, servers) = set_back();
    let [ahead, _] = servers.each_ref().map(|server| site.await_fence(server.port()));
    let json = ["Content-Type: application/json"];
    let answer = servers[0].admin().ask_admin("POST", "/api/tags/test_business/advance", &json, "{}");
    assert_eq!(answer.status, 200, "{answer:?}");
    servers.iter().for_each(|server| site.assert_serves(server, ahead));
    site.assert_no_duplicate();
}

#[test]
fn a_fence_outlasts_everything_but_a_row_at_the_number_that_it_names() {
    let (site, [ahead, behind]) = set_back();
    drop(behind);
    let named = site.await_fence(ahead.port());
    site.tag(&["set", TAG, "--step", "200"]);
    assert_eq!(site.insist(ahead.port()), Err(Some(named)), "another step");
    site.set_max_id(named - 1);
    assert_eq!(site.insist(ahead.port()), Err(Some(named)), "one ID short");
    drop(ahead);
    let ahead = site.begin("ahead");
    assert_eq!(site.await_fence(ahead.port()), named, "a restart");
    assert_eq!(site.max_id(), named - 1, "refused, and yet the row has moved");
    site.set_max_id(named);
    site.assert_serves(&ahead, named);
    site.assert_no_duplicate();
}

/// A server that was granted nothing of the tag, and has read the row where it was, is no better judge of such a row.
#[test]
fn a_negative_max_id_is_refused_by_all_servers_that_have_seen_better() {
    let site = Site::new();
    let servers = ["first", "second"].map(|name| site.start(name));
    servers.iter().for_each(|server| site.take(server, 1000));
    site.settled_max_id();
    let reader = site.begin("reader");
    reader.await_log("the table's tags changed");
    for negative in [-1, -1_000_000_000] {
        site.set_max_id(negative);
        for server in [&reader, &servers[1], &servers[0]] {
            let answer = site.insist(server.port());
            site.assert_no_duplicate_yet();
            assert!(answer.is_err(), "the server at {} hands out IDs", server.port());
            let refused = server.get(ALLOC);
            assert!(refused.body.contains("max_id"), "{refused:?}");
        }
        assert_eq!(site.max_id(), negative, "refused, and yet the row has moved");
    }
    let named = servers.each_ref().map(|server| site.await_fence(server.port()));
    site.set_max_id(named[0].max(named[1]));
    [&servers[0], &servers[1], &reader].into_iter().for_each(|server| site.assert_serves(server, 1));
    site.assert_no_duplicate();
}

/// What a server has not handed out goes back to the row when it ends. That is below what another server has read, and
/// no loss.
#[test]
fn a_clean_give_back_by_another_server_costs_no_fence_and_no_gap() {
    let site = Site::new();
    let [mut ending, staying] = ["ending", "staying"].map(|name| site.start(name));
    site.take(&staying, 1);
    site.take(&ending, 4000);
    let before = site.settled_max_id();
    staying.log_so_far();
    // Two listings: it has read what is given back in a moment.
    thread::sleep(Duration::from_millis(2200));
    ending.signal(libc::SIGTERM);
    assert!(ending.wait().success());
    let given_back_to = site.max_id();
    assert!(given_back_to < before, "nothing was given back: {given_back_to}");
    let ids: Vec<_> =
        (0..20).flat_map(|_| staying.await_status(&format!("{ALLOC}&count=100"), 200).ids()).collect();
    site.enter(staying.port(), &ids);
    assert!(
        ids.contains(&given_back_to),
        "a gap from {given_back_to} on: {:?}",
        ids.iter().find(|id| **id > given_back_to)
    );
    let log = staying.log_so_far();
    assert!(!log.iter().any(|line| line.contains("ERROR") || line.contains("WARN")), "{log:#?}");
    site.assert_no_duplicate();
}
