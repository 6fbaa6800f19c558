//! A bug in the code that serves a connection costs that connection, and nothing else.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use idalloc::api;
use idalloc::config::{ApiSection, EngineLimits};
use idalloc::http::engine_tokio::Engine;
use idalloc::http::handler::{Handler, Service};
use idalloc_testing::server::Client;
use idalloc_testing::store::embedded_allocator;

#[test]
fn a_panic_closes_its_connection_is_reported_and_frees_its_slot() {
    let dir = tempfile::tempdir().unwrap();
    let allocator = embedded_allocator(&dir.path().join("ids.db"), || ());
    let mut config = ApiSection::default();
    config.limits.alloc_timeout = Duration::from_secs(5);
    let service = Arc::new(Service { api: Arc::new(api::Service::new(&config)), ..Service::default() });
    // No configuration can ask for this: the deadline of a request that arrives in parts overflows, which panics.
    let limits = EngineLimits {
        workers: 1,
        connections_max: 2,
        buffer_bytes_max: 1 << 20,
        read_timeout: Duration::MAX,
        write_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let handles = allocator.handles();
    let engine = Engine::start(
        listener,
        limits,
        || (),
        service.clone(),
        move || Handler::new(handles(), service.clone()),
    )
    .unwrap();
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = panics.clone();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Relaxed);
        print(panic);
    }));
    let mut other = Client::connect(port);
    for round in 1..=5 {
        let mut unlucky = Client::connect(port);
        unlucky.send("GET /alloc?app_tag=test_business HTTP/1.1\r\nHo");
        assert!(
            unlucky.try_receive(true).is_none(),
            "closed without an answer, and not refused for want of a slot"
        );
        assert_eq!(panics.load(Relaxed), round, "and reported, once");
        assert_eq!(other.get("/alloc?app_tag=test_business").id(), round as i64, "the same worker goes on");
    }
    drop(std::panic::take_hook());
    engine.drain(Duration::from_secs(5));
    allocator.close(Duration::from_secs(5));
}
