//! What of `mint` works anywhere, without a key: narrowing tokens, and showing what is in them. Inside a sandbox it is all of `mint`.

use std::io::{self, Read, Write};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Environment;
use super::caveats::caveat_as_json;
use super::inspect::{self, Signature};
use super::moment::{LATEST, Moment, Span};
use crate::domain::macaroon::caveat::UnixTime;
use crate::domain::macaroon::{MAX_TOKEN_BYTES, MintError, Restriction, Token, TokenError, TokenPrefix, attenuate};
use crate::domain::names::{HostPattern, Method, SandboxId};
use crate::domain::policy::PathPattern;

const EXAMPLES: &str = "\
Examples:
  mint attenuate \"$OPENAI_API_KEY\" --methods GET        a token that can only read, for another program
  mint attenuate \"$OPENAI_API_KEY\" --paths '/v1/models/**' --valid-for 10m
  mint inspect \"$OPENAI_API_KEY\"

Tokens are made on the host, where `mint` has a key. `aenv` shows what the tokens here may do.

Environment:
  TOKEN_PREFIX          what tokens begin with (default: acm_)

Exit status: 0 done, 1 failed, 2 wrong usage.";

/// Narrows the tokens that agents use instead of real keys, and shows what is in them.
#[derive(Debug, Parser)]
#[command(name = "mint", version, after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what is in a token: caveats and dates
    Inspect {
        /// The token, or `-` to read it from standard input
        token: TokenArg,
        /// Print JSON
        #[arg(long)]
        json: bool,
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
    /// Prints a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct LimitArgs {
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
pub(super) struct OutputArgs {
    /// Show the token's caveats on standard error
    #[arg(long)]
    show_caveats: bool,
    /// Print JSON with token, id, caveats and expiry
    #[arg(long)]
    json: bool,
}

/// A token on the command line, kept out of `Debug`.
#[derive(Clone)]
pub(super) struct TokenArg(Zeroizing<String>);

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

/// Why a token cannot be narrowed or shown. No message holds a token.
#[derive(Debug, thiserror::Error)]
pub enum NarrowError {
    /// Wrong options, or a wrong environment.
    #[error("{0}")]
    Usage(String),
    /// The token given is none.
    #[error("cannot read the token")]
    Token(#[from] TokenError),
    /// No token can be made like this.
    #[error("cannot make the token")]
    Mint(#[from] MintError),
    /// Standard input or output fails.
    #[error("cannot use standard input or output")]
    Stream(#[from] io::Error),
}

impl NarrowError {
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

/// Runs what there is of `mint` without a key. `now` is the time in Unix seconds.
///
/// Errors: see [`NarrowError`]; nothing is printed on `output` then.
pub fn run(args: Args, environment: &Environment, now: i64, streams: &mut Streams<'_>) -> Result<(), NarrowError> {
    let prefix = prefix(environment)?;
    match args.command {
        Command::Attenuate { token, limits, output } => attenuated(token, limits, &output, &prefix, now, streams),
        Command::Inspect { token, json } => {
            let token = Token::parse(&token.read(streams)?, &prefix)?;
            let signature = Signature::Unchecked("the key is on the host".to_owned());
            Ok(inspect::show(&token, &signature, now, json, streams.output)?)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "mint", streams.output);
            Ok(())
        }
    }
}

/// What tokens begin with.
pub(super) fn prefix(environment: &Environment) -> Result<TokenPrefix, NarrowError> {
    match &environment.token_prefix {
        Some(text) => text.parse().map_err(|error| NarrowError::Usage(format!("TOKEN_PREFIX: {error}"))),
        None => Ok(TokenPrefix::default()),
    }
}

/// Prints the token, narrowed.
pub(super) fn attenuated(
    token: TokenArg,
    limits: LimitArgs,
    output: &OutputArgs,
    prefix: &TokenPrefix,
    now: i64,
    streams: &mut Streams<'_>,
) -> Result<(), NarrowError> {
    let mut token = Token::parse(&token.read(streams)?, prefix)?;
    let restrictions = limits.for_old_token(now, token.unverified_expiry())?;
    token.macaroon = attenuate(&token.macaroon, &restrictions)?;
    // With discharges the whole may be too much where its parts are not.
    Token::parse(&token.encode(prefix), prefix).map_err(MintError::Unreadable)?;
    print_token(&token, prefix, output, streams)
}

impl LimitArgs {
    /// For a new token, which is good for `default` when nobody says.
    #[cfg(feature = "host")]
    pub(super) fn for_new_token(self, now: i64, default: Span) -> Vec<Restriction> {
        let not_before = self.not_before.map_or(now, |moment| moment.unix(now));
        let not_after = end_of(not_before, self.valid_for.unwrap_or(default));
        let mut restrictions = vec![Restriction::ValidityWindow { not_before, not_after }];
        self.append_others(&mut restrictions);
        restrictions
    }

    fn for_old_token(self, now: i64, expiry: Option<i64>) -> Result<Vec<Restriction>, NarrowError> {
        let mut restrictions = Vec::new();
        if self.valid_for.is_some() || self.not_before.is_some() {
            let not_before = self.not_before.map_or(now, |moment| moment.unix(now));
            // The end stays what it was when only the beginning is given.
            let old_end = expiry.unwrap_or(LATEST);
            let not_after = self.valid_for.map_or(old_end, |span| end_of(not_before, span));
            if not_before > old_end {
                let end = UnixTime(old_end);
                return Err(NarrowError::Usage(format!("the token is good until {end} only: begin before that")));
            }
            restrictions.push(Restriction::ValidityWindow { not_before, not_after });
        }
        self.append_others(&mut restrictions);
        if restrictions.is_empty() {
            let message = "nothing to narrow: give --hosts, --methods, --paths, --sandbox, --valid-for or --not-before";
            return Err(NarrowError::Usage(message.to_owned()));
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

impl TokenArg {
    pub(super) fn read(self, streams: &mut Streams<'_>) -> Result<Zeroizing<String>, NarrowError> {
        if *self.0 != "-" {
            return Ok(Zeroizing::new(self.0.trim().to_owned()));
        }
        // Room for white space around the longest token; what is longer is no token, and not read to its end.
        let most = MAX_TOKEN_BYTES + 1024;
        let mut bytes = Zeroizing::new(Vec::with_capacity(most));
        streams.input.take(most as u64).read_to_end(&mut bytes)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| TokenError::Base64)?.trim();
        if text.is_empty() {
            return Err(NarrowError::Usage("there is no token on standard input".to_owned()));
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

pub(super) fn print_token(
    token: &Token,
    prefix: &TokenPrefix,
    output: &OutputArgs,
    streams: &mut Streams<'_>,
) -> Result<(), NarrowError> {
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
