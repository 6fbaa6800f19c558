//! `idalloc serve`: start, serve until told to stop, and end cleanly.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use idalloc::admin::{self, Port};
use idalloc::alloc::watermark::Watermarks;
use idalloc::alloc::{Allocator, AllocatorConfig, StoreFactory};
use idalloc::config::Config;
use idalloc::http::{self, Server};
use idalloc::readiness;
use idalloc::store::{self, Backend, StoreError};
use idalloc::{logging, supervise};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::{RunError, load, watermarks};
use crate::memory;

/// How long the end may take. What answers under way do not need of it is for giving IDs back: the first use is mostly
/// over at once, and the second takes long where tags are many or the store is far.
const END_MAX: Duration = Duration::from_secs(8);
/// How much longer it may take before what hangs is left to itself.
const END_EXCESS_MAX: Duration = Duration::from_millis(500);
/// How long answers under way are waited for.
const DRAIN_MAX: Duration = Duration::from_secs(6);

/// Whoever signals all processes of a group, or of a container, may signal this one twice.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// Files that are open in any case beside those of workers and refill threads: the standard streams, the listeners, the
/// runtimes, the watermarks', and those of a session with the store.
const FILES_AT_REST: usize = 24;
/// A session with the store: SQLite has a journal beside the database.
const FILES_PER_REFILL_THREAD: usize = 2;
/// For what is opened and closed again: a file of watermarks that is written, names that are resolved.
const FILES_SPARE: usize = 24;

pub(super) fn serve(file: Option<&Path>) -> Result<(), RunError> {
    let mut config = load(file)?;
    let _log = logging::start(config.log.format)?;
    match file {
        Some(file) => info!(config = %file.display(), dsn = %config.store.dsn, "starting"),
        None => {
            info!(dsn = %config.store.dsn, port = config.http.port, "no --config: starting with the embedded store")
        }
    }
    config.http.limits.connections_max = connections_within_file_limit(&config);
    let watermarks = watermarks(&config)?;
    if config.store.watermark_path.is_none() {
        info!(
            "no watermark file: a store that goes back is noticed by this process only, not after a restart"
        );
    }
    // Signals that come from here on are kept until they are looked at.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::new() })?;

    let admin_port = {
        let _inside = runtime.enter();
        bind_admin(&config)?
    };
    let backend = store::backend(&config.store.dsn, &config.store.table);
    let starting = start_unless_stopped(&config, watermarks, backend.clone(), &mut signals);
    let Some(allocator) = runtime.block_on(starting)? else {
        return Ok(());
    };
    let listen_error =
        |cause| RunError::Listen { address: format!("{}:{}", config.http.host, config.http.port), cause };
    let server = Server::start(&config, &allocator, memory::trim).map_err(listen_error)?;
    warn_if_open(&config, server.address());
    let drain_time = config.http.drain_time;
    let (monitor, service) = (allocator.monitor(), server.service());
    runtime.spawn(supervise::run("the watch on readiness", move || {
        readiness::log_changes(monitor.clone(), service.clone())
    }));
    let mut greeting = format!("server started at: {}\n", shown(server.address()));
    if let Some(port) = admin_port {
        greeting += &format!("operator's port at: {}\n", shown(port.address()));
        runtime.spawn(port.serve(config, backend, allocator.monitor(), server.service(), memory::trim));
    }
    print_aside(greeting)?;

    let end = runtime.block_on(async {
        tokio::select! {
            signal = signals.next() => Ok(signal),
            name = supervise::given_up() => Err(name),
        }
    });
    let told = Instant::now();
    server.begin_drain();
    // Who sits at a terminal is not behind a balancer.
    let serve_on = if end == Ok(SignalKind::interrupt()) { Duration::ZERO } else { drain_time };
    info!(
        DrainSeconds = serve_on.as_secs(),
        "stopping: /health fails; serving until nobody is left, for so long at most"
    );
    let ender = thread::Builder::new().name("idalloc-end".to_owned()).spawn(move || {
        server.await_departures(serve_on);
        let began = Instant::now();
        server.drain(DRAIN_MAX);
        allocator.close(END_MAX.saturating_sub(began.elapsed()));
    })?;
    let ended = runtime.block_on(async {
        let ended = async {
            while !ender.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = ended => true,
            () = signals.next_after(told + SAME_SIGNAL) => {
                warn!("a second signal: stopping at once");
                false
            }
            () = tokio::time::sleep(serve_on + END_MAX + END_EXCESS_MAX) => {
                warn!("the end takes too long, as when a disk hangs: stopping at once, unclaimed IDs are skipped");
                false
            }
        }
    });
    if ended && ender.join().is_err() {
        return Err(RunError::GivenUp("the end".to_owned()));
    }
    if ended {
        info!("stopped");
    }
    // An operator's change that the store does not answer would hold up the end otherwise.
    runtime.shutdown_background();
    end.map(drop).map_err(RunError::GivenUp)
}

/// Says so if others than this machine can take as many IDs as they like.
fn warn_if_open(config: &Config, address: SocketAddr) {
    if config.api.tokens.is_none() && !address.ip().to_canonical().is_loopback() {
        warn!(
            %address,
            "everybody who reaches this port may have IDs: set AccessTokens, or HttpHost to an address that only your \
             clients reach; TagLimits bounds what they take"
        );
    }
}

/// Prints what nobody need read: whoever started this server may have closed the output, or let it fill up.
fn print_aside(text: String) -> io::Result<()> {
    let print = move || {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    thread::Builder::new().name("idalloc-stdout".to_owned()).spawn(print).map(drop)
}

fn bind_admin(config: &Config) -> Result<Option<Port>, RunError> {
    let operator = &config.operator;
    if !operator.is_on() {
        return Ok(None);
    }
    let address = format!("{}:{}", operator.host, operator.port);
    Port::bind(operator).map(Some).map_err(|cause| RunError::ListenAdmin { address, cause })
}

/// MaxConnections, or less where the system allows fewer files: a connection is one. The soft limit is often 1024, for the
/// sake of programs that use `select`; this one does not, so it is raised to the hard one.
fn connections_within_file_limit(config: &Config) -> usize {
    let wanted = config.http.limits.connections_max;
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        warn!(%error, "cannot raise the limit of open files");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX)
    });
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let always = FILES_AT_REST
        + config.http.limits.workers * http::FILES_PER_WORKER
        + config.allocator.refill_threads * FILES_PER_REFILL_THREAD;
    let at_times = http::LINGERING_MAX + admin::FILES_MAX + FILES_SPARE;
    // Where there are few, what is open at times only has to share with the connections.
    let left = files.saturating_sub(always);
    let possible = left.saturating_sub(at_times.min(left / 2)).max(1);
    if possible < wanted {
        warn!(
            files,
            MaxConnections = wanted,
            used = possible,
            "MaxConnections exceeds the limit of open files (ulimit -Hn)"
        );
    }
    wanted.min(possible)
}

/// The allocator, or `None` when a signal comes while the store does not answer.
async fn start_unless_stopped(
    config: &Config,
    watermarks: Watermarks,
    backend: Arc<dyn Backend>,
    signals: &mut Signals,
) -> Result<Option<Allocator>, RunError> {
    let (sender, started) = tokio::sync::oneshot::channel();
    let config = config.clone();
    // Not waited for after a signal: it may be in the middle of connecting, and holds nothing that matters.
    thread::Builder::new()
        .name("idalloc-start".to_owned())
        .spawn(move || sender.send(start_allocator(&config, watermarks, backend)))?;
    tokio::select! {
        started = started => match started {
            Ok(allocator) => Ok(Some(allocator?)),
            Err(_) => Err(io::Error::other("the start panicked").into()),
        },
        _ = signals.next() => Ok(None),
    }
}

fn start_allocator(
    config: &Config,
    watermarks: Watermarks,
    backend: Arc<dyn Backend>,
) -> Result<Allocator, StoreError> {
    if backend.session().create_missing_file().or_else(unless_temporary)? {
        info!(dsn = %config.store.dsn, "the file is new: its IDs begin at 1");
    }
    let open: StoreFactory = Arc::new(move || backend.session());
    let settings = AllocatorConfig { trim: memory::trim, ..AllocatorConfig::from(&config.allocator) };
    Allocator::start(settings, watermarks, &open)
}

/// What may pass by itself is tried again by the allocator.
fn unless_temporary(error: StoreError) -> Result<bool, StoreError> {
    match error {
        StoreError::Unavailable(_) => Ok(false),
        error => Err(error),
    }
}

/// The address to open in a browser on this machine, where there is one.
fn shown(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() || ip.is_loopback() => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    }
}

/// The signals that end the server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` where whoever started the server has it ignored, as nohup does.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let hangup = (!is_ignored(libc::SIGHUP)).then(|| signal(SignalKind::hangup())).transpose()?;
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
        Ok(Self { interrupt: interrupt?, terminate: terminate?, hangup })
    }

    async fn next(&mut self) -> SignalKind {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = hangup => SignalKind::hangup(),
        }
    }

    /// The next one that does not come before `earliest`.
    async fn next_after(&mut self, earliest: Instant) {
        while {
            self.next().await;
            Instant::now() < earliest
        } {}
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all of its fields may be zero.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action it only writes the present one to `action`, which outlives the call.
    let done = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    done == 0 && action.sa_sigaction == libc::SIG_IGN
}
