//! A TLS server that plays real APIs, and prints what reached it: the demo's proof that the real key arrived.
//!
//! ```text
//! demo-upstream --name api.stripe.com --name api.example.com --ca-out ca.pem --port-out port
//! ```

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test program: a broken expectation panics")]
#![allow(dead_code, unreachable_pub, reason = "the support modules have more than this program uses")]

#[path = "support/pki.rs"]
mod pki;
#[path = "support/upstream/mod.rs"]
mod upstream;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Parser;

use self::upstream::{Recorded, Upstream};

/// Plays an API over TLS and prints one line for each request it receives.
#[derive(Parser)]
struct Args {
    /// A name the certificate is for; may be given more than once
    #[arg(long = "name", required = true)]
    names: Vec<String>,
    /// Where to write the CA certificate to trust
    #[arg(long)]
    ca_out: PathBuf,
    /// Where to write the port, once connections are accepted
    #[arg(long)]
    port_out: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let names: Vec<_> = args.names.iter().map(String::as_str).collect();
    let upstream = Upstream::start(&names).await;
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    upstream.observe(move |request| {
        // A reader that went away is no reason to stop serving.
        let _ = writeln!(std::io::stdout(), "{}", line(request, colour));
    });
    publish(&args.ca_out, upstream.ca_pem())?;
    publish(&args.port_out, &upstream.addr().port().to_string())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(())
}

/// Writes a file in one step: whoever sees it sees all of it.
fn publish(path: &Path, text: &str) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text)?;
    std::fs::rename(partial, path)
}

fn line(request: &Recorded, colour: bool) -> String {
    let (bold, green, reset) = if colour { ("\x1b[1m", "\x1b[32m", "\x1b[0m") } else { ("", "", "") };
    // Escaped: a request must not be able to write to the terminal of whoever watches.
    let (host, path) = (request.host.escape_debug(), request.path.escape_debug());
    let authorization = request.authorization().unwrap_or_else(|| "(none)".to_owned());
    let authorization = authorization.escape_debug();
    format!("{bold}{}{reset} {host} {path} authorization: {green}{authorization}{reset}", request.method)
}
