//! A TCP proxy of 127.0.0.1 before a database: it cuts, delays, trickles, and loses or repeats what the database
//! acknowledges.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What becomes of a connection whose acknowledgement is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It is closed.
    Closed,
    /// It stays open, and nothing more comes out of it.
    Silent,
}

/// A proxy on a free port. Dropping it closes the port and every connection.
pub struct Proxy {
    port: u16,
    line: Arc<Line>,
    acceptor: Option<JoinHandle<()>>,
}

/// What all connections through one proxy share.
struct Line {
    /// 0 while it leads nowhere: that is nobody's.
    database_port: AtomicU16,
    /// What a statement holds whose acknowledgement may be lost.
    marker: &'static str,
    delay_ms: AtomicU64,
    trickle_ms: AtomicU64,
    loss: Mutex<Option<Loss>>,
    lost: AtomicU64,
    doubles: AtomicBool,
    closed: AtomicBool,
    open: Mutex<Vec<Arc<Connection>>>,
}

struct Connection {
    client: TcpStream,
    database: TcpStream,
    /// Whether the newest statement holds the marker.
    marked: AtomicBool,
    newest_reply: Mutex<Vec<u8>>,
    ended: AtomicBool,
}

impl Proxy {
    /// A proxy before the database on this port. It can lose the replies to statements that hold `marker`.
    pub fn before(database_port: u16, marker: &'static str) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let line = Arc::new(Line {
            database_port: AtomicU16::new(database_port),
            marker,
            delay_ms: AtomicU64::new(0),
            trickle_ms: AtomicU64::new(0),
            loss: Mutex::new(None),
            lost: AtomicU64::new(0),
            doubles: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
        });
        let acceptor = thread::spawn({
            let line = line.clone();
            move || line.accept(&listener)
        });
        Proxy { port, line, acceptor: Some(acceptor) }
    }

    /// The port to connect to instead of the database's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes every connection, whatever is under way on it.
    pub fn cut(&self) {
        lock(&self.line.open).drain(..).for_each(|connection| connection.cut());
    }

    /// From now on it leads to the database on this port, as a virtual address does after a failover. Every connection is
    /// closed, so that none leads to the database of before.
    pub fn lead_to(&self, database_port: u16) {
        self.line.database_port.store(database_port, Relaxed);
        self.cut();
    }

    /// From now on it leads nowhere: connections are accepted and closed at once.
    pub fn lead_nowhere(&self) {
        self.lead_to(0);
    }

    /// Holds back whatever comes, in both directions, for so long. A statement that is held back arrives even if its
    /// client has given up meanwhile.
    pub fn delay(&self, delay: Duration) {
        let delay_ms = u64::try_from(delay.as_millis()).expect("a short delay");
        self.line.delay_ms.store(delay_ms, Relaxed);
    }

    /// From now on replies arrive byte by byte, one in each `pause`; or, if that is zero, at once.
    pub fn trickle(&self, pause: Duration) {
        let pause_ms = u64::try_from(pause.as_millis()).expect("a short pause");
        self.line.trickle_ms.store(pause_ms, Relaxed);
    }

    /// From now on marked statements arrive and their replies do not; or, if `None`, everything arrives.
    pub fn lose(&self, loss: Option<Loss>) {
        *lock(&self.line.loss) = loss;
    }

    /// Whether replies to marked statements arrive twice, both at once.
    pub fn double(&self, doubles: bool) {
        self.line.doubles.store(doubles, Relaxed);
    }

    /// Sends the newest reply of the newest connection once more, and returns when it has arrived.
    pub fn repeat(&self) {
        let open = lock(&self.line.open);
        let connection = open.last().expect("a connection");
        (&connection.client).write_all(&lock(&connection.newest_reply)).expect("send it once more");
        while unacknowledged(&connection.client) > 0 {
            thread::yield_now();
        }
    }

    /// How many replies were lost.
    pub fn lost(&self) -> u64 {
        self.line.lost.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.closed.store(true, Relaxed);
        // Wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.acceptor.take().map(JoinHandle::join);
        self.cut();
    }
}

impl Line {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            if self.closed.load(Relaxed) {
                return;
            }
            // A database that is down closes the client's connection, as it would be without a proxy.
            let port = self.database_port.load(Relaxed);
            if let Ok(database) = TcpStream::connect(("127.0.0.1", port)) {
                self.join(client, database, port);
            }
        }
    }

    fn join(self: &Arc<Self>, client: TcpStream, database: TcpStream, database_port: u16) {
        let nodelay = client.set_nodelay(true).and_then(|()| database.set_nodelay(true));
        nodelay.expect("set nodelay");
        let (marked, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        let newest_reply = Mutex::default();
        let connection = Arc::new(Connection { client, database, marked, newest_reply, ended });
        let mut open = lock(&self.open);
        open.retain(|connection| !connection.ended.load(Relaxed));
        open.push(connection.clone());
        if self.database_port.load(Relaxed) != database_port {
            // It leads elsewhere since, and whoever said so has cut what was open then.
            connection.cut();
        }
        drop(open);
        let (line, of_statements) = (self.clone(), connection.clone());
        thread::spawn(move || of_statements.pass_statements(&line));
        let line = self.clone();
        thread::spawn(move || connection.pass_replies(&line));
    }

    fn hold_back(&self) {
        thread::sleep(Duration::from_millis(self.delay_ms.load(Relaxed)));
    }
}

impl Connection {
    fn pass_statements(&self, line: &Line) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(bytes @ 1..) = (&self.client).read(&mut buffer) {
            let statement = &buffer[..bytes];
            line.hold_back();
            self.marked.store(contains(statement, line.marker), Relaxed);
            if (&self.database).write_all(statement).is_err() {
                break;
            }
        }
        self.cut();
    }

    fn pass_replies(&self, line: &Line) {
        let mut buffer = vec![0; 16 * 1024];
        let mut silent = false;
        while let Ok(bytes @ 1..) = (&self.database).read(&mut buffer) {
            line.hold_back();
            if self.marked.load(Relaxed)
                && let Some(loss) = *lock(&line.loss)
            {
                line.lost.fetch_add(1, Relaxed);
                silent = loss == Loss::Silent;
                if !silent {
                    break;
                }
            }
            let mut reply = buffer[..bytes].to_vec();
            lock(&self.newest_reply).clone_from(&reply);
            if self.marked.load(Relaxed) && line.doubles.load(Relaxed) {
                reply.extend_from_within(..);
            }
            if !silent && self.answer(&reply, line).is_err() {
                break;
            }
        }
        self.cut();
    }

    fn answer(&self, reply: &[u8], line: &Line) -> io::Result<()> {
        for (sent, byte) in reply.iter().enumerate() {
            match line.trickle_ms.load(Relaxed) {
                0 => return (&self.client).write_all(&reply[sent..]),
                pause_ms => thread::sleep(Duration::from_millis(pause_ms)),
            }
            (&self.client).write_all(&[*byte])?;
        }
        Ok(())
    }

    fn cut(&self) {
        self.ended.store(true, Relaxed);
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.database.shutdown(Shutdown::Both);
    }
}

/// How many bytes the other end's system has not taken yet.
fn unacknowledged(stream: &TcpStream) -> i32 {
    let mut bytes = 0;
    // SAFETY: the descriptor is the stream's; the system writes one int, and `bytes` is one.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    bytes
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
