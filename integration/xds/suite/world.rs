//! What a server under test serves, and the control socket by which it is edited.
//!
//! The fixture, which a server without a control socket must serve to every node: of each of the five types the resources
//! `a`, `b` and `fence-0` to `fence-7`, at revision 1, and none whose name begins with `missing`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::Failure;
use super::wire::Kind;

/// What the names begin with that are asked for only to hear an answer.
pub const FENCE: &str = "fence-";
/// How many there are of each type.
pub const FENCES: usize = 8;

/// A change of one resource.
#[derive(Debug, Clone)]
pub struct Put(Value);

impl Put {
    pub fn new(kind: Kind, name: &str, revision: u64) -> Self {
        Self(json!({ "kind": kind.label(), "name": name, "revision": revision }))
    }

    /// With this many bytes of padding.
    #[must_use]
    pub fn sized(mut self, size: usize) -> Self {
        self.0["size"] = json!(size);
        self
    }

    /// Needing another resource.
    #[must_use]
    pub fn needing(mut self, kind: Kind, name: &str) -> Self {
        self.0["refs"] = json!([[kind.label(), name]]);
        self
    }
}

/// What the server of the test serves to one `node.cluster`.
pub struct World {
    cluster: String,
    control: Option<Control>,
}

impl World {
    /// The fixture in a world of its own; without a control socket, whatever the server serves.
    pub async fn new(cluster: String, control: Option<&Path>) -> Result<Self, Failure> {
        let control = match control {
            Some(path) => Some(Control::open(path).await?),
            None => None,
        };
        let mut world = Self { cluster, control };
        if world.control.is_some() {
            world.clear().await?;
            let mut all = Vec::new();
            for kind in Kind::ALL {
                all.extend(["a", "b"].map(|name| Put::new(kind, name, 1)));
                all.extend((0..FENCES).map(|number| Put::new(kind, &format!("{FENCE}{number}"), 1)));
            }
            world.edit(all, &[]).await?;
        }
        Ok(world)
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn has_control(&self) -> bool {
        self.control.is_some()
    }

    async fn ask(&mut self, operation: Value) -> Result<Value, Failure> {
        match &mut self.control {
            Some(control) => control.ask(operation).await,
            None => Err(Failure::NeedsControl),
        }
    }

    /// One edit.
    pub async fn edit(&mut self, set: Vec<Put>, remove: &[(Kind, &str)]) -> Result<(), Failure> {
        let set: Vec<_> = set.into_iter().map(|Put(value)| value).collect();
        let remove: Vec<_> = remove.iter().map(|(kind, name)| json!({ "kind": kind.label(), "name": name })).collect();
        let cluster = self.cluster.clone();
        self.ask(json!({ "op": "edit", "cluster": cluster, "set": set, "remove": remove })).await.map(drop)
    }

    /// Sets one resource to a revision.
    pub async fn set(&mut self, kind: Kind, name: &str, revision: u64) -> Result<(), Failure> {
        self.edit(vec![Put::new(kind, name, revision)], &[]).await
    }

    /// Removes one resource.
    pub async fn remove(&mut self, kind: Kind, name: &str) -> Result<(), Failure> {
        self.edit(Vec::new(), &[(kind, name)]).await
    }

    /// Removes everything.
    pub async fn clear(&mut self) -> Result<(), Failure> {
        let cluster = self.cluster.clone();
        self.ask(json!({ "op": "clear", "cluster": cluster })).await.map(drop)
    }

    /// Makes the world what the product makes of these hosts.
    pub async fn policy(&mut self, hosts: &[&str]) -> Result<(), Failure> {
        let cluster = self.cluster.clone();
        self.ask(json!({ "op": "policy", "cluster": cluster, "hosts": hosts })).await.map(drop)
    }

    /// The server's count of something of one type: `sent`, `acked` or `nacked`.
    pub async fn count(&mut self, what: &str, kind: Kind) -> Result<u64, Failure> {
        let cluster = self.cluster.clone();
        let nodes = self.ask(json!({ "op": "nodes", "cluster": cluster })).await?;
        nodes[what][kind.label()].as_u64().ok_or_else(|| Failure::Fail(format!("no count of {what} in {nodes}")))
    }

    /// Where the same server, made anew from the same inputs, is.
    pub async fn replica(&mut self) -> Result<String, Failure> {
        let replica = self.ask(json!({ "op": "replica" })).await?;
        let address = replica["address"].as_str().map(str::to_owned);
        address.ok_or_else(|| Failure::Fail(format!("no address in {replica}")))
    }
}

/// A connection to the control socket.
pub struct Control {
    path: PathBuf,
    writer: OwnedWriteHalf,
    lines: Lines<BufReader<OwnedReadHalf>>,
}

impl Control {
    pub async fn open(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|error| Failure::Fail(format!("control socket {}: {error}", path.display())))?;
        let (reader, writer) = stream.into_split();
        Ok(Self { path: path.to_owned(), writer, lines: BufReader::new(reader).lines() })
    }

    pub async fn ask(&mut self, operation: Value) -> Result<Value, Failure> {
        let exchange = async {
            self.writer.write_all(format!("{operation}\n").as_bytes()).await?;
            self.lines.next_line().await
        };
        let line = match exchange.await {
            Ok(Some(line)) => line,
            Ok(None) => return Err(Failure::Fail(format!("the control socket {} was closed", self.path.display()))),
            Err(error) => return Err(Failure::Fail(format!("control socket {}: {error}", self.path.display()))),
        };
        let mut answer: Value =
            serde_json::from_str(&line).map_err(|error| Failure::Fail(format!("control socket: {error}")))?;
        match answer["ok"].take() {
            Value::Null => Err(Failure::Fail(format!("control socket: {}", answer["error"]))),
            ok => Ok(ok),
        }
    }
}
