//! The HTTP server: an engine moves bytes, [`handler`] knows the API.

pub mod authority;
pub mod body;
pub(crate) mod buffer_memory;
pub mod counters;
pub mod engine_may;
pub mod engine_tokio;
pub mod exchange;
pub mod fast_path;
pub mod handler;
mod json;
pub(crate) mod linger;
pub mod origin;
pub(crate) mod queued;
pub mod request;
pub mod response;
mod retry_after;

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::alloc::Allocator;
use crate::api;
use crate::config::{Config, HttpEngine};
use counters::Counters;
use handler::{Handler, Service};
use origin::Gate;

// A bug in a request must cost its connection, and not every other client's.
#[cfg(not(panic = "unwind"))]
compile_error!(
    "idalloc must be built with panic = \"unwind\", which is Cargo's default: see [profile] in Cargo.toml"
);

/// A server that is told to stop and has had no connection for so long, and so no balancer's probe either, has nobody left
/// who might send it a request. Probes come every second or two; that there is no connection at this moment says nothing.
const NOBODY_LEFT: Duration = Duration::from_secs(2);
/// How often it is looked whether somebody is there.
const DEPARTURES_LOOK: Duration = Duration::from_millis(20);

/// Connections that may wait to be accepted; the kernel lowers it to its own limit.
const ACCEPT_BACKLOG: i32 = 4096;

pub use engine_tokio::{FILES_PER_WORKER, LINGERING_MAX};

/// A running server.
pub struct Server {
    address: SocketAddr,
    service: Arc<Service>,
    engine: Engine,
}

enum Engine {
    Tokio(engine_tokio::Engine),
    May(engine_may::Engine),
}

impl Server {
    /// Listens where `config` says and serves the IDs of `allocator`. A worker calls `trim` when a rush is over: it
    /// gives the system back what the global allocator holds and does not need.
    ///
    /// # Errors
    /// The address is in use, not of this machine, or not permitted; or the system has no threads left.
    pub fn start(config: &Config, allocator: &Allocator, trim: fn()) -> io::Result<Self> {
        let Config { api, http, .. } = config;
        let service = Arc::new(Service {
            api: Arc::new(api::Service::new(api)),
            counters: Counters::default(),
            gate: Gate::new(&http.names, &http.cors_origins),
        });
        let (limits, listener) = (http.limits, listen(http.host, http.port)?);
        let address = listener.local_addr()?;
        let (new_handle, shared) = (allocator.handles(), service.clone());
        let new_handler = move || Handler::new(new_handle(), shared.clone());
        let engine = match http.engine {
            HttpEngine::Tokio => Engine::Tokio(engine_tokio::Engine::start(
                listener,
                limits,
                trim,
                service.clone(),
                new_handler,
            )?),
            HttpEngine::MayMinihttp => {
                Engine::May(engine_may::Engine::start(listener, limits, service.clone(), new_handler)?)
            }
        };
        Ok(Self { address, service, engine })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its handlers share: the counts, and whether it stops.
    pub fn service(&self) -> Arc<Service> {
        self.service.clone()
    }

    /// From now on `/health` fails, and every answer is the last on its connection.
    pub fn begin_drain(&self) {
        // Relaxed: see `api::Service::is_draining`.
        self.service.api.draining.store(true, Relaxed);
    }

    /// Serves on for so long, or until nobody has been there for `NOBODY_LEFT`: so balancers find out, and clients go
    /// elsewhere.
    pub fn await_departures(&self, limit: Duration) {
        let connections = &self.service.counters.connections;
        let arrivals = || connections.accepted() + connections.refused();
        let began = Instant::now();
        let (mut somebody_at, mut arrived) = (began, arrivals());
        while began.elapsed() < limit && somebody_at.elapsed() < NOBODY_LEFT {
            thread::sleep(DEPARTURES_LOOK.min(limit));
            let arrived_before = mem::replace(&mut arrived, arrivals());
            if connections.open() > 0 || arrived != arrived_before {
                somebody_at = Instant::now();
            }
        }
    }

    /// Stops listening, answers what is under way, and closes every connection, within `limit`.
    pub fn drain(self, limit: Duration) {
        self.begin_drain();
        match self.engine {
            Engine::Tokio(engine) => engine.drain(limit),
            Engine::May(engine) => engine.drain(limit),
        }
    }
}

/// A listening socket that no other process shares.
pub(crate) fn listen(host: IpAddr, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Only lets a restarted server have the port of its predecessor's closed connections.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
