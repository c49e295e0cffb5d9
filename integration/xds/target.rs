//! `xds-target`: the library's xDS service alone, with a fleet to edit. See `--help`.

#![allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]

#[path = "server/mod.rs"]
mod server;

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = server::Args::parse();
    let server = server::Server::start(&args).await?;
    if let Some(addr) = server.addr {
        use std::io::Write;
        // A reader that went away is no reason to stop serving.
        let _ = writeln!(std::io::stdout(), "serving xDS on {addr}");
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}
