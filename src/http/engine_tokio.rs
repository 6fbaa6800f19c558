//! The default engine: one accepting thread, and workers that each run their connections on a runtime of their own.
//!
//! A connection is one task of one worker, so nothing here is shared between threads but counters. It borrows its
//! buffers while it has bytes in hand, and gives them back when it is idle. Deadlines are looked after by one sweep of
//! the worker's connections every `TICK`, which costs a request no timer and no look at the clock.

mod accept;
mod connection;
mod worker;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::handler::{Handler, Service};
use crate::config::EngineLimits;
use crate::supervise;

/// How often deadlines are looked at: none is kept more exactly.
const TICK: Duration = Duration::from_millis(50);

/// Files that a worker has open beside its connections: those of its runtime, and what it is woken by.
pub const FILES_PER_WORKER: usize = 4;
/// The most refused connections that are given time to read their 503; further ones are closed once it is sent.
pub const LINGERING_MAX: usize = 128;

/// A running engine.
pub struct Engine {
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<Option<()>>>,
}

/// What the accepting thread knows of a worker.
#[derive(Clone)]
struct WorkerPort {
    /// Holds no more than MaxConnections: `open` is counted up before a connection is sent.
    connections: mpsc::UnboundedSender<std::net::TcpStream>,
    open: Arc<AtomicUsize>,
}

impl Engine {
    /// Serves the connections of `listener`, with one handler for each worker.
    ///
    /// # Errors
    /// The system has no threads or file descriptors left.
    pub fn start(
        listener: TcpListener,
        limits: EngineLimits,
        trim: fn(),
        service: Arc<Service>,
        new_handler: impl Fn() -> Handler + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let new_handler = Arc::new(new_handler);
        let (stop, stopped) = watch::channel(false);
        let mut engine = Self { stop, threads: Vec::new() };
        let memory = service.counters.buffer_memory(limits.buffer_bytes_max);
        let mut ports = Vec::new();
        for index in 0..limits.workers {
            let (connections, mut arrivals) = mpsc::unbounded_channel();
            let open = Arc::new(AtomicUsize::new(0));
            service.counters.connections.track(open.clone());
            ports.push(WorkerPort { connections, open: open.clone() });
            let (new_handler, memory) = (new_handler.clone(), memory.clone());
            engine.spawn(format!("idalloc-http{index}"), async move || {
                worker::Worker::new(new_handler(), limits, trim, memory.clone(), open.clone())
                    .run(&mut arrivals)
                    .await;
            })?;
        }
        engine.spawn("idalloc-accept".to_owned(), async move || {
            let acceptor = accept::Acceptor::new(ports.clone(), limits.connections_max, service.clone());
            acceptor.run(&listener, stopped.clone()).await;
        })?;
        Ok(engine)
    }

    /// Runs `body` on a thread of its own, each time with a new runtime.
    fn spawn(&mut self, name: String, mut body: impl AsyncFnMut() + Send + 'static) -> io::Result<()> {
        // The first is made here, where it is no panic if it cannot be had.
        let mut first = Some(new_runtime()?);
        let thread = move || {
            let runtime = first.take().unwrap_or_else(|| new_runtime().expect("a runtime"));
            tokio::task::LocalSet::new().block_on(&runtime, body());
        };
        self.threads.push(supervise::spawn(name, thread)?);
        Ok(())
    }

    /// Stops listening and closes every connection when its requests are answered, within `limit`.
    pub fn drain(self, limit: Duration) {
        // The acceptor ends, and drops the ports; that is how the workers learn of it.
        let _ = self.stop.send(true);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !self.threads.iter().all(JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn new_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// One open connection in a worker's count, for as long as it lives.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        // Relaxed: a count, no more.
        self.0.fetch_sub(1, Relaxed);
    }
}
