//! What a client keeps in mind between messages, as an Envoy does: subscriptions, nonces, versions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::rpc::Status;

use super::client::{Address, Connection, Ended, Stream, Windows};
use super::wire::{Answer, Ask, Kind, Proto};
use super::world::FENCE;
use super::{Failure, Step, Variant, fail};

/// A client on a connection of its own; dropping it closes the connection.
pub struct Client {
    variant: Variant,
    node: Node,
    deadline: Duration,
    connection: Arc<Connection>,
    /// By type; the aggregated one under `None`.
    streams: BTreeMap<Option<Kind>, Open>,
    subscriptions: BTreeMap<Kind, Subscription>,
    fences: usize,
}

struct Open {
    stream: Stream,
    /// It has said who it is.
    introduced: bool,
}

/// What the client knows about one type.
#[derive(Debug, Default)]
struct Subscription {
    /// State of the world: all names.
    names: BTreeSet<String>,
    /// Of the latest response.
    nonce: String,
    /// Last accepted.
    version: String,
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        Self::Fail(ended.to_string())
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Client {
    pub async fn open(
        address: &Address,
        windows: Windows,
        variant: Variant,
        cluster: &str,
        deadline: Duration,
    ) -> Step<Self> {
        let opened = tokio::time::timeout(deadline, Connection::open(address, windows)).await;
        let connection = match opened {
            Ok(Ok(connection)) => Arc::new(connection),
            Ok(Err(error)) => return fail(format!("cannot connect to {address}: {error}")),
            Err(_) => return fail(format!("cannot connect to {address} within {deadline:?}")),
        };
        let node = Node {
            id: cluster.to_owned(),
            cluster: cluster.to_owned(),
            user_agent_name: "envoy".to_owned(),
            ..Default::default()
        };
        let (streams, subscriptions) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { variant, node, deadline, connection, streams, subscriptions, fences: 0 })
    }

    /// Another client of the same node on the same connection, whose streams are aggregated or not.
    pub fn sibling(&self, aggregated: bool) -> Self {
        Self {
            variant: Variant { aggregated, ..self.variant },
            node: self.node.clone(),
            deadline: self.deadline,
            connection: Arc::clone(&self.connection),
            streams: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            fences: self.fences,
        }
    }

    fn key(&self, kind: Kind) -> Option<Kind> {
        if self.variant.aggregated { None } else { Some(kind) }
    }

    fn subscription(&mut self, kind: Kind) -> &mut Subscription {
        self.subscriptions.entry(kind).or_default()
    }

    async fn opened(&mut self, kind: Kind) -> Step<&mut Open> {
        let key = self.key(kind);
        if !self.streams.contains_key(&key) {
            let stream = self.connection.stream(self.variant.proto, key).await?;
            self.streams.insert(key, Open { stream, introduced: false });
        }
        self.streams.get_mut(&key).ok_or_else(|| Failure::Fail("no stream".to_owned()))
    }

    /// Sends this, with nothing added but the type.
    pub async fn send_bare(&mut self, kind: Kind, ask: Ask) -> Step {
        let url = if ask.url.is_empty() { kind.url().to_owned() } else { ask.url.clone() };
        Ok(self.opened(kind).await?.stream.send(Ask { url, ..ask })?)
    }

    /// Sends this; the first message of a stream says who asks.
    pub async fn send(&mut self, kind: Kind, mut ask: Ask) -> Step {
        let node = self.node.clone();
        let open = self.opened(kind).await?;
        if !std::mem::replace(&mut open.introduced, true) {
            ask.node = Some(node);
        }
        self.send_bare(kind, ask).await
    }

    /// A request of the state-of-the-world variant as things stand.
    pub fn standing(&mut self, kind: Kind) -> Ask {
        let it = self.subscription(kind);
        let (names, nonce, version) = (it.names.iter().cloned().collect(), it.nonce.clone(), it.version.clone());
        Ask { names, nonce, version, ..Default::default() }
    }

    /// The empty first request.
    pub async fn ask_for_all(&mut self, kind: Kind) -> Step {
        self.send(kind, Ask::default()).await
    }

    /// Subscribes to more names.
    pub async fn subscribe(&mut self, kind: Kind, names: &[&str]) -> Step {
        self.change(kind, names, &[]).await
    }

    /// Takes names out of the subscription.
    pub async fn unsubscribe(&mut self, kind: Kind, names: &[&str]) -> Step {
        self.change(kind, &[], names).await
    }

    async fn change(&mut self, kind: Kind, more: &[&str], less: &[&str]) -> Step {
        let ask = match self.variant.proto {
            Proto::Delta => Ask { subscribe: owned(more), unsubscribe: owned(less), ..Default::default() },
            Proto::Sotw => {
                let subscription = self.subscription(kind);
                subscription.names.retain(|name| !less.contains(&name.as_str()));
                subscription.names.extend(owned(more));
                self.standing(kind)
            }
        };
        self.send(kind, ask).await
    }

    /// Accepts a response.
    pub async fn ack(&mut self, answer: &Answer) -> Step {
        let Some(kind) = answer.kind() else { return fail(format!("a response of type {}", answer.url)) };
        self.subscription(kind).version = answer.version.clone();
        self.answer(kind, answer, None, &[]).await
    }

    /// Rejects a response.
    pub async fn nack(&mut self, answer: &Answer) -> Step {
        self.nack_and_subscribe(answer, &[]).await
    }

    /// Rejects a response, and subscribes to more in the same message.
    pub async fn nack_and_subscribe(&mut self, answer: &Answer, more: &[&str]) -> Step {
        let Some(kind) = answer.kind() else { return fail(format!("a response of type {}", answer.url)) };
        self.answer(kind, answer, Some(rejection()), more).await
    }

    async fn answer(&mut self, kind: Kind, answer: &Answer, error: Option<Status>, more: &[&str]) -> Step {
        let nonce = answer.nonce.clone();
        let ask = match self.variant.proto {
            Proto::Delta => Ask { nonce, error, subscribe: owned(more), ..Default::default() },
            Proto::Sotw => {
                self.subscription(kind).names.extend(owned(more));
                Ask { nonce, error, ..self.standing(kind) }
            }
        };
        self.send(kind, ask).await
    }

    /// The next response on the stream of this type, whatever its type; or how the stream ended.
    pub async fn hear(&mut self, kind: Kind) -> Step<Result<Answer, Ended>> {
        let deadline = self.deadline;
        let open = self.opened(kind).await?;
        match tokio::time::timeout(deadline, open.stream.next()).await {
            Ok(heard) => Ok(heard),
            Err(_) => fail(format!("no {} came within {deadline:?}", kind.label())),
        }
    }

    /// The next response, which has to be of this type and well formed.
    pub async fn next(&mut self, kind: Kind) -> Step<Answer> {
        let answer = self.hear(kind).await??;
        if answer.kind() != Some(kind) {
            return fail(format!("expected a {}, heard {}", kind.label(), answer.short()));
        }
        if answer.nonce.is_empty() {
            return fail(format!("a response without a nonce: {}", answer.short()));
        }
        let mut names = BTreeSet::new();
        let all = answer.items.iter().map(|item| &item.name).chain(&answer.removed);
        if let Some(twice) = all.into_iter().find(|name| !names.insert(name.as_str())) {
            return fail(format!("{twice:?} twice in one response: {}", answer.short()));
        }
        let wrong = answer.items.iter().filter_map(|item| item.body.as_ref()).find(|any| any.type_url != answer.url);
        if let Some(any) = wrong {
            return fail(format!("a {} in a response of {}", any.type_url, answer.url));
        }
        self.subscription(kind).nonce = answer.nonce.clone();
        Ok(answer)
    }

    /// The next response, which has to hold exactly this (see [`Answer::held`]).
    pub async fn expect(&mut self, kind: Kind, held: &str) -> Step<Answer> {
        let answer = self.next(kind).await?;
        if answer.held() != held {
            return fail(format!("expected {} {held:?}, heard {}", kind.label(), answer.short()));
        }
        Ok(answer)
    }

    /// Expects this, and accepts it.
    pub async fn take(&mut self, kind: Kind, held: &str) -> Step<Answer> {
        let answer = self.expect(kind, held).await?;
        self.ack(&answer).await?;
        Ok(answer)
    }

    /// A name of the fixture that was not asked for before.
    pub fn fence(&mut self) -> String {
        self.fences += 1;
        format!("{FENCE}{}", (self.fences - 1) % super::world::FENCES)
    }

    /// Makes sure that the server has answered everything so far, and says nothing more about this type: asks for something
    /// else, which has to be the next thing that is heard. On an aggregated stream that is of another type.
    pub async fn quiet(&mut self, kind: Kind) -> Step {
        let other = match (self.variant.aggregated, kind) {
            (false, _) => kind,
            (true, Kind::Secret) => Kind::Route,
            (true, _) => Kind::Secret,
        };
        let fence = self.fence();
        self.subscribe(other, &[&fence]).await?;
        let answer = match self.next(other).await {
            Err(Failure::Fail(why)) => return fail(format!("after what needs no response: {why}")),
            answer => answer?,
        };
        // Full sets repeat what the client has.
        let repeats = self.variant.proto == Proto::Sotw && other.is_full();
        if !answer.items.iter().any(|item| item.name == fence) || (!repeats && !answer.held().is_empty()) {
            return fail(format!("expected nothing but {fence}, heard {}", answer.short()));
        }
        self.ack(&answer).await
    }
}

/// What an Envoy says when it rejects something.
pub fn rejection() -> Status {
    Status { code: 13, message: "rejected by the conformance suite".to_owned(), ..Default::default() }
}
