//! The listening socket and its connections.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval};
use tokio_io_timeout::TimeoutStream;
use tracing::{info, warn};

use super::eager::EagerStream;
use super::guard::Caller;
use super::places::{Place, Places};
use super::{Admin, events, router};
use crate::alloc::monitor::Monitor;
use crate::config::{Config, OperatorSection};
use crate::episode::Episode;
use crate::http::handler::Service;
use crate::http::linger::{Linger, discard_until_closed};
use crate::http::listen;
use crate::store::Backend;
use crate::supervise;

/// How long a head may take to arrive, and so how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of an answer, or of a stream.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that sends on is listened to after the last answer, as after a 413 to a long body.
const LINGER: Linger = Linger { silence_max: Duration::from_secs(1), time_max: HEAD_TIMEOUT };
/// How often it is looked whether many connections have come, and how many are more than probes and operators make.
const RUSH_LOOK: Duration = Duration::from_secs(5);
const RUSH_CONNECTIONS: u64 = 64;
/// The last of them may stay for as long as `HEAD_TIMEOUT`.
const TRIMS_AFTER_RUSH: u32 = 3;
/// What a connection buffers of a request, and so the longest head.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The pause after accepting failed for want of descriptors or memory; without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The operator's port: bound, and not yet served.
pub struct Port {
    listener: Arc<TcpListener>,
    address: SocketAddr,
}

impl Port {
    /// Listens where `config` says. To be called in the runtime that serves it.
    ///
    /// # Errors
    /// The address is in use, not of this machine, or not permitted.
    pub fn bind(config: &OperatorSection) -> io::Result<Self> {
        let listener = TcpListener::from_std(listen(config.host, config.port)?)?;
        Ok(Self { address: listener.local_addr()?, listener: listener.into() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves it for as long as it is polled, on the runtime that polls it. Operators' sessions with the store come from
    /// `backend`. When a rush of connections is over, `trim` gives the system back what they needed.
    pub async fn serve(
        self,
        config: Config,
        backend: Arc<dyn Backend>,
        monitor: Monitor,
        service: Arc<Service>,
        trim: fn(),
    ) {
        let admin = Arc::new(Admin::new(config, backend, monitor, service));
        let router = router(admin.clone());
        tokio::join!(
            supervise::run("the operator's port", || {
                accept(self.listener.clone(), admin.places.clone(), router.clone())
            }),
            supervise::run("the operator's samples", || events::sample(admin.clone())),
            trim_after_rushes(admin.places.clone(), trim),
        );
    }
}

/// By itself the global allocator keeps, for a thread that has become quiet, what the thread has freed.
async fn trim_after_rushes(places: Arc<Places>, trim: fn()) {
    let mut ticks = interval(RUSH_LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut entered, mut trims) = (places.entered(), 0);
    loop {
        ticks.tick().await;
        let before = mem::replace(&mut entered, places.entered());
        if entered - before > RUSH_CONNECTIONS {
            trims = TRIMS_AFTER_RUSH;
        } else if trims > 0 {
            trims -= 1;
            trim();
        }
    }
}

async fn accept(listener: Arc<TcpListener>, places: Arc<Places>, router: Router) {
    let mut failing = Episode::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if failing.is_over() {
                    info!("accepting connections on the operator's port again");
                }
                tokio::spawn(serve_connection(stream, peer, places.enter(), router.clone()));
                // What it has sent is looked at before it may lose its place to those that come next.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if failing.holds(Instant::now()) {
                    warn!(%error, "cannot accept connections on the operator's port; trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until its client goes, is too slow, or loses its place.
async fn serve_connection(stream: TcpStream, peer: SocketAddr, place: Arc<Place>, router: Router) {
    // An error means that the client is gone already.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut stream = Box::pin(TimeoutStream::new(EagerStream(stream)));
    stream.as_mut().set_write_timeout_pinned(Some(WRITE_TIMEOUT));
    let router = TowerToHyperService::new(router);
    let caller = Caller::new(peer, place.clone());
    let service = service_fn(|mut request| {
        request.extensions_mut().insert(caller.clone());
        let (answering, answer) = (place.answering(), router.call(request));
        Box::pin(async move {
            let answer = answer.await;
            drop(answering);
            answer
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let serve = async {
        let ended = (&mut connection).await;
        // Any other error is the client's: it was slow, or went away.
        if ended.is_ok() || ended.is_err_and(|error| error.is_parse()) {
            let stream = connection.into_parts().io.into_inner();
            discard_until_closed(&stream.get_ref().0, LINGER).await;
        }
    };
    tokio::select! {
        () = serve => {}
        () = place.lost() => {}
    }
}
