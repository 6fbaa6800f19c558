//! One host: how to get in, and what a session must find there.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mysql::{DriverError, Opts, OptsBuilder, SslOpts};

use super::conn::{Conn, LateConnects};
use super::{Failure, StoreError, password, rows, session};
use crate::dsn::{Endpoint, MySqlDsn, Tls};

/// Below this, a lock is waited for as shortly as can be: the error that it is still held has to come in time to be an
/// answer, or the host would be left for a row that somebody has locked.
const READ_TIMEOUT_WITH_LOCK_WAIT_MIN: Duration = Duration::from_secs(2);

/// How long a connection may be silent before TCP probes it, in milliseconds; below the idle limits of NAT boxes.
const KEEPALIVE_MS: u32 = 30_000;

/// Naming the limit saves asking the server for it at every connect; our packets are a few hundred bytes.
const PACKET_BYTES_MAX: usize = 16 << 20;

/// Where Debian and Red Hat keep the certificate authorities that the machine trusts.
const SYSTEM_CA_BUNDLES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Where one endpoint of the DSN is and how to get in.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) opts: Opts,
    /// Host name and port, if it takes a look-up to get at the address.
    pub(super) by_name: Option<(String, u16)>,
    pub(super) tls: Tls,
    pub(super) tls_ca: Option<PathBuf>,
    /// The file of the key that a password is encrypted for where there is no TLS.
    pub(super) server_key: Option<PathBuf>,
    pub(super) connect_timeout: Duration,
    pub(super) read_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) late: LateConnects,
}

impl Host {
    pub(super) fn new(dsn: &MySqlDsn, endpoint: &Endpoint) -> Host {
        let tls_ca = match dsn.tls {
            Tls::Verify => dsn.tls_ca.clone().or_else(system_ca_bundle),
            Tls::Off | Tls::Preferred | Tls::SkipVerify => None,
        };
        let is_open = matches!((dsn.tls, endpoint), (Tls::Off, Endpoint::Tcp { .. }));
        let server_key = dsn.server_key.clone().filter(|_| is_open);
        // Until it is set up, a connection may wait no longer than for its connect: a host that accepts and then
        // says nothing must not keep us from the next one.
        let opts = OptsBuilder::new()
            .user(Some(&dsn.user))
            .pass(Some(dsn.password.expose()))
            .db_name(Some(&dsn.database))
            .prefer_socket(false)
            .tcp_nodelay(true)
            .tcp_keepalive_time_ms(Some(KEEPALIVE_MS))
            .tcp_connect_timeout(Some(dsn.connect_timeout))
            .read_timeout(Some(dsn.connect_timeout))
            .write_timeout(Some(dsn.connect_timeout))
            .max_allowed_packet(Some(PACKET_BYTES_MAX))
            .ssl_opts(ssl_opts(dsn.tls, tls_ca.as_deref()))
            .server_key_path(Some(password::key_path(server_key.as_deref())));
        let (opts, by_name) = match endpoint {
            Endpoint::Tcp { host, port } => {
                let literal = host.parse::<IpAddr>().is_ok();
                let opts = opts.ip_or_hostname(Some(host)).tcp_port(*port);
                (opts, (!literal).then(|| (host.clone(), *port)))
            }
            Endpoint::Unix(path) => (opts.socket(Some(path.to_string_lossy())), None),
        };
        Host {
            name: endpoint.to_string(),
            opts: opts.into(),
            by_name,
            tls: dsn.tls,
            tls_ca,
            server_key,
            connect_timeout: dsn.connect_timeout,
            read_timeout: dsn.read_timeout,
            write_timeout: dsn.write_timeout,
            late: LateConnects::default(),
        }
    }

    /// A connection on which a statement means what it says, to a host that takes writes.
    pub(super) fn connect(&self, fails_fast_on_locks: bool) -> Result<(Conn, Settings), Failure> {
        if let Some(path) = &self.tls_ca {
            // A directory can be opened, and not read.
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut [0]));
            read.map_err(|e| StoreError::Unavailable(format!("tls-ca {}: {e}", path.display())))?;
        }
        if let Some(path) = &self.server_key {
            password::insist_on_key(path)?;
        }
        // rustls panics then: certificates are valid from a date on.
        if !matches!(self.tls, Tls::Off) && SystemTime::now() < UNIX_EPOCH {
            let text = "the system's clock is before 1970: TLS certificates cannot be checked";
            return Err(StoreError::Unavailable(text.to_owned()).into());
        }
        let connected = match self.connect_any_address(&self.opts) {
            Err(mysql::Error::DriverError(DriverError::TlsNotSupported))
                if matches!(self.tls, Tls::Preferred) =>
            {
                self.connect_any_address(&OptsBuilder::from_opts(self.opts.clone()).ssl_opts(None).into())
            }
            result => result,
        };
        let mut conn = connected.map_err(|error| password::judge(error, self))?;
        let waits_for_locks = !fails_fast_on_locks && self.read_timeout >= READ_TIMEOUT_WITH_LOCK_WAIT_MIN;
        session::prepare(&mut conn, &self.name, waits_for_locks)?;
        let settings = Settings::read(&mut conn)?;
        settings.insist_on_writes(&self.name)?;
        conn.set_timeouts(self.read_timeout, self.write_timeout).map_err(mysql::Error::from)?;
        Ok((conn, settings))
    }

    /// The driver gives up after the first address of a name (say `::1` of localhost), unless a local address is
    /// given: then it tries all addresses of that family.
    fn connect_any_address(&self, opts: &Opts) -> Result<Conn, mysql::Error> {
        let first = self.open(opts);
        let addresses =
            self.by_name.iter().filter_map(|(host, port)| (host.as_str(), *port).to_socket_addrs().ok());
        if !is_unreached(&first) || addresses.flatten().count() < 2 {
            return first;
        }
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            let opts = OptsBuilder::from_opts(opts.clone()).bind_address(Some(SocketAddr::new(any, 0)));
            let result = self.open(&opts.into());
            if !is_unreached(&result) {
                return result;
            }
        }
        first
    }

    /// What keeps the account's password from others.
    pub(super) fn protection(&self) -> Protection {
        match self.tls {
            _ if self.opts.get_socket().is_some() || self.server_key.is_some() => Protection::Full,
            Tls::Verify => Protection::Full,
            Tls::SkipVerify | Tls::Preferred => Protection::FromListeners,
            Tls::Off => Protection::None,
        }
    }

    fn open(&self, opts: &Opts) -> Result<Conn, mysql::Error> {
        Conn::open(opts, self.connect_timeout, &self.late)
    }
}

/// What keeps an account's password from others, if a server asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    /// Only the server gets it.
    Full,
    /// Whoever only listens does not get it.
    FromListeners,
    /// Nothing does: it is not sent.
    None,
}

fn is_unreached(result: &Result<Conn, mysql::Error>) -> bool {
    use DriverError::{ConnectTimeout, CouldNotConnect};
    matches!(result, Err(mysql::Error::DriverError(CouldNotConnect(_) | ConnectTimeout)))
}

fn system_ca_bundle() -> Option<PathBuf> {
    SYSTEM_CA_BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// The driver trusts the web's public authorities (webpki-roots) besides those in `ca`.
fn ssl_opts(tls: Tls, ca: Option<&Path>) -> Option<SslOpts> {
    match tls {
        Tls::Off => None,
        Tls::Preferred | Tls::SkipVerify => Some(
            SslOpts::default()
                .with_danger_accept_invalid_certs(true)
                .with_danger_skip_domain_validation(true),
        ),
        Tls::Verify => Some(SslOpts::default().with_root_cert_path(ca.map(Path::to_path_buf))),
    }
}

/// Settings of a server that decide whether, and how, it is written to.
pub(super) struct Settings {
    read_only: bool,
    /// The binary log has the statements themselves, as opposed to the rows that they change.
    pub(super) logs_statements: bool,
}

impl Settings {
    pub(super) fn read(conn: &mut Conn) -> Result<Settings, mysql::Error> {
        // Not every server has all of them, and `SELECT` insists.
        let sql = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                   ('read_only', 'innodb_read_only', 'log_bin', 'binlog_format')";
        let found: Vec<(String, String)> = rows(conn, sql, ())?;
        let is_on = |name: &str| found.iter().any(|(found, value)| found == name && is_on(value));
        let logs_statements = found.iter().any(|(_, value)| value == "STATEMENT");
        Ok(Settings {
            read_only: is_on("read_only") || is_on("innodb_read_only"),
            logs_statements: is_on("log_bin") && logs_statements,
        })
    }

    /// A replica takes writes from a user with SUPER, and then loses them.
    fn insist_on_writes(&self, place: &str) -> Result<(), Failure> {
        if self.read_only {
            return Err(StoreError::ReadOnly(format!("{place}: read_only is on")).into());
        }
        Ok(())
    }
}

/// Besides `ON` there are, in newer servers, grades of `read_only`.
fn is_on(value: &str) -> bool {
    value != "OFF" && value != "0"
}

pub(super) fn insist_on_writes(conn: &mut Conn, place: &str) -> Result<(), Failure> {
    Settings::read(conn)?.insist_on_writes(place)
}
