//! The other engine: the same handler behind `may_minihttp`, for comparison and for trusted networks.
//!
//! What that crate does not do is done from outside as far as it goes: bodies are framed before they are read, what
//! cannot be framed ends its connection, and a sweep shuts down connections that are idle, that do not read their
//! answers, or that are too many. The README lists what remains.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use may::sync::Blocker;
use may_minihttp::{HttpService, HttpServiceFactory, Request as MayRequest, Response as MayResponse};
use smallvec::SmallVec;
use socket2::SockRef;
use tracing::{info, warn};

use super::buffer_memory::{BufferMemory, UNCOUNTED_BYTES_MAX};
use super::handler::{Handler, Reply, Service, Waiting, out_of_memory, too_many_connections};
use super::origin::Cors;
use super::queued::{received_bytes, unread_bytes, unsent_bytes};
use super::request::{Outline, Reject, Values, Version};
use super::response::{Answer, COMMON_HEADERS, Delivery, Encoder, reason};
use crate::config::EngineLimits;
use crate::episode::Episode;
use crate::supervise;
use crate::sync::lock;

/// How often connections are looked at.
const SWEEP: Duration = Duration::from_millis(50);
/// How long connections stay open when the server stops, so that what is on its way gets an answer.
const DRAIN_IDLE: Duration = Duration::from_millis(300);
/// A coroutine's stack, in words: the crate's own 32 KiB are tight for a claim that waits.
const STACK_WORDS: usize = 8 * 1024;

/// As long as most values of `Host` are.
const HOST_BYTES: usize = 64;

/// A running engine.
pub struct Engine {
    acceptor: Arc<may::coroutine::JoinHandle<()>>,
    connections: Arc<Connections>,
    sweeper: JoinHandle<Option<()>>,
}

impl Engine {
    /// Serves connections to the address of `listener`, with one handler for each connection.
    ///
    /// # Errors
    /// Somebody else has taken the address in between, or the system has no threads left.
    pub fn start(
        listener: TcpListener,
        limits: EngineLimits,
        service: Arc<Service>,
        new_handler: impl Fn() -> Handler + Send + 'static,
    ) -> io::Result<Self> {
        may::config().set_workers(limits.workers).set_stack_size(STACK_WORDS);
        let connections = Arc::new(Connections::new(limits, service));
        let factory = Factory { connections: connections.clone(), new_handler };
        let address = listener.local_addr()?;
        // The crate binds by itself, and shares the port with whoever allows it (SO_REUSEPORT). That nobody else
        // listened there is what `listener` was for.
        drop(listener);
        let acceptor = Arc::new(factory.start(address)?);
        let sweep = {
            let (connections, acceptor) = (connections.clone(), acceptor.clone());
            move || connections.sweep(&acceptor)
        };
        let sweeper = supervise::spawn("idalloc-sweep", sweep)?;
        Ok(Self { acceptor, connections, sweeper })
    }

    /// Stops listening and closes every connection when its request is answered, within `limit`.
    pub fn drain(self, limit: Duration) {
        // SAFETY: the coroutine is cancelled where it waits for a connection, and holds nothing but the listener
        // and the factory, both of which are dropped as its stack unwinds.
        unsafe { self.acceptor.coroutine().cancel() };
        self.acceptor.wait();
        let deadline = Instant::now() + limit;
        self.connections.wait_until_empty(DRAIN_IDLE.min(limit));
        self.connections.end_idle();
        self.connections.wait_until_empty(deadline.saturating_duration_since(Instant::now()));
        self.connections.stop();
        let _ = self.sweeper.join();
    }
}

/// Every open connection, by its descriptor. A connection is in here for as long as its descriptor is open, because it
/// is removed, under the lock, before the crate drops the socket: so a descriptor found here is not another's.
struct Connections {
    limits: EngineLimits,
    service: Arc<Service>,
    memory: Arc<BufferMemory>,
    open: Mutex<Open>,
    /// As many as there are in `open`, for those who count.
    open_count: Arc<AtomicUsize>,
    changed: Condvar,
}

#[derive(Default)]
struct Open {
    by_fd: HashMap<RawFd, Watch>,
    refusing: Episode,
    stopped: bool,
}

struct Watch {
    activity: Arc<Activity>,
    /// Completed requests, or unsent bytes, when they last changed, and when that was.
    answered: u64,
    answered_at: Instant,
    unsent: usize,
    unsent_at: Instant,
    unfinished: Unfinished,
}

/// What a connection has received of a request that is not whole, as far as that can be told from outside: all that came
/// since it was last seen to answer.
#[derive(Default)]
struct Unfinished {
    answered: u64,
    received_before: u64,
    /// Bytes of `BufferMemory` that are counted as this connection's.
    held_bytes: usize,
    /// It is turned away, and about to end.
    is_refused: bool,
}

/// What a connection tells the sweep.
#[derive(Default)]
struct Activity {
    state: Mutex<ActivityState>,
}

#[derive(Default)]
struct ActivityState {
    answered: u64,
    at_work: bool,
    /// Who waits for IDs, and until when. The crate's own timer takes what is left below a millisecond for no limit.
    waiting: Option<(Instant, Arc<Blocker>)>,
}

impl Connections {
    fn new(limits: EngineLimits, service: Arc<Service>) -> Self {
        let open_count = Arc::<AtomicUsize>::default();
        service.counters.connections.track(open_count.clone());
        let memory = service.counters.buffer_memory(limits.buffer_bytes_max);
        Self { limits, service, memory, open: Mutex::default(), open_count, changed: Condvar::new() }
    }

    /// Registers a connection; false when it is one too many.
    fn add(&self, fd: RawFd, activity: Arc<Activity>) -> bool {
        let mut open = lock(&self.open);
        let refuse = open.by_fd.len() >= self.limits.connections_max;
        let now = Instant::now();
        let is_news = if refuse { open.refusing.holds(now) } else { open.refusing.is_over() };
        let unfinished = Unfinished::default();
        let watch = Watch { activity, answered: 0, answered_at: now, unsent: 0, unsent_at: now, unfinished };
        open.by_fd.insert(fd, watch);
        // Relaxed: counts, no more.
        self.open_count.store(open.by_fd.len(), Relaxed);
        drop(open);
        match refuse {
            true if is_news => {
                warn!(MaxConnections = self.limits.connections_max, "no more connections: refusing with 503");
            }
            false if is_news => info!("all connections are accepted again"),
            _ => {}
        }
        match refuse {
            true => self.service.counters.connections.note_refused(),
            false => self.service.counters.connections.note_accepted(),
        }
        !refuse
    }

    fn remove(&self, fd: RawFd) {
        let mut open = lock(&self.open);
        if let Some(watch) = open.by_fd.remove(&fd) {
            self.memory.give_back(watch.unfinished.held_bytes);
        }
        self.open_count.store(open.by_fd.len(), Relaxed);
        drop(open);
        self.changed.notify_all();
    }

    fn sweep(&self, acceptor: &may::coroutine::JoinHandle<()>) {
        let mut accepting = true;
        let mut open = lock(&self.open);
        while !open.stopped {
            if accepting && acceptor.is_done() && !self.service.is_draining() {
                accepting = false;
                drop(open);
                // It has the listener, which is closed by now: there is nothing to start again.
                supervise::give_up("the acceptor");
                open = lock(&self.open);
            }
            let now = Instant::now();
            for (fd, watch) in &mut open.by_fd {
                if watch.is_overdue(*fd, now, &self.limits) {
                    shut_down(*fd, Shutdown::Both);
                } else if !watch.hold_unfinished(*fd, &self.memory) {
                    self.memory.note_refusal();
                    refuse(*fd, &out_of_memory());
                }
            }
            self.memory.look();
            open = self.changed_within(open, SWEEP);
        }
    }

    fn changed_within<'a>(&self, open: MutexGuard<'a, Open>, limit: Duration) -> MutexGuard<'a, Open> {
        self.changed.wait_timeout(open, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    fn wait_until_empty(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut open = lock(&self.open);
        while !open.by_fd.is_empty() && Instant::now() < deadline {
            open = self.changed_within(open, deadline.saturating_duration_since(Instant::now()));
        }
    }

    fn end_idle(&self) {
        for (fd, watch) in &lock(&self.open).by_fd {
            if !lock(&watch.activity.state).at_work {
                shut_down(*fd, Shutdown::Read);
            }
        }
    }

    fn stop(&self) {
        let mut open = lock(&self.open);
        open.stopped = true;
        open.by_fd.keys().for_each(|fd| shut_down(*fd, Shutdown::Both));
        drop(open);
        self.changed.notify_all();
    }
}

impl Watch {
    fn is_overdue(&mut self, fd: RawFd, now: Instant, limits: &EngineLimits) -> bool {
        let activity = lock(&self.activity.state);
        if let Some((_, blocker)) = activity.waiting.as_ref().filter(|(until, _)| now >= *until) {
            blocker.unpark();
        }
        if activity.answered != self.answered || activity.at_work {
            self.answered = activity.answered;
            self.answered_at = now;
        }
        drop(activity);
        let unsent = unsent_bytes(&borrowed(fd));
        if unsent == 0 || unsent != self.unsent {
            self.unsent_at = now;
        }
        self.unsent = unsent;
        // Whether a part of a request is there cannot be seen from outside: only the first has the shorter limit.
        let request_limit = if self.answered == 0 { limits.read_timeout } else { limits.idle_timeout };
        // What has arrived is read first, before its time is judged: at the next look it may have been answered.
        let is_idle_for_long = now.saturating_duration_since(self.answered_at) >= request_limit
            && unread_bytes(&borrowed(fd)) == 0;
        now.saturating_duration_since(self.unsent_at) >= limits.write_timeout || is_idle_for_long
    }
}

impl Watch {
    /// Has counted what the crate keeps of a request that is not whole; false if there is not so much memory left, and it is
    /// more than a little.
    fn hold_unfinished(&mut self, fd: RawFd, memory: &BufferMemory) -> bool {
        let Some(received) = received_bytes(&borrowed(fd)) else { return true };
        let Unfinished { answered, received_before, held_bytes, is_refused } = &mut self.unfinished;
        if *is_refused {
            return true;
        }
        let activity = lock(&self.activity.state);
        if activity.answered != *answered || activity.at_work {
            *answered = activity.answered;
            *received_before = received;
        }
        drop(activity);
        let unfinished = usize::try_from(received - *received_before).unwrap_or(usize::MAX);
        // As much again, for the room to grow that the crate takes.
        let needed = if unfinished <= UNCOUNTED_BYTES_MAX { 0 } else { unfinished.saturating_mul(2) };
        let more = needed.saturating_sub(*held_bytes);
        if more > 0 && !memory.take(more) {
            *is_refused = true;
            return false;
        }
        memory.give_back((*held_bytes + more) - needed);
        *held_bytes = needed;
        true
    }
}

/// The socket of an open connection.
fn socket<T>(fd: RawFd, use_it: impl FnOnce(SockRef<'_>) -> T) -> T {
    use_it(SockRef::from(&borrowed(fd)))
}

fn borrowed<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: callers hold the lock under which open connections are removed, or run inside the connection, and do not
    // keep what they borrow: either way the descriptor is open for as long as it is used.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn shut_down(fd: RawFd, how: Shutdown) {
    // An error means that the client was faster.
    let _ = socket(fd, |socket| socket.shutdown(how));
}

/// Makes a service for each connection; the crate passes its descriptor.
struct Factory<N> {
    connections: Arc<Connections>,
    new_handler: N,
}

impl<N: Fn() -> Handler + Send + 'static> HttpServiceFactory for Factory<N> {
    type Service = Connection;

    fn new_service(&self, id: usize) -> Connection {
        let fd = id as RawFd;
        let activity = Arc::new(Activity::default());
        let welcome = self.connections.add(fd, activity.clone());
        if !welcome {
            refuse(fd, &too_many_connections());
        }
        // Answers are small and wait for nothing: to gather them is of no use. An error means that the client is gone.
        let _ = socket(fd, |socket| socket.set_tcp_nodelay(true));
        Connection {
            fd,
            connections: self.connections.clone(),
            activity,
            handler: (self.new_handler)(),
            ended: !welcome,
            body: Vec::new(),
        }
    }
}

fn refuse(fd: RawFd, answer: &Answer) {
    let mut response = Vec::new();
    Encoder::new().encode(answer, Delivery::LAST, &mut response);
    let _ = socket(fd, |socket| socket.send(&response).and_then(|_| socket.shutdown(Shutdown::Both)));
}

/// The service of one connection.
struct Connection {
    fd: RawFd,
    connections: Arc<Connections>,
    activity: Arc<Activity>,
    handler: Handler,
    /// The last answer was given. The crate still parses what it has received, which may be the body of a request
    /// that was refused: none of it is served.
    ended: bool,
    body: Vec<u8>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.remove(self.fd);
    }
}

impl HttpService for Connection {
    fn call(&mut self, request: MayRequest, response: &mut MayResponse) -> io::Result<()> {
        let last = Delivery { head_only: request.method() == "HEAD", ..Delivery::LAST };
        let (answer, delivery) = match self.ended {
            true => (self.handler.rejected(CLOSED), last),
            false => self.answer(request).unwrap_or_else(|reject| (self.handler.rejected(reject), last)),
        };
        self.respond(&answer, delivery, response);
        if !delivery.keep_alive {
            self.ended = true;
            // The crate closes when it reads the end of input, and sends what it has before that.
            shut_down(self.fd, Shutdown::Read);
        }
        let mut state = lock(&self.activity.state);
        state.at_work = false;
        state.answered += 1;
        Ok(())
    }
}

const CLOSED: Reject = Reject { status: 400, message: "the connection was closed after an earlier request" };
const NO_CHUNKS: Reject =
    Reject { status: 501, message: "this engine takes no chunked bodies: send a Content-Length" };

impl Connection {
    fn answer(&mut self, may: MayRequest) -> Result<(Answer, Delivery), Reject> {
        let target = may.path().to_owned();
        let outline = Outline::of(may.method(), &target, may.version(), may.headers())?;
        let body_bytes = outline.body_bytes().ok_or(NO_CHUNKS)?;
        // The headers go as the body comes. Nothing is allocated for what is empty.
        let Values { authorization, host, origin } = outline.values(may.headers());
        let (authorization, origin) = (authorization.to_vec(), origin.to_vec());
        let host = SmallVec::<[u8; HOST_BYTES]>::from_slice(host);
        let values = Values { authorization: &authorization, host: &host, origin: &origin };
        let mut body = Vec::new();
        if body_bytes > 0 {
            // Whatever the body is, it must be taken: it would be parsed as the next request otherwise.
            let taken = may.body().take(body_bytes as u64).read_to_end(&mut body);
            if !matches!(taken, Ok(bytes) if bytes == body_bytes) {
                return Err(CLOSED);
            }
        }
        let request = outline.request(values, &body);
        // Not before: a body that never comes must not keep the connection from being closed.
        lock(&self.activity.state).at_work = true;
        let answer = match self.handler.handle(&request) {
            Reply::Now(answer) => answer,
            Reply::Later(waiting) => self.await_ids(waiting),
        };
        // Looked at after the wait: the server may have been told to stop meanwhile.
        Ok((answer, self.handler.service().delivery(&request)))
    }

    /// Blocks this coroutine, and no thread, until the IDs are there.
    fn await_ids(&mut self, mut waiting: Box<Waiting>) -> Answer {
        let blocker = Blocker::current();
        let waker = Waker::from(Arc::new(Unpark(blocker.clone())));
        let deadline = Instant::now() + self.handler.service().api.limits.alloc_timeout;
        lock(&self.activity.state).waiting = Some((deadline, blocker.clone()));
        let answer = loop {
            if let Poll::Ready(answer) = self.handler.poll(&mut waiting, &mut Context::from_waker(&waker)) {
                break answer;
            }
            // The sweep unparks it too, when the deadline is over.
            if Instant::now() >= deadline || blocker.park(None).is_err() {
                break self.handler.give_up(&waiting);
            }
        };
        lock(&self.activity.state).waiting = None;
        answer
    }

    fn respond(&mut self, answer: &Answer, delivery: Delivery, response: &mut MayResponse) {
        response.status_code(answer.status().into(), reason(answer.status()));
        for line in COMMON_HEADERS.into_iter().chain(answer.header()).chain(delivery.cors.map(Cors::lines)) {
            response.header(line);
        }
        match (delivery.keep_alive, delivery.version) {
            (false, _) => drop(response.header("Connection: close")),
            (true, Version::Http10) => drop(response.header("Connection: keep-alive")),
            (true, Version::Http11) => {}
        }
        if !delivery.head_only {
            self.body.clear();
            answer.write_body(&mut self.body);
            response.body_mut().extend_from_slice(&self.body);
        }
    }
}

struct Unpark(Arc<Blocker>);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
