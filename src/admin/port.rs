//! The listening socket and its connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tracing::{info, warn};

use super::guard::Caller;
use super::places::{Place, Places};
use super::{Admin, events, router};
use crate::alloc::monitor::Monitor;
use crate::config::{AdminConfig, Config};
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
/// What a connection buffers of a request, and so the longest head.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The pause after accepting failed for want of descriptors or memory; without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The operator's port: bound, and not yet served.
pub struct Port {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    config: AdminConfig,
}

impl Port {
    /// Listens where `config` says. To be called in the runtime that serves it.
    ///
    /// # Errors
    /// The address is in use, not of this machine, or not permitted.
    pub fn bind(config: &AdminConfig) -> io::Result<Self> {
        let listener = TcpListener::from_std(listen(config.host, config.port)?)?;
        Ok(Self { address: listener.local_addr()?, listener: listener.into(), config: config.clone() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves it for as long as it is polled, on the runtime that polls it. Operators' sessions with the store come from
    /// `backend`.
    pub async fn serve(
        self,
        config: Config,
        backend: Arc<dyn Backend>,
        monitor: Monitor,
        service: Arc<Service>,
    ) {
        let admin = Arc::new(Admin::new(config, self.config, backend, monitor, service));
        let router = router(admin.clone());
        tokio::join!(
            supervise::run("the operator's port", || {
                accept(self.listener.clone(), admin.places.clone(), router.clone())
            }),
            supervise::run("the operator's samples", || events::sample(admin.clone())),
        );
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
    let mut stream = Box::pin(TimeoutStream::new(stream));
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
            discard_until_closed(stream.get_ref(), LINGER).await;
        }
    };
    tokio::select! {
        () = serve => {}
        () = place.lost() => {}
    }
}
