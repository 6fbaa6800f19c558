//! The DSNs of MySQL: those of go-sql-driver, and URLs.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::dsn::{DsnError, Secret, without_controls};

const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
const IO_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

const HOST_DEFAULT: &str = "127.0.0.1";
const PORT_DEFAULT: u16 = 3306;
const SOCKET_DEFAULT: &str = "/tmp/mysql.sock";

const TIMEOUT_ALLOWED: &str = "a duration over 0 and up to 1h, such as 500ms, 5s or 1m30s";
const TLS_ALLOWED: &str = "true, false, skip-verify or preferred";
const PEM_ALLOWED: &str = "the path of a PEM file";

/// Parameters that go-sql-driver's users write and that mean nothing to this client. Accepted, so that one DSN
/// serves both. A name that go-sql-driver does not know either would be a system variable there: refused here.
const PARAMS_WITHOUT_EFFECT: &[&str] = &[
    "allowAllFiles",
    "allowCleartextPasswords",
    "allowFallbackToPlaintext",
    "allowNativePasswords",
    "allowOldPasswords",
    "charset",
    "checkConnLiveness",
    "clientFoundRows",
    "collation",
    "columnsWithAlias",
    "compress",
    "connectionAttributes",
    "interpolateParams",
    "loc",
    "maxAllowedPacket",
    "multiStatements",
    "parseTime",
    "rejectReadOnly",
    "timeTruncate",
    "tinyInt1IsBool",
];

/// How to reach a MySQL or MariaDB server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MySqlDsn {
    /// The account; empty where the DSN names none.
    pub user: String,
    /// The account's password; empty where the DSN has none.
    pub password: Secret,
    /// Where the servers listen, at least one, in order of preference.
    pub endpoints: Vec<Endpoint>,
    /// The database, never empty.
    pub database: String,
    /// The longest wait for a connection to be established; 2 s by default.
    pub connect_timeout: Duration,
    /// The longest wait for bytes of an answer; 5 s by default.
    pub read_timeout: Duration,
    /// The longest wait for bytes of a request to be taken; 5 s by default.
    pub write_timeout: Duration,
    /// Whether and how the connection is encrypted. Off by default, [`Tls::Verify`] if `tls-ca` is given.
    pub tls: Tls,
    /// A PEM file of authorities that [`Tls::Verify`] trusts besides the well-known ones.
    pub tls_ca: Option<PathBuf>,
    /// A PEM file of the RSA key that a password is encrypted for where there is no TLS.
    pub server_key: Option<PathBuf>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP port.
    Tcp {
        /// A name or an address; an IPv6 address stands here without its brackets.
        host: String,
        /// The port, never 0.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(PathBuf),
}

/// Whether a connection is encrypted, and whether the server must prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// `tls=false`: in the clear.
    Off,
    /// `tls=preferred`: encrypted if the server can, in the clear if not; no certificate is verified.
    Preferred,
    /// `tls=skip-verify`: encrypted, no certificate is verified.
    SkipVerify,
    /// `tls=true`: encrypted, and the certificate must be valid for the host.
    Verify,
}

impl FromStr for MySqlDsn {
    type Err = DsnError;

    fn from_str(text: &str) -> Result<Self, DsnError> {
        match text.strip_prefix("mysql://") {
            Some(rest) => parse_url_form(&Parts::split(rest)?),
            None => parse_go_form(&Parts::split(text)?),
        }
    }
}

impl fmt::Display for MySqlDsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mysql ")?;
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if i == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", self.database)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What both MySQL forms consist of, still encoded.
struct Parts<'a> {
    user: &'a str,
    password: &'a str,
    address: &'a str,
    database: &'a str,
    params: &'a str,
}

impl<'a> Parts<'a> {
    /// From the right: whatever is well-formed there, only the password is left to hold the odd characters.
    fn split(text: &'a str) -> Result<Self, DsnError> {
        let (credentials, rest) = text.rsplit_once('@').unwrap_or(("", text));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (target, params) = rest.split_once('?').unwrap_or((rest, ""));
        let (address, database) = target.rsplit_once('/').ok_or(DsnError::MissingDatabase)?;
        if database.is_empty() {
            return Err(DsnError::MissingDatabase);
        }
        Ok(Self { user, password, address, database, params })
    }
}

fn parse_go_form(parts: &Parts<'_>) -> Result<MySqlDsn, DsnError> {
    let endpoints = parse_go_address(parts.address)?;
    assemble(parts.user.to_owned(), parts.password.to_owned(), endpoints, parts)
}

fn parse_url_form(parts: &Parts<'_>) -> Result<MySqlDsn, DsnError> {
    let endpoints = parse_hosts(parts.address)?;
    assemble(decode("user", parts.user)?, decode("password", parts.password)?, endpoints, parts)
}

fn assemble(
    user: String,
    password: String,
    endpoints: Vec<Endpoint>,
    parts: &Parts<'_>,
) -> Result<MySqlDsn, DsnError> {
    let user = without_controls("user", user)?;
    let database = without_controls("database", decode("database", parts.database)?)?;
    let params = Params::parse(parts.params)?;
    Ok(MySqlDsn {
        user,
        password: Secret::new(password),
        endpoints,
        database,
        connect_timeout: params.connect_timeout,
        read_timeout: params.read_timeout,
        write_timeout: params.write_timeout,
        tls: params.tls()?,
        tls_ca: params.tls_ca,
        server_key: params.server_key,
    })
}

/// `[protocol[(address)]]`, with go-sql-driver's defaults.
fn parse_go_address(text: &str) -> Result<Vec<Endpoint>, DsnError> {
    let (protocol, address) = match text.split_once('(') {
        Some((protocol, rest)) => (protocol, rest.strip_suffix(')').ok_or(DsnError::AddressNotClosed)?),
        None => (text, ""),
    };
    match (protocol, address) {
        ("" | "tcp", "") => Ok(vec![Endpoint::Tcp { host: HOST_DEFAULT.to_owned(), port: PORT_DEFAULT }]),
        ("" | "tcp", hosts) => parse_hosts(hosts),
        ("unix", "") => Ok(vec![Endpoint::Unix(SOCKET_DEFAULT.into())]),
        ("unix", path) => Ok(vec![Endpoint::Unix(without_controls("socket path", path.to_owned())?.into())]),
        _ => Err(DsnError::UnknownProtocol),
    }
}

fn parse_hosts(text: &str) -> Result<Vec<Endpoint>, DsnError> {
    text.split(',').zip(1..).map(|(host, number)| parse_host(host, number)).collect()
}

/// `host`, `host:port`, `[IPv6]` or `[IPv6]:port`.
fn parse_host(text: &str, number: usize) -> Result<Endpoint, DsnError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']').ok_or(DsnError::BadHost { number })?;
            ip.parse::<Ipv6Addr>().map_err(|_| DsnError::BadHost { number })?;
            (ip, port)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            check_name(name, number)?;
            (name, port)
        }
    };
    let port = parse_port(port).ok_or(DsnError::BadPort { number })?;
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

fn check_name(name: &str, number: usize) -> Result<(), DsnError> {
    if name.is_empty() {
        return Err(DsnError::EmptyHost { number });
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    if name.bytes().all(allowed) { Ok(()) } else { Err(DsnError::BadHost { number }) }
}

/// Nothing, or a colon and the port.
fn parse_port(text: &str) -> Option<u16> {
    if text.is_empty() {
        return Some(PORT_DEFAULT);
    }
    // `parse` alone would take `+3306` too.
    let digits = text.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|port| *port != 0)
}

/// The parameters that have an effect.
struct Params {
    connect_timeout: Duration,
    read_timeout: Duration,
    write_timeout: Duration,
    tls: Option<Tls>,
    tls_ca: Option<PathBuf>,
    server_key: Option<PathBuf>,
}

impl Params {
    /// Of a parameter that is given twice the last one counts, as in go-sql-driver.
    fn parse(text: &str) -> Result<Self, DsnError> {
        let mut params = Self {
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            read_timeout: IO_TIMEOUT_DEFAULT,
            write_timeout: IO_TIMEOUT_DEFAULT,
            tls: None,
            tls_ca: None,
            server_key: None,
        };
        for param in text.split('&').filter(|param| !param.is_empty()) {
            let (name, value) = param.split_once('=').unwrap_or((param, ""));
            params.set(name, value)?;
        }
        Ok(params)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), DsnError> {
        let timeout = || parse_param(name, value, TIMEOUT_ALLOWED, parse_timeout);
        match name {
            "timeout" => self.connect_timeout = timeout()?,
            "readTimeout" => self.read_timeout = timeout()?,
            "writeTimeout" => self.write_timeout = timeout()?,
            "tls" => self.tls = Some(parse_param(name, value, TLS_ALLOWED, parse_tls)?),
            "tls-ca" => self.tls_ca = Some(parse_param(name, value, PEM_ALLOWED, parse_path)?),
            "serverPubKey" => self.server_key = Some(parse_param(name, value, PEM_ALLOWED, parse_path)?),
            _ if PARAMS_WITHOUT_EFFECT.contains(&name) => {}
            _ => return Err(DsnError::UnknownParam(name.to_owned())),
        }
        Ok(())
    }

    /// Who names an authority, or a server's key, wants to know who the server is: that must never end in a connection to
    /// anybody.
    fn tls(&self) -> Result<Tls, DsnError> {
        if self.server_key.is_some() && matches!(self.tls, Some(Tls::SkipVerify | Tls::Preferred)) {
            return Err(DsnError::UnusedServerKey);
        }
        match (self.tls, &self.tls_ca) {
            (None, None) => Ok(Tls::Off),
            (None | Some(Tls::Verify), Some(_)) => Ok(Tls::Verify),
            (Some(_), Some(_)) => Err(DsnError::UnusedTlsCa),
            (Some(tls), None) => Ok(tls),
        }
    }
}

fn parse_param<T>(
    name: &str,
    value: &str,
    allowed: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, DsnError> {
    let value = decode(name, value)?;
    parse(&value).ok_or_else(|| DsnError::BadParam { name: name.to_owned(), value, allowed })
}

/// A Go duration within the limits. Go's `0` means no timeout: refused, since nothing may wait for ever.
fn parse_timeout(text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c| !is_number(c))?);
        let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
        seconds += number.parse::<f64>().ok()? * unit_seconds(unit)?;
        rest = tail;
    }
    let timeout = Duration::try_from_secs_f64(seconds).ok()?;
    (!timeout.is_zero() && timeout <= TIMEOUT_MAX).then_some(timeout)
}

fn is_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

fn unit_seconds(unit: &str) -> Option<f64> {
    match unit {
        "ns" => Some(1e-9),
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(1e-6),
        "ms" => Some(1e-3),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    }
}

/// The Boolean values are spelled as go-sql-driver takes them.
fn parse_tls(text: &str) -> Option<Tls> {
    match text.to_ascii_lowercase().as_str() {
        "false" | "0" => Some(Tls::Off),
        "preferred" => Some(Tls::Preferred),
        "skip-verify" => Some(Tls::SkipVerify),
        "true" | "1" => Some(Tls::Verify),
        _ => None,
    }
}

fn parse_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

/// Takes a path as it stands. SQLite itself would read more into it: `:memory:` and `file:` are special names there.
fn decode(part: &str, text: &str) -> Result<String, DsnError> {
    let bad = || DsnError::BadPercentEncoding { part: part.to_owned() };
    // The crate passes a `%` that starts no escape through, which would silently change what was meant.
    let starts_escape =
        |tail: &str| tail.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(starts_escape) {
        return Err(bad());
    }
    percent_decode_str(text).decode_utf8().map(Into::into).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;
    use crate::dsn::Dsn;

    fn mysql(text: &str) -> MySqlDsn {
        match text.parse() {
            Ok(Dsn::MySql(dsn)) => dsn,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn error(text: &str) -> DsnError {
        text.parse::<Dsn>().expect_err(text)
    }

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn go_form_splits_into_its_parts() {
        let dsn = mysql("root:123456@tcp(127.0.0.1:3307)/id_alloc_db");
        let expected = MySqlDsn {
            user: "root".to_owned(),
            password: Secret::new("123456"),
            endpoints: vec![tcp("127.0.0.1", 3307)],
            database: "id_alloc_db".to_owned(),
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            tls: Tls::Off,
            tls_ca: None,
            server_key: None,
        };
        assert_eq!(dsn, expected);
    }

    #[test]
    fn go_form_takes_credentials_as_they_stand() {
        let cases = [
            ("user:p@ss:w/rd@tcp(127.0.0.1:3306)/db?tls-ca=/etc/x.pem", "user", "p@ss:w/rd"),
            ("root:pw@unix(/run/mysqld/mysqld.sock)/db", "root", "pw"),
            ("user:p/w@/db", "user", "p/w"),
            ("user:p%41?a=b#(x)/y@tcp(z)/@/db", "user", "p%41?a=b#(x)/y@tcp(z)/"),
            ("user@/db", "user", ""),
            ("user:@/db", "user", ""),
            ("/db", "", ""),
        ];
        for (text, user, password) in cases {
            let dsn = mysql(text);
            assert_eq!(
                (dsn.user.as_str(), dsn.password.expose(), dsn.database.as_str()),
                (user, password, "db"),
                "{text}"
            );
        }
    }

    #[test]
    fn go_form_addresses_and_their_defaults() {
        let cases = [
            ("/db", vec![tcp("127.0.0.1", 3306)]),
            ("u@tcp/db", vec![tcp("127.0.0.1", 3306)]),
            ("u@tcp()/db", vec![tcp("127.0.0.1", 3306)]),
            ("u@(h:1)/db", vec![tcp("h", 1)]),
            (
                "tcp(h1:3307,h2,[::1]:3308,[fe80::1])/db",
                vec![tcp("h1", 3307), tcp("h2", 3306), tcp("::1", 3308), tcp("fe80::1", 3306)],
            ),
            ("u@unix/db", vec![Endpoint::Unix("/tmp/mysql.sock".into())]),
            ("u@unix(/a (b),c/m.sock)/db", vec![Endpoint::Unix("/a (b),c/m.sock".into())]),
        ];
        for (text, endpoints) in cases {
            assert_eq!(mysql(text).endpoints, endpoints, "{text}");
        }
    }

    #[test]
    fn database_is_percent_decoded() {
        assert_eq!(mysql("/a%2Fb%3Fc+d").database, "a/b?c+d");
        assert_eq!(mysql("mysql://h/d%C3%A9").database, "d\u{e9}");
    }

    #[test]
    fn url_form_decodes_credentials() {
        let dsn = mysql("mysql://us%3Aer:p%40%2F%25w+d@h1:3307,h2/db?timeout=1s");
        assert_eq!((dsn.user.as_str(), dsn.password.expose()), ("us:er", "p@/%w+d"));
        assert_eq!(dsn.endpoints, [tcp("h1", 3307), tcp("h2", 3306)]);
        assert_eq!(dsn.connect_timeout, Duration::from_secs(1));
        assert_eq!(mysql("mysql://u:p/w@h/db").password.expose(), "p/w");
    }

    #[test]
    fn timeouts_are_go_durations() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            (".5s", 500),
            ("1h", 3_600_000),
            ("1000us", 1),
            ("1000%C2%B5s", 1),
            ("1000000ns", 1),
        ] {
            let dsn = mysql(&format!("/db?readTimeout={text}"));
            assert_eq!(dsn.read_timeout, Duration::from_millis(milliseconds), "{text}");
        }
        for value in [
            "",
            "0",
            "0s",
            "5",
            "s",
            "5x",
            "-5s",
            "+5s",
            "1e3s",
            ".s",
            "1..5s",
            "5 s",
            "1h1ns",
            "0.1ns",
            "99999999999h",
        ] {
            for name in ["timeout", "readTimeout", "writeTimeout"] {
                let expected = DsnError::BadParam {
                    name: name.to_owned(),
                    value: value.to_owned(),
                    allowed: TIMEOUT_ALLOWED,
                };
                assert_eq!(error(&format!("/db?{name}={value}")), expected);
            }
        }
    }

    #[test]
    fn each_timeout_has_its_own_parameter() {
        let dsn = mysql("/db?timeout=1s&readTimeout=2s&writeTimeout=3s&timeout=4s");
        assert_eq!(
            [dsn.connect_timeout, dsn.read_timeout, dsn.write_timeout],
            [4, 2, 3].map(Duration::from_secs)
        );
    }

    #[test]
    fn tls_modes() {
        for (text, tls) in [
            ("false", Tls::Off),
            ("true", Tls::Verify),
            ("TRUE", Tls::Verify),
            ("1", Tls::Verify),
            ("skip-verify", Tls::SkipVerify),
            ("preferred", Tls::Preferred),
        ] {
            assert_eq!(mysql(&format!("/db?tls={text}")).tls, tls, "{text}");
        }
        let message = error("/db?tls=custom").to_string();
        assert_eq!(message, "parameter tls is \"custom\": allowed is true, false, skip-verify or preferred");
    }

    #[test]
    fn an_authority_means_verification() {
        for text in ["/db?tls-ca=/a%40b.pem", "/db?tls=true&tls-ca=/a%40b.pem"] {
            let dsn = mysql(text);
            assert_eq!((dsn.tls, dsn.tls_ca), (Tls::Verify, Some("/a@b.pem".into())), "{text}");
        }
        for tls in ["false", "skip-verify", "preferred"] {
            assert_eq!(error(&format!("/db?tls-ca=/a.pem&tls={tls}")), DsnError::UnusedTlsCa);
        }
        assert_eq!(
            error("/db?tls-ca=").to_string(),
            "parameter tls-ca is \"\": allowed is the path of a PEM file"
        );
    }

    #[test]
    fn a_servers_key_stands_beside_no_tls_that_anybody_may_speak() {
        for (params, tls) in [("", Tls::Off), ("&tls=false", Tls::Off), ("&tls=true", Tls::Verify)] {
            let dsn = mysql(&format!("/db?serverPubKey=/a%40b.pem{params}"));
            assert_eq!((dsn.tls, dsn.server_key), (tls, Some("/a@b.pem".into())), "{params}");
        }
        for tls in ["skip-verify", "preferred"] {
            assert_eq!(error(&format!("/db?serverPubKey=/a.pem&tls={tls}")), DsnError::UnusedServerKey);
        }
        assert_eq!(
            error("/db?serverPubKey=").to_string(),
            "parameter serverPubKey is \"\": allowed is the path of a PEM file"
        );
    }

    #[test]
    fn parameters_without_effect_are_accepted() {
        let plain = mysql("u:p@tcp(h)/db");
        assert_eq!(mysql("u:p@tcp(h)/db?charset=utf8mb4,utf8&parseTime=True&loc=Asia/Shanghai&&"), plain);
        for name in PARAMS_WITHOUT_EFFECT {
            assert_eq!(mysql(&format!("u:p@tcp(h)/db?{name}=%zz")), plain, "{name}");
        }
    }

    #[test]
    fn unknown_parameters_are_named() {
        assert_eq!(error("/db?sql_mode=x"), DsnError::UnknownParam("sql_mode".to_owned()));
        let message = error("/db?Timeout=1s").to_string();
        for name in ["\"Timeout\"", "timeout", "readTimeout", "writeTimeout", "tls", "tls-ca", "serverPubKey"]
        {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn every_fault_has_its_error() {
        use DsnError::*;
        let bad_encoding = |part: &str| BadPercentEncoding { part: part.to_owned() };
        let cases = [
            ("", MissingDatabase),
            ("ids.db", MissingDatabase),
            ("u:p@tcp(h)", MissingDatabase),
            ("u:p@tcp(h)/", MissingDatabase),
            ("u:p@tcp(h)/?tls=true", MissingDatabase),
            ("mysql://u:p@h", MissingDatabase),
            ("u:p@udp(h)/db", UnknownProtocol),
            ("u:p@127.0.0.1:3306/db", UnknownProtocol),
            ("postgres://u:p@h/db", UnknownProtocol),
            ("u:p@tcp(h/db", AddressNotClosed),
            ("u:p@tcp(h)/a/db", AddressNotClosed),
            ("u:p@tcp(:3306)/db", EmptyHost { number: 1 }),
            ("u:p@tcp(h,)/db", EmptyHost { number: 2 }),
            ("mysql:///db", EmptyHost { number: 1 }),
            ("u:p@tcp(h, i)/db", BadHost { number: 2 }),
            ("u:p@tcp([h])/db", BadHost { number: 1 }),
            ("u:p@tcp([::1)/db", BadHost { number: 1 }),
            ("mysql://h/a/db", BadHost { number: 1 }),
            ("u:p@tcp(h:)/db", BadPort { number: 1 }),
            ("u:p@tcp(h:0)/db", BadPort { number: 1 }),
            ("u:p@tcp(h:+1)/db", BadPort { number: 1 }),
            ("u:p@tcp(h:65536)/db", BadPort { number: 1 }),
            ("u:p@tcp(h,i:x)/db", BadPort { number: 2 }),
            ("u:p@tcp([::1]3306)/db", BadPort { number: 1 }),
            ("u:p@tcp(fe80::1)/db", BadPort { number: 1 }),
            ("/d%zb", bad_encoding("database")),
            ("/db%2", bad_encoding("database")),
            ("/db%ff", bad_encoding("database")),
            ("mysql://u:p%@h/db", bad_encoding("password")),
            ("mysql://u%%41@h/db", bad_encoding("user")),
            ("/db?tls=%z", bad_encoding("tls")),
            ("/db%00", ControlCharacter { part: "database" }),
            ("/db\n", ControlCharacter { part: "database" }),
            ("mysql://u%00@h/db", ControlCharacter { part: "user" }),
            ("u@unix(/a\n)/db", ControlCharacter { part: "socket path" }),
            ("sqlite:a\n", ControlCharacter { part: "path" }),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text), expected, "{text}");
        }
    }

    #[test]
    fn display_names_the_store_only() {
        for (text, shown) in [
            ("u:pw@tcp(h1,[::1]:3307)/db?timeout=1s", "mysql h1:3306,[::1]:3307/db"),
            ("u:pw@unix(/run/m.sock)/db", "mysql /run/m.sock/db"),
            ("sqlite:a b.db", "sqlite a b.db"),
        ] {
            assert_eq!(text.parse::<Dsn>().unwrap().to_string(), shown);
        }
    }

    const MARK: &str = "hunter2";

    #[test]
    fn debug_hides_the_password() {
        let shown = format!("{:?}", format!("u:{MARK}@/db").parse::<Dsn>());
        assert!(shown.contains("***") && !shown.contains(MARK), "{shown}");
    }

    proptest! {
        #[test]
        fn any_password_survives_the_go_form(
            user in "[^:\\p{Cc}]{0,8}",
            password in any::<String>(),
            odd in "[@:/?()#%&=,\\[\\]a]{0,20}",
        ) {
            for password in [password, odd] {
                for target in ["tcp(h:1,[::1])/db?tls-ca=/etc/x.pem&timeout=1s", "unix(/run/m.sock)/db", "/db"] {
                    let text = format!("{user}:{password}@{target}");
                    prop_assume!(!text.starts_with("mysql://") && !text.starts_with("sqlite:"));
                    let dsn = mysql(&text);
                    prop_assert_eq!((dsn.user.as_str(), dsn.password.expose()), (user.as_str(), password.as_str()));
                    let plain = mysql(&format!("u:p@{target}"));
                    let like_plain = MySqlDsn { user: plain.user.clone(), password: plain.password.clone(), ..dsn };
                    prop_assert_eq!(like_plain, plain);
                }
            }
        }

        #[test]
        fn any_password_survives_the_url_form(password in any::<String>()) {
            let text = format!("mysql://u:{}@h/db", utf8_percent_encode(&password, NON_ALPHANUMERIC));
            let dsn = mysql(&text);
            prop_assert_eq!(dsn.password.expose(), password);
        }

        // No `@` here: after it, the rest of a password can make a well-formed DSN of another meaning.
        #[test]
        fn no_fault_shows_the_password(
            (before, after) in ("[:/?()a%]{0,6}", "[:/?()a%]{0,6}"),
            form in 0..3_usize,
            (cut, drop) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let password = format!("{before}{MARK}{after}");
            let text = match form {
                0 => format!("root:{password}@tcp(h1:3307,h2)/db?timeout=5s&tls=true"),
                1 => format!("root:{password}@unix(/run/m.sock)/db"),
                _ => format!("mysql://root:{password}@h1:3307,h2/db?tls=true"),
            };
            let without_one = |i: usize| format!("{}{}", &text[..i], &text[i + 1..]);
            for faulty in [text[..cut.index(text.len())].to_owned(), without_one(drop.index(text.len()))] {
                let shown = match faulty.parse::<Dsn>() {
                    Ok(dsn) => dsn.to_string(),
                    Err(error) => format!("{error} {error:?}"),
                };
                prop_assert!(!shown.contains(MARK), "{faulty} shows {shown}");
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>(), odd in "(mysql://|sqlite:)?[@:/?()%&=,.\\[\\]a5sm]{0,40}") {
            let _ = (text.parse::<Dsn>(), odd.parse::<Dsn>());
        }
    }
}
