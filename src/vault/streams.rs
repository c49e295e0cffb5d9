//! Answers that go on for long end when their token does.
//!
//! Envoy opens a gRPC stream (`ext_proc`) to this service for each answer that may go on, tells it what the answer's request
//! rests on, and keeps it open as long as the answer goes on. Bodies do not come here. When the stream fails, Envoy resets
//! the answer: that cuts it, and it is also what happens when this server ends.

use std::pin::Pin;
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessor;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HeadersResponse, ProcessingRequest, ProcessingResponse, TrailersResponse, processing_request, processing_response,
};
use envoy_types::pb::google::protobuf::Struct;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, stream};
use prometheus::{IntCounter, IntGauge};
use tokio::time::{Interval, MissedTickBehavior};
use tonic::{Request, Response, Status, Streaming};

use super::service::{Vault, unix_now};
use super::shared::{VAULT_METADATA, text};
use crate::domain::holding::{HOLDING_METADATA, Holding};

/// How often each open answer is looked at. They are to be cut within five seconds, and who revokes is heard within one.
const LOOK: Duration = Duration::from_millis(500);

/// The namespace of what the vault told Envoy.
const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Streams {
    vault: Vault,
}

impl Streams {
    /// Cuts by what `vault` decides by.
    pub fn new(vault: Vault) -> Self {
        Self { vault }
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Streams {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let metrics = self.vault.metrics();
        let open = Open {
            messages: request.into_inner(),
            vault: self.vault.clone(),
            rests_on: None,
            look,
            cut: metrics.cut_streams.clone(),
            _counted: Counted::new(metrics.open_streams.clone()),
        };
        let answers = stream::unfold(Some(open), |open| async move {
            let mut open = open?;
            match open.next().await {
                Ok(Some(response)) => Some((Ok(response), Some(open))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One answer that goes on.
struct Open {
    messages: Streaming<ProcessingRequest>,
    vault: Vault,
    /// `None` until the first message.
    rests_on: Option<RestsOn>,
    look: Interval,
    cut: IntCounter,
    _counted: Counted,
}

/// What tells whether the answer may go on.
enum RestsOn {
    /// The rules here.
    Rules(Holding),
    /// The vault of another server, which says when to cut.
    Shared(BoxFuture<'static, Status>),
}

impl Open {
    /// What to tell Envoy next; `None` when the answer is over.
    async fn next(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        loop {
            tokio::select! {
                message = self.messages.message() => {
                    // Envoy resets the stream when the answer is over or given up.
                    let Ok(Some(message)) = message else { return Ok(None) };
                    if self.rests_on.is_none() {
                        self.rests_on = Some(self.rests_on(&message)?);
                    }
                    self.look_at()?;
                    return go_on(&message).map(Some);
                }
                why = other_vault(&mut self.rests_on) => {
                    self.rests_on = None;
                    return Err(self.cut(&why.message()));
                }
                _ = self.look.tick() => self.look_at()?,
            }
        }
    }

    fn rests_on(&self, first: &ProcessingRequest) -> Result<RestsOn, Status> {
        let unknown = || Status::failed_precondition("the stream does not say what its request rests on");
        let told = told(first).ok_or_else(unknown)?;
        match text(told, VAULT_METADATA) {
            None => holding(told).map(RestsOn::Rules).ok_or_else(unknown),
            Some(address) => {
                let vault = address.parse().ok().and_then(|address| self.vault.shared(&address));
                let vault = vault.ok_or_else(|| Status::failed_precondition("no project has that vault any more"))?;
                let mut first = first.clone();
                // The other vault is to go by its own rules.
                if let Some(told) = told_mut(&mut first) {
                    told.fields.remove(VAULT_METADATA);
                }
                Ok(RestsOn::Shared(async move { vault.follow(first).await }.boxed()))
            }
        }
    }

    fn cut(&self, why: &dyn std::fmt::Display) -> Status {
        tracing::info!("cut an answer: {why}");
        self.cut.inc();
        Status::permission_denied("the token of this request has ended")
    }

    fn look_at(&self) -> Result<(), Status> {
        match &self.rests_on {
            Some(RestsOn::Rules(holding)) if !self.vault.still_hold(holding, unix_now()) => {
                Err(self.cut(&format_args!("its token {} was revoked, or has ended", holding.token)))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Why the vault of another server has the answer cut, once it does.
async fn other_vault(rests_on: &mut Option<RestsOn>) -> Status {
    match rests_on {
        Some(RestsOn::Shared(until)) => until.await,
        Some(RestsOn::Rules(_)) | None => std::future::pending().await,
    }
}

/// What ext_authz told of the request; nothing that the client sent takes part.
fn told(message: &ProcessingRequest) -> Option<&Struct> {
    message.metadata_context.as_ref()?.filter_metadata.get(EXT_AUTHZ)
}

fn told_mut(message: &mut ProcessingRequest) -> Option<&mut Struct> {
    message.metadata_context.as_mut()?.filter_metadata.get_mut(EXT_AUTHZ)
}

fn holding(told: &Struct) -> Option<Holding> {
    text(told, HOLDING_METADATA)?.parse().ok()
}

/// The answer to a message goes on unchanged.
fn go_on(message: &ProcessingRequest) -> Result<ProcessingResponse, Status> {
    use processing_request::Request as Asked;
    use processing_response::Response as Answer;
    let response = match &message.request {
        Some(Asked::ResponseHeaders(_)) => Answer::ResponseHeaders(HeadersResponse::default()),
        Some(Asked::ResponseTrailers(_)) => Answer::ResponseTrailers(TrailersResponse::default()),
        _ => return Err(Status::invalid_argument("only the headers and trailers of responses are looked at")),
    };
    Ok(ProcessingResponse { response: Some(response), ..Default::default() })
}

/// One more in a gauge, until it is dropped.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
