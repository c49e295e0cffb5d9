//! Short questions about what is served, and waiting for the answer.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::client::{Client, ClientError};
use super::server::DEADLINE;

/// Asks again and again until the answer is good.
///
/// # Panics
/// With the last answer, if none was good within [`DEADLINE`].
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) => assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}; last: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Which upstream (its label) answers `GET https://HOST/echo` on a new connection.
pub async fn served_by(client: &Client, host: &str) -> Result<String, String> {
    let reply = client.get(&format!("https://{host}/echo")).send().await.map_err(|error| error.to_string())?;
    match reply.status {
        StatusCode::OK => Ok(reply.json()["upstream"].as_str().unwrap_or_default().to_owned()),
        status => Err(format!("{status}: {}", reply.text())),
    }
}

/// Whether Envoy refuses the handshake for `host`, as it must for a name that is not configured.
pub async fn refused(client: &Client, host: &str) -> Result<(), String> {
    match client.get(&format!("https://{host}/echo")).send().await {
        Err(ClientError::Tls(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// A page of an Envoy's admin interface; an error when nobody listens on its socket.
pub async fn admin(socket: &Path, path: &str) -> Result<String, String> {
    let ask = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection);
        let request = Request::get(path).header("host", "envoy").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        driver.abort();
        Ok(String::from_utf8_lossy(&body).into_owned())
    };
    tokio::time::timeout(DEADLINE, ask).await.map_err(|_| format!("no answer within {DEADLINE:?}"))?
}

/// What an Envoy was given by xDS and now uses, each as `KIND NAME`: `cluster`, `route`, `secret`, `listener`, and `chain`
/// for the filter chains of its listeners. Something that still warms is there as `warming KIND NAME`.
pub async fn in_use(socket: &Path) -> BTreeSet<String> {
    let dump: Value = serde_json::from_str(&admin(socket, "/config_dump").await.unwrap()).unwrap();
    let mut found = BTreeSet::new();
    let entries = |config: &Value, key: &str| config[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for config in entries(&dump, "configs") {
        for (key, kind, name) in [
            ("dynamic_active_clusters", "cluster", "/cluster/name"),
            ("dynamic_warming_clusters", "warming cluster", "/cluster/name"),
            ("dynamic_route_configs", "route", "/route_config/name"),
            ("dynamic_active_secrets", "secret", "/name"),
            ("dynamic_warming_secrets", "warming secret", "/name"),
        ] {
            let names = entries(&config, key).into_iter().filter_map(|entry| entry.pointer(name).map(text));
            found.extend(names.map(|name| format!("{kind} {name}")));
        }
        for listener in entries(&config, "dynamic_listeners") {
            let name = text(&listener["name"]);
            if !listener["warming_state"].is_null() {
                found.insert(format!("warming listener {name}"));
            }
            if let Some(active) = listener.pointer("/active_state/listener") {
                let chains = entries(active, "filter_chains");
                found.extend(chains.iter().map(|chain| format!("chain {name} {}", text(&chain["name"]))));
                found.insert(format!("listener {name}"));
            }
        }
    }
    found
}

/// How much memory a process has resident, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process with memory");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}
