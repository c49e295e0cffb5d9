//! What other servers are told whose projects name this server's vault (`[vault]`): they are nodes, as Envoys are, and each is told
//! what concerns its gateway.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::config::Loaded;
use crate::control::v1::shared_vault_server::SharedVault;
use crate::control::v1::{FollowRequest, RenewRequest, RenewResponse, VaultView};
use crate::domain::macaroon::TokenPrefix;
use crate::domain::names::{HostPattern, SandboxId};
use crate::domain::node::NodeIdentity;

/// The longest life of a certificate that is given, and the shortest.
const LIVES: (Duration, Duration) = (Duration::from_secs(366 * 86400), Duration::from_secs(3));

/// What they are told. Cheap to clone.
#[derive(Clone)]
pub(crate) struct VaultViews {
    /// What tokens begin with.
    pub(crate) prefix: TokenPrefix,
    /// The configuration in force.
    pub(crate) loaded: watch::Receiver<Arc<Loaded>>,
    /// The hosts whose requests are signed.
    pub(crate) signing: watch::Receiver<Vec<HostPattern>>,
}

impl VaultViews {
    fn view(&mut self, gateway: &SandboxId) -> VaultView {
        let loaded = Arc::clone(&self.loaded.borrow_and_update());
        let signing = self.signing.borrow_and_update().clone();
        let project = loaded.projects.iter().find(|project| project.id == *gateway);
        let is_reached = |pattern: &HostPattern| {
            project.is_some_and(|project| project.upstreams.keys().any(|upstream| upstream.overlaps(pattern)))
        };
        VaultView {
            token_prefix: self.prefix.to_string(),
            signing: signing.iter().filter(|pattern| is_reached(pattern)).map(ToString::to_string).collect(),
        }
    }

    /// The next view that differs from `last`; `None` when the server stops.
    async fn next(&mut self, gateway: &SandboxId, last: &VaultView) -> Option<VaultView> {
        loop {
            tokio::select! {
                changed = self.loaded.changed() => changed.ok()?,
                changed = self.signing.changed() => changed.ok()?,
            }
            let view = self.view(gateway);
            if view != *last {
                return Some(view);
            }
        }
    }
}

/// The service.
pub(super) struct VaultService {
    pub(super) views: VaultViews,
    pub(super) shared: Arc<Shared>,
}

/// Who asks, by its certificate.
fn node<T>(request: &Request<T>) -> Result<NodeIdentity, Status> {
    let node = request.extensions().get::<NodeIdentity>().cloned();
    node.ok_or_else(|| Status::permission_denied("only nodes are answered"))
}

#[tonic::async_trait]
impl SharedVault for VaultService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<VaultView, Status>> + Send>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let NodeIdentity { gateway, .. } = node(&request)?;
        let mut views = self.views.clone();
        let first = views.view(&gateway);
        let rest = stream::unfold((views, first.clone()), move |(mut views, last)| {
            let gateway = gateway.clone();
            async move {
                let next = views.next(&gateway, &last).await?;
                Some((Ok(next.clone()), (views, next)))
            }
        });
        let all = futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest);
        Ok(Response::new(Box::pin(all)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let (node, (longest, shortest)) = (node(&request)?, LIVES);
        let lifetime = Duration::from_secs(request.get_ref().lifetime).clamp(shortest, longest);
        let pem = self.shared.renewals.mint(&node, lifetime).map_err(|error| {
            tracing::error!(node = %node.id, "cannot renew a server's certificate: {error:#}");
            Status::unavailable("no certificate can be made at the moment")
        })?;
        Ok(Response::new(RenewResponse { certificate: pem.chain.clone(), key: pem.key.to_string() }))
    }
}
