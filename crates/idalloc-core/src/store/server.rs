//! Which server a session speaks to, since when that one runs, and how far its log is: by these it is known whether
//! commits that were acknowledged may be lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How much longer than since the last look at its cluster a node must have run, to have been there then.
const UPTIME_TOLERANCE: Duration = Duration::from_secs(2);

/// The text of a server that no other continues, for when the one that was known is in doubt: none has an empty name.
pub const NO_SERVER: &str = "\n\n\n";

/// A server, as it was when somebody looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Who it is: itself, or the cluster in which no acknowledged commit is on one node only.
    pub id: String,
    /// Which node of the cluster, if it is one.
    pub node: String,
    /// When it started, in seconds, by its own clock; `None` where that is of no account.
    pub started_s: Option<i64>,
    /// How long it has been running.
    pub uptime: Duration,
    /// How far its log is.
    pub position: Position,
    /// When the look began; `None`: in an earlier process.
    pub began_at: Option<Instant>,
    /// When it was over; `None`: in an earlier process.
    pub looked_at: Option<Instant>,
}

/// What became of the commits that a server had acknowledged, as far as another look can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// All are there.
    Kept,
    /// Another server answers, or the same after a new start: they may be there, or not.
    Doubtful,
    /// It lacks what was there before.
    Lost,
}

impl Server {
    /// What this look says about what `known`, an earlier one, had acknowledged.
    #[must_use]
    pub fn continues(&self, known: &Server) -> Continuity {
        // A look at the log that is older than the other says nothing, nor does one at the same time.
        if self.is_newer_than(known)
            && self.id == known.id
            && !self.position.contains(&known.position.to_text())
        {
            return Continuity::Lost;
        }
        let kept = self.id == known.id
            && match self.node == known.node {
                true => self.started_s == known.started_s,
                false => self.ran_at(known.looked_at),
            };
        if kept { Continuity::Kept } else { Continuity::Doubtful }
    }

    /// Whether this look began when the other was over.
    #[must_use]
    pub fn is_newer_than(&self, other: &Server) -> bool {
        other.looked_at.is_none_or(|before| self.began_at.is_some_and(|at| at >= before))
    }

    /// Whether it is the same server, in the same run.
    #[must_use]
    pub fn is(&self, other: &Server) -> bool {
        (&self.id, &self.node, self.started_s) == (&other.id, &other.node, other.started_s)
    }

    fn ran_at(&self, then: Option<Instant>) -> bool {
        let (Some(now), Some(then)) = (self.looked_at, then) else { return false };
        self.uptime >= now.saturating_duration_since(then) + UPTIME_TOLERANCE
    }

    /// All of it that is to be remembered, as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let started = self.started_s.map(|at| at.to_string()).unwrap_or_default();
        [self.id.as_str(), &self.node, &started, &self.position.to_text()].join("\n")
    }

    /// What [`to_text`](Self::to_text) made.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Server> {
        let mut lines = text.splitn(4, '\n');
        Some(Server {
            id: lines.next()?.to_owned(),
            node: lines.next()?.to_owned(),
            started_s: lines.next()?.parse().ok(),
            uptime: Duration::ZERO,
            position: Position::Seen(lines.next()?.to_owned()),
            began_at: None,
            looked_at: None,
        })
    }
}

/// How far a server's log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// It does not tell.
    Unknown,
    /// What an earlier process has seen.
    Seen(String),
    /// MariaDB's: the newest transaction of each domain, and all that are known of each domain and server.
    MariaDb {
        /// `@@gtid_current_pos`, or `@@gtid_binlog_pos` where that is further.
        current: String,
        /// `@@gtid_binlog_state` and `@@gtid_slave_pos`.
        known: String,
        /// What came from other servers is in the state as well.
        logs_all: bool,
    },
    /// MySQL's `@@gtid_executed`.
    MySql(String),
    /// The newest transaction of a Galera cluster.
    Galera(u64),
}

impl Position {
    /// What is to be found in every later look.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Unknown => String::new(),
            Self::Seen(text) | Self::MySql(text) | Self::MariaDb { current: text, .. } => text.clone(),
            Self::Galera(number) => number.to_string(),
        }
    }

    /// Whether all is there that was seen before. What cannot be told from the texts is taken to be.
    #[must_use]
    pub fn contains(&self, seen: &str) -> bool {
        match self {
            Self::Unknown | Self::Seen(_) => true,
            Self::MariaDb { current, known, logs_all } => {
                gtids(seen).iter().all(|gtid| has_gtid(*gtid, &gtids(current), &gtids(known), *logs_all))
            }
            Self::MySql(executed) => is_subset(&gtid_set(seen), &gtid_set(executed)),
            Self::Galera(number) => seen.parse::<u64>().map_or(true, |seen| *number >= seen),
        }
    }
}

/// A transaction of MariaDB: domain, server, number.
type Gtid = (u64, u64, u64);

fn gtids(text: &str) -> Vec<Gtid> {
    let gtid = |text: &str| {
        let mut numbers = text.trim().split('-').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    text.split(',').filter_map(gtid).collect()
}

fn has_gtid((domain, server, number): Gtid, current: &[Gtid], known: &[Gtid], logs_all: bool) -> bool {
    let of_server = known.iter().filter(|gtid| (gtid.0, gtid.1) == (domain, server)).map(|gtid| gtid.2).max();
    match of_server {
        Some(newest) => newest >= number,
        // Its own log would know of it.
        None if logs_all && known.iter().any(|gtid| gtid.0 == domain) => false,
        None => current.iter().any(|gtid| gtid.0 == domain && gtid.2 >= number),
    }
}

/// Transactions of MySQL: intervals of numbers, both ends included, by who made them.
type GtidSet = BTreeMap<String, Vec<(u64, u64)>>;

fn gtid_set(text: &str) -> GtidSet {
    let mut set = GtidSet::new();
    for part in text.split(',') {
        // server:1-5:7, or server:tag:1-5.
        let mut source = String::new();
        for piece in part.trim().split(':') {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) if !source.is_empty() => {
                    set.entry(source.clone()).or_default().push((first, last));
                }
                _ => source = format!("{source}:{}", piece.to_ascii_lowercase()),
            }
        }
    }
    set
}

fn is_subset(inner: &GtidSet, outer: &GtidSet) -> bool {
    inner.iter().all(|(source, intervals)| {
        let there = outer.get(source);
        intervals.iter().all(|(first, last)| {
            there.is_some_and(|there| there.iter().any(|(from, to)| from <= first && last <= to))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mariadb(current: &str, known: &str, logs_all: bool) -> Position {
        Position::MariaDb { current: current.into(), known: known.into(), logs_all }
    }

    fn server(started_s: i64, position: Position) -> Server {
        Server {
            id: "a".into(),
            node: String::new(),
            started_s: Some(started_s),
            uptime: Duration::from_secs(100),
            position,
            began_at: Some(Instant::now()),
            looked_at: Some(Instant::now()),
        }
    }

    #[test]
    fn a_mariadb_that_lacks_what_was_seen_is_told_from_one_that_does_not() {
        let replica = mariadb("0-1-100", "0-1-100", true);
        assert!(replica.contains("0-1-100") && replica.contains("") && replica.contains("nonsense"));
        assert!(!replica.contains("0-1-101"));
        // Promoted, it has gone on by itself.
        let promoted = mariadb("0-2-115", "0-1-100,0-2-115", true);
        assert!(!promoted.contains("0-1-110"), "a higher number of its own does not make up for it");
        assert!(promoted.contains("0-2-115"));
        // The old primary never heard of that.
        assert!(!mariadb("0-1-130", "0-1-130", true).contains("0-2-115"));
        // Restored from a backup, with an empty log: the replica's position says how far it is.
        assert!(mariadb("0-2-101", "0-2-101,0-1-100", true).contains("0-1-100"));
        // Without its own log of what others did, the number alone has to do.
        assert!(mariadb("0-1-100", "", false).contains("0-3-90"));
    }

    #[test]
    fn a_mysql_that_lacks_what_was_seen_is_told_from_one_that_does_not() {
        let executed = Position::MySql("AA:1-100:105-110,\nbb:1-3, bb:tag:1-5".into());
        for there in ["aa:1-100", "aa:106", "aa:2-3:107-110,bb:3", "bb:tag:2", ""] {
            assert!(executed.contains(there), "{there}");
        }
        for lacking in ["aa:99-101", "aa:1-110", "cc:1", "bb:4", "bb:other:1", "bb:tag:6"] {
            assert!(!executed.contains(lacking), "{lacking}");
        }
    }

    #[test]
    fn a_new_start_is_doubtful_and_a_log_that_went_back_is_a_loss() {
        let known = server(1000, Position::MySql("aa:1-10".into()));
        let look =
            |started_s, executed: &str| server(started_s, Position::MySql(executed.into())).continues(&known);
        assert_eq!(look(1000, "aa:1-12"), Continuity::Kept);
        assert_eq!(look(1001, "aa:1-12"), Continuity::Doubtful);
        assert_eq!(look(1000, "aa:1-9"), Continuity::Lost);
        let other = Server { id: "b".into(), ..server(1000, Position::Unknown) };
        assert_eq!(other.continues(&known), Continuity::Doubtful);
        let began_earlier = Server {
            began_at: known.began_at.and_then(|at| at.checked_sub(Duration::from_secs(1))),
            ..server(1000, Position::MySql("aa:1-9".into()))
        };
        assert_eq!(
            began_earlier.continues(&known),
            Continuity::Kept,
            "it may have looked before the other did"
        );
    }

    #[test]
    fn what_is_remembered_is_the_same_server() {
        let known = server(1000, mariadb("0-1-5", "0-1-5", true));
        let read = Server::from_text(&known.to_text()).expect("a server");
        assert_eq!(known.continues(&read), Continuity::Kept);
        assert_eq!(server(1000, mariadb("0-1-4", "0-1-4", true)).continues(&read), Continuity::Lost);
        assert_eq!(server(2000, mariadb("0-1-5", "0-1-5", true)).continues(&read), Continuity::Doubtful);
        assert_eq!(Server::from_text("x"), None);
        let none = Server::from_text(NO_SERVER).expect("a server");
        assert_eq!(known.continues(&none), Continuity::Doubtful);
    }

    #[test]
    fn a_node_of_a_cluster_that_was_running_then_has_all() {
        let now = Instant::now();
        let node = |node: &str, uptime_s, number, looked_at| Server {
            id: "cluster".into(),
            node: node.into(),
            started_s: Some(0),
            uptime: Duration::from_secs(uptime_s),
            position: Position::Galera(number),
            began_at: looked_at,
            looked_at,
        };
        let known = node("a", 100, 50, now.checked_sub(Duration::from_secs(10)));
        assert_eq!(node("b", 100, 50, Some(now)).continues(&known), Continuity::Kept);
        assert_eq!(node("b", 11, 50, Some(now)).continues(&known), Continuity::Doubtful);
        assert_eq!(node("b", 100, 49, Some(now)).continues(&known), Continuity::Lost);
        assert_eq!(node("b", 100, 50, Some(now)).continues(&node("a", 1, 1, None)), Continuity::Doubtful);
    }
}
