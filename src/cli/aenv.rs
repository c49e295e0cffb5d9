//! `aenv`: inside a sandbox, what is reachable and what each token may do; and what the sandbox itself runs on.
//!
//! ```text
//! policy.json (the server's) ─ policy ─┬─ show   hosts with limits, tokens, problems
//! environment ─────────────── tokens ──┼─ why    a request: domain::decision::foresee, and what to change (toml)
//!                                      └─ exec   greets, and becomes a command that `signal` finds
//! open                                           a page, in the host's browser; also as `xdg-open` and the like
//! init, forward                                  the first process; a connection from the host
//! ```
//!
//! It is built without the feature `host`: small, static, and at home in any image.

pub mod exec;
pub mod forward;
pub mod init;
pub mod open;
pub mod policy;
pub mod screen;
pub mod show;
pub mod tokens;
pub mod toml;
pub mod url;
pub mod why;

// They read TOML, which only the host does.
#[cfg(test)]
#[cfg(feature = "host")]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::domain::names::MethodError;
use crate::sandbox::network::guard;
use exec::{ExecError, ExecId, SignalName};
use forward::ForwardError;
use init::InitError;
use open::{Answer, OpenError};
use policy::{PolicyError, SandboxPolicy};
use screen::{Line, Screen, render, render_json};
use tokens::EnvToken;
use url::UrlError;
use why::{Choice, NoSuchToken, Question};

const EXAMPLES: &str = "\
Examples:
  aenv                                            what can be reached, and what each token may do
  aenv --json | jq '.upstreams[].host'
  aenv why https://api.stripe.com/v1/charges      would a GET be refused, why, and what to change
  aenv why --method POST --token STRIPE_API_KEY https://api.stripe.com/v1/charges
  aenv why --no-token https://pypi.example/simple/
  aenv open https://claude.ai/oauth/authorize     a page in the host's browser, if a [[browser_target]] allows it

What a sandbox can reach stands in agent-creds.toml, on the host. Inside it is read-only.

Environment:
  NO_COLOR            no colours
  AGENT_CREDS_POLICY  another file than /opt/agent-creds/policy.json

Status: 0 done, or allowed; 1 refused; 2 wrong usage, or not in a sandbox.";

const OPEN_STATUS: &str = "Status: 0 opened; 1 refused; 2 wrong usage, or the host cannot be asked or has no browser.";

/// Shows what this sandbox can reach and what its tokens may do
#[derive(Debug, Parser)]
#[command(name = "aenv", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Verb>,
    /// JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tells whether a request would be refused, why, and what to change
    ///
    /// Nothing is sent. The answer is the vault's own, but for what only the server knows: whether a token's signature
    /// holds and it was revoked, and for which hosts there are keys.
    Why {
        /// Where the request goes; https:// may be left out
        // A text: a wrong one is not to be repeated in the error, for it may hold a token.
        url: String,
        /// Its method
        #[arg(long, short = 'X', default_value = "GET")]
        method: String,
        /// The variable of the token it would carry; all are tried otherwise
        #[arg(long, value_name = "VARIABLE", conflicts_with = "no_token")]
        token: Option<String>,
        /// Judge it as sent without a token
        #[arg(long)]
        no_token: bool,
        /// JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Opens a page in the host's browser
    ///
    /// The host opens what a [[browser_target]] of agent-creds.toml allows, and nothing else. A sign-in that comes back to a
    /// localhost port is carried to the program that listens on it here.
    #[command(after_help = OPEN_STATUS)]
    Open {
        /// The page: http:// or https://
        url: String,
        /// Say nothing of what was opened
        #[arg(long, short)]
        quiet: bool,
    },
    /// Prints a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Holds the network isolation of a server's sandboxes, on the host's network
    #[command(hide = true)]
    Guard,
    /// Is the sandbox's first process: reaps, and ends everything on SIGTERM
    #[command(hide = true)]
    Init,
    /// Carries standard input and output to a port of localhost
    #[command(hide = true)]
    Forward {
        /// The port
        port: u16,
    },
    /// Becomes a command that `aenv signal` can find
    #[command(hide = true)]
    Exec {
        /// What `aenv signal` will call it
        #[arg(long)]
        id: ExecId,
        /// Greet first, when on a terminal
        #[arg(long)]
        login: bool,
        /// Where to start
        #[arg(long, value_name = "DIR", default_value = "/workspace")]
        workdir: PathBuf,
        /// The command; the user's shell when there is none
        #[arg(last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Sends a signal to what `aenv exec` became
    #[command(hide = true)]
    Signal {
        /// What it was called
        #[arg(long)]
        id: ExecId,
        /// Which signal, as in INT or TERM
        #[arg(ignore_case = true)]
        signal: SignalName,
    },
}

/// `aenv` under one of a browser's names.
#[derive(Debug, Parser)]
#[command(version, about = "Opens a page in the host's browser: aenv open", after_help = OPEN_STATUS)]
struct BrowserArgs {
    /// The page: http:// or https://
    url: String,
}

impl Args {
    /// Reads a command line, the program's name first: by that, `aenv` may be `xdg-open` and the like.
    ///
    /// # Errors
    /// What is wrong with it, or the help that was asked for.
    pub fn read(words: Vec<OsString>) -> Result<Self, clap::Error> {
        let Some(browser) = open::is_browser(words.first().map(OsString::as_os_str)) else {
            return Self::try_parse_from(words);
        };
        let matches = BrowserArgs::command().name(browser).bin_name(browser).try_get_matches_from(words)?;
        let BrowserArgs { url } = BrowserArgs::from_arg_matches(&matches)?;
        Ok(Self { command: Some(Verb::Open { url, quiet: true }), json: false })
    }
}

/// What `aenv` finds around it. It has no `Debug`: the environment holds tokens.
pub struct Surroundings {
    /// The environment.
    pub variables: Vec<(OsString, OsString)>,
    /// Where standard output goes.
    pub screen: Screen,
    /// The time, in Unix seconds.
    pub now: i64,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            screen: Screen::of_process(),
            now: time::OffsetDateTime::now_utc().unix_timestamp(),
        }
    }

    fn policy(&self) -> Result<SandboxPolicy, PolicyError> {
        let other = self.variables.iter().find(|(name, value)| name == "AGENT_CREDS_POLICY" && !value.is_empty());
        SandboxPolicy::read(other.map_or(policy::PATH.as_ref(), |(_, path)| path.as_ref()))
    }

    fn look(&self) -> Result<(SandboxPolicy, Vec<EnvToken>), PolicyError> {
        let here = self.policy()?;
        let tokens = EnvToken::among(&self.variables, &here.prefix);
        Ok((here, tokens))
    }
}

/// Why `aenv` did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Of `guard`: it needs `CAP_NET_ADMIN` in the namespace that it is to guard.
    #[error("cannot watch the kernel's rules")]
    Guard(#[source] io::Error),
    /// Of `init`.
    #[error(transparent)]
    Init(#[from] InitError),
    /// Of `exec` and `signal`.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// There is nothing to show.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Of `why`.
    #[error(transparent)]
    Token(#[from] NoSuchToken),
    /// What was asked about is no URL.
    #[error("this is not a URL that can be requested")]
    Url(#[from] UrlError),
    /// The method is none.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// Of `open`.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Of `open`: the host's words.
    #[error("not opened: {0}")]
    NotOpened(String),
    /// Of `open`: the host's words, for what might have been opened.
    #[error("cannot be opened: {0}")]
    NoBrowser(String),
    /// Of `forward`.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Nobody reads the answer.
    #[error("cannot write the answer")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The status to end with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Exec(error) => error.exit_code(),
            Self::NotOpened(_) | Self::Forward(_) => ExitCode::FAILURE,
            // Not to be taken for a refusal.
            Self::Guard(_)
            | Self::Init(_)
            | Self::Policy(_)
            | Self::Token(_)
            | Self::Url(_)
            | Self::Method(_)
            | Self::Open(_)
            | Self::NoBrowser(_)
            | Self::Output(_) => ExitCode::from(2),
        }
    }
}

/// Does what the arguments say.
pub fn run(args: Args, around: &Surroundings, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    match args.command {
        None => {
            let (here, tokens) = around.look()?;
            if args.json {
                out.write_all(render_json(&show::overview_json(&here, &tokens, around.now)).as_bytes())?;
            } else {
                print(&show::overview(&here, &tokens, around.now), around.screen, out)?;
            }
        }
        Some(Verb::Why { url, method, token, no_token, json }) => {
            let token = match token {
                Some(variable) => Choice::Variable(variable),
                None if no_token => Choice::None,
                None => Choice::Any,
            };
            let question = Question { url: url.parse()?, method: method.parse()?, token };
            return explain(&question, json, around, out);
        }
        Some(Verb::Open { url, quiet }) => match open::open(around.policy()?.host.map(|host| host.address), &url)? {
            Answer::Opened(text) if !quiet => writeln!(out, "{text}")?,
            Answer::Opened(_) => {}
            Answer::Refused(text) => return Err(Failure::NotOpened(text)),
            Answer::Failed(text) => return Err(Failure::NoBrowser(text)),
        },
        Some(Verb::Forward { port }) => forward::forward(port)?,
        Some(Verb::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "aenv", &mut script);
            out.write_all(&script)?;
        }
        Some(Verb::Guard) => {
            // `out` is the standard output, locked: the guard's own thread would wait for it forever.
            let output = io::stdout().as_fd().try_clone_to_owned().map_err(Failure::Guard)?;
            guard::run(io::BufReader::new(io::stdin()), File::from(output)).map_err(Failure::Guard)?;
        }
        Some(Verb::Init) => init::run()?,
        Some(Verb::Exec { id, login, workdir, command }) => {
            if login && io::stdin().is_terminal() && io::stdout().is_terminal() {
                greet(around, out)?;
            }
            return Err(exec::exec(&id, &workdir, &command).into());
        }
        Some(Verb::Signal { id, signal }) => exec::signal(&id, signal.into())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(question: &Question, json: bool, around: &Surroundings, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let (here, tokens) = around.look()?;
    let now = u64::try_from(around.now).unwrap_or(0);
    let answer = why::explain(&here, &tokens, question, now)?;
    if json {
        out.write_all(render_json(&answer.json()).as_bytes())?;
    } else {
        // Sentences and TOML are there whole; the terminal wraps them.
        print(&answer.lines(), Screen { width: None, ..around.screen }, out)?;
    }
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A shell is opened whether or not there is something to say.
fn greet(around: &Surroundings, out: &mut dyn Write) -> io::Result<()> {
    match around.look() {
        Ok((here, tokens)) => print(&show::greeting(&here, &tokens, around.now, around.screen), around.screen, out),
        Err(error) => print(&[Line::of(screen::Look::Warn, format!("aenv: {error}"))], around.screen, out),
    }
}

fn print(lines: &[Line], screen: Screen, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(render(lines, screen).as_bytes())?;
    out.flush()
}
