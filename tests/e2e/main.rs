//! The program among those that operators run beside it. `make e2e` installs them.

#[path = "../support/mod.rs"]
mod support;

mod metrics;
