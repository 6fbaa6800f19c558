//! The command line.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use idalloc::alloc::{Allocator, AllocatorConfig, StoreFactory};
use idalloc::config::{Config, ConfigError, process_env};
use idalloc::http::Server;
use idalloc::store::{self, StoreError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::logging;

/// How long the end may take: answers under way are sent, threads finish their statements.
const DRAIN_MAX: Duration = Duration::from_secs(10);
const CLOSE_MAX: Duration = Duration::from_secs(6);

/// Files that are open beside connections, generously: the store's, the runtimes', the listener and the standard streams.
const FILES_BESIDE_CONNECTIONS: usize = 256;

/// A distributed ID generator: unique, growing 64-bit IDs over HTTP, reserved from MySQL by the segment
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ConfigArg,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve IDs over HTTP (the default)
    Serve(ConfigArg),
    /// Look whether the configuration, the store, its table and its durability settings are as they should be
    Check(ConfigArg),
}

#[derive(Debug, ClapArgs)]
struct ConfigArg {
    /// The configuration; without it: the embedded store idalloc.db in the working directory, and port 8880.
    /// IDALLOC_DSN in the environment overrides the DSN of either
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why the program ends with an error, in words for the one who started it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store must be mended.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server cannot listen.
    #[error("cannot serve on {address}: {cause}")]
    Listen { address: String, cause: io::Error },
    /// The system refuses something basic.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Does what the command line says.
pub fn run(args: Args) -> Result<(), RunError> {
    match args.command.unwrap_or(Command::Serve(args.serve)) {
        Command::Serve(arg) => serve(arg.config.as_deref()),
        Command::Check(arg) => check(arg.config.as_deref()),
    }
}

fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    file.map_or_else(|| Config::embedded(&process_env), Config::load)
}

fn check(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    println!("configuration: good");
    let mut store = store::open(&config.dsn, &config.table);
    let report = store.check()?;
    println!("store: {}", report.store);
    report.facts.iter().for_each(|fact| println!("  good: {fact}"));
    report.warnings.iter().for_each(|warning| println!("  warning: {warning}"));
    println!("tags: {}", store.list_tags(store::TAGS_MAX)?.len());
    Ok(())
}

fn serve(file: Option<&Path>) -> Result<(), RunError> {
    let config = load(file)?;
    logging::start(config.log_format);
    match file {
        Some(file) => info!(config = %file.display(), dsn = %config.dsn, "starting"),
        None => {
            info!(dsn = %config.dsn, port = config.http_port, "no --config: starting with the embedded store")
        }
    }
    raise_file_limit(config.connections_max);
    // Signals that come from here on are kept until they are looked at.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::new() })?;

    let allocator = start_allocator(&config)?;
    let listen_error =
        |cause| RunError::Listen { address: format!("{}:{}", config.http_host, config.http_port), cause };
    let server = Server::start(&config, &allocator).map_err(listen_error)?;
    println!("server started at: {}", shown(server.address()));

    runtime.block_on(signals.next());
    info!("stopping: no new connections, answering what is under way");
    let ender = std::thread::spawn(move || {
        server.drain(DRAIN_MAX);
        allocator.close(CLOSE_MAX);
    });
    runtime.block_on(async {
        let ended = async {
            while !ender.is_finished() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = ended => info!("stopped"),
            () = signals.next() => warn!("a second signal: stopping at once"),
        }
    });
    Ok(())
}

/// A connection is a file. The soft limit is often 1024, for the sake of programs that use `select`; this one does not.
fn raise_file_limit(connections_max: usize) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) if files < (connections_max + FILES_BESIDE_CONNECTIONS) as u64 => warn!(
            files,
            MaxConnections = connections_max,
            "the limit of open files is too low for MaxConnections: raise it (ulimit -Hn), or lower MaxConnections"
        ),
        Ok(_) => {}
        Err(error) => warn!(%error, "cannot raise the limit of open files"),
    }
}

fn start_allocator(config: &Config) -> Result<Allocator, StoreError> {
    let (dsn, table) = (config.dsn.clone(), config.table.clone());
    let open: StoreFactory = Arc::new(move || store::open(&dsn, &table));
    let settings = AllocatorConfig {
        refill_threads: config.refill_threads,
        preload_tags: config.preload_tags,
        tag_reload: config.tag_reload,
    };
    Allocator::start(settings, &open)
}

/// The address to open in a browser on this machine, where there is one.
fn shown(address: std::net::SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() || ip.is_loopback() => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
