//! Work of a known amount, for `perf/callgrind.sh` to count its instructions: `instructions CASE TIMES`.
//!
//! Without arguments it names the cases, after having tried each of them once.

mod common;

use std::hint::black_box;

use common::exchange::{Exchange, traffic};

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    match (args.next(), args.next()) {
        (Some(case), Some(times)) => run(&case, times.parse().expect("TIMES is a number")),
        _ => traffic().iter().for_each(|(case, ..)| {
            run(case, 1);
            println!("{case}");
        }),
    }
}

fn run(case: &str, times: u64) {
    let traffic = traffic();
    let (_, _, text) = traffic.iter().find(|(name, ..)| *name == case).expect("CASE is one of those listed");
    let mut exchange = Exchange::new();
    let mut bytes = text.clone().into_bytes();
    exchange_all(&mut exchange, &mut bytes, times);
}

/// What is counted, by this name: other threads and the start are not.
#[inline(never)]
fn exchange_all(exchange: &mut Exchange, bytes: &mut [u8], times: u64) {
    for _ in 0..times {
        black_box(exchange.answer(black_box(bytes)));
    }
}
