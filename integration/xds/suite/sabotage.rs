//! For each case a mistake that a server could make, and that the case has to notice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::client::Ended;
use super::relay::Shared;
use super::wire::{Answer, Ask, Kind, Proto};

/// What becomes of a message that passes.
#[derive(Debug, Default)]
pub struct Flow {
    /// To the server.
    pub up: Vec<Ask>,
    /// To the client.
    pub down: Vec<Answer>,
    /// The stream ends with this, after that.
    pub end: Option<Ended>,
}

/// What a relay knows of one stream.
pub struct Tap {
    pub shared: Arc<Shared>,
    /// Ends the stream.
    pub ending: Arc<Notify>,
    proto: Proto,
    /// Which of the relay's connections it is on, from 1.
    connection: usize,
    requests: usize,
    types: BTreeMap<String, Seen>,
}

/// What passed of one type.
#[derive(Debug, Default)]
struct Seen {
    requests: usize,
    answers: usize,
    nonce: String,
    /// State of the world: the latest request. Delta: names ever subscribed to.
    names: Vec<String>,
    ever: BTreeSet<String>,
    revisions: BTreeMap<String, String>,
    last: Option<Answer>,
}

impl Tap {
    pub fn new(shared: Arc<Shared>, proto: Proto, connection: usize) -> Self {
        Self { shared, ending: Arc::default(), proto, connection, requests: 0, types: BTreeMap::new() }
    }

    /// Takes a request of the client.
    pub fn request(&mut self, mut ask: Ask) -> Flow {
        self.requests += 1;
        let case = self.shared.case.unwrap_or(0);
        let (is_sotw, kind) = (self.proto == Proto::Sotw, ask.kind());
        let (number, ending) = (self.requests, Arc::clone(&self.ending));
        let seen = self.types.entry(ask.url.clone()).or_default();
        seen.requests += 1;
        let is_first = seen.requests == 1;
        let is_stale = !ask.nonce.is_empty() && ask.nonce != seen.nonce;
        let said = ask.names.clone();
        let mut flow = Flow::default();
        match case {
            // Any nonce is taken for the latest.
            1 if is_stale => ask.nonce = seen.nonce.clone(),
            // What comes with an old nonce is ignored altogether.
            2 if is_stale => return flow,
            3 => ask.error = None,
            // Rejected? Then once more.
            4 if ask.error.is_some() => flow.down.extend(seen.last.clone()),
            5 if ask.error.is_some() => {
                ask.names = seen.names.clone();
                ask.subscribe.clear();
            }
            6 if is_first && ask.names.is_empty() && ask.subscribe.is_empty() => {
                let nothing = "missing-wildcard".to_owned();
                if is_sotw { ask.names.push(nothing) } else { ask.subscribe.push(nothing) }
            }
            // The wildcard stays for ever.
            7 if is_sotw && !is_first => ask.names.push("*".to_owned()),
            7 => ask.unsubscribe.retain(|name| name != "*"),
            // Names end the wildcard.
            8 if !is_first && !ask.subscribe.is_empty() => ask.unsubscribe.push("*".to_owned()),
            // Letting go is forgotten.
            9 if is_sotw => ask.names.extend(seen.names.iter().filter(|name| !said.contains(name)).cloned()),
            9 => ask.unsubscribe.clear(),
            // What was sent once is not sent again.
            10 if is_sotw => ask.names.extend(seen.ever.iter().filter(|name| !said.contains(name)).cloned()),
            10 => {
                ask.unsubscribe.clear();
                ask.subscribe.retain(|name| !seen.ever.contains(name));
            }
            13 => ask.initial.clear(),
            17 if ask.node.is_none() => return flow,
            18 if ask.node.is_none() => {
                let cluster = "anybody".to_owned();
                ask.node = Some(envoy_types::pb::envoy::config::core::v3::Node { cluster, ..Default::default() });
            }
            19 if kind.is_none() => {
                flow.end = Some(Ended { code: Some(3), message: "an unknown type".to_owned() });
                return flow;
            }
            // Asks itself for what the client has forgotten.
            23 if kind == Some(Kind::Listener) && is_first && (!ask.initial.is_empty() || !ask.version.is_empty()) => {
                let names = vec!["a".to_owned()];
                let url = Kind::Route.url().to_owned();
                let (node, subscribe) = (ask.node.clone(), names.clone());
                flow.up.push(Ask { node, url, names, subscribe, ..Default::default() });
            }
            28 => {
                let never: Vec<_> = ask.unsubscribe.iter().filter(|name| !seen.ever.contains(*name)).cloned().collect();
                if !never.is_empty() {
                    let (url, nonce) = (ask.url.clone(), "made up".to_owned());
                    flow.down.push(Answer { url, nonce, removed: never, ..Default::default() });
                }
            }
            // One stream a node: the newer one wins.
            30 if number == 1 => {
                let id = ask.node.as_ref().map(|node| node.id.clone()).unwrap_or_default();
                let mut nodes = self.shared.nodes.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(other) = nodes.insert(id, ending) {
                    other.notify_one();
                }
            }
            _ => {}
        }
        seen.names = said.clone();
        seen.ever.extend(said);
        seen.ever.extend(ask.subscribe.iter().cloned());
        flow.up.push(ask);
        flow
    }

    /// Takes a response of the server.
    pub fn answer(&mut self, mut answer: Answer) -> Flow {
        let case = self.shared.case.unwrap_or(0);
        let (is_sotw, kind) = (self.proto == Proto::Sotw, answer.kind());
        let connection = self.connection;
        let seen = self.types.entry(answer.url.clone()).or_default();
        seen.answers += 1;
        let is_first = seen.answers == 1;
        let is_same = |revisions: &BTreeMap<String, String>, name: &str, revision: &str| {
            revisions.get(name).is_some_and(|known| known == revision)
        };
        let mut flow = Flow::default();
        match case {
            // What does not exist is passed over in silence.
            11 => {
                let is_silent = answer.items.is_empty() && answer.removed.is_empty();
                answer.removed.clear();
                answer.items.retain(|item| !item.revision().is_empty());
                if !is_silent && answer.items.is_empty() {
                    return flow;
                }
            }
            12 if answer.items.is_empty() && answer.removed.is_empty() => return flow,
            14 if connection > 1 => {
                answer.version.push_str("-again");
                answer.items.iter_mut().for_each(|item| item.version.push_str("-again"));
            }
            15 => answer.items.retain(|item| !is_same(&seen.revisions, &item.name, &item.revision())),
            16 => answer.items.extend(answer.items.first().cloned()),
            // The next type does not wait for the client.
            21 if kind == Some(Kind::Cluster) => {
                let (url, nonce, version) = (answer.url.clone(), answer.nonce.clone(), answer.version.clone());
                let names = seen.names.clone();
                flow.up.push(Ask { url, nonce, version, names, ..Default::default() });
            }
            22 if kind == Some(Kind::Endpoint)
                && answer.items.iter().all(|item| is_same(&seen.revisions, &item.name, &item.revision())) =>
            {
                return flow;
            }
            24 if kind == Some(Kind::Secret) && answer.items.iter().any(|item| item.name == "missing-1") => {
                return flow;
            }
            25 if !is_first => {
                for any in answer.items.iter_mut().filter_map(|item| item.body.as_mut()) {
                    // `ads {}` and `resource_api_version: V3`, which becomes V2.
                    let (before, after) = ([0x1a, 0, 0x30, 2], [0x1a, 0, 0x30, 1]);
                    for at in 0..any.value.len().saturating_sub(before.len()) {
                        if any.value[at..].starts_with(&before) {
                            any.value[at..at + after.len()].copy_from_slice(&after);
                        }
                    }
                }
            }
            27 if !is_first && kind == Some(Kind::Cluster) => flow.down.extend((0..6).map(|_| answer.clone())),
            29 => {
                answer.items.iter_mut().for_each(|item| item.ttl = Some(Duration::from_secs(1)));
                flow.down.push(answer.clone());
            }
            31 if is_sotw => answer.items.truncate(3),
            31 if seen.answers.is_multiple_of(2) => return flow,
            32 => answer.identifier.clear(),
            _ => {}
        }
        seen.nonce = answer.nonce.clone();
        seen.revisions.extend(answer.items.iter().map(|item| (item.name.clone(), item.revision())));
        if case == 4 {
            seen.last = Some(answer.clone());
        }
        flow.down.push(answer);
        flow
    }
}
