//! The clients' port: where it listens, and what its connections may take.

use std::net::IpAddr;
use std::time::Duration;

use super::origins::{self, CorsOrigins};
use super::rules::{Choice, Custom, Integer, address};
use super::section::section;

const ENGINES: Choice<HttpEngine> =
    Choice(&[("tokio", HttpEngine::Tokio), ("may_minihttp", HttpEngine::MayMinihttp)]);

section! {
    /// How the clients' port is set up.
    pub struct HttpSection {
        /// The address to listen on.
        pub host: IpAddr = "HttpHost", address("0.0.0.0");
        /// The port to listen on.
        pub port: u16 = "HttpPort", Integer::new(8880, 0..=65_535, "(0: any free port)");
        /// What moves bytes between sockets and the API.
        pub engine: HttpEngine = "HttpEngine", ENGINES;
        /// How long a server that is told to stop keeps serving while `/health` fails.
        pub drain_time: Duration = "DrainSeconds", Integer::seconds(5, 0..=3600);
        /// Whose pages may use this server from a browser.
        pub cors_origins: CorsOrigins = "CorsOrigins", Custom {
            default: "none",
            allowed: origins::ORIGINS.allowed,
            read: origins::read_origins,
            show: CorsOrigins::shown,
        };
        /// The names that clients use for this server: requests under another name get 421. None: any name works.
        // In lower case, IPv6 addresses in brackets.
        pub names: Vec<String> = "HttpNames", origins::NAMES;
    }
    and {
        /// What an engine keeps to.
        pub limits: EngineLimits;
    }
}

section! {
    /// The limits that an engine keeps.
    #[derive(Copy)]
    pub struct EngineLimits {
        /// From a request's first byte to its last; then 408.
        pub read_timeout: Duration = "HttpReadTimeout", Integer::millis(5000, 1..=3_600_000);
        /// Without progress in sending; then the connection is closed.
        pub write_timeout: Duration = "HttpWriteTimeout", Integer::millis(5000, 1..=3_600_000);
        /// Between two requests; then the connection is closed.
        pub idle_timeout: Duration = "HttpIdleTimeout", Integer::millis(75_000, 1..=3_600_000);
        /// The most memory for unfinished requests and unsent answers of all connections together; beyond it, 503 and a
        /// close.
        pub buffer_bytes_max: usize = "HttpBufferMemory", Integer::mib(64, 1..=65_536);
        /// Threads that serve connections.
        pub workers: usize = "Workers", Integer::cores(1..=1024, "threads");
        /// The most open connections; one more gets 503 and a close.
        pub connections_max: usize = "MaxConnections", Integer::new(16_384, 1..=1_000_000, "connections");
    }
}

/// What moves bytes between sockets and the request handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpEngine {
    /// The default.
    Tokio,
    /// `may_minihttp`, for comparison and for trusted networks.
    MayMinihttp,
}

impl HttpEngine {
    /// As it stands in a configuration.
    pub fn name(self) -> &'static str {
        ENGINES.word(self)
    }
}
