//! IDs in your own process, without a server: `cargo run -p idalloc-store --example embed`.
//!
//! Uses a file in the working directory. For MySQL, give its DSN as an argument: `user:password@tcp(host:3306)/database`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use idalloc_core::store::{StoreError, TagDetails};
use idalloc_core::watermark::Watermarks;
use idalloc_core::{Allocator, AllocatorConfig, Granted, StoreFactory, Want};
use idalloc_store::backend;
use idalloc_store::table::TableSpec;

const TAG: &str = "orders";
const TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let dsn = std::env::args().nth(1).unwrap_or_else(|| "sqlite:embed.db".to_owned());
    let backend = backend(&dsn.parse()?, &TableSpec::default());

    // The table, and a row for the tag. An operator does this once; `idalloc init` and `idalloc tag add` do the same.
    let mut session = backend.session();
    session.create_table()?;
    match session.insert(&TagDetails::new(TAG, 1000, 1, None)?) {
        Ok(()) | Err(StoreError::TagExists(_)) => {}
        Err(error) => return Err(error.into()),
    }

    let open: StoreFactory = Arc::new(move || backend.session());
    // Watermarks in memory notice a database that went back while this process runs. In a file, they notice it after a
    // restart too: see `idalloc_store::watermark::open`.
    let allocator = Allocator::start(AllocatorConfig::default(), Watermarks::default(), &open)?;

    // Each thread has a handle of its own: an ID is then one addition in memory.
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let mut handle = allocator.handle();
            std::thread::spawn(move || -> Result<Vec<i64>, idalloc_core::WaitError> {
                (0..5).map(|_| handle.next_id_within(TAG, TIMEOUT)).collect()
            })
        })
        .collect();
    for thread in threads {
        println!("IDs: {:?}", thread.join().expect("no panic")?);
    }

    // A range for somebody who hands the IDs out: all of them, in one piece.
    if let Granted::Lease(range) = allocator.handle().claim_within(TAG, Want::Lease(500), TIMEOUT)? {
        println!("lease: {} to {}", range.start, range.end - 1);
    }

    // As a future, on any runtime.
    let mut handle = allocator.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let id = runtime.block_on(async { tokio::time::timeout(TIMEOUT, handle.next_id_async(TAG)).await })??;
    println!("one more: {id}");

    // Gives back what nobody was given, so that the next start leaves no gap.
    allocator.close(Duration::from_secs(5));
    Ok(())
}
