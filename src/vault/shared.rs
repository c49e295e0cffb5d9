//! Questions that the vault of another server answers (`[vault]` in a project's file): what it is asked, and what of its answers
//! is believed.
//!
//! ```text
//! Referral + CheckRequest ─ question ▶ SharedVault::check ─ answer ▶ CheckResponse, with the vault's address for vault::streams
//! ```
//!
//! It is asked about the gateway as which this server is enrolled there, and told for which sandbox. Nothing but a yes with what
//! the request rests on lets a request go on: were its tokens called otherwise, it would take them for something else, and they
//! would travel on.

use std::collections::HashMap;
use std::fmt;

use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use tonic::Status;

use crate::domain::decision::{BEHIND_EXTENSION, BODY_EXTENSION, HOST_EXTENSION, Referral, SANDBOX_EXTENSION};
use crate::domain::holding::{HOLDING_METADATA, Holding};
use crate::domain::names::SandboxId;

/// The name under which Envoy is told which vault said yes, beside the [`HOLDING_METADATA`].
pub(super) const VAULT_METADATA: &str = "vault";
/// The longest words of a refusal that are taken, in characters.
const LONGEST_REFUSAL: usize = 1000;

/// The vault of another server. It is asked over a connection on which each knows the other.
#[tonic::async_trait]
pub trait SharedVault: fmt::Debug + Send + Sync {
    /// The gateway as which this server is enrolled there.
    ///
    /// # Errors
    /// When it is not known, because it is not enrolled; for the log.
    fn gateway(&self) -> Result<SandboxId, Status>;

    /// Asks.
    ///
    /// # Errors
    /// When there is no answer.
    async fn check(&self, question: CheckRequest) -> Result<CheckResponse, Status>;

    /// Has it follow an answer that goes on; returns why that is to be cut, when it is.
    async fn follow(&self, first: ProcessingRequest) -> Status;
}

/// What the vault said.
#[derive(Debug)]
pub(super) enum Said {
    /// Yes: what Envoy is told, and what the request rests on.
    Yes(Box<CheckResponse>, Holding),
    /// No: what Envoy is told, and in short why.
    No(Box<CheckResponse>, String),
}

/// The question about a request. Where it came from on this machine is left out.
pub(super) fn question(check: &CheckRequest, referral: &Referral, gateway: &SandboxId) -> CheckRequest {
    let mut question = check.clone();
    let attributes = question.attributes.get_or_insert_default();
    (attributes.source, attributes.destination) = (None, None);
    let body = attributes.context_extensions.remove(BODY_EXTENSION);
    let mut extensions = HashMap::from([
        (SANDBOX_EXTENSION.to_owned(), gateway.to_string()),
        (HOST_EXTENSION.to_owned(), referral.host.to_string()),
    ]);
    extensions.extend(referral.behind.as_ref().map(|behind| (BEHIND_EXTENSION.to_owned(), behind.to_string())));
    extensions.extend(body.map(|body| (BODY_EXTENSION.to_owned(), body)));
    attributes.context_extensions = extensions;
    question
}

/// What the answer says; `None` when it is neither a yes on which a request may rest nor a refusal.
pub(super) fn answer(mut response: CheckResponse, referral: &Referral) -> Option<Said> {
    match response.http_response.as_ref()? {
        HttpResponse::OkResponse(_) => {
            let told = response.dynamic_metadata.as_mut()?;
            let holding = text(told, HOLDING_METADATA)?.parse().ok()?;
            let vault = Value { kind: Some(Kind::StringValue(referral.vault.to_string())) };
            told.fields.insert(VAULT_METADATA.to_owned(), vault);
            Some(Said::Yes(Box::new(response), holding))
        }
        HttpResponse::DeniedResponse(denied) => {
            let status = denied.status.as_ref().map_or(0, |status| status.code);
            let why = response.status.as_ref().map(|status| status.message.trim()).unwrap_or_default();
            let why = if why.is_empty() { format!("its vault answers {status}") } else { why.to_owned() };
            // They end in logs and on screens.
            let why: String = why.chars().filter(|c| !c.is_control()).take(LONGEST_REFUSAL).collect();
            (400..600).contains(&status).then(|| Said::No(Box::new(response), why))
        }
        HttpResponse::ErrorResponse(_) => None,
    }
}

/// The text of a field of what Envoy is told.
pub(super) fn text<'a>(told: &'a Struct, name: &str) -> Option<&'a str> {
    match told.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::auth::v3::attribute_context::Peer;
    use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, DeniedHttpResponse, OkHttpResponse};
    use envoy_types::pb::envoy::r#type::v3::HttpStatus;

    use super::*;
    use crate::domain::macaroon::TokenId;

    fn referral() -> Referral {
        Referral {
            vault: "vault.example.com:18000".parse().unwrap(),
            host: "api.example.com".parse().unwrap(),
            behind: Some("shop/00ff".parse().unwrap()),
        }
    }

    #[test]
    fn it_is_asked_about_the_gateway_and_told_the_sandbox_and_nothing_else_of_this_machine() {
        let extensions = [("sandbox", "shop"), ("host", "*"), ("body", "7"), ("behind", "other/11"), ("more", "x")];
        let extensions = extensions.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let attributes = AttributeContext {
            source: Some(Peer::default()),
            destination: Some(Peer::default()),
            context_extensions: extensions.into(),
            ..Default::default()
        };
        let asked = question(&CheckRequest { attributes: Some(attributes) }, &referral(), &"team".parse().unwrap());
        let attributes = asked.attributes.unwrap();
        assert!(attributes.source.is_none() && attributes.destination.is_none());
        let mut told: Vec<_> = attributes.context_extensions.into_iter().collect();
        told.sort();
        let expected = [("behind", "shop/00ff"), ("body", "7"), ("host", "api.example.com"), ("sandbox", "team")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(told, expected);
    }

    fn yes(told: &[(&str, &str)]) -> CheckResponse {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        CheckResponse {
            http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())),
            dynamic_metadata: Some(Struct {
                fields: told.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_yes_says_what_it_rests_on_or_is_none() {
        let holding = Holding { token: TokenId::from([1; 16]), until: None, key: None };
        let rests = holding.to_string();
        let Some(Said::Yes(response, found)) = answer(yes(&[("holding", &rests), ("redact", "k")]), &referral()) else {
            panic!("it is no yes")
        };
        assert_eq!(found, holding);
        let told = response.dynamic_metadata.unwrap();
        assert_eq!(text(&told, VAULT_METADATA), Some("vault.example.com:18000"));
        assert_eq!(text(&told, "redact"), Some("k"), "what to mask stays");
        for other in [yes(&[]), yes(&[("holding", "x")]), CheckResponse { dynamic_metadata: None, ..yes(&[]) }] {
            assert!(answer(other, &referral()).is_none());
        }
        assert!(answer(CheckResponse::default(), &referral()).is_none());
    }

    #[test]
    fn a_no_is_one_in_http_too() {
        let no = |code| CheckResponse {
            http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                status: Some(HttpStatus { code }),
                ..Default::default()
            })),
            ..Default::default()
        };
        assert!(matches!(answer(no(403), &referral()), Some(Said::No(_, why)) if why == "its vault answers 403"));
        let mut spoken = no(403);
        spoken.status.get_or_insert_default().message = "a\u{1b}[2Jb\nc".to_owned();
        assert!(matches!(answer(spoken, &referral()), Some(Said::No(_, why)) if why == "a[2Jbc"));
        for code in [0, 200, 302, 600, -1] {
            assert!(answer(no(code), &referral()).is_none(), "{code}");
        }
    }
}
