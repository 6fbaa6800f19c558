//! The command line.

mod check;
pub mod output;
mod schema;
mod serve;
mod tag;
mod top;

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand};
use idalloc::alloc::watermark::{WatermarkError, Watermarks};
use idalloc::config::{Config, ConfigError, process_env};
use idalloc::store::change::ChangeError;
use idalloc::store::{self, StoreError};

use self::check::Check;
use self::tag::TagCommand;
use self::top::{ClientError, Top};

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
    /// Look after tags
    #[command(subcommand, after_help = tag::NOTICE)]
    Tag(TagCommand),
    /// Print the SQL that makes the database and the table, under the names of the configuration
    Schema(ConfigArg),
    /// Make the database and the table where they are not there; safe to run twice
    Init(ConfigArg),
    /// Watch a running server, live on this terminal: its rates, its refills, and its tags, those in trouble first
    Top(Top),
    /// Look whether the configuration, its files and ports, the store, the account, and the table's rows are as they should be
    #[command(after_help = check::NOTICE)]
    Check(Check),
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
    /// The watermark file cannot be used.
    #[error("{}: {cause}; WatermarkPath names another, or none if empty", path.display())]
    Watermark { path: PathBuf, cause: WatermarkError },
    /// Nothing is known of what was granted.
    #[error(
        "no watermark is known for {0:?}: give --to, the max_id that the server's answers and its log name"
    )]
    NoWatermark(String),
    /// The store must be mended.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No row has the tag.
    #[error("no tag {tag:?} in {table}: see `idalloc tag list`")]
    UnknownTag { tag: String, table: String },
    /// A change was not made, or not altogether.
    #[error("{0}{hint}", hint = doubt(.0))]
    Change(ChangeError),
    /// The check is not passed.
    #[error(
        "{0} rows of the table get no IDs; mend them in the database, or with `idalloc tag set TAG --step N`"
    )]
    RowsAtFault(usize),
    /// Somebody has to say yes.
    #[error("there is no terminal to ask on: give --yes to delete the tag")]
    NobodyToAsk,
    /// Somebody said no.
    #[error("{0:?} is not deleted")]
    NotDeleted(String),
    /// There is nothing to draw on.
    #[error("top needs a terminal; GET /api/tags and /metrics of the operator's port are for programs")]
    NoTerminal,
    /// The operator's port does not answer as it should.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server cannot listen.
    #[error("cannot serve on {address}: {cause}")]
    Listen { address: String, cause: io::Error },
    /// The operator's port cannot be had.
    #[error("cannot serve operators on {address}: {cause}; AdminPort names another port, or none if 0")]
    ListenAdmin { address: String, cause: io::Error },
    /// A part of the server has ended for good.
    #[error("a bug: {0} has ended by a panic, which is in the log; please report it")]
    GivenUp(String),
    /// The system refuses something basic.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
}

impl RunError {
    /// What the program exits with: 2 where the command line must be another, as for arguments that are not understood.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NobodyToAsk | Self::NoTerminal => 2,
            Self::Client(ClientError::Url(_)) => 2,
            _ => 1,
        }
    }
}

fn doubt(error: &ChangeError) -> &'static str {
    if error.is_in_doubt() { ": see `idalloc tag show`" } else { "" }
}

/// Does what the command line says.
pub fn run(args: Args) -> Result<(), RunError> {
    match args.command.unwrap_or(Command::Serve(args.serve)) {
        Command::Serve(arg) => serve::serve(arg.config.as_deref()),
        Command::Check(args) => check::check(&args),
        Command::Tag(command) => tag::run(command),
        Command::Top(args) => top::top(&args),
        Command::Schema(arg) => schema::schema(arg.config.as_deref()),
        Command::Init(arg) => schema::init(arg.config.as_deref()),
    }
}

fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    file.map_or_else(|| Config::embedded(&process_env), Config::load)
}

/// What was granted before to servers with this configuration.
fn watermarks(config: &Config) -> Result<Watermarks, RunError> {
    let Some(path) = &config.store.watermark_path else { return Ok(Watermarks::default()) };
    let table = store::backend(&config.store.dsn, &config.store.table).canonical_name();
    let failed = |cause| RunError::Watermark { path: path.clone(), cause };
    store::watermark::open(path, &table).map_err(failed)
}
