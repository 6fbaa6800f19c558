//! The program among those that operators run beside it, a browser too, with the files of deploy/. `make e2e` installs
//! them.

#![cfg(test)]

mod balancer;
mod balancing;
mod browser;
mod chromium;
mod clients;
mod connections;
mod metrics;
mod monitoring;
mod pages;
mod platforms;
mod tools;
