//! `mint keys`: the keys that tokens are signed with.

use clap::Subcommand;
use serde_json::{Value, json};

use super::mint::{MintCliError, Streams};
use super::narrow::NarrowError;
use crate::domain::macaroon::{KeyId, KeyIdError};
use crate::state::{StateDir, TokenLog};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Lists the keys by their ids
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Makes a key, which signs new tokens from now on
    New {
        /// Its id [default: k, the date, and some digits]
        id: Option<KeyId>,
    },
    /// Removes a key: the tokens that were signed with it hold no more, from the next request on
    Retire {
        /// Its id
        id: KeyId,
        /// Though tokens that are good were signed with it
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(
    command: KeysCommand,
    state: &StateDir,
    variable: Option<&str>,
    now: i64,
    streams: &mut Streams<'_>,
) -> Result<(), MintCliError> {
    let log = TokenLog::open(state.path())?;
    match command {
        KeysCommand::List { json } => {
            let keys = state.signing_keys(variable)?;
            let count = |id: &KeyId| log.good_by_key(&id.to_string(), now);
            let rows: Vec<(String, bool, u64)> = keys
                .ids()
                .map(|id| Ok((id.to_string(), id == keys.current().0, count(id)?)))
                .collect::<Result<_, MintCliError>>()?;
            if json {
                let value: Vec<Value> = rows
                    .iter()
                    .map(|(id, current, tokens)| json!({ "id": id, "current": current, "good_tokens": tokens }))
                    .collect();
                writeln!(streams.output, "{:#}", Value::from(value))?;
            } else {
                for (id, current, tokens) in rows {
                    let signs = if current { "signs new tokens" } else { "verifies" };
                    writeln!(streams.output, "{id}  {signs}, {tokens} good tokens in the log")?;
                }
            }
        }
        KeysCommand::New { id } => {
            let id = match id {
                Some(id) => id,
                None => new_id(now).map_err(|error| NarrowError::Usage(error.to_string()))?,
            };
            // The first key comes first: tokens that are signed with it are not to break.
            state.signing_keys(variable)?;
            state.add_key(&id)?;
            writeln!(streams.output, "{id}")?;
            if state.signing_keys(variable)?.current().0 == &id {
                writeln!(streams.error, "`{id}` signs new tokens from now on; `mint keys retire` ends an old key")?;
            } else {
                writeln!(streams.error, "note: MACAROON_SIGNING_KEY is set, and goes on signing new tokens")?;
            }
        }
        KeysCommand::Retire { id, force } => {
            let keys = state.signing_keys(variable)?;
            let tokens = log.good_by_key(&id.to_string(), now)?;
            let removable = keys.ids().any(|other| *other == id) && *keys.current().0 != id;
            if tokens > 0 && !force && removable {
                return Err(MintCliError::InUse(tokens, id));
            }
            state.retire_key(&id, variable)?;
            writeln!(streams.output, "retired {id}")?;
        }
    }
    Ok(())
}

/// `k20261124-1a2b`.
fn new_id(now: i64) -> Result<KeyId, KeyIdError> {
    let date = time::OffsetDateTime::from_unix_timestamp(now).map_err(|_| KeyIdError)?.date();
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(|_| KeyIdError)?;
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("k{year:04}{month:02}{day:02}-{:04x}", u16::from_be_bytes(random)).parse()
}
