//! What sandboxes ask of the host: requests on `host.sock`, which Envoy alone writes to.
//!
//! ```text
//! program in the sandbox ─ http://localhost:9222 ─▶ its listener ─ x-agent-creds-sandbox, -instance ─▶ host.sock
//!                                                                                                        │
//!   Host: host.agent-creds ─▶ services: what programs of ours ask for                    caller known? ──┤
//!   Host: localhost:PORT   ─▶ views: the rules of this sandbox and port ─▶ host::cdp      room for one more?
//! ```
//!
//! Envoy's connections carry requests of many sandboxes, so each request says whose it is. The socket is this user's alone, and
//! Envoy replaces what a sandbox sends under the names of these headers; a request without exactly one of each is refused.

mod services;
mod views;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::views::Views;
use super::browser::Browser;
use super::sandboxes::Servings;
use crate::config::Loaded;
use crate::domain::names::{Instance, SandboxId};
use crate::host::cdp;
use crate::shutdown::Shutdown;
use crate::xds::resources::{HOST_NAME, INSTANCE_HEADER, SANDBOX_HEADER};

/// The socket on which sandboxes are served, in the runtime folder.
pub(super) const HOST_SOCKET: &str = "host.sock";

/// Requests and sessions of one sandbox at a time.
const ROOM: usize = 64;
/// How long the head of a request may take, and how long a connection may wait for one; Envoy closes those that wait earlier.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

type Page = Response<Full<Bytes>>;

/// What sandboxes are served from. Cheap to clone.
#[derive(Clone)]
pub(super) struct HostServices(Arc<Shared>);

struct Shared {
    /// Which sandboxes run.
    servings: Servings,
    /// What their files say.
    loaded: watch::Receiver<Arc<Loaded>>,
    /// Where the host's Chrome listens.
    chrome: String,
    /// Opens pages in the host's browser.
    browser: Browser,
    lives: Mutex<HashMap<SandboxId, Arc<Life>>>,
}

/// What one life of a sandbox has here; ended when it is dropped.
struct Life {
    instance: Instance,
    room: Arc<Semaphore>,
    views: Views,
}

/// Who asks: a sandbox that runs, and the life of it that this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) sandbox: SandboxId,
    pub(super) instance: Instance,
}

impl HostServices {
    /// For the sandboxes of `servings`, by what `loaded` says of them.
    pub(super) fn new(
        servings: Servings,
        loaded: watch::Receiver<Arc<Loaded>>,
        chrome: String,
        browser: Browser,
    ) -> Self {
        Self(Arc::new(Shared { servings, loaded, chrome, browser, lives: Mutex::default() }))
    }

    /// Serves until `stopping`, and follows the configuration meanwhile.
    pub(super) async fn serve(self, listener: UnixListener, stopping: Shutdown) {
        let mut loaded = self.0.loaded.clone();
        let stopped = stopping.wait();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => {
                    self.0.browser.end();
                    return;
                }
                changed = loaded.changed() => {
                    if changed.is_err() {
                        // The watch of the configuration ended; its own task says so.
                        stopped.await;
                        return;
                    }
                    loaded.mark_unchanged();
                    self.follow();
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        tokio::spawn(self.clone().connection(stream));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection of Envoy's for sandboxes");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    async fn connection(self, stream: UnixStream) {
        let service = service_fn(move |request| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.respond(request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // Envoy that goes away is its own business.
        let _ = connection.await;
    }

    async fn respond(&self, request: Request<Incoming>) -> Page {
        let Some((caller, life)) = caller(request.headers()).and_then(|caller| self.life(caller)) else {
            return text(StatusCode::FORBIDDEN, "only sandboxes that run are served here\n");
        };
        let Ok(permit) = Arc::clone(&life.room).try_acquire_owned() else {
            let full = format!("this sandbox has {ROOM} requests and sessions with the host; end some of them\n");
            return text(StatusCode::SERVICE_UNAVAILABLE, full);
        };
        match authority(request.headers()) {
            Some((HOST_NAME, _)) => services::answer(request, &caller, &self.0.browser).await,
            Some((_, port)) => self.browser(request, &life, port, permit).await,
            None => text(StatusCode::BAD_REQUEST, "a request needs one Host\n"),
        }
    }

    /// The host's browser, as it is seen at `port` in the sandbox.
    async fn browser(&self, request: Request<Incoming>, life: &Life, port: u16, permit: OwnedSemaphorePermit) -> Page {
        match life.views.access(port, &self.0.chrome) {
            Ok(access) => cdp::respond(request, Arc::new(access), permit).await,
            Err(why) => text(StatusCode::FORBIDDEN, why),
        }
    }

    /// What the caller has here, if it runs.
    fn life(&self, caller: Caller) -> Option<(Caller, Arc<Life>)> {
        let there = |this: &Self| {
            lock(&this.0.lives).get(&caller.sandbox).filter(|life| life.instance == caller.instance).cloned()
        };
        // A sandbox that was just started is here before the configuration is followed.
        let life = there(self).or_else(|| {
            self.follow();
            there(self)
        })?;
        Some((caller, life))
    }

    /// Brings all lives up to the configuration: those that began, changed, or ended.
    fn follow(&self) {
        // Looked at within the lock, so that nobody puts older views in place of newer ones.
        let mut lives = lock(&self.0.lives);
        let loaded = Arc::clone(&self.0.loaded.borrow());
        let servings = self.0.servings.load();
        let mut before = std::mem::take(&mut *lives);
        for project in &loaded.projects {
            let Some(serving) = servings.get(&project.id) else { continue };
            let life = before.remove(&project.id).filter(|life| life.instance == serving.instance);
            let life = life.unwrap_or_else(|| {
                let (instance, room) = (serving.instance.clone(), Arc::new(Semaphore::new(ROOM)));
                Arc::new(Life { instance, room, views: Views::default() })
            });
            life.views.follow(project);
            lives.insert(project.id.clone(), life);
        }
        // Whoever still has a life that ended, for a request under way, has nothing of it.
        for life in before.into_values() {
            life.views.end();
        }
    }
}

/// Who Envoy says it is.
fn caller(headers: &HeaderMap) -> Option<Caller> {
    let only = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { value.to_str().ok() }
    };
    Some(Caller { sandbox: only(SANDBOX_HEADER)?.parse().ok()?, instance: only(INSTANCE_HEADER)?.parse().ok()? })
}

/// The name and port of `Host`, if there is just one.
fn authority(headers: &HeaderMap) -> Option<(&str, u16)> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none())?.to_str().ok()?;
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => Some((name, port.parse().ok()?)),
        _ => Some((host, 80)),
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Page {
    page(status, "text/plain; charset=utf-8", text)
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Page {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
