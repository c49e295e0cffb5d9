//! The tonic shell: one `Check` per request of an agent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tonic::{Request, Response, Status};

use super::live::Live;
use super::metrics::VaultMetrics;
use super::request::Asked;
use super::secrets::{Credentials, Prepared};
use super::server_name::Unread;
use super::shared::{Said, SharedVault};
use super::{nodes, reflection, refusal, request, response, shared};
use crate::domain::decision::{AccessRequest, Decision, Denial, Referral, Remedy, Rules, decide, remedy};
use crate::domain::holding::Holding;
use crate::domain::macaroon::TokenId;
use crate::domain::node::NodeIdentity;
use crate::domain::policy::Address;
use crate::telemetry::Throttle;

/// A vault that does not answer does so for every request.
static UNANSWERED: Throttle = Throttle::new(Duration::from_secs(10));
/// How long a request waits for a credential that has to be fetched; Envoy waits a little longer.
const FETCH_PATIENCE: Duration = Duration::from_secs(8);

/// Everything a decision rests on; replaced as a whole when the configuration changes.
#[derive(Debug, Default)]
pub struct VaultState {
    /// Who may do what.
    pub rules: Rules,
    /// What tokens are swapped for.
    pub credentials: Arc<Credentials>,
    /// The vaults of other servers that projects name.
    pub shared: HashMap<Address, Arc<dyn SharedVault>>,
}

/// What became of one request, for those who watch. Method and path are the agent's: to be bounded and escaped.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The sandbox or gateway, from Envoy's configuration.
    pub sandbox: &'a str,
    /// The upstream, from Envoy's configuration.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path and the query.
    pub target: &'a str,
    /// The token, if its signature holds.
    pub token: Option<TokenId>,
    /// `allow`, `pass_through` or `deny`.
    pub decision: &'static str,
    /// Why, as in the metrics.
    pub reason: &'static str,
    /// Why it was refused, for people.
    pub refused: Option<&'a Denial>,
    /// What would allow it.
    pub remedy: Option<&'a Remedy>,
    /// The name of the credential that was put in: the host or the pattern of `vault.toml`.
    pub credential: Option<&'a str>,
    /// How long it took to decide.
    pub latency: Duration,
}

/// Is told of every decision, on the request's way: it must return at once.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// A request was decided upon.
    fn observe(&self, observation: Observation<'_>);
}

/// The vault. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct Vault {
    state: Arc<ArcSwap<VaultState>>,
    metrics: VaultMetrics,
    observer: Option<Arc<dyn Observer>>,
}

impl Vault {
    /// A vault that decides by `state` until [`Vault::replace`].
    pub fn new(state: VaultState, metrics: VaultMetrics) -> Self {
        Self { state: Arc::new(ArcSwap::from_pointee(state)), metrics, observer: None }
    }

    /// The same, with somebody who is told of every decision.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    pub(super) fn metrics(&self) -> &VaultMetrics {
        &self.metrics
    }

    /// Whether what was found good for a request still is, at the time `now`, in Unix seconds.
    pub(super) fn still_hold(&self, holding: &Holding, now: u64) -> bool {
        self.state.load().rules.still_hold(holding, now)
    }

    /// Decides by `state` from the next check on.
    pub fn replace(&self, state: VaultState) {
        self.state.store(Arc::new(state));
    }

    /// Answers one check at the time `now`, in Unix seconds, with what is here: it waits for nothing.
    pub fn check(&self, check: &CheckRequest, now: u64) -> CheckResponse {
        self.answer(check, now, Missing::Refuse).unwrap_or_else(|_| response::not_ours())
    }

    /// Answers one check, and waits for a credential that has to be fetched first.
    async fn check_patiently(&self, check: &CheckRequest) -> CheckResponse {
        match self.answer(check, unix_now(), Missing::Wait) {
            Ok(answer) => answer,
            Err(Awaited::Vault(referral)) => self.ask(check, &referral).await,
            Err(Awaited::Credential(credential)) => {
                // Whatever comes of it, what is asked is judged again: rules and credentials may have changed meanwhile.
                let _ = tokio::time::timeout(FETCH_PATIENCE, credential.get()).await;
                self.check(check, unix_now())
            }
        }
    }

    fn answer(&self, check: &CheckRequest, now: u64, missing: Missing) -> Result<CheckResponse, Awaited> {
        let started = Instant::now();
        let state = self.state.load();
        let asked = match self.read(check, &state) {
            Ok(asked) => asked,
            Err(response) => return Ok(*response),
        };
        let told =
            Told { vault: self, state: &state, access: &asked.access, by_name: asked.is_by_server_name, started };
        let denial = match decide(&state.rules, &asked.access, now) {
            Decision::PassThrough => {
                told.tell("pass_through", "no_token", None, None, None);
                return Ok(response::pass_through());
            }
            Decision::Allow(grant) => match state.credentials.prepared(&grant) {
                Some((name, credential)) => match (credential.peek(started), missing) {
                    (Some(prepared), _) => {
                        let Prepared { injection, reflection } = &*prepared;
                        let (reflection, method) = (reflection.as_ref(), asked.access.method);
                        let metadata = reflection::metadata(grant.holding(), reflection, method);
                        let encoding =
                            reflection.filter(|r| r.looks_into_body(method)).and_then(|_| asked.accept_encoding());
                        match response::inject(injection, &asked, now, metadata, encoding) {
                            Ok(response) => {
                                told.tell("allow", "token", Some(grant.token()), None, Some(name));
                                return Ok(response);
                            }
                            Err(reason) => Denial::Unsignable { host: grant.host().clone(), reason },
                        }
                    }
                    (None, Missing::Wait) => return Err(Awaited::Credential(Arc::clone(credential))),
                    (None, Missing::Refuse) => Denial::CredentialUnavailable(grant.host().clone()),
                },
                None => Denial::NoCredential(grant.host().clone()),
            },
            Decision::Refer(referral) => match missing {
                Missing::Wait => return Err(Awaited::Vault(referral)),
                Missing::Refuse => Denial::VaultUnavailable(referral.host),
            },
            Decision::Deny(denial) => denial,
        };
        Ok(told.refuse(&asked, &denial))
    }

    fn read<'a>(&self, check: &'a CheckRequest, state: &VaultState) -> Result<Asked<'a>, Box<CheckResponse>> {
        request::read(check, &state.rules.prefix, &state.credentials).map_err(|unread| {
            Box::new(match unread {
                Unread::Misdirected(host) => {
                    self.count("", "deny", "misdirected");
                    response::misdirected(host)
                }
                error => {
                    tracing::error!(%error, "refused a check request");
                    self.count("", "deny", "not_ours");
                    response::not_ours()
                }
            })
        })
    }

    /// Has the vault of another server decide.
    async fn ask(&self, check: &CheckRequest, referral: &Referral) -> CheckResponse {
        let started = Instant::now();
        let vault = self.state.load().shared.get(&referral.vault).cloned();
        let said = async {
            let vault = vault.ok_or_else(|| Status::failed_precondition("there is no such vault"))?;
            let question = shared::question(check, referral, &vault.gateway()?);
            let response = vault.check(question).await?;
            let neither = || Status::data_loss("its answer is neither a yes on which a request may rest nor a no");
            shared::answer(response, referral).ok_or_else(neither)
        };
        let said = tokio::time::timeout(FETCH_PATIENCE, said).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!("no answer within {} s", FETCH_PATIENCE.as_secs())))
        });
        // What is in force may have changed meanwhile: it is judged again.
        let state = self.state.load();
        let asked = match self.read(check, &state) {
            Ok(asked) => asked,
            Err(response) => return *response,
        };
        let told =
            Told { vault: self, state: &state, access: &asked.access, by_name: asked.is_by_server_name, started };
        match decide(&state.rules, &asked.access, unix_now()) {
            Decision::Refer(now) if now == *referral => {}
            Decision::Deny(denial) => return told.refuse(&asked, &denial),
            // Another vault, or none: what was asked is not what is to be asked.
            _ => return told.refuse(&asked, &Denial::VaultUnavailable(referral.host.clone())),
        }
        match said {
            Ok(Said::Yes(response, holding)) => {
                told.tell("allow", "token", Some(holding.token), None, Some("(shared vault)"));
                *response
            }
            Ok(Said::No(response, why)) => {
                let denial = Denial::RefusedByVault(why);
                let remedy = remedy(&state.rules, &asked.access, &denial);
                told.tell("deny", denial.reason(), None, Some((&denial, &remedy)), None);
                *response
            }
            Err(error) => {
                if let Some(left_out) = UNANSWERED.pass() {
                    tracing::warn!(vault = %referral.vault, %error, left_out, "a shared vault does not answer");
                }
                told.refuse(&asked, &Denial::VaultUnavailable(referral.host.clone()))
            }
        }
    }

    /// The vault of another server, if one of the projects names it.
    pub(super) fn shared(&self, address: &Address) -> Option<Arc<dyn SharedVault>> {
        self.state.load().shared.get(address).cloned()
    }

    fn count(&self, upstream: &str, decision: &str, reason: &str) {
        self.metrics.checks.with_label_values(&[upstream, decision, reason]).inc();
    }
}

/// A request that was read, for those who are told what became of it.
struct Told<'a> {
    vault: &'a Vault,
    state: &'a VaultState,
    access: &'a AccessRequest<'a>,
    by_name: bool,
    started: Instant,
}

impl Told<'_> {
    /// A label for each of the hosts that an agent may name would be one too many.
    fn upstream(&self) -> &str {
        let AccessRequest { sandbox, host, .. } = *self.access;
        if self.by_name { self.state.rules.upstream(sandbox, host).unwrap_or("") } else { host }
    }

    fn tell(
        &self,
        decision: &'static str,
        reason: &'static str,
        token: Option<TokenId>,
        refused: Option<(&Denial, &Remedy)>,
        credential: Option<&str>,
    ) {
        if let Some(observer) = &self.vault.observer {
            let AccessRequest { sandbox, host, method, target, .. } = *self.access;
            observer.observe(Observation {
                sandbox,
                host,
                method,
                target,
                token,
                decision,
                reason,
                refused: refused.map(|(denial, _)| denial),
                remedy: refused.map(|(_, remedy)| remedy),
                credential,
                latency: self.started.elapsed(),
            });
        }
        // The label is the upstream's name only if it is one of ours: Envoy may still be asking for one just removed.
        let is_unknown = matches!(refused, Some((Denial::UnknownUpstream(_), _)));
        self.vault.count(if is_unknown { "" } else { self.upstream() }, decision, reason);
    }

    /// The answer of a refusal that was made here.
    fn refuse(&self, asked: &Asked<'_>, denial: &Denial) -> CheckResponse {
        let (rules, access) = (&self.state.rules, self.access);
        let token = denial.is_after_verification().then(|| access.token.id(&rules.prefix)).flatten();
        let remedy = remedy(rules, access, denial);
        self.tell("deny", denial.reason(), token, Some((denial, &remedy)), None);
        tracing::debug!(
            sandbox = access.sandbox,
            upstream = access.host,
            reason = denial.reason(),
            "refused a request"
        );
        response::deny(denial, refusal::write(asked.reader().shape(access.host), denial, &remedy))
    }
}

/// What becomes of a request whose credential has to be fetched first.
#[derive(Debug, Clone, Copy)]
enum Missing {
    Wait,
    Refuse,
}

/// What a request waits for.
enum Awaited {
    /// A credential of this vault.
    Credential(Arc<Live<Prepared>>),
    /// The vault of another server.
    Vault(Referral),
}

#[tonic::async_trait]
impl Authorization for Vault {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let started = Instant::now();
        if let Some(node) = request.extensions().get::<NodeIdentity>()
            && !nodes::may_ask(node, request.get_ref(), &self.state.load().rules)
        {
            self.count("", "deny", "not_its_gateway");
            return Ok(Response::new(response::not_ours()));
        }
        let response = self.check_patiently(request.get_ref()).await;
        self.metrics.latency.observe(started.elapsed().as_secs_f64());
        Ok(Response::new(response))
    }
}

/// Now, in Unix seconds.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
