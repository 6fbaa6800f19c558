//! The program among those that operators run beside it, a browser too. `make e2e` installs them.

#[path = "../support/mod.rs"]
mod support;

mod balancer;
mod balancing;
mod browser;
mod chromium;
mod metrics;
mod platforms;
mod tools;
