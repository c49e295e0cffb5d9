//! `mint list` and `mint revoke`: the log of tokens.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::mint::{MintCliError, Streams};
use crate::domain::macaroon::TokenId;
use crate::domain::macaroon::caveat::UnixTime;
use crate::state::{Issued, TokenLog};

/// Revokes a token; to revoke it again is no error.
pub(super) fn revoke(
    log: &TokenLog,
    id: TokenId,
    now: i64,
    revoker: &str,
    as_json: bool,
    streams: &mut Streams<'_>,
) -> Result<(), MintCliError> {
    let is_new = log.revoke(id, now, revoker)?;
    let issued = log.find(id)?;
    if as_json {
        let value =
            json!({ "id": id.to_string(), "revoked": true, "was_revoked": !is_new, "issued_here": issued.is_some() });
        writeln!(streams.output, "{value:#}")?;
        return Ok(());
    }
    let what = if is_new { "revoked" } else { "was revoked before:" };
    writeln!(streams.output, "{what} {id}")?;
    match issued {
        Some(Issued { token, .. }) => {
            for caveat in &token.caveats {
                writeln!(streams.output, "  {caveat}")?;
            }
        }
        None => {
            writeln!(streams.error, "note: it is not in the log of tokens; was it made with another state folder?")?
        }
    }
    Ok(())
}

/// Prints the tokens, the newest first.
pub(super) fn list(
    tokens: &[Issued],
    all: bool,
    as_json: bool,
    now: i64,
    out: &mut dyn Write,
) -> Result<(), MintCliError> {
    let shown: Vec<&Issued> = tokens.iter().filter(|issued| all || state(issued, now) == "good").collect();
    if as_json {
        let value: Vec<Value> = shown.iter().map(|issued| as_value(issued, now)).collect();
        writeln!(out, "{:#}", Value::from(value))?;
        return Ok(());
    }
    show(&shown, tokens.len(), now, out).map_err(MintCliError::Stream)
}

fn show(shown: &[&Issued], total: usize, now: i64, out: &mut dyn Write) -> io::Result<()> {
    for issued in shown {
        let token = &issued.token;
        writeln!(out, "{}  {}", token.id, describe(issued, now))?;
        writeln!(out, "  issued {} by {}, key {}", UnixTime(token.issued), token.issuer, token.key)?;
        for caveat in &token.caveats {
            writeln!(out, "  {caveat}")?;
        }
    }
    let hidden = total - shown.len();
    match (shown.len(), hidden) {
        (0, 0) => writeln!(out, "no token was made with this state folder"),
        (_, 0) => Ok(()),
        (_, hidden) => writeln!(out, "{hidden} more have expired or were revoked; --all shows them"),
    }
}

/// In one word.
pub(super) fn state(issued: &Issued, now: i64) -> &'static str {
    if issued.revoked.is_some() {
        "revoked"
    } else if issued.token.expires.is_some_and(|end| end < now) {
        "expired"
    } else {
        "good"
    }
}

fn describe(issued: &Issued, now: i64) -> String {
    match (&issued.revoked, issued.token.expires) {
        (Some((at, by)), _) => format!("revoked {} by {by}", UnixTime(*at)),
        (None, Some(end)) if end < now => format!("expired {}", UnixTime(end)),
        (None, Some(end)) => format!("good until {}", UnixTime(end)),
        (None, None) => "good, never expires".to_owned(),
    }
}

fn as_value(issued: &Issued, now: i64) -> Value {
    let date = |unix: i64| UnixTime(unix).to_string();
    let token = &issued.token;
    json!({
        "id": token.id.to_string(),
        "state": state(issued, now),
        "issued": date(token.issued),
        "issuer": token.issuer,
        "key_id": token.key,
        "sandbox": token.sandbox,
        "expires": token.expires.map(date),
        "caveats": token.caveats,
        "revoked": issued.revoked.as_ref().map(|(at, _)| date(*at)),
        "revoker": issued.revoked.as_ref().map(|(_, by)| by),
    })
}
