//! A connection: each statement on it has one deadline as a whole, and goes as text where the server prepares none.
//!
//! The driver's timeouts begin anew with every byte that arrives, so a host that sends one byte a second would keep a
//! statement alive for ever. Here a thread shuts the socket down at the deadline.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Opts, Params, Row, Value};
use socket2::Socket;

use idalloc_core::sync::lock;

/// So many rows have to arrive within the deadline of a statement; then the next so many have as long.
const ROWS_PER_DEADLINE: usize = 10_000;

/// A connect is to reach the host, and then to get in: each may take as long as the DSN's `timeout`.
const CONNECT_PHASES: u32 = 2;

/// With so many connects to one host that nobody waits for any more, and that are not over, no further one begins.
const LATE_CONNECTS_MAX: u32 = 8;

/// A server's error when it prepares no more statements: `max_prepared_stmt_count`.
const NO_MORE_PREPARED: u16 = 1461;

/// A connection to a server.
pub(super) struct Conn {
    inner: mysql::Conn,
    socket: Arc<Socket>,
    /// How long a statement may take, from its first byte to the answer's last.
    timeout: Duration,
    /// Statements with parameters are prepared. If not, they are sent as text.
    prepares: bool,
}

impl Conn {
    /// A connection by `opts`. It may take as long as `timeout` to reach the host, as long to get in, and so may each
    /// statement.
    pub(super) fn open(opts: &Opts, timeout: Duration, late: &LateConnects) -> Result<Conn, mysql::Error> {
        let inner = late.connect(opts, timeout.saturating_mul(CONNECT_PHASES))?;
        let socket = Arc::new(Socket::from(socket_of(&inner).try_clone_to_owned()?));
        Ok(Conn { inner, socket, timeout, prepares: true })
    }

    /// From now on, a statement may take as long as this.
    pub(super) fn set_timeouts(&mut self, read: Duration, write: Duration) -> io::Result<()> {
        self.timeout = read;
        self.socket.set_read_timeout(Some(read))?;
        self.socket.set_write_timeout(Some(write))
    }

    /// Runs a statement that has no parameters, as text.
    pub(super) fn query_drop(&mut self, sql: impl AsRef<str>) -> Result<(), mysql::Error> {
        self.timed(|conn, _| conn.query_drop(sql.as_ref()))
    }

    /// Runs a statement.
    pub(super) fn exec_drop(
        &mut self,
        sql: impl AsRef<str>,
        params: impl Into<Params>,
    ) -> Result<(), mysql::Error> {
        self.exec_each(sql.as_ref(), params.into(), |_| Ok(()))
    }

    /// Runs a statement, and hands over each row of its answer. No more of them are read after an error.
    pub(super) fn exec_each(
        &mut self,
        sql: &str,
        params: Params,
        mut each: impl FnMut(Row) -> Result<(), mysql::Error>,
    ) -> Result<(), mysql::Error> {
        if self.prepares {
            match self
                .timed(|conn, deadline| take_all(conn.exec_iter(sql, params.clone())?, deadline, &mut each))
            {
                // Nothing was executed: it is asked for before.
                Err(mysql::Error::MySqlError(error)) if error.code == NO_MORE_PREPARED => {
                    tracing::debug!(%error, "the server prepares no more statements: they are sent as text");
                    self.prepares = false;
                }
                result => return result,
            }
        }
        self.query_each(&as_text(sql, &params), each)
    }

    /// Runs a statement that has no parameters, as text, and hands over each row of its answer.
    pub(super) fn query_each(
        &mut self,
        sql: &str,
        mut each: impl FnMut(Row) -> Result<(), mysql::Error>,
    ) -> Result<(), mysql::Error> {
        self.timed(|conn, deadline| take_all(conn.query_iter(sql)?, deadline, &mut each))
    }

    /// Whether this account may run the statement, all parameters of which are numbers.
    pub(super) fn insist_on_privileges(&mut self, sql: &str, params: usize) -> Result<(), mysql::Error> {
        if self.prepares {
            match self.timed(|conn, _| conn.prep(sql)) {
                Err(mysql::Error::MySqlError(error)) if error.code == NO_MORE_PREPARED => {
                    self.prepares = false;
                }
                result => return result.map(drop),
            }
        }
        let params = Params::Positional(vec![Value::Int(0); params]);
        self.query_drop(format!("EXPLAIN {}", as_text(sql, &params)))
    }

    /// How many rows the last statement changed.
    pub(super) fn affected_rows(&self) -> u64 {
        self.inner.affected_rows()
    }

    /// What the last statement put into `LAST_INSERT_ID`.
    pub(super) fn last_insert_id(&self) -> u64 {
        self.inner.last_insert_id()
    }

    /// How many warnings the last statement raised.
    pub(super) fn warnings(&self) -> u16 {
        self.inner.warnings()
    }

    /// Whether there is nothing to read, as there must not be before anything was asked: it would be taken for the
    /// answer. False also at the end of the stream: the server, or who stands before it, has closed an idle session,
    /// and a statement that is not sent is none whose outcome is unknown.
    ///
    /// (Under TLS, what a server sends beside answers was read with the answers to the first statements.)
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = self.socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Runs `ask` until the deadline, at which the connection is shut down.
    fn timed<T>(
        &mut self,
        ask: impl FnOnce(&mut mysql::Conn, &mut Deadline) -> Result<T, mysql::Error>,
    ) -> Result<T, mysql::Error> {
        let mut deadline = Deadline::new(self.socket.clone(), self.timeout)?;
        let result = ask(&mut self.inner, &mut deadline);
        match deadline.has_passed() && result.is_err() {
            true => Err(no_answer_in_time()),
            false => result,
        }
    }
}

fn no_answer_in_time() -> mysql::Error {
    mysql::Error::IoError(io::ErrorKind::TimedOut.into())
}

fn take_all<'a, P: mysql::prelude::Protocol>(
    mut rows: mysql::QueryResult<'a, '_, '_, P>,
    deadline: &mut Deadline,
    each: &mut impl FnMut(Row) -> Result<(), mysql::Error>,
) -> Result<(), mysql::Error> {
    for (index, row) in rows.by_ref().enumerate() {
        if index % ROWS_PER_DEADLINE == ROWS_PER_DEADLINE - 1 {
            deadline.extend()?;
        }
        each(row?)?;
    }
    Ok(())
}

/// The statement with its parameters in the places of their marks. It holds no `?` elsewhere. Text goes as hexadecimal
/// digits: there is nothing in it that could end it, in whatever mode and character set the server reads it.
fn as_text(sql: &str, params: &Params) -> String {
    let Params::Positional(values) = params else { return sql.to_owned() };
    let mut text = String::with_capacity(2 * sql.len());
    let mut values = values.iter();
    for part in sql.split_inclusive('?') {
        match (part.strip_suffix('?'), values.next()) {
            (Some(before), Some(value)) => {
                text.push_str(before);
                push_literal(&mut text, value);
            }
            _ => text.push_str(part),
        }
    }
    text
}

fn push_literal(text: &mut String, value: &Value) {
    match value {
        Value::Bytes(bytes) => {
            text.push_str("_utf8mb4 X'");
            for byte in bytes {
                let _ = write!(text, "{byte:02X}");
            }
            text.push('\'');
        }
        // Numbers and NULL: what there is beside text.
        value => text.push_str(&value.as_sql(true)),
    }
}

fn socket_of(conn: &mysql::Conn) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as the connection, which stays borrowed for as long as the result.
    unsafe { BorrowedFd::borrow_raw(conn.as_raw_fd()) }
}

/// The connects to one host that took too long and are not over. The driver has no deadline for a connect as a whole,
/// and does not show its socket before it is in: so each connect has a thread, which nobody waits for too long.
#[derive(Default, Clone)]
pub(super) struct LateConnects(Arc<AtomicU32>);

impl LateConnects {
    fn connect(&self, opts: &Opts, limit: Duration) -> Result<mysql::Conn, mysql::Error> {
        // Relaxed: a count, no more. Sessions that wait for a connect at the same time may exceed the limit by one each.
        if self.0.load(Relaxed) >= LATE_CONNECTS_MAX {
            return Err(no_answer_in_time());
        }
        // Without a buffer, `send` fails exactly if the result was not taken.
        let (give, take) = mpsc::sync_channel(0);
        let (opts, late) = (opts.clone(), self.0.clone());
        thread::Builder::new().name("idalloc-connect".to_owned()).spawn(move || {
            // Something is sent after a panic too: it may be counted as late.
            let connected = catch_unwind(AssertUnwindSafe(|| mysql::Conn::new(opts)));
            let result = connected.unwrap_or_else(|_| Err(io::Error::other("the connect panicked").into()));
            if give.send(result).is_err() {
                late.fetch_sub(1, Relaxed);
            }
        })?;
        take.recv_timeout(limit).unwrap_or_else(|_| {
            // `take` is dropped after this, and `send` fails after that: the thread uncounts what is counted here.
            self.0.fetch_add(1, Relaxed);
            Err(no_answer_in_time())
        })
    }
}

/// The end of the time that a statement has.
struct Deadline {
    socket: Arc<Socket>,
    timeout: Duration,
    key: Key,
}

type Key = (Instant, u64);

impl Deadline {
    fn new(socket: Arc<Socket>, timeout: Duration) -> io::Result<Deadline> {
        let key = Watchdog::the_one()?.watch(socket.clone(), timeout);
        Ok(Deadline { socket, timeout, key })
    }

    /// Begins anew.
    fn extend(&mut self) -> io::Result<()> {
        let watchdog = Watchdog::the_one()?;
        if watchdog.leave(self.key) {
            self.key = watchdog.watch(self.socket.clone(), self.timeout);
        }
        Ok(())
    }

    /// Whether the connection was shut down.
    fn has_passed(&self) -> bool {
        Watchdog::the_one().is_ok_and(|watchdog| !watchdog.leave(self.key))
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Ok(watchdog) = Watchdog::the_one() {
            watchdog.leave(self.key);
        }
    }
}

/// Shuts sockets down whose deadlines pass: one thread for all of the process.
#[derive(Default)]
struct Watchdog {
    state: Mutex<Watched>,
    earlier: Condvar,
}

#[derive(Default)]
struct Watched {
    sockets: BTreeMap<Key, Arc<Socket>>,
    next: u64,
    runs: bool,
}

impl Watchdog {
    fn the_one() -> io::Result<&'static Watchdog> {
        static WATCHDOG: LazyLock<Watchdog> = LazyLock::new(Watchdog::default);
        let mut state = lock(&WATCHDOG.state);
        if !state.runs {
            thread::Builder::new().name("idalloc-deadline".to_owned()).spawn(|| WATCHDOG.run())?;
            state.runs = true;
        }
        Ok(&WATCHDOG)
    }

    fn watch(&self, socket: Arc<Socket>, timeout: Duration) -> Key {
        let mut state = lock(&self.state);
        state.next += 1;
        let key = (Instant::now() + timeout, state.next);
        let is_first = state.sockets.first_key_value().is_none_or(|(first, _)| key < *first);
        state.sockets.insert(key, socket);
        drop(state);
        if is_first {
            self.earlier.notify_one();
        }
        key
    }

    /// False if the deadline has passed.
    fn leave(&self, key: Key) -> bool {
        lock(&self.state).sockets.remove(&key).is_some()
    }

    fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            let first = state.sockets.first_key_value().map(|((due, _), _)| *due);
            state = match first {
                Some(due) if due <= now => {
                    if let Some((_, socket)) = state.sockets.pop_first() {
                        // One that is not connected any more needs it no more.
                        let _ = socket.shutdown(Shutdown::Both);
                    }
                    state
                }
                Some(due) => {
                    let woken = self.earlier.wait_timeout(state, due - now);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.earlier.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use mysql::OptsBuilder;

    use super::*;

    /// No test gets to this limit.
    const NEVER: Duration = Duration::from_secs(3600);

    /// A host that accepts connections, and says nothing.
    fn silent_host() -> (TcpListener, Opts) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let opts = OptsBuilder::new().ip_or_hostname(Some("127.0.0.1")).tcp_port(port).prefer_socket(false);
        (listener, opts.into())
    }

    fn is_late(result: &Result<mysql::Conn, mysql::Error>) -> bool {
        matches!(result, Err(mysql::Error::IoError(error)) if error.kind() == io::ErrorKind::TimedOut)
    }

    enum Event {
        Accepted(TcpStream),
        Ended(Result<mysql::Conn, mysql::Error>),
    }

    #[test]
    fn a_connect_that_somebody_waits_for_is_not_late() {
        const CONNECTS: u32 = 2 * LATE_CONNECTS_MAX;
        let (listener, opts) = silent_host();
        let late = LateConnects::default();
        let (tell, events) = mpsc::channel();
        for _ in 0..CONNECTS {
            let (tell, opts, late) = (tell.clone(), opts.clone(), late.clone());
            thread::spawn(move || tell.send(Event::Ended(late.connect(&opts, NEVER))));
        }
        thread::spawn(move || {
            listener.incoming().map_while(Result::ok).try_for_each(|host| tell.send(Event::Accepted(host)))
        });
        let next = || events.recv().unwrap();
        let all: Vec<_> = (0..CONNECTS)
            .map(|_| match next() {
                Event::Accepted(host) => host,
                Event::Ended(result) => panic!("a connect ended before the host said anything: {result:?}"),
            })
            .collect();
        drop(all);
        for _ in 0..CONNECTS {
            // The host ends each, which is no matter of time.
            assert!(matches!(next(), Event::Ended(result) if !is_late(&result)));
        }
        assert_eq!(late.0.load(Relaxed), 0);
    }

    #[test]
    fn a_connect_that_nobody_waits_for_is_late_until_it_is_over() {
        let (listener, opts) = silent_host();
        let late = LateConnects::default();
        for count in 1..=LATE_CONNECTS_MAX {
            assert!(is_late(&late.connect(&opts, Duration::from_millis(1))));
            assert_eq!(late.0.load(Relaxed), count);
        }
        assert!(is_late(&late.connect(&opts, NEVER)), "one too many, which does not wait");
        // The host takes no more, and ends what it had.
        drop(listener);
        while late.0.load(Relaxed) > 0 {
            thread::yield_now();
        }
        assert!(!is_late(&late.connect(&opts, NEVER)), "it is refused, and not late");
        assert_eq!(late.0.load(Relaxed), 0);
    }

    #[test]
    fn a_statement_as_text_holds_its_parameters() {
        let text = |sql, params: Vec<Value>| as_text(sql, &Params::Positional(params));
        assert_eq!(
            text("a = ? AND b <= ? c", vec!["o'\\é".into(), (-5).into()]),
            "a = _utf8mb4 X'6F275CC3A9' AND b <= -5 c"
        );
        assert_eq!(text("LIMIT ?", vec![u64::MAX.into()]), "LIMIT 18446744073709551615");
        assert_eq!(text("COALESCE(?, x)", vec![Value::NULL]), "COALESCE(NULL, x)");
        assert_eq!(as_text("SELECT 1", &Params::Empty), "SELECT 1");
    }

    #[test]
    fn a_socket_is_shut_down_at_its_deadline_and_not_after_it_was_left() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let socket = Arc::new(Socket::from(std::os::fd::OwnedFd::from(ours)));
        let kept = Deadline::new(socket.clone(), Duration::from_secs(3600)).unwrap();
        let passed = Deadline::new(socket.clone(), Duration::from_millis(1)).unwrap();
        let mut byte = [MaybeUninit::uninit()];
        assert_eq!(socket.recv(&mut byte).unwrap(), 0, "the end of the stream");
        assert!(passed.has_passed() && !kept.has_passed());
    }
}
