//! A DSN of two hosts that both take writes, of which one lacks what the other has: none of it is handed out twice.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use idalloc_testing::consumer::Consumer;
use idalloc_testing::ledger::Ledger;
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::proxy::Proxy;
use idalloc_testing::replication::Pair;
use idalloc_testing::server::{Server, Setup};
use tempfile::TempDir;

const TAG: &str = "test_business";
const ALLOC: &str = "/alloc?app_tag=test_business";

/// So long a server is without its primary.
const CUT_OFF: Duration = Duration::from_secs(3);
/// So often a server that uses another host tries the first one, and what a busy machine takes beside.
const RETURN: Duration = Duration::from_secs(30 + 3);
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(2);
const BATCH: i64 = 50;

/// A primary, a replica that takes writes as well, and servers that know both.
struct Site {
    pair: Pair,
    ledger: Ledger,
    watermarks: TempDir,
}

impl Site {
    fn new() -> Site {
        let site = Site {
            pair: Pair::start(),
            ledger: Ledger::default(),
            watermarks: tempfile::tempdir().expect("a directory"),
        };
        site.pair.primary().exec("UPDATE segments SET step = 100");
        site.pair.await_replication();
        // As MariaDB comes.
        site.pair.replica().set_read_only(false);
        site
    }

    /// A server with the watermark file of this name, which tries these ports in turn.
    fn begin(&self, name: &str, ports: [u16; 2]) -> Server {
        let path = self.watermarks.path().join(name);
        Setup::on(&MariaDb::dsn_of_ports(&ports))
            .key("WatermarkPath", path.to_str().expect("UTF-8"))
            .key("TagReloadSeconds", 1)
            .key("SegmentSeconds", 1)
            .start()
    }

    fn start(&self, name: &str, ports: [u16; 2]) -> Server {
        let server = self.begin(name, ports);
        server.await_status(ALLOC, 200);
        server
    }

    /// Clients that take IDs of these servers while `act` runs.
    fn under_load(&self, servers: &[&Server], act: impl FnOnce()) {
        let over = AtomicBool::new(false);
        let (over, ledger) = (&over, &self.ledger);
        thread::scope(|scope| {
            let _ends = Ends(over);
            for port in servers.iter().map(|server| server.port()) {
                scope.spawn(move || {
                    let mut client = Consumer::new(port, TAG, ledger);
                    while !over.load(Relaxed) && client.take(BATCH).is_ok() {
                        thread::sleep(PAUSE);
                    }
                });
            }
            act();
        });
    }

    fn assert_no_duplicate(&self) {
        let sums = self.ledger.sums();
        assert!(sums.ids > 0, "no IDs");
        assert_eq!(sums.duplicates, 0, "of {} IDs; some of them: {:?}", sums.ids, sums.overlaps);
    }
}

/// Says that the load is over when it is dropped, be it by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Waits until more has been reserved on a host.
fn await_reservations(host: &MariaDb) {
    let (before, deadline) = (host.max_id(TAG), Instant::now() + Duration::from_secs(10));
    while host.max_id(TAG) < before + 1000 {
        assert!(Instant::now() < deadline, "nobody reserves there");
        thread::sleep(Duration::from_millis(20));
    }
}

/// One server loses the primary, and another one does not.
#[test]
fn a_server_that_is_cut_off_from_the_primary_does_not_write_to_a_replica_that_takes_writes() {
    let site = Site::new();
    let [primary, replica] = site.pair.ports();
    let line = Proxy::before(primary, "segments");
    let (cut_off, other) =
        (site.start("cut off", [line.port(), replica]), site.start("other", [primary, replica]));
    site.under_load(&[&cut_off, &other], || {
        await_reservations(site.pair.primary());
        line.lead_nowhere();
        thread::sleep(CUT_OFF);
        line.lead_to(primary);
        thread::sleep(Duration::from_secs(1));
        Consumer::new(cut_off.port(), TAG, &site.ledger).use_up(1000).expect("IDs");
    });
    site.assert_no_duplicate();
    site.pair.await_replication();
    let [of_primary, of_replica] =
        [site.pair.primary(), site.pair.replica()].map(|host| host.variable("gtid_binlog_pos"));
    assert_eq!(of_primary, of_replica, "the replica has commits of its own");
}

/// The primary dies, its replica is promoted, and the old primary comes back as it was, writable and a replica of nobody.
struct Return {
    site: Site,
    servers: [Server; 2],
}

impl Return {
    /// `lags`: the replica lacks the old primary's last commits.
    fn begin(lags: bool) -> Return {
        let site = Site::new();
        let ports = site.pair.ports();
        let servers = ["first", "second"].map(|name| site.start(name, ports));
        let old = site.pair.primary();
        site.under_load(&servers.each_ref(), || {
            await_reservations(old);
            if lags {
                site.pair.stop_replication();
                await_reservations(old);
            } else {
                old.set_read_only(true);
                site.pair.await_replication();
            }
            old.kill();
            site.pair.promote();
            await_reservations(site.pair.primary());
            await_reservations(site.pair.primary());
            old.restart();
            old.set_read_only(false);
        });
        site.assert_no_duplicate();
        Return { site, servers }
    }

    fn old_primary(&self) -> &MariaDb {
        self.site.pair.replica()
    }

    /// These and the servers from before are at work for so long. None writes to the old primary.
    fn endure(&self, more: &[&Server], stay: Duration) {
        let left_at = self.old_primary().variable("gtid_binlog_pos");
        let all = [&self.servers.each_ref(), more].concat();
        self.site.under_load(&all, || thread::sleep(stay));
        self.site.assert_no_duplicate();
        assert_eq!(self.old_primary().variable("gtid_binlog_pos"), left_at, "it was written to");
    }

    /// The server hands out IDs.
    fn assert_serves(&self, server: &Server) {
        Consumer::new(server.port(), TAG, &self.site.ledger).use_up(1000).expect("IDs");
        self.site.assert_no_duplicate();
    }
}

#[test]
fn servers_do_not_return_to_an_old_primary_that_lacks_what_they_were_granted() {
    let mut at = Return::begin(false);
    // One of them has to find its way again, with what its watermark file knows.
    let [first, _] = &mut at.servers;
    let name = "first";
    first.signal(libc::SIGKILL);
    first.wait();
    *first = at.site.begin(name, at.site.pair.ports());
    at.endure(&[], RETURN);
    at.servers.iter().for_each(|server| at.assert_serves(server));
}

#[test]
fn a_new_server_does_not_begin_with_an_old_primary_that_lacks_what_others_were_granted() {
    let at = Return::begin(false);
    let new = at.site.begin("new", at.site.pair.ports());
    at.endure(&[&new], CUT_OFF);
    at.assert_serves(&new);
}

/// Nobody can tell a new server which of the two is right.
#[test]
fn a_new_server_takes_nothing_where_each_of_two_hosts_has_commits_that_the_other_lacks() {
    let at = Return::begin(true);
    let new = at.site.begin("new", at.site.pair.ports());
    at.endure(&[], CUT_OFF);
    let refused = new.get(ALLOC);
    assert_eq!(refused.status, 503, "{refused:?}");
    at.old_primary().set_read_only(true);
    at.assert_serves(&new);
}

// ---- what `check` says ----

/// What `check` prints of the host at this port.
fn said_of(stdout: &str, port: u16) -> String {
    let lines: Vec<_> = stdout.lines().filter(|line| line.contains(&format!(":{port}"))).collect();
    assert!(!lines.is_empty(), "nothing of port {port}: {stdout}");
    lines.join("\n")
}

#[test]
fn check_says_of_every_host_whether_it_is_fit() {
    let site = Site::new();
    let ports = site.pair.ports();
    let check = || {
        let ended = Setup::on(&MariaDb::dsn_of_ports(&ports)).check();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ports.map(|port| said_of(&ended.stdout, port))
    };
    let position = site.pair.primary().variable("gtid_binlog_pos");
    let [of_primary, _] = check();
    assert!(of_primary.contains("warning") && of_primary.contains("SLAVE MONITOR"), "{of_primary}");
    site.pair.show_replication();
    let [of_primary, of_replica] = check();
    assert!(of_primary.contains(&position) && !of_primary.contains("warning"), "{of_primary}");
    assert!(of_replica.contains(&position) && of_replica.contains("is a replica"), "{of_replica}");
    site.pair.replica().set_read_only(true);
    assert!(check()[1].contains("read_only"), "{:?}", check());
    site.pair.primary().kill();
    site.pair.promote();
    let [of_old, of_new] = check();
    assert!(of_old.contains("unreachable"), "{of_old}");
    assert!(of_new.contains(&position) && !of_new.contains("is a replica"), "{of_new}");
}
