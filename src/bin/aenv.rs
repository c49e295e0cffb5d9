//! `aenv`: shows, inside a sandbox, what is reachable and what each token may do; opens pages in the host's browser; and is the
//! sandbox's first process.

use std::io;
use std::process::ExitCode;

use agent_creds::cli::aenv::{Args, Surroundings, run};

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os().collect()) {
        Ok(args) => args,
        // Wrong options end the process here, with status 2.
        Err(error) => error.exit(),
    };
    // Not locked: the guard writes from other threads, too.
    let mut output = io::stdout();
    match run(args, &Surroundings::of_process(), &mut output) {
        Ok(code) => code,
        Err(failure) => {
            let code = failure.exit_code();
            let chain = format!("{:#}", anyhow::Error::new(failure));
            // Nothing is left to do when not even this can be written.
            let _ = io::Write::write_all(&mut io::stderr(), format!("aenv: {chain}\n").as_bytes());
            code
        }
    }
}
