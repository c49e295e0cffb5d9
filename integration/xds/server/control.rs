//! The control socket: one JSON object a line, one line of answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use agent_creds::xds::snapshot::ResourceType;
use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::worlds::{Named, Spec};
use super::{Shared, serve_tcp};

/// What can be asked of the server.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Op {
    /// Changes a world in one step.
    Edit {
        cluster: String,
        #[serde(default)]
        set: Vec<Spec>,
        #[serde(default)]
        remove: Vec<Named>,
    },
    /// Forgets a world.
    Clear { cluster: String },
    /// Makes a world what the product makes of a policy.
    Policy { cluster: String, hosts: Vec<String> },
    /// Who is connected, of one `node.cluster` or of all, summed up.
    Nodes { cluster: Option<String> },
    /// Starts the same server anew, from the same inputs, on an address of its own.
    Replica,
    /// Where this server is.
    Where,
}

pub(super) async fn serve(shared: Arc<Shared>, addr: Option<SocketAddr>, listener: UnixListener) {
    let replicas = Arc::new(Mutex::new(Replicas::default()));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(converse(Arc::clone(&shared), addr, Arc::clone(&replicas), stream));
    }
}

/// Servers started by `replica`; they end with the control socket.
#[derive(Default)]
struct Replicas(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Replicas {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn converse(
    shared: Arc<Shared>,
    addr: Option<SocketAddr>,
    replicas: Arc<Mutex<Replicas>>,
    stream: UnixStream,
) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match answer(&shared, addr, &replicas, &line).await {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn answer(
    shared: &Arc<Shared>,
    addr: Option<SocketAddr>,
    replicas: &Mutex<Replicas>,
    line: &str,
) -> anyhow::Result<Value> {
    let generation = |generation: u64| json!({ "generation": generation });
    match serde_json::from_str(line).context("not an operation")? {
        Op::Edit { cluster, set, remove } => {
            let edit = shared.change(|worlds| worlds.edit(&cluster, set, &remove).map(|()| worlds.generation()));
            edit.map(generation)
        }
        Op::Clear { cluster } => shared.change(|worlds| {
            worlds.clear(&cluster);
            Ok(generation(worlds.generation()))
        }),
        Op::Policy { cluster, hosts } => {
            shared.change(|worlds| worlds.policy(&cluster, hosts).map(|()| worlds.generation())).map(generation)
        }
        Op::Nodes { cluster } => Ok(nodes(shared, cluster.as_deref())),
        Op::Replica => {
            let replica = shared.replica()?;
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let addr = listener.local_addr()?;
            let task = tokio::spawn(async move {
                serve_tcp(replica.service.clone(), listener).await;
                // The publisher lives as long as it is served.
                drop(replica);
            });
            replicas.lock().unwrap_or_else(PoisonError::into_inner).0.push(task);
            Ok(json!({ "address": addr.to_string() }))
        }
        Op::Where => Ok(json!({ "address": addr.map(|addr| addr.to_string()), "pid": std::process::id() })),
    }
}

fn nodes(shared: &Shared, cluster: Option<&str>) -> Value {
    let nodes = shared.connections().nodes();
    let nodes: Vec<_> =
        nodes.iter().filter(|node| cluster.is_none_or(|cluster| cluster == node.node_cluster)).collect();
    let generation = shared.fleet.borrow().generation;
    let sum = |count: fn(&agent_creds::xds::service::TypeStatus) -> u64| {
        let of_type = |ty: ResourceType| {
            let total: u64 = nodes.iter().map(|node| count(node.of_type(ty))).sum();
            (ty.label().to_owned(), json!(total))
        };
        Value::Object(ResourceType::ALL.into_iter().map(of_type).collect())
    };
    json!({
        "streams": nodes.len(),
        "converged": nodes.iter().filter(|node| node.converged && node.generation == generation).count(),
        "generation": generation,
        "sent": sum(|status| status.sent),
        "acked": sum(|status| status.acked),
        "nacked": sum(|status| status.nacked),
    })
}
