//! A worker's shortcut to the tag that its last request was for, and what a listing leaves behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use idalloc::alloc::Allocator;
use idalloc::api;
use idalloc::config::ApiSection;
use idalloc::http::body::Body;
use idalloc::http::fast_path::Shortcut;
use idalloc::http::handler::{Handler, Reply, Service};
use idalloc::http::origin::Sender;
use idalloc::http::request::{Method, Request, Version};
use idalloc::http::response::Answer;
use idalloc_testing::server::PATIENCE;
use idalloc_testing::store::embedded_allocator;
use idalloc_testing::waker::unparking;
use rusqlite::Connection;

const REQUEST: Request<'_> = Request {
    method: Method::Get,
    version: Version::Http11,
    keep_alive: true,
    path: "/alloc",
    query: "app_tag=test_business",
    authorization: &[],
    sender: Sender::UNKNOWN,
    body: Body::EMPTY,
};

/// The `max_id` of the row that comes after the first.
const NEW_ROW: i64 = 1 << 40;

/// How often the allocator was told to give memory back.
static TRIMS: AtomicUsize = AtomicUsize::new(0);

fn handler(allocator: &Allocator) -> Handler {
    let mut config = ApiSection::default();
    config.limits.alloc_timeout = PATIENCE;
    let service = Service { api: Arc::new(api::Service::new(&config)), ..Service::default() };
    Handler::new(allocator.handle(), Arc::new(service))
}

/// The answer to `REQUEST` on the long way.
fn handled(handler: &mut Handler) -> Answer {
    let mut waiting = match handler.handle(&REQUEST) {
        Reply::Now(answer) => return answer,
        Reply::Later(waiting) => waiting,
    };
    let waker = unparking();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Poll::Ready(answer) = handler.poll(&mut waiting, &mut Context::from_waker(&waker)) {
            return answer;
        }
        assert!(Instant::now() < deadline, "no answer");
        thread::park_timeout(PATIENCE);
    }
}

/// The first ID that the shortcut yields.
fn shortened(handler: &mut Handler, shortcut: &mut Shortcut) -> i64 {
    let tries = (0..100).find_map(|_| handler.take_single(|| REQUEST, shortcut));
    tries.expect("a request that comes again and again takes the short way")
}

#[test]
fn a_shortcut_ends_with_its_tag_and_leads_to_the_next_one_of_that_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ids.db");
    let allocator = embedded_allocator(&file, || ());
    let table = Connection::open(&file).unwrap();
    let (mut handler, mut shortcut) = (handler(&allocator), Shortcut::default());
    assert_eq!(handled(&mut handler), Answer::Id(1));
    assert_eq!(shortened(&mut handler, &mut shortcut), 2);

    table.execute("DELETE FROM segments", ()).unwrap();
    // The refill that the tag's last IDs call for finds that the row is gone.
    let deadline = Instant::now() + PATIENCE;
    let refusal = loop {
        assert!(Instant::now() < deadline, "the tag goes on");
        if let Answer::Error(error) = handled(&mut handler) {
            break error;
        }
    };
    assert_eq!(refusal.status, 404, "{refusal:?}");
    assert_eq!(handler.take_single(|| REQUEST, &mut shortcut), None, "its tag is closed");

    // Above what the loop has used up.
    let insert = "INSERT INTO segments (app_tag, max_id, step) VALUES ('test_business', ?1, 10)";
    table.execute(insert, [NEW_ROW]).unwrap();
    while let Answer::Error(error) = handled(&mut handler) {
        assert!(Instant::now() < deadline, "the new row is not found: {error:?}");
        thread::yield_now();
    }
    let id = shortened(&mut handler, &mut shortcut);
    assert!(id > NEW_ROW, "{id} is of the row that was deleted");
    allocator.close(PATIENCE);
}

#[test]
fn a_listing_has_its_memory_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let trim = || _ = TRIMS.fetch_add(1, Relaxed);
    let allocator = embedded_allocator(&dir.path().join("ids.db"), trim);
    assert!(TRIMS.load(Relaxed) > 0, "it has read the table");
    allocator.close(PATIENCE);
}
