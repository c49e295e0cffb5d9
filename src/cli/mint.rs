//! `mint`: makes tokens, narrows them, and shows what is in them.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Environment;
use super::caveats::caveat_as_json;
use super::inspect::{self, Signature};
use super::issued;
use super::keys::{self, KeysCommand};
use super::moment::{LATEST, Moment, Span};
use crate::domain::macaroon::caveat::UnixTime;
use crate::domain::macaroon::{
    KeyId, MAX_TOKEN_BYTES, MintError, Restriction, Token, TokenError, TokenPrefix, attenuate, mint,
};
use crate::domain::names::{HostPattern, Method, SandboxId};
use crate::domain::policy::PathPattern;
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
struct LimitArgs {
    /// Hosts it is good for: `api.stripe.com`, or `*.example.com` for everything below
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    hosts: Option<Vec<HostPattern>>,
    /// HTTP methods it is good for
    #[arg(long, value_name = "METHOD,…", value_delimiter = ',')]
    methods: Option<Vec<Method>>,
    /// Paths it is good for: `*` is anything within one segment, `**` any number of segments
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    paths: Option<Vec<PathPattern>>,
    /// The one sandbox or gateway it is good for
    #[arg(long, value_name = "NAME")]
    sandbox: Option<SandboxId>,
    /// How long it is good: 30m, 1h, 24h, 7d … [default for a new token: 24h]
    #[arg(long, value_name = "SPAN")]
    valid_for: Option<Span>,
    /// From when on it is good: RFC 3339, Unix seconds, or a span from now [default: now]
    #[arg(long, value_name = "TIME")]
    not_before: Option<Moment>,
}

#[derive(Debug, clap::Args)]
struct OutputArgs {
    /// Show the token's caveats on standard error
    #[arg(long)]
    show_caveats: bool,
    /// Print JSON with token, id, caveats and expiry
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct StateArgs {
    /// The state folder, which holds the signing key [default: $XDG_STATE_HOME/agent-creds or ~/.local/state/agent-creds]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// A token on the command line, kept out of `Debug`.
#[derive(Clone)]
struct TokenArg(Zeroizing<String>);

impl From<String> for TokenArg {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl std::fmt::Debug for TokenArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenArg(…)")
    }
}

/// Why `mint` fails. No message holds a token or a key.
#[derive(Debug, thiserror::Error)]
pub enum MintCliError {
    /// Wrong options, or a wrong environment.
    #[error("{0}")]
    Usage(String),
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
    /// The token given is none.
    #[error("cannot read the token")]
    Token(#[from] TokenError),
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
        if matches!(self, Self::Usage(_)) { 2 } else { 1 }
    }
}

/// The standard streams.
pub struct Streams<'a> {
    /// Where `-` reads a token from.
    pub input: &'a mut dyn Read,
    /// Where the token, and nothing else, goes.
    pub output: &'a mut dyn Write,
    /// Where `--show-caveats` goes.
    pub error: &'a mut dyn Write,
}

/// Runs `mint`. `now` is the time in Unix seconds.
///
/// Errors: see [`MintCliError`]; nothing is printed on `output` then.
pub fn run(args: Args, environment: &Environment, now: i64, streams: &mut Streams<'_>) -> Result<(), MintCliError> {
    let prefix = match &environment.token_prefix {
        Some(text) => text.parse().map_err(|error| MintCliError::Usage(format!("TOKEN_PREFIX: {error}")))?,
        None => TokenPrefix::default(),
    };
    match args.command {
        None => {
            let restrictions = args.limits.for_new_token(now)?;
            let state = StateDir::open(args.state.path(environment)?)?;
            let keys = state.signing_keys(environment.signing_key())?;
            let (id, key) = keys.current();
            let mut random = [0; 16];
            getrandom::fill(&mut random)?;
            let token = Token::from(mint(key, id, random, &restrictions)?);
            // Nobody has a token that is not in the log.
            let issued = IssuedToken::of(&token.macaroon, now, environment.issuer());
            TokenLog::open(state.path())?.record(&[issued])?;
            print_token(&token, &prefix, &args.output, streams)
        }
        Some(Command::Attenuate { token, limits, output }) => {
            let mut token = Token::parse(&token.read(streams)?, &prefix)?;
            let restrictions = limits.for_old_token(now, token.unverified_expiry())?;
            token.macaroon = attenuate(&token.macaroon, &restrictions)?;
            // With discharges the whole may be too much where its parts are not.
            Token::parse(&token.encode(&prefix), &prefix).map_err(MintError::Unreadable)?;
            print_token(&token, &prefix, &output, streams)
        }
        Some(Command::Inspect { token, json, state }) => {
            let token = Token::parse(&token.read(streams)?, &prefix)?;
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

impl LimitArgs {
    fn for_new_token(self, now: i64) -> Result<Vec<Restriction>, MintCliError> {
        let default = DEFAULT_VALIDITY.parse().map_err(|error| MintCliError::Usage(format!("{error}")))?;
        let not_before = self.not_before.map_or(now, |moment| moment.unix(now));
        let not_after = end_of(not_before, self.valid_for.unwrap_or(default));
        let mut restrictions = vec![Restriction::ValidityWindow { not_before, not_after }];
        self.append_others(&mut restrictions);
        Ok(restrictions)
    }

    fn for_old_token(self, now: i64, expiry: Option<i64>) -> Result<Vec<Restriction>, MintCliError> {
        let mut restrictions = Vec::new();
        if self.valid_for.is_some() || self.not_before.is_some() {
            let not_before = self.not_before.map_or(now, |moment| moment.unix(now));
            // The end stays what it was when only the beginning is given.
            let old_end = expiry.unwrap_or(LATEST);
            let not_after = self.valid_for.map_or(old_end, |span| end_of(not_before, span));
            if not_before > old_end {
                let end = UnixTime(old_end);
                return Err(MintCliError::Usage(format!("the token is good until {end} only: begin before that")));
            }
            restrictions.push(Restriction::ValidityWindow { not_before, not_after });
        }
        self.append_others(&mut restrictions);
        if restrictions.is_empty() {
            let message = "nothing to narrow: give --hosts, --methods, --paths, --sandbox, --valid-for or --not-before";
            return Err(MintCliError::Usage(message.to_owned()));
        }
        Ok(restrictions)
    }

    fn append_others(self, restrictions: &mut Vec<Restriction>) {
        restrictions.extend(self.hosts.map(Restriction::Hosts));
        restrictions.extend(self.methods.map(Restriction::Methods));
        restrictions.extend(self.paths.map(Restriction::Paths));
        restrictions.extend(self.sandbox.map(Restriction::Sandbox));
    }
}

fn end_of(not_before: i64, span: Span) -> i64 {
    not_before.saturating_add(span.seconds()).min(LATEST)
}

impl StateArgs {
    fn path(&self, environment: &Environment) -> Result<PathBuf, StateError> {
        match &self.state_dir {
            Some(path) => Ok(path.clone()),
            None => StateDir::default_path(environment.xdg_state_home.as_deref(), environment.home.as_deref()),
        }
    }
}

impl TokenArg {
    fn read(self, streams: &mut Streams<'_>) -> Result<Zeroizing<String>, MintCliError> {
        if *self.0 != "-" {
            return Ok(Zeroizing::new(self.0.trim().to_owned()));
        }
        // Room for white space around the longest token; what is longer is no token, and not read to its end.
        let most = MAX_TOKEN_BYTES + 1024;
        let mut bytes = Zeroizing::new(Vec::with_capacity(most));
        streams.input.take(most as u64).read_to_end(&mut bytes)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| TokenError::Base64)?.trim();
        if text.is_empty() {
            return Err(MintCliError::Usage("there is no token on standard input".to_owned()));
        }
        Ok(Zeroizing::new(text.to_owned()))
    }
}

/// What `--json` prints of a token made.
#[derive(Serialize)]
struct Minted<'a> {
    token: &'a str,
    id: String,
    caveats: Vec<Value>,
    expires: Option<String>,
}

fn print_token(
    token: &Token,
    prefix: &TokenPrefix,
    output: &OutputArgs,
    streams: &mut Streams<'_>,
) -> Result<(), MintCliError> {
    if output.show_caveats {
        for caveat in token.macaroon.unverified_caveats() {
            writeln!(streams.error, "{caveat}")?;
        }
    }
    let text = token.encode(prefix);
    if output.json {
        let minted = Minted {
            token: &text,
            id: token.id().to_string(),
            caveats: token.macaroon.unverified_caveats().map(caveat_as_json).collect(),
            expires: token.unverified_expiry().map(|expiry| UnixTime(expiry).to_string()),
        };
        serde_json::to_writer_pretty(&mut *streams.output, &minted).map_err(io::Error::from)?;
        writeln!(streams.output)?;
    } else {
        writeln!(streams.output, "{}", *text)?;
    }
    Ok(streams.output.flush()?)
}

#[cfg(test)]
mod offers_tests;
