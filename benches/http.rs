//! What a request costs beside its socket: `cargo bench --bench http`.
//!
//! The goal is 150 ns from bytes to bytes.

mod common;

use std::hint::black_box;

use common::exchange::{Exchange, traffic};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use idalloc::http::request::{Parsed, Parser};

/// As wrk sends it, and as browsers and proxies do.
const HEADS: [(&str, &str); 2] = [
    ("2 fields", "GET /alloc?app_tag=tag-0 HTTP/1.1\r\nHost: 127.0.0.1:8880\r\nAccept: */*\r\n\r\n"),
    (
        "8 fields",
        "GET /alloc?app_tag=tag-0 HTTP/1.1\r\nHost: ids.example.org\r\nUser-Agent: Go-http-client/1.1\r\n\
         Accept: application/json\r\nAccept-Encoding: gzip\r\nX-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: https\r\n\
         X-Request-Id: 5e1f9d7c-2a0b-4c7e-9d55-0f6a0d9f1c11\r\nConnection: keep-alive\r\n\r\n",
    ),
];

fn parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, head) in HEADS {
        let mut bytes = head.as_bytes().to_vec();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("{name}, httparse alone"), |b| {
            b.iter(|| {
                let mut fields = [httparse::EMPTY_HEADER; 16];
                let mut request = httparse::Request::new(&mut fields);
                request.parse(black_box(&bytes)).expect("a whole head")
            });
        });
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut parser = Parser::default();
                let parsed = parser.parse(black_box(&mut bytes)).expect("well-formed");
                assert!(matches!(parsed, Parsed::Complete { .. }));
            });
        });
    }
    group.finish();
}

fn exchanges(c: &mut Criterion) {
    let mut group = c.benchmark_group("bytes to bytes");
    let mut exchange = Exchange::new();
    for (name, requests, text) in traffic() {
        let mut bytes = text.into_bytes();
        group.throughput(Throughput::Elements(requests));
        group.bench_function(name, |b| b.iter(|| exchange.answer(black_box(&mut bytes)).len()));
    }
    group.finish();
}

criterion_group!(benches, parsing, exchanges);
criterion_main!(benches);
