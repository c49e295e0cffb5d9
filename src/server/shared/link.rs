//! The connection to one shared vault: made, kept, renewed, and made anew, for as long as a project names the vault.
//!
//! ```text
//! identity file ─▶ Connector ─▶ Channel ─┬─ Follow ─▶ what it signs, what its tokens begin with
//!       ▲                                ├─ Renew ──▶ the next certificate ─┐
//!       └────────────────────────────────│──────────────────────────────────┘
//!                                        └─ ext_authz, ext_proc: requests, and answers that go on
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use futures_util::{StreamExt, stream};
use prometheus::IntGauge;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;
use zeroize::Zeroizing;

use super::identity::{self, Identity, IdentityError, Stamp};
use super::tls::Connector;
use crate::control::v1::shared_vault_client::SharedVaultClient;
use crate::control::v1::{FollowRequest, RenewRequest, RenewResponse, VaultView};
use crate::domain::macaroon::{Macaroon, TokenPrefix};
use crate::domain::names::{HostPattern, SandboxId};
use crate::domain::policy::Address;
use crate::vault::SharedVault;

/// How often the identity's file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long is waited before the next try, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// A vault that is there answers at once what concerns this server alone.
const ANSWER: Duration = Duration::from_secs(8);
/// A question goes over the next connection when the one it went by ended: so often, and after this long.
const TRIES: u32 = 4;
const BETWEEN_TRIES: Duration = Duration::from_millis(60);
/// A connection on which nothing comes back for this long is none.
const ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How things are with a vault, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) enum State {
    /// Nothing was tried yet.
    Connecting,
    /// There is no identity that could be used; in words.
    NotEnrolled(String),
    /// It cannot be reached, or does not want us; in words.
    Down(String),
    /// It answers.
    Connected,
}

/// One vault.
pub(super) struct Link {
    address: Address,
    path: PathBuf,
    prefix: TokenPrefix,
    inner: Mutex<Inner>,
    /// Says that what it signs is another.
    changed: watch::Sender<()>,
}

struct Inner {
    state: State,
    /// `None` until there is an identity.
    known: Option<Known>,
    signing: Vec<HostPattern>,
}

#[derive(Clone)]
struct Known {
    identity: Arc<Identity>,
    channel: Channel,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.address)
    }
}

/// Why a connection is given up.
enum Ended {
    /// The identity's file is another one now.
    NewIdentity,
    /// The certificate that it was made with ends before long, and there is a later one.
    Renewed,
    Failed(Status),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl Link {
    /// To the vault at `address`, as the file in `folder` says.
    pub(super) fn new(address: Address, folder: &Path, prefix: TokenPrefix, changed: watch::Sender<()>) -> Self {
        let path = folder.join(identity::identity_file(&address));
        let inner = Inner { state: State::Connecting, known: None, signing: Vec::new() };
        Self { address, path, prefix, inner: Mutex::new(inner), changed }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How things are.
    pub(super) fn state(&self) -> State {
        self.inner().state.clone()
    }

    /// As which node and gateway this server is enrolled, and the last second of its certificate.
    pub(super) fn enrolled(&self) -> Option<(String, String, i64)> {
        let inner = self.inner();
        let identity = &inner.known.as_ref()?.identity;
        Some((identity.node.id.to_string(), identity.node.gateway.to_string(), identity.not_after))
    }

    /// The hosts whose requests it signs, as it said last.
    pub(super) fn signing(&self) -> Vec<HostPattern> {
        self.inner().signing.clone()
    }

    /// The token that those of sandboxes are made of.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) fn token(&self) -> Result<Macaroon, String> {
        let inner = self.inner();
        match (&inner.known, &inner.state) {
            (Some(known), _) => Ok(known.identity.token.clone()),
            (None, State::NotEnrolled(why)) => Err(why.clone()),
            (None, _) => Err(format!("the identity towards the vault {} is being read: try again", self.address)),
        }
    }

    fn not_enrolled(&self, why: &IdentityError) -> String {
        let at = &self.address;
        format!(
            "this server has no identity for the vault {at} ({}: {why}); where that vault is, `agent-creds nodes enrol NODE --gateway NAME \
             --vault {at} --out DIR` writes one: copy it there",
            self.path.display()
        )
    }

    fn set(&self, state: State) {
        let mut inner = self.inner();
        if inner.state == state {
            return;
        }
        match &state {
            State::Connecting => {}
            State::Connected => tracing::info!(vault = %self.address, "the shared vault answers"),
            State::NotEnrolled(why) => tracing::warn!(vault = %self.address, "{why}"),
            State::Down(why) => tracing::warn!(vault = %self.address, "the shared vault cannot be reached: {why}"),
        }
        inner.state = state;
    }

    /// Keeps the connection, and says in `connected` whether there is one; does not end by itself.
    pub(super) async fn keep(&self, connected: &IntGauge) {
        let (first, most) = PAUSES;
        let mut pause = first;
        let mut current: Option<(Stamp, Connector)> = None;
        loop {
            let (stamp, connector) = match current.take().filter(|(stamp, _)| self.stamp() == Some(*stamp)) {
                Some(current) => current,
                None => match self.identify().await {
                    Ok(new) => new,
                    Err(why) => {
                        self.inner().known = None;
                        connected.set(0);
                        self.set(State::NotEnrolled(why));
                        sleep(LOOK).await;
                        continue;
                    }
                },
            };
            let mut stamp = stamp;
            match self.follow_vault(&connector, &mut stamp, connected).await {
                Ended::NewIdentity => pause = first,
                Ended::Renewed => {
                    self.open(&connector);
                    current = Some((stamp, connector));
                }
                Ended::Failed(status) => {
                    current = Some((stamp, connector));
                    if self.state() == State::Connected {
                        // It may be there again at once.
                        pause = first;
                        self.inner().state = State::Connecting;
                    } else {
                        connected.set(0);
                        self.set(State::Down(in_words(&status)));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(most);
                }
            }
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        identity::stamp(&self.path)
    }

    /// Reads the identity, and prepares a channel with it.
    async fn identify(&self) -> Result<(Stamp, Connector), String> {
        let (path, prefix) = (self.path.clone(), self.prefix.clone());
        // Before it is read: what is written meanwhile is seen.
        let stamp = self.stamp();
        let read = tokio::task::spawn_blocking(move || identity::read(&path, &prefix)).await;
        let identity = match read {
            Ok(Ok(identity)) => identity,
            Ok(Err(error)) => return Err(self.not_enrolled(&error)),
            Err(error) => return Err(error.to_string()),
        };
        let Some(stamp) = stamp else {
            return Err(self.not_enrolled(&IdentityError::Io(std::io::ErrorKind::NotFound.into())));
        };
        let connector = Connector::new(self.address.clone(), &identity.file)
            .map_err(|error| format!("the identity in {} cannot be used: {error}", self.path.display()))?;
        self.inner().known = Some(Known { identity: Arc::new(identity), channel: channel(&connector) });
        Ok((stamp, connector))
    }

    /// Goes over to a connection that is made anew.
    fn open(&self, connector: &Connector) {
        if let Some(known) = &mut self.inner().known {
            known.channel = channel(connector);
        }
    }

    fn known(&self) -> Result<Known, Status> {
        let inner = self.inner();
        inner.known.clone().ok_or_else(|| match &inner.state {
            State::NotEnrolled(why) => Status::failed_precondition(why.clone()),
            _ => Status::failed_precondition("there is no identity yet"),
        })
    }

    /// Follows what the vault says, until it cannot be.
    async fn follow_vault(&self, connector: &Connector, stamp: &mut Stamp, connected: &IntGauge) -> Ended {
        let ended = self.try_follow_vault(connector, stamp, connected).await;
        ended.err().unwrap_or_else(|| Ended::Failed(Status::unavailable("it ended the connection")))
    }

    async fn try_follow_vault(
        &self,
        connector: &Connector,
        stamp: &mut Stamp,
        connected: &IntGauge,
    ) -> Result<(), Ended> {
        let Known { identity, channel } = self.known()?;
        let half = identity.left(SystemTime::now()) / 2;
        let renewed = sleep(half.max(LOOK));
        tokio::pin!(renewed);
        let mut vault = SharedVaultClient::new(channel.clone());
        let begun = async {
            let mut views = vault.follow(FollowRequest {}).await?.into_inner();
            let first = views.message().await?.ok_or_else(|| Status::unavailable("it says nothing"))?;
            Ok::<_, Status>((views, first))
        };
        let begun = tokio::time::timeout(ANSWER, begun).await;
        let (mut views, first) = begun.map_err(|_| Status::deadline_exceeded("no answer"))??;
        self.take(&first)?;
        self.set(State::Connected);
        connected.set(1);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                view = views.message() => match view? {
                    Some(view) => self.take(&view)?,
                    None => return Ok(()),
                },
                () = &mut renewed => return Err(Ended::Renewed),
                _ = look.tick() => {
                    if self.stamp() != Some(*stamp) {
                        return Err(Ended::NewIdentity);
                    }
                    let Known { identity, .. } = self.known()?;
                    if identity.is_due(SystemTime::now()) {
                        let asked = vault.renew(RenewRequest { lifetime: identity.file.lifetime });
                        let answer = tokio::time::timeout(ANSWER, asked).await;
                        let pem = answer.map_err(|_| Status::deadline_exceeded("no answer"))??;
                        self.renew(pem.into_inner(), connector, stamp).await;
                    }
                }
            }
        }
    }

    /// What the vault says of itself.
    fn take(&self, view: &VaultView) -> Result<(), Status> {
        if view.token_prefix != self.prefix.as_str() {
            let theirs: String = view.token_prefix.chars().take(32).flat_map(char::escape_debug).collect();
            return Err(Status::failed_precondition(format!(
                "its tokens begin with `{theirs}`, and those of this server with `{}`: set TOKEN_PREFIX here to the same",
                self.prefix
            )));
        }
        // A pattern of a later version is none that is known here.
        let signing: Vec<HostPattern> = view.signing.iter().filter_map(|pattern| pattern.parse().ok()).collect();
        let mut inner = self.inner();
        if inner.signing != signing {
            inner.signing = signing;
            drop(inner);
            self.changed.send_replace(());
        }
        Ok(())
    }

    /// Goes on with the next certificate, and keeps it for the next start.
    async fn renew(&self, pem: RenewResponse, connector: &Connector, stamp: &mut Stamp) {
        let Ok(known) = self.known() else { return };
        let Some(new) = known.identity.renewed(pem.certificate, Zeroizing::new(pem.key), &self.prefix) else {
            tracing::warn!(vault = %self.address, "the shared vault gave a certificate of somebody else; the old one goes on");
            return;
        };
        if let Err(error) = connector.renew(&new.file) {
            tracing::warn!(vault = %self.address, "the next certificate cannot be used, the old one goes on: {error}");
            return;
        }
        tracing::debug!(vault = %self.address, until = new.not_after, "renewed the certificate");
        let new = Arc::new(new);
        self.inner().known = Some(Known { identity: Arc::clone(&new), channel: known.channel });
        if self.stamp() != Some(*stamp) {
            // Somebody has put another one there, which is taken up next.
            return;
        }
        let (path, written) = (self.path.clone(), Arc::clone(&new));
        let kept = tokio::task::spawn_blocking(move || written.file.write(&path)).await;
        if let Ok(Err(error)) = kept {
            // It is in force; only the next start has the old one, while that is good.
            tracing::warn!(vault = %self.address, "cannot write {}: {error}", self.path.display());
        } else if let Some(now) = self.stamp() {
            *stamp = now;
        }
    }
}

fn channel(connector: &Connector) -> Channel {
    let (connector, (every, patience)) = (connector.clone(), ALIVE);
    Endpoint::from_static("http://vault.invalid")
        .http2_keep_alive_interval(every)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector_lazy(service_fn(move |_| connector.clone().connect()))
}

/// What a failure means to people: tonic says "transport error", and what it was stands in its sources.
fn in_words(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !words.contains(&text) {
            words = format!("{words}: {text}");
        }
        source = cause.source();
    }
    let words: String = words.chars().take(300).flat_map(char::escape_debug).collect();
    if words.is_empty() { format!("{:?}", status.code()) } else { words }
}

#[tonic::async_trait]
impl SharedVault for Link {
    fn gateway(&self) -> Result<SandboxId, Status> {
        Ok(self.known()?.identity.node.gateway.clone())
    }

    async fn check(&self, question: CheckRequest) -> Result<CheckResponse, Status> {
        let mut client = AuthorizationClient::new(self.known()?.channel);
        for _ in 1..TRIES {
            match client.check(question.clone()).await {
                // A connection ended by either side, for another: the question may be asked twice.
                Err(status) if matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown) => {
                    sleep(BETWEEN_TRIES).await;
                }
                answer => return answer.map(tonic::Response::into_inner),
            }
        }
        client.check(question).await.map(tonic::Response::into_inner)
    }

    async fn follow(&self, first: ProcessingRequest) -> Status {
        let channel = match self.known() {
            Ok(known) => known.channel,
            Err(status) => return status,
        };
        // The stream stays open on this side as long as the answer goes on.
        let messages = stream::iter([first]).chain(stream::pending());
        let answers = ExternalProcessorClient::new(channel).process(messages).await;
        let mut answers = match answers {
            Ok(answers) => answers.into_inner(),
            Err(status) => return status,
        };
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::unavailable("the shared vault ended the stream"),
                Err(status) => return status,
            }
        }
    }
}
