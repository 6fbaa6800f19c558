//! Everything fails at once: servers, the database, and what is between them. No ID is handed out twice.
//!
//! Three servers, of both engines, share one row with a participant that reserves as go-id-alloc does. Faults come from a
//! seed, which is printed; IDALLOC_CHAOS_SEED repeats it. They last for 40 s, or as long as IDALLOC_CHAOS_SECONDS says.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use idalloc_testing::ledger::Ledger;
use idalloc_testing::load::{Load, Seen, Wish};
use idalloc_testing::mariadb::{MariaDb, PASSWORD};
use idalloc_testing::node::Node;
use idalloc_testing::proxy::{Loss, Proxy};
use idalloc_testing::rounds::{from_env, rest};
use idalloc_testing::server::{PATIENCE, Server, Setup};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use tempfile::TempDir;

const TAG: &str = "orders";
const ALLOC: &str = "/alloc?app_tag=orders";

const ENGINES: [&str; 3] = ["tokio", "may_minihttp", "tokio"];
const ID_CLIENTS_PER_SERVER: usize = 3;

const SECONDS: u64 = 40;
/// How soon every server serves when nothing fails any more; a busy machine included.
const RECOVERY_MAX: Duration = Duration::from_secs(8);

/// How long servers and the participant wait for the database.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);
const PARTICIPANT_PAUSE_MAX_MS: u64 = 100;
/// Between two faults of the same kind of victim.
const CALM_MAX_MS: u64 = 500;

#[test]
fn no_id_is_handed_out_twice_whatever_fails() {
    let seed = from_env("IDALLOC_CHAOS_SEED", fastrand::u64(..));
    let span = Duration::from_secs(from_env("IDALLOC_CHAOS_SECONDS", SECONDS));
    eprintln!("chaos for {span:?}: IDALLOC_CHAOS_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let site = Site::new();
    let ledger = Arc::new(Ledger::default());
    let load = site.load(&ledger, &mut rng);
    load.await_answers();

    let until = Instant::now() + span;
    let faults = site.suffer(&ledger, &mut rng, until);
    let over = Instant::now();
    site.nodes.iter().for_each(|node| {
        node.await_service(ALLOC);
        assert!(over.elapsed() < RECOVERY_MAX, "{} serves after {:?}", node.engine, over.elapsed());
    });
    let recovery = over.elapsed();
    load.await_answers();

    let seen = load.stop();
    site.nodes.iter().for_each(Node::stop);
    ledger.assert_sound(site.database.max_id(TAG));
    eprintln!("{}", site.summary(&ledger, &faults, &seen, recovery));
}

/// Says that the faults are over when it is dropped, be it by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The servers and their database, with a proxy between the database and each who uses it.
struct Site {
    nodes: Vec<Node>,
    /// In the order of the servers.
    proxies: Vec<Proxy>,
    /// The one of the participant.
    own_proxy: Proxy,
    database: MariaDb,
    _watermarks: TempDir,
}

impl Site {
    fn new() -> Site {
        let database = MariaDb::start();
        database.exec(&format!("INSERT INTO segments (app_tag, max_id, step) VALUES ('{TAG}', 0, 1000)"));
        let watermarks = tempfile::tempdir().expect("a directory");
        let proxies: Vec<_> = ENGINES.iter().map(|_| Proxy::before(database.port(), TAG)).collect();
        let start = |(index, engine): (usize, &&'static str)| {
            let (port, wait_ms) = (proxies[index].port(), STORE_TIMEOUT.as_millis());
            let timeouts = format!("timeout={wait_ms}ms&readTimeout={wait_ms}ms&writeTimeout={wait_ms}ms");
            let dsn = format!("root:{PASSWORD}@tcp(127.0.0.1:{port})/id_alloc_db?{timeouts}");
            Node::start(engine, dsn, watermarks.path().join(format!("{index}.db")))
        };
        let nodes = ENGINES.iter().enumerate().map(start).collect();
        let own_proxy = Proxy::before(database.port(), "COMMIT");
        Site { nodes, proxies, own_proxy, database, _watermarks: watermarks }
    }

    fn load(&self, ledger: &Arc<Ledger>, rng: &mut Rng) -> Load {
        let mut load = Load::default();
        for node in &self.nodes {
            for _ in 0..ID_CLIENTS_PER_SERVER {
                load.add(ledger, node.port(), TAG, Wish::Ids, rng.u64(..));
            }
            load.add(ledger, node.port(), TAG, Wish::Leases, rng.u64(..));
        }
        load
    }

    /// Lets servers and store fail independently of each other, and returns what happened how often.
    fn suffer(&self, ledger: &Ledger, rng: &mut Rng, until: Instant) -> Vec<(&'static str, u64)> {
        let (of_servers, of_store, participant) = (rng.fork(), rng.fork(), rng.fork());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ends = Ends(&over);
            scope.spawn(|| self.take_part(ledger, participant, &over));
            let of_servers = scope.spawn(|| self.fail(&OF_SERVERS, of_servers, until));
            let mut faults = self.fail(&OF_THE_STORE, of_store, until);
            faults.extend(of_servers.join().expect("faults of servers"));
            faults
        })
    }

    fn summary(&self, ledger: &Ledger, faults: &[(&str, u64)], seen: &Seen, recovery: Duration) -> String {
        let (sums, (own_lost, lost)) = (ledger.sums(), (self.own_proxy.lost(), self.lost()));
        let times: u64 = faults.iter().map(|(_, times)| times).sum();
        let each: String = faults.iter().map(|(name, times)| format!("{times:9} x {name}\n")).collect();
        format!(
            "IDs checked: {}, up to {}; duplicates: {}\n\
             answers with IDs: {}; with 503: {}; longest time without any ID: {:.2?}\n\
             all servers served again {recovery:.2?} after the last fault\n\
             faults: {times}\n{each}\
             lost acknowledgements: {lost} of reservations, {own_lost} of the participant's COMMITs",
            sums.ids, sums.highest, sums.duplicates, seen.answers, seen.refusals, seen.longest_silence
        )
    }

    /// Commits faults in random order until it is time, each at least once.
    fn fail(&self, kinds: &[Fault], mut rng: Rng, until: Instant) -> Vec<(&'static str, u64)> {
        let mut times = vec![0; kinds.len()];
        while times.contains(&0) || Instant::now() < until {
            let mut order: Vec<_> = (0..kinds.len()).collect();
            rng.shuffle(&mut order);
            for kind in order {
                (kinds[kind].commit)(self, &mut rng);
                times[kind] += 1;
                rest(&mut rng, CALM_MAX_MS);
            }
        }
        kinds.iter().map(|kind| kind.name).zip(times).collect()
    }

    fn all_proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.proxies.iter().chain([&self.own_proxy])
    }

    fn any_node(&self, rng: &mut Rng) -> &Node {
        &self.nodes[rng.usize(..self.nodes.len())]
    }

    /// Acknowledged reservations of servers that these did not hear of.
    fn lost(&self) -> u64 {
        self.proxies.iter().map(Proxy::lost).sum()
    }

    /// Loses acknowledgements, at least one of a server and one of the participant.
    fn lose(&self, loss: Loss, rng: &mut Rng) {
        let (before, own_before) = (self.lost(), self.own_proxy.lost());
        self.all_proxies().for_each(|proxy| proxy.lose(Some(loss)));
        rest(rng, 1000);
        let deadline = Instant::now() + PATIENCE;
        while self.lost() == before || self.own_proxy.lost() == own_before {
            assert!(Instant::now() < deadline, "nobody reserves");
            thread::sleep(Duration::from_millis(2));
        }
        self.all_proxies().for_each(|proxy| proxy.lose(None));
    }

    /// Holds back for a while what goes to the database and what comes from it.
    fn delay(&self, delay: Duration, rng: &mut Rng) {
        self.all_proxies().for_each(|proxy| proxy.delay(delay));
        rest(rng, 2500);
        self.all_proxies().for_each(|proxy| proxy.delay(Duration::ZERO));
    }

    /// Reserves now and then, as go-id-alloc does, and enters what it got.
    fn take_part(&self, ledger: &Ledger, mut rng: Rng, over: &AtomicBool) {
        let mut conn = None;
        while !over.load(Relaxed) {
            rest(&mut rng, PARTICIPANT_PAUSE_MAX_MS);
            let connected = conn.take().map_or_else(|| self.connect_participant(), Ok);
            let Ok(mut connected) = connected else { continue };
            // After an error nobody knows what became of the transaction: the connection is closed.
            if let Ok(ids) = reserve_as_go_id_alloc(&mut connected) {
                ledger.enter(ids, "go-id-alloc");
                conn = Some(connected);
            }
        }
    }

    fn connect_participant(&self) -> mysql::Result<Conn> {
        let opts = OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(self.own_proxy.port())
            .prefer_socket(false)
            .user(Some("root"))
            .pass(Some(PASSWORD))
            .db_name(Some("id_alloc_db"))
            .tcp_connect_timeout(Some(STORE_TIMEOUT))
            .read_timeout(Some(STORE_TIMEOUT))
            .write_timeout(Some(STORE_TIMEOUT));
        Conn::new(opts)
    }
}

/// The statements of go-id-alloc, one by one, and its reading of them: [max_id - step, max_id).
fn reserve_as_go_id_alloc(conn: &mut Conn) -> mysql::Result<Range<i64>> {
    conn.query_drop("BEGIN")?;
    conn.exec_drop("UPDATE segments SET max_id = max_id + step WHERE app_tag = ?", (TAG,))?;
    let row = conn.exec_first("SELECT max_id, step FROM segments WHERE app_tag = ?", (TAG,))?;
    let (max_id, step): (i64, i64) = row.expect("a row");
    conn.query_drop("COMMIT")?;
    Ok((max_id - step).max(1)..max_id)
}

/// Something that goes wrong, and is mended before it returns.
struct Fault {
    name: &'static str,
    commit: fn(&Site, &mut Rng),
}

const OF_SERVERS: [Fault; 2] = [
    Fault {
        name: "server killed with -9 and restarted",
        commit: |site, rng| {
            let node = site.any_node(rng);
            node.kill();
            rest(rng, 500);
            node.start_again();
        },
    },
    Fault {
        name: "server stopped and restarted",
        commit: |site, rng| {
            let node = site.any_node(rng);
            node.stop();
            rest(rng, 500);
            node.start_again();
        },
    },
];

const OF_THE_STORE: [Fault; 8] = [
    Fault {
        name: "step changed",
        commit: |site, rng| {
            let step = rng.u32(100..=5000);
            site.database.exec(&format!("UPDATE segments SET step = {step} WHERE app_tag = '{TAG}'"));
        },
    },
    Fault {
        name: "database killed with -9 and restarted",
        commit: |site, rng| {
            site.database.kill();
            rest(rng, 500);
            site.database.restart();
        },
    },
    Fault {
        name: "database halted and continued",
        commit: |site, rng| {
            site.database.pause();
            rest(rng, 2500);
            site.database.resume();
        },
    },
    Fault {
        name: "connections to the database cut, ten times",
        commit: |site, rng| {
            for _ in 0..10 {
                let proxies: Vec<_> = site.all_proxies().collect();
                proxies[rng.usize(..proxies.len())].cut();
                rest(rng, 100);
            }
        },
    },
    Fault {
        name: "database slow",
        commit: |site, rng| site.delay(Duration::from_millis(rng.u64(20..=100)), rng),
    },
    Fault {
        // What was sent arrives when nobody waits for it any more.
        name: "statements and replies later than their timeout",
        commit: |site, rng| site.delay(STORE_TIMEOUT + Duration::from_millis(rng.u64(0..=500)), rng),
    },
    Fault {
        name: "acknowledgements lost, connections closed",
        commit: |site, rng| site.lose(Loss::Closed, rng),
    },
    Fault {
        name: "acknowledgements lost, connections silent",
        commit: |site, rng| site.lose(Loss::Silent, rng),
    },
];

// ---- what chaos finds seldom: clean ends without a claim ----

/// Servers on one database, each with its own watermark file, which outlives it.
struct Quiet {
    database: MariaDb,
    watermarks: TempDir,
}

impl Quiet {
    fn new() -> Quiet {
        Quiet { database: MariaDb::start(), watermarks: tempfile::tempdir().expect("a directory") }
    }

    /// A server that has IDs in memory.
    fn start(&self, name: &str) -> Server {
        let watermark = self.watermarks.path().join(name);
        let watermark = watermark.to_str().expect("UTF-8");
        let server = Setup::on(&self.database.dsn()).key("WatermarkPath", watermark).start();
        server.await_status("/health?app_tag=test_business", 200);
        server
    }

    /// Ends it; nothing that it has said may blame the store.
    fn stop(&self, mut server: Server) {
        server.signal(libc::SIGTERM);
        assert!(server.wait().success());
        let log = server.rest_of_log();
        assert!(!log.iter().any(|line| line.contains("gets no more IDs")), "{log:#?}");
    }

    fn max_id(&self) -> i64 {
        self.database.max_id("test_business")
    }
}

/// The ID 0, which is never handed out, comes back with the others.
#[test]
fn a_server_that_gave_all_back_starts_again_from_there() {
    let quiet = Quiet::new();
    for _ in 0..3 {
        quiet.stop(quiet.start("only"));
        assert_eq!(quiet.max_id(), 0);
    }
}

/// The second server gives back all that it had; the first one then gives back more, from below. Neither has handed
/// anything out from there, so the store has lost nothing.
#[test]
fn servers_that_gave_all_back_one_after_the_other_start_again_in_any_order() {
    let quiet = Quiet::new();
    quiet.database.exec("UPDATE segments SET max_id = 1000 WHERE app_tag = 'test_business'");
    for order in [["first", "second"], ["second", "first"]] {
        let [first, second] = order.map(|name| quiet.start(name));
        quiet.stop(second);
        quiet.stop(first);
        assert_eq!(quiet.max_id(), 1000);
    }
}
