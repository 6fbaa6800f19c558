//! The idalloc server: parse arguments, load the config, run until told to stop.

mod cli;
mod logging;

use std::process::ExitCode;

use clap::Parser as _;

// Answers and waiting claims are small and many: this allocator is the fastest for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run(cli::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("idalloc: {error}");
            ExitCode::FAILURE
        }
    }
}
