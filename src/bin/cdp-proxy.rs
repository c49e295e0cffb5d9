//! `cdp-proxy`: inside a sandbox, `localhost:9222` is the host's browser.

use std::io;
use std::process::ExitCode;

use agent_creds::cli::cdp_proxy::{Args, run};
use clap::Parser;

fn main() -> ExitCode {
    // Wrong options end the process here, with status 2.
    let args = Args::parse();
    let mut errors = io::stderr();
    let Err(failure) = run(&args, &mut errors);
    let chain = format!("{:#}", anyhow::Error::new(failure));
    // Nothing is left to do when not even this can be written.
    let _ = io::Write::write_all(&mut errors, format!("cdp-proxy: {chain}\n").as_bytes());
    ExitCode::from(2)
}
