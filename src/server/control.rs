//! The control API (`proto/agentcreds/v1`): what `adev` and `actl` ask of this server.

mod nodes;
mod projects;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status as Answer};

pub(super) use self::nodes::FleetService;
use super::activity::Activity;
use super::sandboxes::Sandboxes;
use super::status::Status;
use crate::control::v1::control_server::Control;
use crate::control::v1::{
    AcceptRequest, AcceptResponse, Event, GetEnvironmentRequest, GetEnvironmentResponse, GetStatusRequest,
    GetStatusResponse, LaunchEvent, LaunchRequest, ListRequest, ListResponse, Notice, StopRequest, StopResponse,
    WatchRequest, event,
};

/// Events that may wait for a client that reads slowly.
const BACKLOG: usize = 64;

/// The service.
pub(super) struct ControlService {
    pub(super) sandboxes: Sandboxes,
    pub(super) activity: Arc<Activity>,
    pub(super) status: Arc<Status>,
    pub(super) strict: bool,
    /// Where metrics and health are served.
    pub(super) http: SocketAddr,
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Answer>> + Send>>;

#[tonic::async_trait]
impl Control for ControlService {
    type LaunchStream = Replies<LaunchEvent>;
    type WatchStream = Replies<Event>;

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Answer> {
        let report = self.status.summary();
        Ok(Response::new(GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            generation: report.generation,
            problems: report.problems,
            envoy_connected: report.envoy_connected,
            envoy_converged: report.envoy_converged,
            sandboxes_unavailable: self.sandboxes.unavailable().await,
            ready: report.ready,
            keeps_envoy: report.keeps_envoy,
            rejected: report.rejected,
            credentials: report.credentials,
            shared_vaults: report.shared_vaults,
            started: unix_seconds(report.started),
            strict: self.strict,
            http: self.http.to_string(),
        }))
    }

    async fn launch(&self, request: Request<LaunchRequest>) -> Result<Response<Self::LaunchStream>, Answer> {
        use futures_util::StreamExt;
        let events = self.sandboxes.launch(request.into_inner());
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(events).map(Ok))))
    }

    async fn get_environment(
        &self,
        request: Request<GetEnvironmentRequest>,
    ) -> Result<Response<GetEnvironmentResponse>, Answer> {
        let environment = self.sandboxes.environment(&request.into_inner().name).await;
        environment.map(Response::new).map_err(Answer::failed_precondition)
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopResponse>, Answer> {
        let StopRequest { name, all } = request.into_inner();
        self.sandboxes.stop(&name, all).await.map(Response::new).map_err(Answer::not_found)
    }

    async fn accept(&self, request: Request<AcceptRequest>) -> Result<Response<AcceptResponse>, Answer> {
        let accepted = self.sandboxes.accept(&request.into_inner().name).await;
        accepted.map(|()| Response::new(AcceptResponse {})).map_err(Answer::failed_precondition)
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Answer> {
        Ok(Response::new(ListResponse { sandboxes: self.sandboxes.list() }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Answer> {
        let WatchRequest { name, replay, no_follow, gateways } = request.into_inner();
        let replay = usize::try_from(replay).unwrap_or(usize::MAX);
        let (events, mut live) = self.activity.watch(&name, replay, gateways);
        let (tx, rx) = mpsc::channel(BACKLOG);
        tokio::spawn(async move {
            for event in events {
                if tx.send(Ok(Event::clone(&event))).await.is_err() {
                    return;
                }
            }
            if no_follow {
                return;
            }
            loop {
                let event = tokio::select! {
                    () = tx.closed() => return,
                    event = live.recv() => event,
                };
                let event = match event {
                    Ok(event) if name.is_empty() || event.sandbox == name => Event::clone(&event),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(missed)) => left_out(missed),
                    Err(RecvError::Closed) => return,
                };
                if tx.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
}

/// What a client is told that reads too slowly.
fn left_out(missed: u64) -> Event {
    let text = format!("{missed} events were left out here: they came faster than they were read");
    let notice = Notice { level: "warning".to_owned(), text };
    Event { kind: Some(event::Kind::Notice(notice)), ..Event::default() }
}
