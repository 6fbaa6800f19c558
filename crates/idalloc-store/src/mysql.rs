//! Segments in MySQL or MariaDB.
//!
//! A reservation is one prepared `UPDATE` in autocommit mode, one round trip: the new `max_id` comes back in the
//! acknowledgement itself (`LAST_INSERT_ID(expr)`), so the value is exactly that of the commit that was acknowledged.
//! A statement is sent once and never repeated: what became of it is unknown when its answer is lost.
//!
//! An acknowledgement does not say what it acknowledges. So that one for an earlier statement, which somebody between
//! here and there delivered twice, is not taken for that of the newest, a session is left when there are bytes to read
//! before anything was asked, and reservations carry an alternating bit, which comes back.

mod account;
mod backend;
mod check;
mod choice;
mod conn;
pub mod dsn;
mod grants;
mod host;
mod identity;
mod password;
mod read;
mod schema;
mod session;
mod slots;
mod tags;

use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql::prelude::FromRow;
use mysql::{DriverError, MySqlError, Params, Row, Value};

use self::choice::HostChoice;
use self::conn::Conn;
use self::host::{Host, insist_on_writes};
use self::identity::{Look, Replication};
use self::slots::{Open, Slot};
use idalloc_core::store::report::{Code, Finding};
use idalloc_core::store::server::Server;
use idalloc_core::store::{Floor, LOOK_UP_MAX, Rest, Rows, SegmentStore, StoreError, StoreReport, TagRow};

use crate::dsn::MySqlDsn;
use crate::table::TableSpec;
use crate::{NEEDS_DEFAULT, allowed_max_ids, why_not_reserved};

pub use backend::MySqlBackend;

/// Where the alternating bit is in `LAST_INSERT_ID`: no `max_id` needs this one.
const ALTERNATING_BIT_PLACE: u32 = 63;

/// How many parameters a reservation has.
const RESERVE_PARAMS: usize = 7;

/// How many tags a look-up may have, the least that will do.
const LOOK_UP_SIZES: [usize; 3] = [1, 16, LOOK_UP_MAX];

/// What an account lacks that may not see whether its host is a replica.
const MAY_NOT_LOOK: &str =
    "this account may not see whether the host is a replica, whose IDs would be granted twice";
const MAY_LOOK: &str = "run: GRANT REPLICATION CLIENT ON *.* TO the account; (MariaDB: GRANT SLAVE MONITOR)";

/// A Galera node's error without its cluster.
const NOT_READY: u16 = 1047;

/// A session that loses its connection after so long a rest was cut for resting.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// How often in a row a host may be not ready before a session leaves it.
const NOT_READY_MAX: u32 = 3;

/// One session with MySQL or MariaDB: at most one connection, to one of the hosts of the DSN.
pub struct MySqlStore {
    hosts: Arc<[Host]>,
    /// Shared with its [siblings](Self::sibling).
    choice: Arc<HostChoice>,
    table: Table,
    /// Where the session is between calls.
    slot: Slot<Session>,
    /// Index of the host that answered the newest call.
    answered_by: Option<usize>,
    /// Index of the host that the newest session was dropped for.
    left: Option<usize>,
    return_after: Duration,
    fails_fast_on_locks: bool,
    /// Whether a host will do only if its table is as it must be. Where there is but one, its own errors say more.
    vets_hosts: bool,
    /// Whether the newest statement was sent, and what came of it is unknown.
    is_in_doubt: bool,
    /// The server that the caller was told of, for the next reservation.
    told: Option<Arc<Server>>,
}

impl MySqlStore {
    /// Prepares a session with `table` on the hosts of `dsn`. Connects at the first call, and again after a loss.
    #[must_use]
    pub fn new(dsn: &MySqlDsn, table: &TableSpec) -> MySqlStore {
        let hosts: Arc<[Host]> = dsn.endpoints.iter().map(|endpoint| Host::new(dsn, endpoint)).collect();
        let choice = HostChoice::new(hosts.len(), Instant::now());
        MySqlStore {
            vets_hosts: hosts.len() > 1,
            hosts,
            choice: Arc::new(choice),
            table: Table::new(table),
            slot: Slot::new(),
            answered_by: None,
            left: None,
            return_after: Duration::from_secs(30),
            fails_fast_on_locks: false,
            is_in_doubt: false,
            told: None,
        }
    }

    /// Another session with the same table. The two, and all further ones, stay together on one host: when one has to
    /// leave it, or finds the DSN's first back, the others follow at their next calls. Where the account may not have as
    /// many connections, they take turns.
    #[must_use]
    pub fn sibling(&self) -> MySqlStore {
        MySqlStore {
            hosts: self.hosts.clone(),
            choice: self.choice.clone(),
            table: Table::new(&self.table.spec),
            slot: self.slot.sibling(),
            answered_by: None,
            left: None,
            told: None,
            ..*self
        }
    }

    /// Sets how long to stay with another host before the DSN's first is tried again; 30 s unless set.
    #[must_use]
    pub fn return_after(mut self, stay: Duration) -> MySqlStore {
        self.return_after = stay;
        self
    }

    /// Runs `ask` on the connection, which lives on only if its state is known afterwards.
    fn call<T>(
        &mut self,
        ask: impl FnOnce(&mut Session, &Table) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.is_in_doubt = false;
        let mut session = self.take_session()?;
        let was_idle = session.last_answer.elapsed() >= IDLE_MIN;
        match ask(&mut session, &self.table) {
            Ok(answer) => {
                session.answered();
                self.keep(session);
                Ok(answer)
            }
            Err(failure) => {
                self.is_in_doubt = failure.leaves_doubt();
                Err(self.judge(failure, session, was_idle))
            }
        }
    }

    fn take_session(&mut self) -> Result<Session, StoreError> {
        self.answered_by = None;
        let kept = self.slot.take().filter(|session| self.may_go_on(session));
        let session = kept.map_or_else(|| self.connect_or_wait(), Ok)?;
        self.left = None;
        Ok(session)
    }

    fn keep(&mut self, session: Session) {
        self.answered_by = Some(session.host);
        self.slot.keep(session);
    }

    fn may_go_on(&self, session: &Session) -> bool {
        session.host == self.choice.current() && session.conn.is_quiet()
    }

    /// What a failure means to the caller, to the session, and to the host it was with.
    fn judge(&mut self, failure: Failure, mut session: Session, was_idle: bool) -> StoreError {
        let host = session.host;
        let was_cut = was_idle && failure.is_disconnect();
        let is_not_ready = failure.is_not_ready();
        let error = failure.judge(&session.place, &self.table);
        match error {
            // A Galera node is not ready for moments, as when the cluster counts its members, or for long, when it has
            // lost them. For a moment's sake all sessions would be elsewhere until the first host is tried again.
            StoreError::Unavailable(text) if is_not_ready && session.not_ready < NOT_READY_MAX => {
                session.not_ready += 1;
                self.keep(session);
                return StoreError::Contended(text);
            }
            // The host is the first to be tried again: it may well be up.
            StoreError::Unavailable(_) if was_cut => {}
            StoreError::Unavailable(_) | StoreError::ReadOnly(_) => {
                self.choice.set_vetted(host, false);
                self.left = Some(host);
            }
            StoreError::Schema(_) | StoreError::Denied(_) => {
                self.choice.set_vetted(host, false);
                // A stand-in that cannot stand in is no reason to stay; the first host is where the table belongs.
                self.left = Some(host).filter(|host| *host != 0);
            }
            _ if error.is_answer() => self.keep(session),
            _ => {}
        }
        error
    }

    /// A new session; where siblings have all the connections that the account may have, one closes its session for it.
    fn connect_or_wait(&self) -> Result<Session, StoreError> {
        let mut refusal = None;
        if !self.slot.is_queued_for() {
            match self.connect(|| self.slot.any_open()) {
                Err(Refused::OverLimit(error)) if self.slot.any_open() => refusal = Some(error),
                result => {
                    let session = result.map_err(Refused::into_error)?;
                    tracing::info!(host = session.place, "connected to the store");
                    return Ok(session);
                }
            }
        }
        // What a sibling has just closed, the server may count for a moment longer.
        let connected = self.slot.connect_in_turn(|| match self.connect(|| true) {
            Err(Refused::OverLimit(error)) => {
                refusal = Some(error);
                None
            }
            result => Some(result.map_err(Refused::into_error)),
        });
        connected.unwrap_or_else(|| {
            Err(refusal.unwrap_or_else(|| StoreError::Unavailable("all connections were in use".into())))
        })
    }

    /// Tries every host once, or none after one that grants no more connections to an account whose connections are ours
    /// to share. When none will do, the error is the one most likely to pass by itself. A host that lacks commits that
    /// were seen is taken only after all the others: then they are lost.
    fn connect(&self, are_ours: impl Fn() -> bool) -> Result<Session, Refused> {
        self.compare_hosts().map_err(Refused::For)?;
        let mut failure = None;
        let mut behind = Vec::new();
        for host in self.choice.order(self.left) {
            match self.open(host, Lag::Refused) {
                Ok(session) => return Ok(session),
                Err(Refused::Behind) => behind.push(host),
                Err(Refused::OverLimit(error)) if are_ours() => return Err(Refused::OverLimit(error)),
                Err(refused) => {
                    let (error, name) = (refused.into_error(), &self.hosts[host].name);
                    tracing::debug!(host = %name, %error, "store host skipped");
                    if !matches!(failure, Some(StoreError::Unavailable(_))) {
                        failure = Some(error);
                    }
                }
            }
        }
        for host in behind {
            match self.open(host, Lag::Taken) {
                Ok(session) => return Ok(session),
                Err(Refused::Behind) => {}
                Err(Refused::OverLimit(error)) if are_ours() => return Err(Refused::OverLimit(error)),
                Err(refused) => failure = Some(refused.into_error()),
            }
        }
        let error = failure.unwrap_or_else(|| StoreError::Unavailable("the DSN names no host".into()));
        Err(Refused::For(error))
    }

    /// Before the first session, hosts that would grant IDs are compared with each other: an old primary that came back
    /// writable lacks what the new one has granted, and no position that was seen in time may tell.
    fn compare_hosts(&self) -> Result<(), StoreError> {
        if !self.vets_hosts || self.choice.trusts_every_server() || self.choice.is_compared() {
            return Ok(());
        }
        let all = (0..self.hosts.len()).map(|host| (&self.hosts[host].name, self.look(host)));
        let fit: Vec<_> = all
            .filter_map(|(name, look)| look.ok().map(|look| (name, look)))
            .filter(|(_, look)| look.replication != Replication::Running)
            .collect();
        let has_all = |one: &Look| {
            fit.iter().all(|(_, other)| {
                one.server.id == other.server.id
                    || one.server.position.contains(&other.server.position.to_text())
            })
        };
        match fit.iter().find(|(_, look)| has_all(look)) {
            Some((_, foremost)) => self.choice.set_position(foremost.server.position.to_text()),
            None if fit.is_empty() => return Ok(()),
            None => {
                let names: Vec<_> = fit.iter().map(|(name, _)| name.as_str()).collect();
                return Err(StoreError::ReadOnly(format!(
                    "each of {} takes writes and lacks commits that another one has: make all but the primary read-only, \
                     or take them out of the DSN",
                    names.join(", ")
                )));
            }
        }
        self.choice.set_compared();
        Ok(())
    }

    /// A look at a host that takes writes.
    fn look(&self, host: usize) -> Result<Look, Failure> {
        let (mut conn, _) = self.hosts[host].connect(self.fails_fast_on_locks)?;
        Ok(identity::look(&mut conn)?)
    }

    /// Says of every host whether it would stand in.
    fn report_hosts(&self, report: &mut StoreReport) {
        for (host, Host { name, .. }) in self.hosts.iter().enumerate() {
            match self.look(host).map_err(|failure| failure.judge(name, &self.table)) {
                Ok(look) if look.replication == Replication::Running => report.findings.push(
                    Finding::warning(
                        Code::Host,
                        format!(
                            "{name} is a replica that takes writes, which its primary does not get; position: {}",
                            look.server.position.to_text()
                        ),
                    )
                    .with_remedy("run there: SET GLOBAL read_only = 1; and set it in the option file"),
                ),
                Ok(look) => {
                    let replication = match look.replication {
                        Replication::Hidden => "whether replication is running is hidden",
                        Replication::Stopped | Replication::Running => "no replication is running",
                    };
                    let position = look.server.position.to_text();
                    let text = format!("{name} takes writes, and {replication}; position: {position}");
                    report.findings.push(Finding::ok(Code::Host, text));
                }
                Err(StoreError::ReadOnly(text)) => {
                    let text = format!("{text}, as a stand-in should be");
                    report.findings.push(Finding::ok(Code::Host, text));
                }
                Err(error) => report.findings.push(Finding::warning(Code::Host, error.to_string())),
            }
        }
    }

    /// A session with a host that will do.
    fn open(&self, host: usize, lag: Lag) -> Result<Session, Refused> {
        self.choice.trying(host, Instant::now());
        let place = self.hosts[host].name.clone();
        let judged = |failure: Failure| Refused::For(failure.judge(&place, &self.table));
        // From here on: a sibling that is refused because of this connect has to wait, and not to fail.
        let open = self.slot.open();
        let connected = self.hosts[host].connect(self.fails_fast_on_locks);
        let (mut conn, settings) = connected.map_err(|failure| {
            if failure.is_over_limit() {
                return Refused::OverLimit(failure.judge(&place, &self.table));
            }
            // Who knows what comes back.
            self.choice.set_vetted(host, false);
            judged(failure)
        })?;
        let look = identity::look(&mut conn).map_err(|error| judged(error.into()))?;
        if !self.choice.trusts_every_server() {
            insist_on_no_replication(&look, &place).map_err(Refused::For)?;
            if lag == Lag::Refused && !look.server.position.contains(&self.choice.position()) {
                return Err(Refused::Behind);
            }
        }
        let mut untold = Vec::new();
        if self.vets_hosts && !self.choice.is_vetted(host) {
            untold = self.table.vet(&mut conn, &place).map_err(judged)?.warnings();
            self.choice.set_vetted(host, true);
        }
        self.choice.reached(host);
        if lag == Lag::Taken {
            // What it lacks is lost: from now on the others must not lag behind this one.
            self.choice.set_position(look.server.position.to_text());
        }
        Ok(Session {
            conn,
            statements: self.table.statements(!settings.logs_statements),
            host,
            place,
            server: Arc::new(look.server),
            has_update_time: None,
            alternating_bit: 0,
            untold,
            not_ready: 0,
            last_answer: Instant::now(),
            _open: open,
        })
    }

    /// Leaves a stand-in, for all siblings, if the DSN's first host is back.
    fn return_to_first_host(&mut self) {
        if !self.choice.is_return_due(self.return_after, Instant::now()) {
            return;
        }
        match self.open(0, Lag::Refused) {
            Ok(session) => {
                tracing::info!(host = session.place, "returned to the first store host");
                self.keep(session);
            }
            Err(Refused::For(error) | Refused::OverLimit(error)) => {
                tracing::debug!(%error, "the first store host is not back")
            }
            Err(Refused::Behind) => {
                tracing::debug!("the first store host is back, and lacks commits that were seen");
            }
        }
    }
}

impl SegmentStore for MySqlStore {
    fn host(&self) -> Option<&str> {
        self.answered_by.map(|host| self.hosts[host].name.as_str())
    }

    fn server(&mut self) -> Result<Option<Arc<Server>>, StoreError> {
        let session = self.take_session()?;
        self.told = Some(session.server.clone());
        self.keep(session);
        Ok(self.told.clone())
    }

    fn recall(&mut self, position: &str) {
        self.choice.set_position(position.to_owned());
    }

    fn trust_every_server(&mut self) {
        self.choice.trust_every_server();
    }

    fn forget_session(&mut self) {
        self.answered_by = None;
        drop(self.slot.take());
    }

    fn fail_fast_on_locks(&mut self) {
        self.fails_fast_on_locks = true;
        // The wait is set when a session is opened.
        self.forget_session();
    }

    fn ignores_case(&mut self) -> Result<bool, StoreError> {
        self.call(|Session { conn, .. }, _| {
            let setting: Vec<(u64,)> = rows(conn, "SELECT @@lower_case_table_names", ())?;
            Ok(setting.first().is_some_and(|(setting,)| *setting != 0))
        })
    }

    fn check(&mut self) -> Result<StoreReport, StoreError> {
        let hosts = self.hosts.clone();
        let mut report = self.call(|Session { conn, statements, place, untold, host, .. }, table| {
            let mut report = table.vet(conn, place)?;
            // Preparing it asks for every privilege that a reservation needs.
            conn.insist_on_privileges(&statements.reserve, RESERVE_PARAMS)?;
            // The report tells it.
            untold.clear();
            if identity::look(conn)?.replication == Replication::Hidden {
                let text = format!("{place}: {MAY_NOT_LOOK}");
                report.findings.push(Finding::warning(Code::Replication, text).with_remedy(MAY_LOOK));
            }
            report.findings.extend(account::check_password(conn, &hosts[*host])?);
            Ok(report)
        })?;
        if self.vets_hosts {
            self.report_hosts(&mut report);
        }
        Ok(report)
    }

    fn list_tags(&mut self, limit: usize) -> Result<Rows<TagRow>, StoreError> {
        self.return_to_first_host();
        let choice = self.choice.clone();
        self.call(|session, table| {
            let order = session.order(table)?;
            let sql = format!("SELECT {}, max_id, step FROM {} {order} LIMIT ?", table.tag, table.name);
            let mut tags = Rows::new();
            session.conn.exec_each(&sql, (limit as u64,).into(), |row| {
                tags.push(read::listed(row, |row| read::tag_row(&row)));
                Ok(())
            })?;
            let look = identity::look(&mut session.conn)?;
            if !choice.trusts_every_server() {
                insist_on_no_replication(&look, &session.place)?;
            }
            choice.set_position(look.server.position.to_text());
            session.server = Arc::new(look.server);
            Ok(tags)
        })
    }

    fn look_up(&mut self, tags: &[&str]) -> Result<Rows<TagRow>, StoreError> {
        let found = self.call(|Session { conn, .. }, table| table.look_up(conn, tags));
        match (found, tags) {
            // One of them cannot even be compared with the column: which?
            (Err(StoreError::UnknownTag), [_]) => Ok(Rows::new()),
            (Err(StoreError::UnknownTag), tags) => {
                let (some, others) = tags.split_at(tags.len() / 2);
                let (mut found, others) = (self.look_up(some)?, self.look_up(others)?);
                found.readable.extend(others.readable);
                found.unreadable.extend(others.unreadable);
                Ok(found)
            }
            (found, _) => found,
        }
    }

    fn reserve_above(&mut self, tag: &str, amount: i64, floor: Floor) -> Result<i64, StoreError> {
        let allowed = allowed_max_ids(amount, floor)?;
        let told = self.told.take();
        self.call(|Session { conn, statements, place, alternating_bit, server, .. }, table| {
            // The floor is for the server that the caller was told of.
            if told.is_some_and(|told| !told.is(server)) {
                return Err(StoreError::Contended("the session is with another server now".into()).into());
            }
            *alternating_bit ^= 1;
            let (ahead, first) = (floor.ahead(), floor.first_allowed());
            let params = (ahead, first, amount, *alternating_bit, tag, allowed.start(), allowed.end());
            conn.exec_drop(&statements.reserve, params)?;
            match acknowledged_rows(conn)? {
                1 => Ok(acknowledged_max_id(conn, amount, *alternating_bit)?),
                0 => {
                    insist_on_writes(conn, place)?;
                    Err(table.why_not_reserved(conn, tag, &allowed, floor.ahead())?.into())
                }
                rows => Err(StoreError::Unexpected(format!("{rows} rows have this tag")).into()),
            }
        })
    }

    fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    fn give_back(&mut self, rests: &[Rest<'_>]) -> Result<Vec<bool>, StoreError> {
        if rests.is_empty() {
            return Ok(Vec::new());
        }
        self.call(|Session { conn, statements, .. }, table| {
            let (sql, params) = table.give_back(rests, statements.guard);
            conn.exec_drop(sql, params)?;
            // One statement, one transaction: no lock outlives it, should this server or its network be lost.
            let changed = acknowledged_rows(conn)?;
            match usize::try_from(changed) == Ok(rests.len()) {
                true => Ok(vec![true; rests.len()]),
                false => table.which_were_given_back(conn, rests, changed),
            }
        })
    }
}

/// How many rows the last statement changed. A warning may mean a clamped value, so it is as bad as an error.
fn acknowledged_rows(conn: &Conn) -> Result<u64, StoreError> {
    match conn.warnings() {
        0 => Ok(conn.affected_rows()),
        warnings => Err(StoreError::Unexpected(format!("the update raised {warnings} warnings"))),
    }
}

/// The new `max_id` that came back with a reservation of `amount` IDs that carried `alternating_bit`.
fn acknowledged_max_id(conn: &Conn, amount: i64, alternating_bit: u64) -> Result<i64, StoreError> {
    let answer = conn.last_insert_id();
    let max_id = (answer ^ (alternating_bit << ALTERNATING_BIT_PLACE)).cast_signed();
    // Negative if the bit is not ours; 0 is what a statement without `LAST_INSERT_ID` is answered with.
    if max_id < amount {
        return Err(StoreError::Unexpected(format!(
            "LAST_INSERT_ID is {answer} after {amount} IDs were reserved: it is that of an earlier statement, \
             or a trigger hides it"
        )));
    }
    Ok(max_id)
}

/// Whether a host will do that lacks commits that were seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lag {
    Refused,
    Taken,
}

/// Why there is no session with a host.
enum Refused {
    For(StoreError),
    /// It lacks commits that were seen.
    Behind,
    /// The account has as many connections there as it may have.
    OverLimit(StoreError),
}

impl Refused {
    fn into_error(self) -> StoreError {
        match self {
            Refused::For(error) | Refused::OverLimit(error) => error,
            Refused::Behind => StoreError::Unavailable("the host lacks commits that were seen".into()),
        }
    }
}

/// What a replica is told itself is lost, or breaks its replication.
fn insist_on_no_replication(look: &Look, place: &str) -> Result<(), StoreError> {
    match look.replication {
        Replication::Running => Err(StoreError::ReadOnly(format!(
            "{place}: it is a replica whose replication is running, so it grants no IDs; promote it (STOP REPLICA), or set \
             FailoverGuard to off"
        ))),
        Replication::Stopped | Replication::Hidden => Ok(()),
    }
}

/// A live connection.
struct Session {
    conn: Conn,
    statements: Statements,
    /// Index of the host it leads to.
    host: usize,
    /// Its name.
    place: String,
    /// Who is at the other end.
    server: Arc<Server>,
    has_update_time: Option<bool>,
    /// That of the newest reservation: 0 or 1.
    alternating_bit: u64,
    /// What was found at the first visit to the host that risks IDs, and is not in the log yet.
    untold: Vec<String>,
    /// How often in a row the host was not ready.
    not_ready: u32,
    last_answer: Instant,
    /// The last field: it outlives the connection.
    _open: Open,
}

impl Session {
    fn answered(&mut self) {
        self.last_answer = Instant::now();
        self.not_ready = 0;
        for warning in self.untold.drain(..) {
            tracing::warn!(host = self.place, "{warning}");
        }
    }

    /// The clause that puts the most recently used tag first, if the table records that.
    fn order(&mut self, table: &Table) -> Result<&'static str, Failure> {
        let has_update_time = match self.has_update_time {
            Some(known) => known,
            None => *self.has_update_time.insert(table.has_column(&mut self.conn, "update_time")?),
        };
        Ok(if has_update_time { "ORDER BY update_time DESC" } else { "" })
    }
}

/// The statements that a reservation, and what may follow it, takes.
struct Statements {
    reserve: String,
    raise: String,
    /// The condition under which any statement may change a row, to go on a condition.
    guard: &'static str,
}

/// The table, and its names quoted for SQL.
struct Table {
    spec: TableSpec,
    name: String,
    tag: String,
    /// The condition that selects the row of a tag, byte by byte, given twice; the first time for the sake of the index.
    is_exactly: String,
}

impl Table {
    fn new(spec: &TableSpec) -> Table {
        let (name, tag) = (spec.quoted(), spec.tag_column.quoted());
        Table {
            spec: spec.clone(),
            is_exactly: format!(
                "{tag} = ? AND CAST(CONVERT({tag} USING utf8mb4) AS BINARY) = CAST(? AS BINARY)"
            ),
            name,
            tag,
        }
    }

    /// A server that was made read-only takes writes all the same from a user with SUPER: an old primary after a
    /// failover, whose `max_id` is of no account any more. `guarded`, the statements change nothing there. (Where the
    /// binary log has statements, one that reads a global variable raises a warning: replicas might see another value.)
    fn statements(&self, guarded: bool) -> Statements {
        let Table { name, tag, .. } = self;
        let guard = if guarded { "AND CONCAT(@@GLOBAL.read_only, '') IN ('0', 'OFF')" } else { "" };
        Statements {
            // An unsigned column would take a sum over 2^63: hence the upper limit. LAST_INSERT_ID is unsigned, so that a
            // negative sum would be an error: hence a first ID that is none.
            reserve: format!(
                "UPDATE {name} \
                 SET max_id = LAST_INSERT_ID((GREATEST(max_id + ?, ?) + ?) | (? << {ALTERNATING_BIT_PLACE})) & {} \
                 WHERE {tag} = ? AND max_id >= ? AND max_id <= ? {guard}",
                i64::MAX
            ),
            guard,
            raise: format!("UPDATE {name} SET max_id = ? WHERE {tag} = ? AND max_id < ? {guard}"),
        }
    }

    /// The statement that gives `rests` back, and its parameters. The rows are found by their keys.
    fn give_back(&self, rests: &[Rest<'_>], guard: &str) -> (String, Vec<Value>) {
        let Table { name, tag, .. } = self;
        let marks = vec!["?"; rests.len()].join(", ");
        let by_tag = format!("CASE {tag} {} END", "WHEN ? THEN ? ".repeat(rests.len()));
        let sql = format!(
            "UPDATE {name} SET max_id = {by_tag} WHERE {tag} IN ({marks}) AND max_id = {by_tag} {guard}"
        );
        let tags = rests.iter().map(|rest| rest.tag.into());
        let by_tag = |value: fn(&Rest<'_>) -> i64| {
            rests.iter().flat_map(move |rest| [rest.tag.into(), value(rest).into()])
        };
        let params = by_tag(|rest| rest.first_unclaimed).chain(tags).chain(by_tag(|rest| rest.end));
        (sql, params.collect())
    }

    /// Tells which of `rests` a statement gave back that changed so many rows.
    fn which_were_given_back(
        &self,
        conn: &mut Conn,
        rests: &[Rest<'_>],
        changed: u64,
    ) -> Result<Vec<bool>, Failure> {
        let marks = vec!["?"; rests.len()].join(", ");
        let sql = format!("SELECT {0}, max_id FROM {1} WHERE {0} IN ({marks})", self.tag, self.name);
        let tags: Vec<Value> = rests.iter().map(|rest| rest.tag.into()).collect();
        let found: HashMap<String, i64> = rows::<Row>(conn, sql, tags)?
            .iter()
            .filter_map(|row| Some((read::text(row, 0).ok()?, read::number(row, 1, "max_id").ok()?)))
            .collect();
        let is_lowered = |rest: &Rest<'_>| found.get(rest.tag) == Some(&rest.first_unclaimed);
        let given_back: Vec<_> = rests.iter().map(is_lowered).collect();
        let lowered = given_back.iter().filter(|is_lowered| **is_lowered).count();
        // More than were changed: some were there before, and nobody knows which.
        let is_sure = u64::try_from(lowered).is_ok_and(|lowered| lowered <= changed);
        Ok(if is_sure { given_back } else { vec![false; rests.len()] })
    }

    /// The `CREATE TABLE` of schema.sql, under this table's names, on one line.
    fn create_statement(&self) -> String {
        let statement = schema::create_table(&self.name, &self.tag);
        statement.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn has_column(&self, conn: &mut Conn, column: &str) -> Result<bool, mysql::Error> {
        let sql = format!("SHOW COLUMNS FROM {} WHERE Field = '{column}'", self.name);
        Ok(!rows::<Row>(conn, sql, ())?.is_empty())
    }

    /// The rows of these tags. Their number is rounded up, so that there are but a few different statements.
    fn look_up(&self, conn: &mut Conn, tags: &[&str]) -> Result<Rows<TagRow>, Failure> {
        let Some(last) = tags.last() else { return Ok(Rows::new()) };
        let padded = LOOK_UP_SIZES.into_iter().find(|size| *size >= tags.len()).unwrap_or(tags.len());
        let marks = vec!["?"; padded].join(", ");
        let sql = format!("SELECT {0}, max_id, step FROM {1} WHERE {0} IN ({marks})", self.tag, self.name);
        let padding = std::iter::repeat_n(last, padded - tags.len());
        let params: Vec<Value> = tags.iter().chain(padding).map(Value::from).collect();
        let mut found = Rows::new();
        conn.exec_each(&sql, params.into(), |row| {
            found.push(read::listed(row, |row| read::tag_row(&row)));
            Ok(())
        })?;
        Ok(found.only(tags))
    }

    /// Tells why a reservation changed no row.
    fn why_not_reserved(
        &self,
        conn: &mut Conn,
        tag: &str,
        allowed: &RangeInclusive<i64>,
        ahead: i64,
    ) -> Result<StoreError, Failure> {
        let sql = format!("SELECT max_id FROM {} WHERE {} = ?", self.name, self.tag);
        let found: Vec<Row> = rows(conn, sql, (tag,))?;
        Ok(match found.first().map(|row| read::number(row, 0, "max_id")) {
            None => StoreError::UnknownTag,
            Some(Err(reason)) => StoreError::Unreadable(reason),
            Some(Ok(max_id)) => why_not_reserved(max_id, allowed, ahead),
        })
    }

    /// The condition that selects this table in `information_schema`, and its parameters.
    fn in_schema(&self) -> (&'static str, (Option<&str>, &str)) {
        let database = self.spec.database.as_ref().map(|database| database.as_str());
        ("table_schema = COALESCE(?, DATABASE()) AND table_name = ?", (database, self.spec.name.as_str()))
    }
}

/// All rows of a short answer.
fn rows<T: FromRow>(
    conn: &mut Conn,
    sql: impl AsRef<str>,
    params: impl Into<Params>,
) -> Result<Vec<T>, mysql::Error> {
    let mut rows = Vec::new();
    conn.exec_each(sql.as_ref(), params.into(), |row| {
        rows.push(T::from_row_opt(row)?);
        Ok(())
    })?;
    Ok(rows)
}

/// Why a call came to nothing: the driver's or server's word, or our judgement of an answer.
enum Failure {
    Told(mysql::Error),
    Judged(StoreError),
}

impl Failure {
    /// The other end, or who stands between, has closed the connection. It did not merely take too long.
    fn is_disconnect(&self) -> bool {
        let Failure::Told(error) = self else { return false };
        io_error(error).is_some_and(|error| !is_timeout(error))
    }

    /// What became of the statement is unknown: no answer came, or one that makes no sense.
    fn leaves_doubt(&self) -> bool {
        match self {
            Failure::Told(error) => !matches!(error, mysql::Error::MySqlError(_)),
            Failure::Judged(error) => matches!(error, StoreError::Unexpected(_)),
        }
    }

    /// A Galera node takes no statements: it is without its cluster.
    fn is_not_ready(&self) -> bool {
        matches!(self, Failure::Told(mysql::Error::MySqlError(error)) if error.code == NOT_READY)
    }

    /// The account has as many connections as it may have. (A server with too many connections of all accounts is no such
    /// case: another program would take the one that a session here gives up.)
    fn is_over_limit(&self) -> bool {
        let Failure::Told(mysql::Error::MySqlError(error)) = self else { return false };
        // The second is that of every limit of an account, of which most are by the hour.
        error.code == 1203 || error.code == 1226 && error.message.contains("max_user_connections")
    }

    fn judge(self, host: &str, table: &Table) -> StoreError {
        match self {
            Failure::Told(error) => store_error(host, table, &error),
            Failure::Judged(error) => error,
        }
    }
}

impl From<mysql::Error> for Failure {
    fn from(error: mysql::Error) -> Failure {
        Failure::Told(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Judged(error)
    }
}

/// What an error means to the caller. None of the texts can hold the password: a server never sends it back.
fn store_error(host: &str, table: &Table, error: &mysql::Error) -> StoreError {
    use mysql::Error;
    let text = match error {
        Error::MySqlError(error) => return server_error(host, table, error),
        Error::UrlError(_) | Error::FromValueError(_) | Error::FromRowError(_) => {
            return StoreError::Unexpected(format!("{host}: {error}"));
        }
        Error::DriverError(
            error @ (DriverError::UnknownAuthPlugin(_)
            | DriverError::OldMysqlPasswordDisabled
            | DriverError::CleartextPluginDisabled),
        ) => return StoreError::Denied(format!("{host}: {error}")),
        Error::DriverError(DriverError::CouldNotConnect(Some((_, reason, _)))) => reason.clone(),
        Error::DriverError(error) => error.to_string(),
        Error::TlsError(error) => error.to_string(),
        Error::IoError(_) | Error::CodecError(_) => match io_error(error) {
            Some(error) if is_timeout(error) => "no answer in time".into(),
            Some(error) => error.to_string(),
            None => error.to_string(),
        },
    };
    StoreError::Unavailable(format!("{host}: {text}"))
}

/// What the system said, where that is why.
fn io_error(error: &mysql::Error) -> Option<&io::Error> {
    match error {
        mysql::Error::IoError(error) => Some(error),
        mysql::Error::CodecError(error) => std::error::Error::source(error)?.downcast_ref(),
        _ => None,
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// What a server's error code means; see MySQL's and MariaDB's error references.
fn server_error(host: &str, table: &Table, error: &MySqlError) -> StoreError {
    let text = format!("{host}: {} (error {}, state {})", error.message, error.code, error.state);
    match error.code {
        // A privilege on the table that the account lacks.
        1142 if let Some((privilege, _)) = error.message.split_once(" command denied to user ") => {
            StoreError::Denied(format!("{text}; run: GRANT {privilege} ON {} TO the account;", table.name))
        }
        // Deadlock or failed certification; lock wait; record changed since the snapshot; rolled back at commit; the
        // table, or a prepared statement, changed meanwhile; a limit of a statement's time (MySQL's, MariaDB's).
        1213 | 1205 | 1020 | 3101 | 1412 | 1615 | 3024 | 1969 => StoreError::Contended(text),
        // Read-only option, transaction, mode, InnoDB or table; a replication plugin that refuses commits.
        1290 | 1792 | 1836 | 1874 | 1036 | 3100 => StoreError::ReadOnly(text),
        // Access denied (by database, login, host, table, column, privilege, password); no such database.
        1044 | 1045 | 1049 | 1130 | 1142 | 1143 | 1227 | 1698
        // Host blocked; a way to log in, or its plugin, that one side lacks; password expired (for statements, for
        // logins); account locked (MySQL's, MariaDB's), or for some days; TLS required.
        | 1129 | 1251 | 1275 | 1524 | 1820 | 1862 | 3118 | 4151 | 3955 | 3159 => StoreError::Denied(text),
        1146 => StoreError::Schema(format!("{text}; run: {}", table.create_statement())),
        1364 => StoreError::Schema(format!("{text}; {NEEDS_DEFAULT}")),
        // A SELECT that would look at more rows than it may, although the session has no such limit.
        1104 => StoreError::Schema(format!("{text}; see max_join_size, and what is between here and there")),
        // No such column: what mends it depends on the others.
        1054 => StoreError::Schema(format!("{text}; see `idalloc check`")),
        // Too many connections; out of resources; shutting down; packet errors; aborted; killed; timed out while idle.
        // Not ready and failed commit (1180): another host may do better, as for a full disk or table, an error of the
        // storage engine, no memory, threads, locks or prepared statements left, and a server that is offline.
        1021
        | 1030
        | 1037
        | 1038
        | 1114
        | 1135
        | 1206
        | 1461
        | 3032
        | 3168
        | 1040
        | 1041
        | NOT_READY
        | 1053
        | 1077
        | 1079
        | 1158..=1161
        | 1180
        | 1184
        | 1203
        | 1226
        | 1317
        | 1927
        | 2006
        | 2013
        | 4031 => StoreError::Unavailable(text),
        // The tag has characters that the column's character set lacks, so no row can have it.
        1267 | 3988 => StoreError::UnknownTag,
        _ => StoreError::Unexpected(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Identifier;

    fn table() -> Table {
        let name = |text| Identifier::new(text).expect("an identifier");
        Table::new(&TableSpec {
            database: Some(name("ids")),
            name: name("leaf_alloc"),
            tag_column: name("biz_tag"),
        })
    }

    fn judged(code: u16) -> StoreError {
        let error = MySqlError { state: "HY000".into(), message: "why".into(), code };
        store_error("db:3306", &table(), &mysql::Error::MySqlError(error))
    }

    #[test]
    fn server_errors_are_told_apart() {
        let text = |code| format!("db:3306: why (error {code}, state HY000)");
        for code in [1213, 1205, 1020, 3101, 1412, 1615, 1969, 3024] {
            assert_eq!(judged(code), StoreError::Contended(text(code)));
        }
        for code in [1290, 1792, 1836, 1874, 1036, 3100] {
            assert_eq!(judged(code), StoreError::ReadOnly(text(code)));
        }
        for code in [1044, 1045, 1049, 1130, 1142, 1143, 1227, 1698, 1129, 1820, 1862, 3118, 4151, 3159] {
            assert_eq!(judged(code), StoreError::Denied(text(code)));
        }
        for code in
            [1040, 1041, 1047, 1053, 1077, 1079, 1158, 1159, 1160, 1161, 1180, 1184, 1203, 1226, 1317, 1927]
        {
            assert_eq!(judged(code), StoreError::Unavailable(text(code)));
        }
        for code in [2006, 2013, 4031, 1021, 1114, 1135, 1206, 1461, 3032, 3168] {
            assert_eq!(judged(code), StoreError::Unavailable(text(code)));
        }
        for code in [1267, 3988] {
            assert_eq!(judged(code), StoreError::UnknownTag);
        }
        let needs_default = format!("{}; {NEEDS_DEFAULT}", text(1364));
        assert_eq!(judged(1364), StoreError::Schema(needs_default));
        let create = table().create_statement();
        assert_eq!(judged(1146), StoreError::Schema(format!("{}; run: {create}", text(1146))));
        assert_eq!(judged(1054), StoreError::Schema(format!("{}; see `idalloc check`", text(1054))));
        for code in [1064, 1264, 1690, 65535] {
            assert_eq!(judged(code), StoreError::Unexpected(text(code)));
        }
    }

    #[test]
    fn driver_errors_are_told_apart() {
        use mysql::Error;
        let judge = |error| store_error("db:3306", &table(), &error);
        let unavailable = |text: &str| StoreError::Unavailable(format!("db:3306: {text}"));
        let refused = io::ErrorKind::ConnectionRefused;
        let could_not_connect = DriverError::CouldNotConnect(Some(("db".into(), "refused".into(), refused)));
        assert_eq!(judge(Error::DriverError(could_not_connect)), unavailable("refused"));
        assert_eq!(judge(Error::IoError(io::ErrorKind::WouldBlock.into())), unavailable("no answer in time"));
        assert_eq!(judge(Error::IoError(io::Error::other("cut off"))), unavailable("cut off"));
        assert!(matches!(
            judge(Error::DriverError(DriverError::PacketOutOfSync)),
            StoreError::Unavailable(_)
        ));
        for denied in [
            DriverError::UnknownAuthPlugin("x".into()),
            DriverError::OldMysqlPasswordDisabled,
            DriverError::CleartextPluginDisabled,
        ] {
            assert!(matches!(judge(Error::DriverError(denied)), StoreError::Denied(_)));
        }
        assert!(matches!(judge(Error::FromValueError(mysql::Value::NULL)), StoreError::Unexpected(_)));
    }

    #[test]
    fn the_create_statement_is_that_of_schema_sql_under_other_names() {
        let statement = table().create_statement();
        assert!(
            statement.starts_with("CREATE TABLE IF NOT EXISTS `ids`.`leaf_alloc` ( `biz_tag` VARCHAR(32) ")
        );
        assert!(statement.ends_with("PRIMARY KEY (`biz_tag`) ) ENGINE = InnoDB;"), "{statement}");
    }
}
