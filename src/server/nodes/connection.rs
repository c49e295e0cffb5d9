//! One connection: its handshake, its requests, and its end, which may not be later than its certificate's.

use std::future::ready;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::handshakes::Place;
use super::renewal::Renewal;
use super::tls::Refusal;
use super::{Entered, Shared};
use crate::domain::node::{NodeIdentity, Standing};
use crate::pki::node_of_certificate;
use crate::shutdown::Shutdown;
use crate::xds::service::{self, XdsService};

/// How long a handshake may take.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// The requests and streams of one connection at a time; an Envoy that has more opens another one.
const MOST_STREAMS: u32 = 4096;
/// How long requests under way have when the server stops.
const STOPPING: Duration = Duration::from_secs(1);
/// The clock may be set meanwhile: it is looked at this often.
const LOOK: Duration = Duration::from_secs(60);
/// Where a node asks for its next certificate.
const SDS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/";

/// Serves one connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    (xds, routes): (XdsService, Routes),
    stopping: Shutdown,
) {
    let peer = peer.ip();
    let _ = stream.set_nodelay(true);
    // Subscribed before the handshake looks at who is revoked, so that nothing falls in between.
    let mut changed = shared.changed.clone();
    changed.mark_unchanged();
    let accept = shared.tls.acceptor(SystemTime::now()).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE, accept).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return shared.metrics.refuse(Refusal::of(&error), Some(peer), &error),
        Err(_) => return shared.metrics.refuse(Refusal::Slow, Some(peer), &"the handshake took too long"),
    };
    drop(place);
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let Some((identity, not_after)) = certificate.and_then(|certificate| node_of_certificate(certificate)) else {
        // The handshake has seen to it that there is one.
        return shared.metrics.refuse(Refusal::Unknown, Some(peer), &"no node's certificate");
    };
    let Some(_entered): Option<Entered> = shared.connected.enter(&identity.id) else {
        let detail = format!("too many connections of {}", identity.id);
        return shared.metrics.refuse(Refusal::Busy, Some(peer), &detail);
    };
    tracing::debug!(node = %identity.id, gateway = %identity.gateway, %peer, "connected");

    // One for all streams of this connection, made when it is first asked for.
    let renewal: Arc<Mutex<Option<Arc<Renewal>>>> = Arc::default();
    let (service_shared, service_identity) = (Arc::clone(&shared), identity.clone());
    let answers = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(service_identity.clone());
        let request = request.map(Body::new);
        if request.uri().path().starts_with(SDS) {
            match own_routes(&service_shared, &service_identity, &renewal) {
                Ok(mut routes) => routes.call(request).boxed(),
                Err(status) => ready(Ok(status.into_http())).boxed(),
            }
        } else {
            xds.answer(request).unwrap_or_else(|request| routes.clone().call(request).boxed())
        }
    });
    let mut builder = service::http2();
    builder.max_concurrent_streams(MOST_STREAMS);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answers));

    let mut end = UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after).unwrap_or(0));
    // Requests go over to a connection with the next certificate while those under way have a third of the time left.
    let begun = SystemTime::now();
    let soon = begun + end.duration_since(begun).unwrap_or_default() * 2 / 3;
    let (mut is_ending, mut is_stopping) = (false, false);
    let stopped = stopping.wait();
    tokio::pin!(stopped);
    loop {
        let now = SystemTime::now();
        if end <= now {
            tracing::debug!(node = %identity.id, "ended a connection");
            return;
        }
        let next = if is_ending { end } else { soon };
        let wait = next.duration_since(now).unwrap_or_default().min(LOOK);
        tokio::select! {
            // A node that goes away is its own business.
            _ = connection.as_mut() => return,
            () = &mut stopped, if !is_stopping => {
                connection.as_mut().graceful_shutdown();
                (is_ending, is_stopping) = (true, true);
                // The streams of xDS have no end by themselves.
                end = end.min(SystemTime::now() + STOPPING);
            }
            () = tokio::time::sleep(wait) => {
                if !is_ending && soon <= SystemTime::now() {
                    connection.as_mut().graceful_shutdown();
                    is_ending = true;
                }
            }
            followed = changed.changed() => {
                // Without anybody who follows the log nobody knows who is revoked.
                if followed.is_err() || shared.enrolments.standing(&identity) != Standing::Enrolled {
                    shared.metrics.cut.inc();
                    tracing::info!(node = %identity.id, gateway = %identity.gateway, "cut a connection: the node was revoked");
                    return;
                }
            }
        }
    }
}

fn own_routes(
    shared: &Shared,
    identity: &NodeIdentity,
    renewal: &Mutex<Option<Arc<Renewal>>>,
) -> Result<Routes, Status> {
    let mut renewal = renewal.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(renewal) = &*renewal {
        return Ok(renewal.routes());
    }
    match shared.renewals.of(identity) {
        Ok(new) => Ok(renewal.insert(new).routes()),
        Err(error) => {
            tracing::error!(node = %identity.id, "cannot renew a node's certificate: {error:#}");
            Err(Status::unavailable("no certificate can be made at the moment"))
        }
    }
}
