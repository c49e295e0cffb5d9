//! `/metrics`, `/healthz`, `/readyz`, and Envoy's statistics without its admin interface.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::{TcpListener, UnixStream};

use super::status::Status;
use crate::shutdown::Shutdown;

/// Envoy's statistics are a few megabytes at most, also with thousands of upstreams.
const MAX_STATS_BYTES: usize = 64 * 1024 * 1024;

/// What the HTTP endpoints tell.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) registry: Registry,
    pub(super) status: Arc<Status>,
    pub(super) envoy_admin: PathBuf,
}

/// Serves until `shutdown`.
pub(super) async fn serve(listener: TcpListener, pages: Arc<Pages>, shutdown: Shutdown) {
    loop {
        let stream = tokio::select! {
            () = shutdown.clone().wait() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (pages, shutdown) = (Arc::clone(&pages), shutdown.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let pages = Arc::clone(&pages);
                async move { Ok::<_, Infallible>(answer(&request, &pages).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = shutdown.wait() => {}
                // A client that goes away is its own business.
                _ = connection => {}
            }
        });
    }
}

async fn answer(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    match request.uri().path() {
        "/metrics" => {
            let mut body = Vec::new();
            match TextEncoder::new().encode(&pages.registry.gather(), &mut body) {
                Ok(()) => page(StatusCode::OK, prometheus::TEXT_FORMAT, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            }
        }
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let report = pages.status.report();
            let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            match serde_json::to_vec_pretty(&report) {
                Ok(mut body) => {
                    body.push(b'\n');
                    page(status, "application/json", body)
                }
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            }
        }
        "/envoy/stats/prometheus" => match envoy_stats(&pages.envoy_admin).await {
            Ok(body) => page(StatusCode::OK, prometheus::TEXT_FORMAT, body),
            Err(error) => text(StatusCode::BAD_GATEWAY, &format!("Envoy does not answer: {error:#}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "try /metrics, /healthz, /readyz or /envoy/stats/prometheus\n"),
    }
}

/// One fixed page of Envoy's admin interface; nothing of the request goes into it.
async fn envoy_stats(admin: &Path) -> anyhow::Result<Bytes> {
    let ask = async {
        let stream = UnixStream::connect(admin).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("/stats/prometheus").header("host", "envoy").body(Empty::<Bytes>::new())?;
        let body = Limited::new(sender.send_request(request).await?.into_body(), MAX_STATS_BYTES).collect().await;
        Ok(body.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
    };
    tokio::time::timeout(Duration::from_secs(10), ask).await?
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", body.to_owned())
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}
