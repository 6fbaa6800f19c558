//! What clients may ask for, whatever the protocol: who may have IDs of which tags, and how many.

use std::time::Duration;

use super::limits::{AccessTokens, TagLimits};
use super::rules::{Custom, Integer, Secret};
use super::section::{self, section};
use crate::bounds::{LEFT_MIN, LEFT_PER_RESERVATION, STEP_MAX};

const LEASE_MAX: u64 = 1_000_000_000;
// However high a person sets a tag's max_id, the largest lease fits, and the largest step times the default factor.
const _: () = assert!(LEASE_MAX <= (LEFT_MIN / LEFT_PER_RESERVATION) as u64);
const _: () = assert!(STEP_MAX <= LEFT_MIN / LEFT_PER_RESERVATION / 1000);

pub(super) const ACCESS_TOKENS: &str = "AccessTokens";
pub(super) const ACCESS_TOKENS_ALLOWED: &str = "an object of 1 to 1000 tokens, each 16 to 256 visible ASCII characters with \"*\", an array of tags, or an object of tags, ids_per_second, burst and name";
pub(super) const TAG_LIMITS: &str = "TagLimits";

section! {
    /// What clients may ask for.
    pub struct ApiSection {
        /// Who may take IDs of which tags, and how many.
        pub tokens: Option<AccessTokens> = ACCESS_TOKENS, Secret {
            allowed: ACCESS_TOKENS_ALLOWED,
            read: |name, source| source.get(name).map(AccessTokens::parse).transpose(),
            is_set: Option::is_some,
        };
        /// How many IDs of a tag this server gives.
        pub tag_limits: TagLimits = TAG_LIMITS, Custom {
            default: "none",
            allowed: "an object of up to 10000 tags, and \"*\" for each other, with ids_per_second and burst, each 1 to 1000000000 IDs",
            read: |name, source| TagLimits::parse(source.get(name)),
            show: TagLimits::shown,
        };
    }
    and {
        /// What a command may ask for.
        pub limits: ApiLimits;
    }
}

section! {
    /// What a command may ask for.
    #[derive(Copy)]
    pub struct ApiLimits {
        /// How long a request waits for IDs; then 503.
        pub alloc_timeout: Duration = "AllocTimeout", Integer::millis(2000, 1..=60_000);
        /// The most in one `/alloc`.
        pub batch_max: u64 = "MaxBatch", Integer::new(10_000, 1..=100_000, "IDs");
        /// The most in one `/segment`.
        pub lease_max: u64 = "MaxLease", Integer::new(1_000_000, 1..=LEASE_MAX, "IDs");
    }
}

impl Default for ApiSection {
    fn default() -> Self {
        section::defaults()
    }
}
