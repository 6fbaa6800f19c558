//! One place in a deployment: a server that is killed or stopped, and started again, with a watermark file of its own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::server::{Server, Setup};

/// How long a clean end may take, as the README has it, and what a busy machine takes beside.
const CLEAN_END_MAX: Duration = Duration::from_secs(8 + 4);

pub struct Node {
    pub engine: &'static str,
    dsn: String,
    watermark: PathBuf,
    server: Mutex<Option<Server>>,
    /// Where it listens now; 0 while it does not run.
    port: Arc<AtomicU16>,
}

impl Node {
    /// Starts it.
    pub fn start(engine: &'static str, dsn: String, watermark: PathBuf) -> Node {
        let node = Node { engine, dsn, watermark, server: Mutex::default(), port: Arc::default() };
        node.start_again();
        node
    }

    /// Where it listens, now and later.
    pub fn port(&self) -> Arc<AtomicU16> {
        self.port.clone()
    }

    /// Ends it as a crash does.
    pub fn kill(&self) {
        drop(self.take());
    }

    /// Ends it as an operator does.
    pub fn stop(&self) {
        let mut server = self.take();
        let told = Instant::now();
        server.signal(libc::SIGTERM);
        let status = server.wait();
        assert!(status.success(), "{} ended with {status}: {:#?}", self.engine, server.rest_of_log());
        assert!(told.elapsed() < CLEAN_END_MAX, "{} took {:?} to end", self.engine, told.elapsed());
    }

    /// Starts it after [`kill`](Node::kill) or [`stop`](Node::stop), on another free port.
    ///
    /// Segments are small and short-lived, so that it reserves often.
    pub fn start_again(&self) {
        let setup = Setup::on(&self.dsn)
            .key("HttpEngine", self.engine)
            .key("WatermarkPath", self.watermark.to_str().expect("UTF-8"))
            .key("AllocTimeout", 500)
            .key("SegmentSeconds", 1)
            .key("MaxStepFactor", 100)
            .key("TagReloadSeconds", 1);
        let server = setup.start();
        self.port.store(server.port(), Relaxed);
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    /// Waits until it serves.
    pub fn await_service(&self, target: &str) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let server = server.as_ref().expect("a running server");
        server.await_status("/health", 200);
        server.await_status(target, 200);
    }

    fn take(&self) -> Server {
        self.port.store(0, Relaxed);
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        server.expect("a running server")
    }
}
