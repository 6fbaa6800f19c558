//! What the integration tests share. Each test binary compiles this for itself and uses a part of it.
#![allow(dead_code)]

pub mod mariadb;
pub mod program;
pub mod server;
