//! The idalloc server: parse arguments, load the config, run until told to stop.

mod cli;
mod memory;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::run(cli::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::output::complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}
