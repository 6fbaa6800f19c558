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
        /// The port to listen on; 0 is any free one.
        pub port: u16 = "HttpPort", Integer::new(8880, 0..=65_535, "(0: any free port)");
        /// What moves bytes between sockets and the request handler.
        pub engine: HttpEngine = "HttpEngine", ENGINES;
        /// How long requests are served on after the signal to stop.
        pub drain_time: Duration = "DrainSeconds", Integer::seconds(5, 0..=3600);
        /// Which pages may use the port, beside its own.
        pub cors_origins: CorsOrigins = "CorsOrigins", Custom {
            default: "none",
            allowed: origins::ORIGINS.allowed,
            read: origins::read_origins,
            show: CorsOrigins::shown,
        };
        /// The hosts that clients may ask for, in lower case, IPv6 addresses in brackets; none: any.
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
        /// The longest time from a request's first byte to its last.
        pub read_timeout: Duration = "HttpReadTimeout", Integer::millis(5000, 1..=3_600_000);
        /// The longest time without progress in sending.
        pub write_timeout: Duration = "HttpWriteTimeout", Integer::millis(5000, 1..=3_600_000);
        /// The longest time between two requests.
        pub idle_timeout: Duration = "HttpIdleTimeout", Integer::millis(75_000, 1..=3_600_000);
        /// The most bytes that all unfinished requests and unsent answers may take together.
        pub buffer_bytes_max: usize = "HttpBufferMemory", Integer::mib(64, 1..=65_536);
        /// The engine's threads.
        pub workers: usize = "Workers", Integer::cores(1..=1024, "threads");
        /// The most connections open at once.
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
