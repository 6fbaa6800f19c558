//! Accepts connections and hands each to the worker with the fewest.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::WorkerPort;
use crate::episode::Episode;
use crate::http::handler::{Service, too_many_connections};
use crate::http::request::Version;
use crate::http::response::{Delivery, Encoder};

/// The pause after accepting failed for want of descriptors or memory; without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a refused client may take to read its 503.
const LINGER: Duration = Duration::from_millis(500);
/// The most refused connections that are given this time; further ones are closed at once.
const LINGERING_MAX: usize = 128;

pub(super) struct Acceptor {
    ports: Vec<WorkerPort>,
    connections_max: usize,
    service: Arc<Service>,
    failing: Episode,
    refusing: Episode,
}

impl Acceptor {
    pub fn new(ports: Vec<WorkerPort>, connections_max: usize, service: Arc<Service>) -> Self {
        Self { ports, connections_max, service, failing: Episode::default(), refusing: Episode::default() }
    }

    /// Accepts until told to stop, and then those who had connected before.
    pub async fn run(mut self, listener: AsyncFd<TcpListener>, mut stopped: watch::Receiver<bool>) {
        let lingering = Rc::new(());
        loop {
            let accepted = tokio::select! {
                accepted = listener.async_io(Interest::READABLE, |listener| listener.accept()) => accepted,
                _ = stopped.changed() => break,
            };
            match accepted {
                Ok((stream, _)) => self.dispatch(stream, &lingering),
                Err(error) => self.pause_after(&error).await,
            }
        }
        for _ in 0..self.connections_max {
            let Ok((stream, _)) = listener.get_ref().accept() else { return };
            self.dispatch(stream, &lingering);
        }
    }

    fn dispatch(&mut self, stream: TcpStream, lingering: &Rc<()>) {
        if self.failing.is_over() {
            info!("accepting connections again");
        }
        // Relaxed: counts, no more; only this thread counts up, so the limit holds.
        let open: usize = self.ports.iter().map(|port| port.open.load(Relaxed)).sum();
        if open >= self.connections_max {
            self.note_refusing();
            self.service.counters.connections.note_refused();
            if Rc::strong_count(lingering) <= LINGERING_MAX {
                tokio::task::spawn_local(refuse(stream, lingering.clone()));
            }
            return;
        }
        if self.refusing.is_over() {
            info!("all connections are accepted again");
        }
        let Some(port) = self.ports.iter().min_by_key(|port| port.open.load(Relaxed)) else { return };
        self.service.counters.connections.note_accepted();
        port.open.fetch_add(1, Relaxed);
        if port.connections.send(stream).is_err() {
            port.open.fetch_sub(1, Relaxed);
        }
    }

    fn note_refusing(&mut self) {
        if self.refusing.holds(Instant::now()) {
            warn!(MaxConnections = self.connections_max, "no more connections: refusing with 503");
        }
    }

    async fn pause_after(&mut self, error: &io::Error) {
        // The client was gone before it was accepted: that says nothing about this machine.
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
            return;
        }
        if self.failing.holds(Instant::now()) {
            warn!(%error, "cannot accept connections; trying again");
        }
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Makes the listener known to the runtime.
pub(super) fn register(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: a `TcpListener` owns its descriptor, and keeps it open until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?)
}

/// Tells a client that it is one too many. A close with unread bytes would reset the connection and take the answer
/// with it, so what the client sends is read for a while.
async fn refuse(stream: TcpStream, _lingering: Rc<()>) {
    let mut response = Vec::new();
    let delivery = Delivery { version: Version::Http11, keep_alive: false, head_only: false };
    Encoder::new().encode(&too_many_connections(), delivery, &mut response);
    let sent = stream.set_nonblocking(true).and_then(|()| SockRef::from(&stream).send(&response));
    let Ok(mut stream) = sent.and_then(|_| stream.shutdown(Shutdown::Write)).and_then(|()| stream.try_into())
    else {
        return;
    };
    let _ = timeout(LINGER, read_to_end(&mut stream)).await;
}

async fn read_to_end(stream: &mut tokio::net::TcpStream) {
    let mut discarded = [0; 1024];
    while let Ok(1..) = stream.read(&mut discarded).await {}
}
