//! `actl secret`: writes the secrets that `vault.toml` names with the providers `keyring` and `age`.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::config::SecretName;
use crate::domain::secret::{Secret, SecretBytes};
use crate::vault::providers::{AgeFile, AgeIdentity, Keyring, KeyringError};

const EXAMPLES: &str = "\
Examples:
  actl secret set STRIPE_API_KEY              asks for it, and puts it into the desktop's keyring
  op read op://Private/Stripe/key | actl secret set STRIPE_API_KEY
  actl secret set DEPLOY_KEY --age /etc/agent-creds/secrets.age --identity /etc/agent-creds/key.txt < deploy.pem
  actl secret list

In vault.toml:
  token = { provider = \"keyring\", name = \"STRIPE_API_KEY\" }
  token = { provider = \"age\", file = \"/etc/agent-creds/secrets.age\", name = \"DEPLOY_KEY\" }

A server that uses the secret takes a new value up by itself: from a file at once, from the keyring within its `ttl`.";

/// How long a person may take to unlock the keyring.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(super) struct SecretArgs {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Keep a secret, read from standard input or asked for on a terminal; in place of the one before
    #[command(after_help = EXAMPLES)]
    Set {
        /// What it is called in vault.toml
        name: SecretName,
        #[command(flatten)]
        store: Store,
    },
    /// Show what secrets there are, by name alone
    List {
        /// Print a JSON list
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        store: Store,
    },
    /// Remove a secret: exit 1 when there is none of this name
    Remove {
        /// What it is called
        name: SecretName,
        #[command(flatten)]
        store: Store,
    },
}

/// Where secrets are kept.
#[derive(Debug, Args)]
struct Store {
    /// A file encrypted with age, made when there is none, instead of the desktop's keyring
    #[arg(long, value_name = "FILE")]
    age: Option<PathBuf>,
    /// The file with the age identity (`age-keygen` makes one), instead of the passphrase in AGENT_CREDS_AGE_PASSPHRASE
    #[arg(long, value_name = "FILE", requires = "age")]
    identity: Option<PathBuf>,
}

enum Open {
    Age(AgeFile),
    Keyring(Runtime, Keyring),
}

pub(super) fn run(args: SecretArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    match args.command {
        SecretCommand::Set { name, store } => {
            // Opened first: nobody types a secret for nothing.
            let store = store.open()?;
            let secret = read(&name)?;
            match &store {
                Open::Age(file) => file.set(name.as_str(), &secret)?,
                Open::Keyring(runtime, keyring) => within(runtime, keyring.set(name.as_str(), &secret))?,
            }
            writeln!(io::stderr(), "kept `{name}` in {store}")?;
            Ok(ExitCode::SUCCESS)
        }
        SecretCommand::List { json, store } => {
            let names = match store.open()? {
                Open::Age(file) => file.names()?,
                Open::Keyring(runtime, keyring) => within(&runtime, keyring.names())?,
            };
            if json {
                writeln!(out, "{}", json!(names))?;
            } else {
                for name in names {
                    // Others may have written there, too.
                    writeln!(out, "{}", name.escape_debug())?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        SecretCommand::Remove { name, store } => {
            let store = store.open()?;
            let removed = match &store {
                Open::Age(file) => file.remove(name.as_str())?,
                Open::Keyring(runtime, keyring) => within(runtime, keyring.remove(name.as_str()))?,
            };
            if !removed {
                bail!("there is no `{name}` in {store}; `actl secret list` shows what there is");
            }
            writeln!(io::stderr(), "removed `{name}` from {store}")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Store {
    fn open(self) -> anyhow::Result<Open> {
        let Some(path) = self.age else {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let hint = "without a desktop's keyring, keep secrets in an encrypted file: --age FILE";
            let keyring = within(&runtime, Keyring::open()).context(hint)?;
            return Ok(Open::Keyring(runtime, keyring));
        };
        let identity = match self.identity {
            Some(identity) => AgeIdentity::File(identity),
            None => {
                let passphrase = std::env::var_os("AGENT_CREDS_AGE_PASSPHRASE").context(
                    "give the file with the age identity (--identity FILE), or a passphrase in AGENT_CREDS_AGE_PASSPHRASE",
                )?;
                let passphrase = Secret::new(passphrase.into_vec()).context("AGENT_CREDS_AGE_PASSPHRASE")?;
                AgeIdentity::Passphrase(passphrase)
            }
        };
        Ok(Open::Age(AgeFile { path, identity }))
    }
}

/// What the keyring answers, if it does; somebody may have to unlock it first.
fn within<T>(runtime: &Runtime, answer: impl Future<Output = Result<T, KeyringError>>) -> anyhow::Result<T> {
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
    Ok(answer
        .with_context(|| format!("the keyring gave no answer within {PATIENCE:?}; is it waiting to be unlocked?"))??)
}

impl std::fmt::Display for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Age(file) => write!(f, "{}", file.path.display()),
            Self::Keyring(..) => f.write_str("the keyring"),
        }
    }
}

/// The secret: a line that is typed and not shown, or all of standard input without the line breaks at its end.
fn read(name: &SecretName) -> anyhow::Result<SecretBytes> {
    let stdin = io::stdin();
    // As much as can be, so that it is never copied while it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SecretBytes::MOST + 1));
    if stdin.is_terminal() {
        write!(io::stderr(), "secret `{name}` (not shown): ")?;
        io::stderr().flush()?;
        let silence = Silence::begin();
        let read = stdin.lock().take(SecretBytes::MOST as u64 + 1).read_until(b'\n', &mut bytes);
        drop(silence);
        writeln!(io::stderr())?;
        read?;
    } else {
        stdin.lock().take(SecretBytes::MOST as u64 + 1).read_to_end(&mut bytes)?;
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    SecretBytes::new(std::mem::take(&mut bytes)).context("no secret was kept")
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence(Option<Termios>);

impl Silence {
    fn begin() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &silent);
        }
        Self(before)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
