//! `mint`: makes tokens, narrows them, and shows what is in them.

use std::io;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::Environment;
use super::inspect::{self, Signature};
use super::issued;
use super::keys::{self, KeysCommand};
pub use super::narrow::Streams;
use super::narrow::{self, LimitArgs, NarrowError, OutputArgs, TokenArg};
use crate::domain::macaroon::{KeyId, MintError, Token, TokenError, mint};
use crate::state::{IssuedToken, KeysError, LogError, StateDir, StateError, TokenLog, existing_signing_keys};

/// The validity of a new token when nobody says: a day.
const DEFAULT_VALIDITY: &str = "24h";

const EXAMPLES: &str = "\
Examples:
  mint --hosts api.stripe.com --methods GET --valid-for 1h
  mint --hosts api.stripe.com,api.openai.com --paths '/v1/**' --sandbox myproject
  mint inspect acm_…
  mint --hosts api.stripe.com | mint attenuate - --methods GET | mint inspect -
  mint list                            what was made here and is good
  mint revoke 4f0c…                    a token or its id; and everything narrowed from it
  mint keys new && mint keys list      another key signs from now on; the old ones go on until `mint keys retire ID`

Environment:
  MACAROON_SIGNING_KEY  the signing key, 32 bytes or more in base64 (default: signing.key in the state folder, made on first use)
  TOKEN_PREFIX          what tokens begin with (default: acm_)

Exit status: 0 done, 1 failed, 2 wrong usage.";

/// Makes tokens that agents use instead of real keys.
///
/// Prints a token that is good for what the options allow and for nothing else. Without an option of a kind, everything
/// of that kind is allowed.
#[derive(Debug, Parser)]
#[command(name = "mint", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what is in a token: caveats, dates, and whether the signature holds when the key is at hand
    Inspect {
        /// The token, or `-` to read it from standard input
        token: TokenArg,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Narrows a token further; needs no key, and cannot be undone
    Attenuate {
        /// The token, or `-` to read it from standard input
        token: TokenArg,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Revokes a token, and so everything that was narrowed from it; in force within a second, for good
    Revoke {
        /// The token or its id, or `-` to read either from standard input
        token: TokenArg,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Lists the tokens that were made here and are good; never the tokens themselves
    List {
        /// Those that have expired or were revoked, too
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Signing keys: a new one signs from the moment it is there, the others go on until they are retired
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
        /// The state folder, which holds the keys [default: $XDG_STATE_HOME/agent-creds or ~/.local/state/agent-creds]
        #[arg(long, value_name = "DIR", global = true)]
        state_dir: Option<PathBuf>,
    },
    /// Prints a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
struct StateArgs {
    /// The state folder, which holds the signing key [default: $XDG_STATE_HOME/agent-creds or ~/.local/state/agent-creds]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// Why `mint` fails. No message holds a token or a key.
#[derive(Debug, thiserror::Error)]
pub enum MintCliError {
    /// Wrong options, a wrong environment, or a token that is none.
    #[error(transparent)]
    Narrow(#[from] NarrowError),
    /// The signing key or the state folder cannot be used.
    #[error("cannot get the signing key")]
    State(#[from] StateError),
    /// The signing keys cannot be changed.
    #[error("cannot change the signing keys")]
    Keys(#[from] KeysError),
    /// Tokens that somebody holds would break.
    #[error(
        "{0} tokens that are good were signed with the key `{1}`: they would hold no more; `mint list` shows them, --force retires it all the same"
    )]
    InUse(u64, KeyId),
    /// The log of tokens cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What is to be revoked is neither a token nor an id.
    #[error("this is neither a token nor the id of one (32 hexadecimal digits)")]
    TokenOrId(#[source] TokenError),
    /// No token can be made like this.
    #[error("cannot make the token")]
    Mint(#[from] MintError),
    /// Standard input or output fails.
    #[error("cannot use standard input or output")]
    Stream(#[from] io::Error),
    /// The system gives no random numbers.
    #[error("cannot get random numbers from the system")]
    Random(#[from] getrandom::Error),
}

impl MintCliError {
    /// The exit status that goes with it: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if let Self::Narrow(error) = self { error.exit_code() } else { 1 }
    }
}

/// Runs `mint`. `now` is the time in Unix seconds.
///
/// Errors: see [`MintCliError`]; nothing is printed on `output` then.
pub fn run(args: Args, environment: &Environment, now: i64, streams: &mut Streams<'_>) -> Result<(), MintCliError> {
    let prefix = narrow::prefix(environment)?;
    match args.command {
        None => {
            let default = DEFAULT_VALIDITY.parse().map_err(|error| NarrowError::Usage(format!("{error}")))?;
            let restrictions = args.limits.for_new_token(now, default);
            let state = StateDir::open(args.state.path(environment)?)?;
            let keys = state.signing_keys(environment.signing_key())?;
            let (id, key) = keys.current();
            let mut random = [0; 16];
            getrandom::fill(&mut random)?;
            let token = Token::from(mint(key, id, random, &restrictions)?);
            // Nobody has a token that is not in the log.
            let issued = IssuedToken::of(&token.macaroon, now, environment.issuer());
            TokenLog::open(state.path())?.record(&[issued])?;
            Ok(narrow::print_token(&token, &prefix, &args.output, streams)?)
        }
        Some(Command::Attenuate { token, limits, output }) => {
            Ok(narrow::attenuated(token, limits, &output, &prefix, now, streams)?)
        }
        Some(Command::Inspect { token, json, state }) => {
            let token = Token::parse(&token.read(streams)?, &prefix).map_err(NarrowError::from)?;
            // Inspecting makes nothing, and goes on without a key.
            let keys = state.path(environment);
            let keys = keys.and_then(|path| existing_signing_keys(&path, environment.signing_key()));
            inspect::show(&token, &Signature::of(&token, keys), now, json, streams.output)?;
            Ok(())
        }
        Some(Command::Revoke { token, json, state }) => {
            let text = token.read(streams)?;
            let id = match text.parse() {
                Ok(id) => id,
                Err(_) => Token::parse(&text, &prefix).map_err(MintCliError::TokenOrId)?.id(),
            };
            let state = StateDir::open(state.path(environment)?)?;
            issued::revoke(&TokenLog::open(state.path())?, id, now, &environment.issuer(), json, streams)
        }
        Some(Command::List { all, json, state }) => {
            let state = StateDir::open(state.path(environment)?)?;
            issued::list(&TokenLog::open(state.path())?.all()?, all, json, now, streams.output)
        }
        Some(Command::Keys { command, state_dir }) => {
            let state = StateDir::open(StateArgs { state_dir }.path(environment)?)?;
            keys::run(command, &state, environment.signing_key(), now, streams)
        }
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Args::command(), "mint", streams.output);
            Ok(())
        }
    }
}

impl StateArgs {
    fn path(&self, environment: &Environment) -> Result<PathBuf, StateError> {
        match &self.state_dir {
            Some(path) => Ok(path.clone()),
            None => StateDir::default_path(environment.xdg_state_home.as_deref(), environment.home.as_deref()),
        }
    }
}

#[cfg(test)]
mod offers_tests;
