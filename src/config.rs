//! config.json -> a [`Config`] that cannot be wrong.
//!
//! [`KEYS`] is the one place that knows every key's name, default and range; the README's table shows the same.

mod admin_tokens;
mod limits;
mod origins;
mod secrets;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use idalloc_core::OnRegression;
use idalloc_core::sizing::Policy;
pub use idalloc_store::table::{Identifier, TableSpec};

use crate::bounds::{LEFT_MIN, LEFT_PER_RESERVATION, STEP_MAX};
use crate::dsn::{Dsn, DsnError};
use limits::is_token;

pub use admin_tokens::AdminTokens;
pub use limits::{AccessScope, AccessToken, AccessTokens, RATE_MAX, RateLimit, TagLimits};
pub use origins::CorsOrigins;
use origins::{CORS_ORIGINS, HTTP_NAMES};
pub use secrets::secrets_in;

/// The environment variable that overrides the key `DSN`, so that a password need not be in a file.
pub const DSN_VARIABLE: &str = "IDALLOC_DSN";

/// The environment variable that overrides the key `AdminToken`, for the same reason.
pub const ADMIN_TOKEN_VARIABLE: &str = "IDALLOC_ADMIN_TOKEN";

/// What is served when no file says otherwise.
const EMBEDDED: &str = r#"{"DSN": "sqlite:idalloc.db"}"#;

const WORKERS_MAX: u64 = 1024;

const MIB: usize = 1024 * 1024;

/// How long a token may be: a shorter one is soon guessed.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;
const ADMIN_NAMES_MAX: usize = 100;

const DSN: TextKey = TextKey {
    name: "DSN",
    default: None,
    allowed: "a DSN such as user:password@tcp(host:port)/database or sqlite:PATH",
};
const TABLE: TextKey = TextKey {
    name: "table",
    default: Some("segments"),
    allowed: "table or database.table, each 1 to 64 of A-Z a-z 0-9 _ $",
};
const TAG_COLUMN: TextKey =
    TextKey { name: "TagColumn", default: Some("app_tag"), allowed: "1 to 64 of A-Z a-z 0-9 _ $" };
const HTTP_HOST: TextKey =
    TextKey { name: "HttpHost", default: Some("0.0.0.0"), allowed: "an IP address or localhost" };
const HTTP_PORT: IntegerKey = IntegerKey::new("HttpPort", 8880, 0, 65_535, "(0: any free port)");
const HTTP_READ_TIMEOUT: IntegerKey = IntegerKey::new("HttpReadTimeout", 5000, 1, 3_600_000, "ms");
const HTTP_WRITE_TIMEOUT: IntegerKey = IntegerKey::new("HttpWriteTimeout", 5000, 1, 3_600_000, "ms");
const HTTP_IDLE_TIMEOUT: IntegerKey = IntegerKey::new("HttpIdleTimeout", 75_000, 1, 3_600_000, "ms");
const HTTP_BUFFER_MEMORY: IntegerKey = IntegerKey::new("HttpBufferMemory", 64, 1, 65_536, "MiB");
const HTTP_ENGINE: TextKey =
    TextKey { name: "HttpEngine", default: Some("tokio"), allowed: "tokio or may_minihttp" };
const WORKERS: IntegerKey =
    IntegerKey { name: "Workers", default: None, min: 1, max: WORKERS_MAX, unit: "threads" };
const MAX_CONNECTIONS: IntegerKey = IntegerKey::new("MaxConnections", 16_384, 1, 1_000_000, "connections");
const DRAIN_SECONDS: IntegerKey = IntegerKey::new("DrainSeconds", 5, 0, 3600, "s");
const ALLOC_TIMEOUT: IntegerKey = IntegerKey::new("AllocTimeout", 2000, 1, 60_000, "ms");
const MAX_BATCH: IntegerKey = IntegerKey::new("MaxBatch", 10_000, 1, 100_000, "IDs");
const MAX_LEASE: IntegerKey = IntegerKey::new("MaxLease", 1_000_000, 1, 1_000_000_000, "IDs");
// However high a person sets a tag's max_id, the largest lease fits, and the largest step times the default factor.
const _: () = assert!(MAX_LEASE.max <= (LEFT_MIN / LEFT_PER_RESERVATION) as u64);
const _: () = assert!(STEP_MAX <= LEFT_MIN / LEFT_PER_RESERVATION / 1000);
const REFILL_THREADS: IntegerKey = IntegerKey::new("RefillThreads", 2, 1, 64, "threads");
const PRELOAD_TAGS: IntegerKey = IntegerKey::new("PreloadTags", 64, 0, 1_000_000, "tags");
const TAG_RELOAD_SECONDS: IntegerKey = IntegerKey::new("TagReloadSeconds", 10, 1, 3600, "s");
const SEGMENT_SECONDS: IntegerKey = IntegerKey::new("SegmentSeconds", 10, 1, 3600, "s");
const MAX_STEP_FACTOR: IntegerKey = IntegerKey::new("MaxStepFactor", 1000, 1, 1_000_000, "steps");
const WATERMARK_PATH: TextKey = TextKey {
    name: "WatermarkPath",
    default: Some("idalloc-watermark.db"),
    allowed: "a file of this server's own, or empty for none",
};
const ON_REGRESSION: TextKey =
    TextKey { name: "OnRegression", default: Some("refuse"), allowed: "refuse or advance" };
const FAILOVER_GUARD: TextKey = TextKey { name: "FailoverGuard", default: Some("on"), allowed: "on or off" };
const FAILOVER_STEPS: IntegerKey = IntegerKey::new("FailoverSteps", 1000, 1, 1_000_000_000, "steps");
const ALLOW_UNRELIABLE_FILE_SYSTEM: TextKey =
    TextKey { name: "AllowUnreliableFileSystem", default: Some("no"), allowed: "no or yes" };
const LOG_FORMAT: TextKey = TextKey { name: "LogFormat", default: Some("text"), allowed: "text or json" };
const ACCESS_TOKENS: SecretKey = SecretKey {
    name: "AccessTokens",
    allowed: "an object of 1 to 1000 tokens, each 16 to 256 visible ASCII characters with \"*\", an array of tags, or an object of tags, ids_per_second, burst and name",
};
const TAG_LIMITS: ObjectKey = ObjectKey {
    name: "TagLimits",
    allowed: "an object of up to 10000 tags, and \"*\" for each other, with ids_per_second and burst, each 1 to 1000000000 IDs",
};
const ADMIN_HOST: TextKey =
    TextKey { name: "AdminHost", default: Some("127.0.0.1"), allowed: "an IP address or localhost" };
const ADMIN_PORT: IntegerKey = IntegerKey::new("AdminPort", 8881, 0, 65_535, "(0: none)");
const ADMIN_TOKEN: SecretKey =
    SecretKey { name: "AdminToken", allowed: "16 to 256 visible ASCII characters" };
const ADMIN_TOKENS: SecretKey = SecretKey {
    name: "AdminTokens",
    allowed: "an object of 1 to 100 names, each 1 to 64 of A-Z a-z 0-9 . _ @ - and not AdminToken, each with a token of its own, 16 to 256 visible ASCII characters",
};
const ADMIN_NAMES: ListKey = ListKey { name: "AdminNames", allowed: "an array of up to 100 host names" };
const METRICS_TAGS: IntegerKey = IntegerKey::new("MetricsTags", 50, 0, 1000, "tags");

/// Every key of config.json.
pub const KEYS: &[Key] = &[
    Key::Text(DSN),
    Key::Text(TABLE),
    Key::Text(TAG_COLUMN),
    Key::Text(HTTP_HOST),
    Key::Integer(HTTP_PORT),
    Key::Integer(HTTP_READ_TIMEOUT),
    Key::Integer(HTTP_WRITE_TIMEOUT),
    Key::Integer(HTTP_IDLE_TIMEOUT),
    Key::Integer(HTTP_BUFFER_MEMORY),
    Key::Text(HTTP_ENGINE),
    Key::Integer(WORKERS),
    Key::Integer(MAX_CONNECTIONS),
    Key::Integer(DRAIN_SECONDS),
    Key::Integer(ALLOC_TIMEOUT),
    Key::Integer(MAX_BATCH),
    Key::Integer(MAX_LEASE),
    Key::Integer(REFILL_THREADS),
    Key::Integer(PRELOAD_TAGS),
    Key::Integer(TAG_RELOAD_SECONDS),
    Key::Integer(SEGMENT_SECONDS),
    Key::Integer(MAX_STEP_FACTOR),
    Key::Text(WATERMARK_PATH),
    Key::Text(ON_REGRESSION),
    Key::Text(FAILOVER_GUARD),
    Key::Integer(FAILOVER_STEPS),
    Key::Text(ALLOW_UNRELIABLE_FILE_SYSTEM),
    Key::Text(LOG_FORMAT),
    Key::Secret(ACCESS_TOKENS),
    Key::Object(TAG_LIMITS),
    Key::List(CORS_ORIGINS),
    Key::List(HTTP_NAMES),
    Key::Text(ADMIN_HOST),
    Key::Integer(ADMIN_PORT),
    Key::Secret(ADMIN_TOKEN),
    Key::Secret(ADMIN_TOKENS),
    Key::List(ADMIN_NAMES),
    Key::Integer(METRICS_TAGS),
];

/// One key of config.json.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    /// Its value is a string.
    Text(TextKey),
    /// Its value is a whole number.
    Integer(IntegerKey),
    /// Its value is an array of strings.
    List(ListKey),
    /// Its value is an object.
    Object(ObjectKey),
    /// Its value is never shown.
    Secret(SecretKey),
}

/// A key whose value is a string.
#[derive(Debug, Clone, Copy)]
pub struct TextKey {
    name: &'static str,
    /// `None`: must be given.
    default: Option<&'static str>,
    allowed: &'static str,
}

/// A key whose value is an array of strings, empty if it is absent.
#[derive(Debug, Clone, Copy)]
pub struct ListKey {
    name: &'static str,
    allowed: &'static str,
}

/// A key whose value is an object, empty if it is absent.
#[derive(Debug, Clone, Copy)]
pub struct ObjectKey {
    name: &'static str,
    allowed: &'static str,
}

/// A key that may be absent, and whose value no message quotes.
#[derive(Debug, Clone, Copy)]
pub struct SecretKey {
    name: &'static str,
    allowed: &'static str,
}

/// A key whose value is a whole number.
#[derive(Debug, Clone, Copy)]
pub struct IntegerKey {
    name: &'static str,
    /// `None`: as many as cores are available.
    default: Option<u64>,
    min: u64,
    max: u64,
    unit: &'static str,
}

impl Key {
    /// The key as it is written in config.json.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text(key) => key.name,
            Self::Integer(key) => key.name,
            Self::List(key) => key.name,
            Self::Object(key) => key.name,
            Self::Secret(key) => key.name,
        }
    }

    /// What holds where the key is absent, as text without a unit.
    pub fn default_text(&self) -> String {
        match self {
            Self::Text(key) => key.default.unwrap_or("none: required").to_owned(),
            Self::Integer(key) => key.default.map_or("available cores".to_owned(), |n| n.to_string()),
            Self::List(_) | Self::Object(_) | Self::Secret(_) => "none".to_owned(),
        }
    }

    /// What the value may be, as text with its unit.
    pub fn allowed_text(&self) -> String {
        match self {
            Self::Text(key) => key.allowed.to_owned(),
            Self::Integer(key) => key.allowed_text(),
            Self::List(key) => key.allowed.to_owned(),
            Self::Object(key) => key.allowed.to_owned(),
            Self::Secret(key) => key.allowed.to_owned(),
        }
    }
}

impl IntegerKey {
    const fn new(name: &'static str, default: u64, min: u64, max: u64, unit: &'static str) -> Self {
        Self { name, default: Some(default), min, max, unit }
    }

    fn allowed_text(&self) -> String {
        format!("{} to {} {}", self.min, self.max, self.unit)
    }
}

/// How this process is set up. `Debug` hides the DSN's password and the tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `DSN`: where the segments come from.
    pub dsn: Dsn,
    /// `table` and `TagColumn`: the table that holds a row for each tag.
    pub table: TableSpec,
    /// `HttpHost`: the address to listen on.
    pub http_host: IpAddr,
    /// `HttpPort`: the port to listen on; 0 is any free one.
    pub http_port: u16,
    /// `HttpReadTimeout`: the longest time a request may take to arrive.
    pub http_read_timeout: Duration,
    /// `HttpWriteTimeout`: the longest time a client may take to accept a response.
    pub http_write_timeout: Duration,
    /// `HttpIdleTimeout`: the longest time a connection may go without a request.
    pub http_idle_timeout: Duration,
    /// `HttpBufferMemory`: the most bytes that all unfinished requests and unsent answers may take together.
    pub http_buffer_bytes_max: usize,
    /// `HttpEngine`: what moves bytes between sockets and the request handler.
    pub http_engine: HttpEngine,
    /// `Workers`: the engine's threads.
    pub workers: usize,
    /// `MaxConnections`: the most connections open at once.
    pub connections_max: usize,
    /// `DrainSeconds`: how long requests are served on after the signal to stop.
    pub drain_time: Duration,
    /// `AllocTimeout`: the longest time a request waits for the store.
    pub alloc_timeout: Duration,
    /// `MaxBatch`: the most IDs listed in one response.
    pub batch_max: u64,
    /// `MaxLease`: the most IDs in one leased range.
    pub lease_max: u64,
    /// `RefillThreads`: the threads, each with a session of its own, that ask the store for segments.
    pub refill_threads: usize,
    /// `PreloadTags`: the tags that get their first segment before the first request.
    pub preload_tags: usize,
    /// `TagReloadSeconds`: how often the table is searched for new tags.
    pub tag_reload: Duration,
    /// `SegmentSeconds` and `MaxStepFactor`: how much a busy tag reserves.
    pub policy: Policy,
    /// `WatermarkPath`: where it is remembered what was granted. The embedded store's file shares the fate of this
    /// one, so there it is `None` unless it is set.
    pub watermark_path: Option<PathBuf>,
    /// `OnRegression`: what to do when the store has gone back.
    pub on_regression: OnRegression,
    /// `FailoverGuard`: a database server other than before is not trusted to have all commits.
    pub failover_guard: bool,
    /// `FailoverSteps`: how far rows are then raised at least.
    pub failover_steps: i64,
    /// `LogFormat`: how log lines look.
    pub log_format: LogFormat,
    /// `AccessTokens`: who may have IDs of which tags; `None`: everybody, of all.
    pub access_tokens: Option<AccessTokens>,
    /// `TagLimits`: how many IDs of which tags may be taken.
    pub tag_limits: TagLimits,
    /// `CorsOrigins`: which pages may use the port for clients, beside its own.
    pub cors_origins: CorsOrigins,
    /// `HttpNames`: the hosts that clients may ask for, in lower case, IPv6 addresses in brackets; empty: any.
    pub http_names: Vec<String>,
    /// The operator's port; `None`: there is none.
    pub admin: Option<AdminConfig>,
}

/// How the operator's port is set up.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// `AdminHost`: the address to listen on.
    pub host: IpAddr,
    /// `AdminPort`: the port to listen on, never 0.
    pub port: u16,
    /// `AdminToken` and `AdminTokens`: what an operator must present one of; there is one when `host` is not this machine's
    /// alone.
    pub tokens: AdminTokens,
    /// `AdminNames`: what the port may be called beside its addresses and `localhost`, in lower case.
    pub names: Vec<String>,
    /// `MetricsTags`: the most tags that have figures of their own in `/metrics`.
    pub metrics_tags: usize,
}

/// What moves bytes between sockets and the request handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpEngine {
    /// The default.
    Tokio,
    /// `may_minihttp`, for comparison and for trusted networks.
    MayMinihttp,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line, for machines.
    Json,
}

/// What is wrong with a configuration. No text quotes a DSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Not JSON, or a key is given twice; says the line and the column.
    #[error("not valid JSON: {0}")]
    Json(String),
    /// Valid or not, the text is no object.
    #[error("not a JSON object: it must begin with a brace")]
    NotAnObject,
    /// No such key.
    #[error("unknown key {name:?}: allowed are {}", known_names())]
    UnknownKey {
        /// The key.
        name: String,
    },
    /// A value of the wrong type, or out of range.
    #[error("{name} is {value}: allowed is {allowed}")]
    BadValue {
        /// The key.
        name: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What it may be, with its unit.
        allowed: String,
    },
    /// A secret value of the wrong type, or out of range.
    #[error("{origin} is not as it must be: allowed is {allowed}")]
    BadSecret {
        /// Where it stands: the key, or the environment variable.
        origin: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// Something is wrong with a limit, or with a token that has one: where, and what is allowed. No token is quoted.
    #[error("{0}")]
    BadLimit(String),
    /// Who can reach the operator's port could do anything with it.
    #[error(
        "AdminHost is {host}, which others can reach: set AdminToken to {} (or set {ADMIN_TOKEN_VARIABLE}, or AdminTokens), or AdminPort to 0 for no operator's port",
        ADMIN_TOKEN.allowed
    )]
    AdminTokenMissing {
        /// `AdminHost`.
        host: IpAddr,
    },
    /// Neither the file nor the environment names a store.
    #[error("DSN is missing: it must be {} (or set {DSN_VARIABLE})", DSN.allowed)]
    DsnMissing,
    /// The DSN is no string.
    #[error("DSN is not a string: it must be {}", DSN.allowed)]
    DsnNotText,
    /// The DSN is a string, but not a DSN.
    #[error("{origin}: {reason}")]
    BadDsn {
        /// Where it stands: the key, or the environment variable.
        origin: &'static str,
        /// What is wrong with it.
        reason: DsnError,
    },
}

fn known_names() -> String {
    KEYS.iter().map(Key::name).collect::<Vec<_>>().join(", ")
}

impl Config {
    /// Reads the file at `path`, and the process's environment.
    ///
    /// # Errors
    /// [`ConfigError::Read`], and those of [`Self::from_json`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), reason: error.to_string() })?;
        Self::from_json(&text, &process_env)
    }

    /// The configuration of a server that was given no file: an SQLite file in the working directory unless `env`
    /// names a store, and every default.
    ///
    /// # Errors
    /// [`ConfigError::BadDsn`] if the environment's DSN is faulty.
    pub fn embedded(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::from_json(EMBEDDED, env)
    }

    /// Reads `text`, the content of a config.json; `env` gives an environment variable's value.
    ///
    /// # Errors
    /// Any [`ConfigError`] but `Read`.
    pub fn from_json(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let file = Entries::parse(text)?;
        let (database, name) = file.text(&TABLE, parse_table)?;
        let mut dsn = file.dsn(env)?;
        let any_file_system = file.text(&ALLOW_UNRELIABLE_FILE_SYSTEM, parse_yes_or_no)?;
        dsn.set_any_file_system(any_file_system);
        let is_off = dsn.is_embedded() && !file.has(WATERMARK_PATH.name);
        let watermark_path = file.text(&WATERMARK_PATH, parse_optional_path)?.filter(|_| !is_off);
        Ok(Self {
            dsn,
            table: TableSpec { database, name, tag_column: file.text(&TAG_COLUMN, Identifier::new)? },
            http_host: file.text(&HTTP_HOST, parse_host)?,
            http_port: file.integer(&HTTP_PORT)?,
            http_read_timeout: file.millis(&HTTP_READ_TIMEOUT)?,
            http_write_timeout: file.millis(&HTTP_WRITE_TIMEOUT)?,
            http_idle_timeout: file.millis(&HTTP_IDLE_TIMEOUT)?,
            http_buffer_bytes_max: file.integer::<usize>(&HTTP_BUFFER_MEMORY)? * MIB,
            http_engine: file.text(&HTTP_ENGINE, parse_engine)?,
            workers: file.integer(&WORKERS)?,
            connections_max: file.integer(&MAX_CONNECTIONS)?,
            drain_time: file.integer(&DRAIN_SECONDS).map(Duration::from_secs)?,
            alloc_timeout: file.millis(&ALLOC_TIMEOUT)?,
            batch_max: file.integer(&MAX_BATCH)?,
            lease_max: file.integer(&MAX_LEASE)?,
            refill_threads: file.integer(&REFILL_THREADS)?,
            preload_tags: file.integer(&PRELOAD_TAGS)?,
            tag_reload: file.integer(&TAG_RELOAD_SECONDS).map(Duration::from_secs)?,
            policy: Policy {
                segment_seconds: file.integer::<u32>(&SEGMENT_SECONDS)?.into(),
                step_factor_max: file.integer(&MAX_STEP_FACTOR)?,
            },
            watermark_path,
            on_regression: file.text(&ON_REGRESSION, parse_on_regression)?,
            failover_guard: file.text(&FAILOVER_GUARD, parse_switch)?,
            failover_steps: file.integer(&FAILOVER_STEPS)?,
            log_format: file.text(&LOG_FORMAT, parse_log_format)?,
            access_tokens: file.0.get(ACCESS_TOKENS.name).map(AccessTokens::parse).transpose()?,
            tag_limits: TagLimits::parse(file.0.get(TAG_LIMITS.name))?,
            cors_origins: file.cors_origins()?,
            http_names: file.http_names()?,
            admin: file.admin(env)?,
        })
    }
}

impl Config {
    /// Every key with its value in use, for operators. Of secrets it only says whether there are any.
    pub fn shown(&self) -> Value {
        let hidden = |is_there: bool| is_there.then_some("***");
        let ms = |duration: Duration| duration.as_millis() as u64;
        let admin = self.admin.as_ref();
        let engine = match self.http_engine {
            HttpEngine::Tokio => "tokio",
            HttpEngine::MayMinihttp => "may_minihttp",
        };
        let on_regression = match self.on_regression {
            OnRegression::Refuse => "refuse",
            OnRegression::Advance => "advance",
        };
        let any_file_system = self.dsn.allows_any_file_system();
        let log_format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let mut shown = json!({
            DSN.name: self.dsn.to_string(),
            TABLE.name: self.table.shown(),
            TAG_COLUMN.name: self.table.tag_column.as_str(),
            HTTP_HOST.name: self.http_host.to_string(),
            HTTP_PORT.name: self.http_port,
            HTTP_READ_TIMEOUT.name: ms(self.http_read_timeout),
            HTTP_WRITE_TIMEOUT.name: ms(self.http_write_timeout),
            HTTP_IDLE_TIMEOUT.name: ms(self.http_idle_timeout),
            HTTP_BUFFER_MEMORY.name: self.http_buffer_bytes_max / MIB,
            HTTP_ENGINE.name: engine,
            WORKERS.name: self.workers,
            MAX_CONNECTIONS.name: self.connections_max,
            DRAIN_SECONDS.name: self.drain_time.as_secs(),
            ALLOC_TIMEOUT.name: ms(self.alloc_timeout),
            MAX_BATCH.name: self.batch_max,
            MAX_LEASE.name: self.lease_max,
            REFILL_THREADS.name: self.refill_threads,
            PRELOAD_TAGS.name: self.preload_tags,
        });
        let rest = json!({
            TAG_RELOAD_SECONDS.name: self.tag_reload.as_secs(),
            SEGMENT_SECONDS.name: self.policy.segment_seconds as u64,
            MAX_STEP_FACTOR.name: self.policy.step_factor_max,
            WATERMARK_PATH.name: self.watermark_path,
            ON_REGRESSION.name: on_regression,
            FAILOVER_GUARD.name: if self.failover_guard { "on" } else { "off" },
            FAILOVER_STEPS.name: self.failover_steps,
            ALLOW_UNRELIABLE_FILE_SYSTEM.name: if any_file_system { "yes" } else { "no" },
            LOG_FORMAT.name: log_format,
            ACCESS_TOKENS.name: hidden(self.access_tokens.is_some()),
            TAG_LIMITS.name: self.tag_limits.shown(),
            CORS_ORIGINS.name: self.cors_origins.shown(),
            HTTP_NAMES.name: self.http_names,
            ADMIN_HOST.name: admin.map(|admin| admin.host),
            ADMIN_PORT.name: admin.map_or(0, |admin| admin.port),
            ADMIN_TOKEN.name: hidden(admin.is_some_and(|admin| admin.tokens.has(ADMIN_TOKEN.name))),
            ADMIN_TOKENS.name: hidden(admin.is_some_and(|admin| admin.tokens.has_other_than(ADMIN_TOKEN.name))),
            ADMIN_NAMES.name: admin.map(|admin| &admin.names),
            METRICS_TAGS.name: admin.map(|admin| admin.metrics_tags),
        });
        if let (Value::Object(shown), Value::Object(rest)) = (&mut shown, rest) {
            shown.extend(rest);
        }
        shown
    }
}

/// The process's environment, for [`Config::embedded`] and [`Config::from_json`].
pub fn process_env(name: &str) -> Option<String> {
    // A value that is no UTF-8 must not pass for an absent one: the server would start with another store.
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn parse_table(text: &str) -> Option<(Option<Identifier>, Identifier)> {
    match text.split_once('.') {
        Some((database, name)) => Some((Some(Identifier::new(database)?), Identifier::new(name)?)),
        None => Some((None, Identifier::new(text)?)),
    }
}

fn parse_host(text: &str) -> Option<IpAddr> {
    if text == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { text.parse().ok() }
}

fn parse_engine(text: &str) -> Option<HttpEngine> {
    match text {
        "tokio" => Some(HttpEngine::Tokio),
        "may_minihttp" => Some(HttpEngine::MayMinihttp),
        _ => None,
    }
}

fn parse_yes_or_no(text: &str) -> Option<bool> {
    match text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

fn parse_on_regression(text: &str) -> Option<OnRegression> {
    match text {
        "refuse" => Some(OnRegression::Refuse),
        "advance" => Some(OnRegression::Advance),
        _ => None,
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// Empty text is no path.
fn parse_optional_path(text: &str) -> Option<Option<PathBuf>> {
    let fits = !text.chars().any(char::is_control);
    fits.then(|| (!text.is_empty()).then(|| text.into()))
}

fn parse_log_format(text: &str) -> Option<LogFormat> {
    match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

/// A name as DNS and container platforms have it, without a port, in lower case.
fn parse_host_name(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= 253 && text.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}

fn available_cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() as u64).min(WORKERS_MAX))
}

/// The file's object: known keys only, each at most once.
struct Entries(Map<String, Value>);

impl Entries {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        // serde_json's own complaint would quote the value, and a lone string may well be a DSN.
        if !text.trim_start().starts_with('{') {
            return Err(ConfigError::NotAnObject);
        }
        let entries: Self =
            serde_json::from_str(text).map_err(|error| ConfigError::Json(error.to_string()))?;
        match entries.0.keys().find(|name| KEYS.iter().all(|key| key.name() != *name)) {
            Some(name) => Err(ConfigError::UnknownKey { name: name.clone() }),
            None => Ok(entries),
        }
    }

    fn dsn(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Dsn, ConfigError> {
        let in_file = match self.0.get(DSN.name) {
            Some(value) => Some(value.as_str().ok_or(ConfigError::DsnNotText)?),
            None => None,
        };
        // An empty variable overrides, and fails, too: a secret that was not delivered must stop the server, since
        // another store would hand out IDs that are taken.
        let in_env = env(DSN_VARIABLE);
        let (origin, text) = match (&in_env, in_file) {
            (Some(text), _) => (DSN_VARIABLE, text.as_str()),
            (None, Some(text)) => (DSN.name, text),
            (None, None) => return Err(ConfigError::DsnMissing),
        };
        text.parse().map_err(|reason| ConfigError::BadDsn { origin, reason })
    }

    fn admin(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<AdminConfig>, ConfigError> {
        let admin = AdminConfig {
            host: self.text(&ADMIN_HOST, parse_host)?,
            port: self.integer(&ADMIN_PORT)?,
            tokens: self.admin_tokens(env)?,
            names: self.list(&ADMIN_NAMES, ADMIN_NAMES_MAX, parse_host_name)?,
            metrics_tags: self.integer(&METRICS_TAGS)?,
        };
        match admin {
            AdminConfig { port: 0, .. } => Ok(None),
            AdminConfig { host, tokens, .. } if tokens.is_empty() && !host.is_loopback() => {
                Err(ConfigError::AdminTokenMissing { host })
            }
            admin => Ok(Some(admin)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What `parse` makes of the key's value or default.
    fn text<T>(&self, key: &TextKey, parse: impl Fn(&str) -> Option<T>) -> Result<T, ConfigError> {
        let given = self.0.get(key.name);
        let text = given.map_or(key.default, Value::as_str);
        text.and_then(parse).ok_or_else(|| bad_value(key.name, given, key.allowed.to_owned()))
    }

    /// What `parse` makes of each string of the key's array.
    fn list<T>(
        &self,
        key: &ListKey,
        len_max: usize,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(given) = self.0.get(key.name) else { return Ok(Vec::new()) };
        let items = given.as_array().filter(|items| items.len() <= len_max);
        items
            .and_then(|items| items.iter().map(|item| item.as_str().and_then(&parse)).collect())
            .ok_or_else(|| bad_value(key.name, Some(given), key.allowed.to_owned()))
    }

    fn integer<T: TryFrom<u64>>(&self, key: &IntegerKey) -> Result<T, ConfigError> {
        let given = self.0.get(key.name);
        let n = given.map_or_else(|| key.default.or_else(|| Some(available_cores())), Value::as_u64);
        n.filter(|n| (key.min..=key.max).contains(n))
            .and_then(|n| n.try_into().ok())
            .ok_or_else(|| bad_value(key.name, given, format!("a whole number, {}", key.allowed_text())))
    }

    fn millis(&self, key: &IntegerKey) -> Result<Duration, ConfigError> {
        self.integer(key).map(Duration::from_millis)
    }
}

fn bad_value(name: &'static str, given: Option<&Value>, allowed: String) -> ConfigError {
    ConfigError::BadValue { name, value: given.map_or("absent".to_owned(), Value::to_string), allowed }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Refuses a key that is given twice, of which `serde_json` alone would drop the first silently.
struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Map::new();
        while let Some((name, Member(value))) = map.next_entry::<String, Member>()? {
            if entries.contains_key(&name) {
                return Err(A::Error::custom(format!("key {name:?} is given twice")));
            }
            entries.insert(name, value);
        }
        Ok(Entries(entries))
    }
}

/// The value of a key. In an object, too, a key that is given twice is refused; it may be a token, so it is not named.
struct Member(Value);

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MemberVisitor).map(Member)
    }
}

struct MemberVisitor;

impl<'de> Visitor<'de> for MemberVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Member(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Member(value))) = map.next_entry::<String, Member>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a key of an inner object is given twice"));
            }
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsn::Secret;
    use std::collections::{BTreeMap, BTreeSet};

    const FILE_DSN: &str = "sqlite:a.db";

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::from_json(text, &no_env)
    }

    fn with(name: &str, value: &Value) -> Result<Config, ConfigError> {
        parse(&json!({"DSN": FILE_DSN, name: value}).to_string())
    }

    fn message(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    fn identifier(text: &str) -> Identifier {
        Identifier::new(text).expect(text)
    }

    fn defaults() -> Config {
        Config {
            dsn: Dsn::Sqlite(FILE_DSN["sqlite:".len()..].into()),
            table: TableSpec {
                database: None,
                name: identifier("segments"),
                tag_column: identifier("app_tag"),
            },
            http_host: [0, 0, 0, 0].into(),
            http_port: 8880,
            http_read_timeout: Duration::from_secs(5),
            http_write_timeout: Duration::from_secs(5),
            http_idle_timeout: Duration::from_secs(75),
            http_buffer_bytes_max: 64 << 20,
            http_engine: HttpEngine::Tokio,
            workers: std::thread::available_parallelism().unwrap().get(),
            connections_max: 16_384,
            drain_time: Duration::from_secs(5),
            alloc_timeout: Duration::from_secs(2),
            batch_max: 10_000,
            lease_max: 1_000_000,
            refill_threads: 2,
            preload_tags: 64,
            tag_reload: Duration::from_secs(10),
            policy: Policy { segment_seconds: 10.0, step_factor_max: 1000 },
            watermark_path: None,
            on_regression: OnRegression::Refuse,
            failover_guard: true,
            failover_steps: 1000,
            log_format: LogFormat::Text,
            access_tokens: None,
            tag_limits: TagLimits::default(),
            cors_origins: CorsOrigins::Listed(Vec::new()),
            http_names: Vec::new(),
            admin: Some(AdminConfig {
                host: Ipv4Addr::LOCALHOST.into(),
                port: 8881,
                tokens: AdminTokens::default(),
                names: Vec::new(),
                metrics_tags: 50,
            }),
        }
    }

    #[test]
    fn only_the_dsn_has_no_default() {
        assert_eq!(parse(r#" {"DSN": "sqlite:a.db"} "#), Ok(defaults()));
        assert_eq!(parse("{}"), Err(ConfigError::DsnMissing));
    }

    #[test]
    fn every_key_reaches_its_field() {
        let text = r#"{
            "DSN": "u:p@tcp(h)/db", "table": "ids.t$1", "TagColumn": "biz_tag", "HttpHost": "::1", "HttpPort": 0,
            "HttpReadTimeout": 1, "HttpWriteTimeout": 2, "HttpIdleTimeout": 3, "HttpEngine": "may_minihttp",
            "HttpBufferMemory": 16, "DrainSeconds": 17,
            "Workers": 4, "MaxConnections": 5, "AllocTimeout": 6, "MaxBatch": 7, "MaxLease": 8, "RefillThreads": 9,
            "PreloadTags": 0, "TagReloadSeconds": 11,
            "SegmentSeconds": 12, "MaxStepFactor": 13, "WatermarkPath": "w.db", "OnRegression": "advance", "FailoverGuard": "off",
            "FailoverSteps": 16, "AllowUnreliableFileSystem": "no", "LogFormat": "json",
            "AccessTokens": {"0123456789abcdef": "*", "a-token-for-two-tags": ["a", "\u00e9"]},
            "CorsOrigins": ["https://App.example.com"], "HttpNames": ["ids.example.com."],
            "TagLimits": {"*": {"ids_per_second": 18, "burst": 19}, "a": {"ids_per_second": 20}},
            "AdminHost": "0.0.0.0", "AdminPort": 14, "AdminToken": "the-operator's-token",
            "AdminTokens": {"ann": "the-token-of-ann"},
            "AdminNames": ["Ids.example.com", "idalloc-0.idalloc_nodes"], "MetricsTags": 15
        }"#;
        let expected = Config {
            dsn: "u:p@tcp(h)/db".parse().unwrap(),
            table: TableSpec {
                database: Some(identifier("ids")),
                name: identifier("t$1"),
                tag_column: identifier("biz_tag"),
            },
            http_host: std::net::Ipv6Addr::LOCALHOST.into(),
            http_port: 0,
            http_read_timeout: Duration::from_millis(1),
            http_write_timeout: Duration::from_millis(2),
            http_idle_timeout: Duration::from_millis(3),
            http_buffer_bytes_max: 16 << 20,
            http_engine: HttpEngine::MayMinihttp,
            workers: 4,
            connections_max: 5,
            drain_time: Duration::from_secs(17),
            alloc_timeout: Duration::from_millis(6),
            batch_max: 7,
            lease_max: 8,
            refill_threads: 9,
            preload_tags: 0,
            tag_reload: Duration::from_secs(11),
            policy: Policy { segment_seconds: 12.0, step_factor_max: 13 },
            watermark_path: Some("w.db".into()),
            on_regression: OnRegression::Advance,
            failover_guard: false,
            failover_steps: 16,
            log_format: LogFormat::Json,
            access_tokens: Some(AccessTokens(BTreeMap::from([
                ("0123456789abcdef".into(), AccessScope::All.into()),
                (
                    "a-token-for-two-tags".into(),
                    AccessScope::Tags(["a", "\u{e9}"].map(Into::into).into()).into(),
                ),
            ]))),
            tag_limits: TagLimits {
                named: BTreeMap::from([("a".into(), RateLimit { ids_per_second: 20, burst: 20 })]),
                others: Some(RateLimit { ids_per_second: 18, burst: 19 }),
            },
            cors_origins: CorsOrigins::Listed(vec!["https://app.example.com".into()]),
            http_names: vec!["ids.example.com".into()],
            admin: Some(AdminConfig {
                host: Ipv4Addr::UNSPECIFIED.into(),
                port: 14,
                tokens: AdminTokens(vec![
                    ("AdminToken".into(), Secret::new("the-operator's-token")),
                    ("ann".into(), Secret::new("the-token-of-ann")),
                ]),
                names: ["ids.example.com", "idalloc-0.idalloc_nodes"].map(Into::into).into(),
                metrics_tags: 15,
            }),
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn the_watermark_is_kept_beside_a_database_and_beside_the_embedded_store_only_if_asked_for() {
        let path = |text: &str| parse(text).unwrap().watermark_path;
        assert_eq!(path(r#"{"DSN": "/db"}"#), Some("idalloc-watermark.db".into()));
        assert_eq!(path(r#"{"DSN": "/db", "WatermarkPath": ""}"#), None);
        assert_eq!(path(r#"{"DSN": "sqlite:a"}"#), None);
        assert_eq!(path(r#"{"DSN": "sqlite:a", "WatermarkPath": "w"}"#), Some("w".into()));
    }

    #[test]
    fn the_shipped_file_is_accepted() {
        assert!(matches!(parse(include_str!("../config.json")), Ok(Config { dsn: Dsn::MySql(_), .. })));
    }

    #[test]
    fn integers_keep_to_their_range() {
        for key in KEYS {
            let Key::Integer(key) = key else { continue };
            for allowed in [key.min, key.max] {
                assert!(with(key.name, &json!(allowed)).is_ok(), "{} {allowed}", key.name);
            }
            let below = json!(key.min as i64 - 1);
            for value in [below, json!(key.max + 1), json!(1.0), json!("1"), json!(null), json!(u64::MAX)] {
                let expected = format!(
                    "{} is {value}: allowed is a whole number, {} to {} {}",
                    key.name, key.min, key.max, key.unit
                );
                assert_eq!(with(key.name, &value).unwrap_err().to_string(), expected);
            }
        }
    }

    #[test]
    fn ranges_and_defaults_are_the_documented_ones() {
        let rows: Vec<_> = KEYS
            .iter()
            .filter(|key| matches!(key, Key::Integer(_)))
            .map(|key| format!("{} {}: {}", key.name(), key.default_text(), key.allowed_text()))
            .collect();
        let expected = [
            "HttpPort 8880: 0 to 65535 (0: any free port)",
            "HttpReadTimeout 5000: 1 to 3600000 ms",
            "HttpWriteTimeout 5000: 1 to 3600000 ms",
            "HttpIdleTimeout 75000: 1 to 3600000 ms",
            "HttpBufferMemory 64: 1 to 65536 MiB",
            "Workers available cores: 1 to 1024 threads",
            "MaxConnections 16384: 1 to 1000000 connections",
            "DrainSeconds 5: 0 to 3600 s",
            "AllocTimeout 2000: 1 to 60000 ms",
            "MaxBatch 10000: 1 to 100000 IDs",
            "MaxLease 1000000: 1 to 1000000000 IDs",
            "RefillThreads 2: 1 to 64 threads",
            "PreloadTags 64: 0 to 1000000 tags",
            "TagReloadSeconds 10: 1 to 3600 s",
            "SegmentSeconds 10: 1 to 3600 s",
            "MaxStepFactor 1000: 1 to 1000000 steps",
            "FailoverSteps 1000: 1 to 1000000000 steps",
            "AdminPort 8881: 0 to 65535 (0: none)",
            "MetricsTags 50: 0 to 1000 tags",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn texts_are_checked() {
        for (name, value) in [
            ("table", json!("")),
            ("table", json!("a`b")),
            ("table", json!("a.b.c")),
            ("table", json!(".b")),
            ("table", json!("x".repeat(65))),
            ("table", json!(1)),
            ("TagColumn", json!("a.b")),
            ("TagColumn", json!("a b")),
            ("TagColumn", json!("\u{e9}")),
            ("HttpHost", json!("example.com")),
            ("HttpHost", json!("")),
            ("HttpHost", json!(null)),
            ("HttpEngine", json!("Tokio")),
            ("FailoverGuard", json!(true)),
            ("LogFormat", json!("xml")),
            ("AdminHost", json!("example.com")),
        ] {
            let key = KEYS.iter().find(|key| key.name() == name).unwrap();
            let expected = format!("{name} is {value}: allowed is {}", key.allowed_text());
            assert_eq!(with(name, &value).unwrap_err().to_string(), expected);
        }
        assert_eq!(with("HttpHost", &json!("localhost")).unwrap().http_host, IpAddr::from([127, 0, 0, 1]));
        assert!(with("table", &json!("x".repeat(64))).is_ok());
    }

    #[test]
    fn names_are_quoted_for_sql() {
        let table = |name| with("table", &json!(name)).unwrap().table.quoted();
        assert_eq!(table("segments"), "`segments`");
        assert_eq!(table("ids.segments"), "`ids`.`segments`");
        assert_eq!(identifier("app_tag").quoted(), "`app_tag`");
    }

    #[test]
    fn an_unknown_key_is_named_beside_the_known_ones() {
        let message = message(r#"{"DSN": "sqlite:a.db", "httpPort": 1}"#);
        assert!(
            message.starts_with("unknown key \"httpPort\": allowed are DSN, table, TagColumn, "),
            "{message}"
        );
        assert!(KEYS.iter().all(|key| message.contains(key.name())), "{message}");
    }

    #[test]
    fn faults_in_the_json_are_located() {
        assert_eq!(
            message("{\"table\": \"a\",\n \"table\": \"b\"}"),
            "not valid JSON: key \"table\" is given twice at line 2 column 14"
        );
        assert_eq!(message("{\"table\": \"a\",\n}"), "not valid JSON: trailing comma at line 2 column 1");
        assert!(message("{} x").contains("line 1 column 4"));
        for text in ["", "[]", "3", "\"u:hunter2@/db\""] {
            assert_eq!(parse(text), Err(ConfigError::NotAnObject), "{text}");
        }
    }

    #[test]
    fn the_environment_overrides_the_dsn() {
        let env = |name: &str| (name == "IDALLOC_DSN").then(|| "sqlite:env.db".to_owned());
        let from_env = Dsn::Sqlite("env.db".into());
        for text in ["{}", r#"{"DSN": "sqlite:a.db"}"#, r#"{"DSN": "faulty"}"#] {
            assert_eq!(Config::from_json(text, &env).unwrap().dsn, from_env, "{text}");
        }
        assert_eq!(Config::embedded(&env).unwrap().dsn, from_env);
        let empty = Config::embedded(&|_| Some(String::new()));
        assert!(matches!(empty, Err(ConfigError::BadDsn { origin: "IDALLOC_DSN", .. })), "{empty:?}");
    }

    #[test]
    fn embedded_is_a_file_and_every_default() {
        let expected = Config { dsn: Dsn::Sqlite("idalloc.db".into()), ..defaults() };
        assert_eq!(Config::embedded(&no_env), Ok(expected));
    }

    #[test]
    fn a_dsn_is_never_shown() {
        for text in [
            r#"{"DSN": ["u:hunter2@tcp(h)/db"]}"#,
            r#"{"DSN": "u:hunter2@tcp(h:x)/db"}"#,
            r#"{"DSN": "u:hunter2@tcp(h)/db", "HttpPort": -1}"#,
            r#"{"DSN": "u:hunter2@tcp(h)/db" "#,
            r#"{"DSN": "u:hunter2@tcp(h)/db"}"#,
        ] {
            let shown = match parse(text) {
                Ok(config) => format!("{config:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    const TOKEN: &str = "0123456789abcdef";

    fn admin(keys: Value, env: Option<&str>) -> Result<Option<AdminConfig>, String> {
        let mut text = json!({"DSN": FILE_DSN});
        text.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let env = |name: &str| env.filter(|_| name == "IDALLOC_ADMIN_TOKEN").map(str::to_owned);
        Config::from_json(&text.to_string(), &env)
            .map(|config| config.admin)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_operators_port_needs_a_token_where_others_can_reach_it() {
        for (host, others_can) in [
            ("localhost", false),
            ("127.0.0.9", false),
            ("::1", false),
            ("0.0.0.0", true),
            ("10.0.0.1", true),
        ] {
            let with = |token: Value| admin(json!({"AdminHost": host, "AdminToken": token}), None);
            assert!(with(TOKEN.into()).is_ok(), "{host}");
            let without = admin(json!({"AdminHost": host}), None);
            assert_eq!(without.is_err(), others_can, "{host}: {without:?}");
            let error = without.err().unwrap_or_default();
            assert!(!others_can || error.contains(host) && error.contains("IDALLOC_ADMIN_TOKEN"), "{error}");
            assert_eq!(admin(json!({"AdminHost": host, "AdminPort": 0}), None), Ok(None), "{host}");
        }
    }

    #[test]
    fn the_names_of_the_operators_port_are_host_names() {
        let long = "x".repeat(63);
        let names =
            |names: Value| admin(json!({"AdminNames": names}), None).map(|admin| admin.unwrap().names);
        assert_eq!(admin(json!({}), None).unwrap().unwrap().names, [""; 0]);
        assert_eq!(names(json!([])), Ok(vec![]));
        for good in ["a", "Ids.Example.com", "idalloc-0.idalloc-nodes.default.svc", &long] {
            assert_eq!(names(json!([good])), Ok(vec![good.to_lowercase()]));
        }
        let many = vec!["a"; 101];
        for bad in [
            json!("a"),
            json!([1]),
            json!([""]),
            json!(["a."]),
            json!(["a..b"]),
            json!(["-a"]),
            json!(["a-"]),
            json!(["a:8881"]),
            json!(["http://a"]),
            json!(["*.example.com"]),
            json!(["\u{fc}"]),
            json!([format!("{long}x")]),
            json!([format!("{long}.{long}.{long}.{long}")]),
            json!(many),
        ] {
            let expected = format!("AdminNames is {bad}: allowed is an array of up to 100 host names");
            assert_eq!(names(bad), Err(expected));
        }
    }

    #[test]
    fn the_operators_token_is_checked_never_shown_and_overridden_by_the_environment() {
        let token = |keys, env| admin(keys, env).map(|admin| admin.unwrap().tokens);
        let only = |token: &str| AdminTokens(vec![("AdminToken".into(), Secret::new(token))]);
        assert_eq!(token(json!({"AdminToken": TOKEN}), None), Ok(only(TOKEN)));
        let from_env = "a token of the environment".replace(' ', "-");
        assert_eq!(token(json!({"AdminToken": TOKEN}), Some(&from_env)), Ok(only(&from_env)));
        let long = "x".repeat(256);
        assert!(token(json!({"AdminToken": long}), None).is_ok());
        let expected = "AdminToken is not as it must be: allowed is 16 to 256 visible ASCII characters";
        for bad in
            [json!("0123456789abcde"), json!(format!("{long}x")), json!("0123456789 abcdef"), json!(null)]
        {
            assert_eq!(token(json!({"AdminToken": bad}), None), Err(expected.to_owned()), "{bad}");
        }
        for bad in ["", "0123456789abcd\u{e9}"] {
            let expected = expected.replace("AdminToken", "IDALLOC_ADMIN_TOKEN");
            assert_eq!(token(json!({"AdminToken": TOKEN}), Some(bad)), Err(expected), "{bad:?}");
        }
    }

    #[test]
    fn access_tokens_are_checked_and_never_shown() {
        let secret = "hunter2-hunter2-hunter2";
        for good in [json!({secret: "*"}), json!({secret: []}), json!({secret: ["a"], TOKEN: ["a", "*"]})] {
            let config = with("AccessTokens", &good).unwrap();
            assert_eq!(config.access_tokens.as_ref().unwrap().0.len(), good.as_object().unwrap().len());
            assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        }
        let many: Map<String, Value> = (0..=1000).map(|n| (format!("{secret}{n}"), json!("*"))).collect();
        for bad in [
            json!(null),
            json!(secret),
            json!([secret]),
            json!({}),
            json!({"hunter2": "*"}),
            json!({secret: "a"}),
            json!({secret: [1]}),
            json!({secret: [""]}),
            json!({"hunter2 hunter2 hunter2": "*"}),
            json!(many),
        ] {
            let error = with("AccessTokens", &bad).unwrap_err().to_string();
            assert!(error.starts_with("AccessTokens is not as it must be: allowed is an object"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let twice = format!(r#"{{"DSN": "a", "AccessTokens": {{"{secret}": "*", "{secret}": ["a"]}}}}"#);
        let error = message(&twice);
        assert!(error.contains("is given twice") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_is_shown_names_every_key_and_is_accepted_again_but_for_secrets() {
        let text = json!({
            "DSN": "hunter2:hunter2@tcp(h)/db", "table": "ids.t$1", "HttpPort": 14, "AdminToken": "hunter2-hunter2-hunter2",
            "AccessTokens": {"hunter2-hunter2-hunter2": "*"}, "LogFormat": "json", "MetricsTags": 3,
            "AdminTokens": {"ann": "hunter2-hunter2-hunter3"}, "AdminNames": ["ids.example.com"],
            "CorsOrigins": ["*"], "HttpNames": ["::1", "ids.example.com"],
            "TagLimits": {"*": {"ids_per_second": 1}}
        });
        let config = parse(&text.to_string()).unwrap();
        let mut shown = config.shown();
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        let names: BTreeSet<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, KEYS.iter().map(Key::name).collect());
        for secret in ["DSN", "AdminToken", "AdminTokens", "AccessTokens"] {
            assert!(shown[secret].is_string(), "{secret}");
            shown[secret] = text[secret].clone();
        }
        assert_eq!(parse(&shown.to_string()), Ok(config));
    }

    #[test]
    fn load_reads_a_file_and_names_one_that_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let error = Config::load(&path).unwrap_err();
        assert!(matches!(&error, ConfigError::Read { path: named, .. } if *named == path), "{error}");
        std::fs::write(&path, r#"{"DSN": "sqlite:a.db", "HttpPort": 65536}"#).unwrap();
        let error = Config::load(&path).unwrap_err();
        assert!(matches!(error, ConfigError::BadValue { name: "HttpPort", .. }), "{error}");
    }
}
