//! `mint`: makes tokens, narrows them, and shows what is in them. Built for the inside of a sandbox, it does all but making them.

use std::io;
use std::process::ExitCode;

use agent_creds::cli::Environment;
#[cfg(feature = "host")]
use agent_creds::cli::mint::{Args, Streams, run};
#[cfg(not(feature = "host"))]
use agent_creds::cli::narrow::{Args, Streams, run};
use clap::Parser;

fn main() -> ExitCode {
    // Wrong options end the process here, with status 2.
    let args = Args::parse();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let (mut input, mut output, mut error) = (io::stdin().lock(), io::stdout().lock(), io::stderr().lock());
    let mut streams = Streams { input: &mut input, output: &mut output, error: &mut error };
    match run(args, &Environment::of_process(), now, &mut streams) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code();
            let chain = format!("{:#}", anyhow::Error::new(failure));
            // Nothing is left to do when not even this can be written.
            let _ = io::Write::write_all(streams.error, format!("mint: {chain}\n").as_bytes());
            ExitCode::from(code)
        }
    }
}
