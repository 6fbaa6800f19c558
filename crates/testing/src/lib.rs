//! What the integration tests share.

/// Makes two tests of each function: one for each engine.
#[macro_export]
macro_rules! on_each_engine {
    ($($test:ident)*) => {
        mod on_tokio {
            $(#[test] fn $test() { super::$test("tokio"); })*
        }
        mod on_may_minihttp {
            $(#[test] fn $test() { super::$test("may_minihttp"); })*
        }
    };
}

pub mod clock;
pub mod consumer;
pub mod ledger;
pub mod load;
pub mod mariadb;
pub mod node;
pub mod program;
pub mod proxy;
pub mod replication;
pub mod rounds;
pub mod server;
pub mod store;
pub mod terminal;
pub mod waker;
