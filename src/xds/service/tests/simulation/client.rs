//! A client in memory: speaks gRPC to the service by handing it an HTTP request and polling the body of the answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use envoy_types::pb::google::protobuf::Any;
use futures_util::FutureExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tower::Service;

use super::super::*;
use super::BROKEN;

const SUBSCRIPTIONS: [(ResourceType, &[&str]); 5] = [
    (ResourceType::Cluster, &["*"]),
    (ResourceType::Endpoint, &["a"]),
    (ResourceType::Listener, &["*"]),
    (ResourceType::Route, &["a", "b"]),
    (ResourceType::Secret, &["a", "c"]),
];

/// A resource that says its own name and version.
pub(super) fn resource(ty: ResourceType, name: &str, version: u32) -> Resource {
    let message = Cluster { name: name.into(), alt_stat_name: version.to_string(), ..Default::default() };
    Resource::new(ty, name, Version::of(&version), &message)
}

/// What becomes of a response with something in it that the client rejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acceptance {
    /// None of it is taken.
    Whole,
    /// The good parts are taken, as Envoy does.
    PerResource,
}

/// One type at the client.
#[derive(Default)]
struct Held {
    names: BTreeSet<&'static str>,
    resources: BTreeMap<String, u32>,
    /// What was accepted with its whole response.
    accepted: BTreeMap<String, u32>,
    version: String,
    nonce: String,
}

impl Held {
    fn wants(&self, name: &str) -> bool {
        self.names.contains("*") || self.names.contains(name)
    }
}

/// A response of either variant.
struct Received {
    ty: ResourceType,
    version: String,
    nonce: String,
    /// `None`: an empty assignment of endpoints.
    resources: Vec<(String, Option<u32>)>,
    removed: Vec<String>,
}

/// An open stream.
struct Open {
    requests: mpsc::UnboundedSender<Result<Frame<Bytes>, Status>>,
    body: Body,
    buffer: BytesMut,
    /// Answers that are not sent yet: type, nonce, whether it is a NACK.
    answers: Vec<(ResourceType, String, bool)>,
}

pub(super) struct VirtualClient {
    protocol: Protocol,
    acceptance: Acceptance,
    types: BTreeMap<ResourceType, Held>,
    open: Option<Open>,
    /// How many responses it may yet be sent.
    pub(super) allowance: usize,
}

impl VirtualClient {
    pub(super) fn new(protocol: Protocol, acceptance: Acceptance) -> Self {
        let mut types = BTreeMap::new();
        for (ty, names) in SUBSCRIPTIONS {
            types.insert(ty, Held { names: names.iter().copied().collect(), ..Default::default() });
        }
        Self { protocol, acceptance, types, open: None, allowance: 0 }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn disconnect(&mut self) {
        self.open = None;
    }

    /// Opens a stream, if there is none, and says what it holds.
    pub(super) async fn connect(&mut self, routes: &Routes) {
        if self.open.is_some() {
            return;
        }
        let (requests, outgoing) = mpsc::unbounded_channel();
        let method = match self.protocol {
            Protocol::Delta => SERVICES[0].delta_method,
            Protocol::Sotw => SERVICES[0].sotw_method,
        };
        let request = http::Request::post(format!("http://agent-creds/{}/{method}", SERVICES[0].name))
            .header("content-type", "application/grpc")
            .body(Body::new(StreamBody::new(UnboundedReceiverStream::new(outgoing))))
            .unwrap();
        let body = routes.clone().call(request).await.unwrap().into_body();
        self.open = Some(Open { requests, body, buffer: BytesMut::new(), answers: Vec::new() });
        self.allowance += 2 * SUBSCRIPTIONS.len() + super::MOST_PER_CHANGE;
        let mut node = node();
        for (ty, _) in SUBSCRIPTIONS {
            let held = self.types.get_mut(&ty).unwrap();
            held.nonce.clear();
            // What it took of a response that it rejected it cannot say, so it had better not keep it.
            let accepted = &held.accepted;
            held.resources.retain(|name, _| accepted.contains_key(name));
            let names = held.names.iter().map(|name| (*name).to_owned()).collect();
            match self.protocol {
                Protocol::Delta => {
                    let versions = held.accepted.iter().map(|(n, v)| (n.clone(), Version::of(v).to_string()));
                    let initial_resource_versions: HashMap<_, _> = versions.collect();
                    let type_url = ty.type_url().into();
                    self.send(&DeltaDiscoveryRequest {
                        node: node.take(),
                        type_url,
                        resource_names_subscribe: names,
                        initial_resource_versions,
                        ..Default::default()
                    });
                }
                Protocol::Sotw => self.send_sotw(ty, node.take(), None),
            }
        }
    }

    fn send(&self, request: &impl Message) {
        let Some(open) = &self.open else { return };
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(request.encoded_len() as u32);
        request.encode(&mut frame).unwrap();
        open.requests.send(Ok(Frame::data(frame.freeze()))).unwrap();
    }

    /// The whole subscription, after the latest response that was seen.
    fn send_sotw(&self, ty: ResourceType, node: Option<Node>, error_detail: Option<rpc::Status>) {
        let held = &self.types[&ty];
        self.send(&DiscoveryRequest {
            node,
            type_url: ty.type_url().into(),
            resource_names: held.names.iter().map(|name| (*name).to_owned()).collect(),
            version_info: held.version.clone(),
            response_nonce: held.nonce.clone(),
            error_detail,
            ..Default::default()
        });
    }

    /// Asks for one more route.
    pub(super) fn subscribe(&mut self, name: &'static str) {
        if self.open.is_none() {
            return;
        }
        // In state of the world a later request with the nonce of a response would accept it.
        self.answer();
        let ty = ResourceType::Route;
        self.types.get_mut(&ty).unwrap().names.insert(name);
        self.allowance += 2;
        match self.protocol {
            Protocol::Delta => self.send(&DeltaDiscoveryRequest {
                type_url: ty.type_url().into(),
                resource_names_subscribe: vec![name.into()],
                ..Default::default()
            }),
            Protocol::Sotw => self.send_sotw(ty, None, None),
        }
    }

    /// Takes all the service has to say now; whether that was anything.
    pub(super) fn read(&mut self) -> bool {
        let mut has_heard = false;
        while let Some(received) = self.receive() {
            has_heard = true;
            self.take(received);
        }
        has_heard
    }

    fn receive(&mut self) -> Option<Received> {
        let open = self.open.as_mut()?;
        loop {
            if open.buffer.len() >= 5 {
                let len = (&open.buffer[1..5]).get_u32() as usize;
                if open.buffer.len() >= 5 + len {
                    open.buffer.advance(5);
                    let message = open.buffer.split_to(len).freeze();
                    self.allowance = self.allowance.checked_sub(1).expect("more responses than changes account for");
                    return Some(parse(self.protocol, message));
                }
            }
            let frame = open.body.frame().now_or_never()?.expect("the stream to go on").unwrap();
            open.buffer.put(frame.into_data().expect("data"));
        }
    }

    fn take(&mut self, received: Received) {
        let is_broken = |version: &Option<u32>| version.is_some_and(|version| version >= BROKEN);
        let is_rejected = received.resources.iter().any(|(_, version)| is_broken(version));
        let held = self.types.get_mut(&received.ty).unwrap();
        held.nonce = received.nonce.clone();
        if !is_rejected || self.acceptance == Acceptance::PerResource {
            let is_there = |name: &str| received.resources.iter().any(|(other, _)| other == name);
            if self.protocol == Protocol::Sotw && received.ty.is_full_set() {
                held.resources.retain(|name, _| is_there(name));
                held.accepted.retain(|name, _| is_there(name));
            }
            for (name, version) in &received.resources {
                assert!(held.wants(name), "{name} was not asked for");
                match version {
                    version if is_broken(version) => continue,
                    Some(version) => held.resources.insert(name.clone(), *version),
                    None => held.resources.remove(name),
                };
                held.accepted.remove(name);
                if let Some(version) = version.filter(|_| !is_rejected) {
                    held.accepted.insert(name.clone(), version);
                }
            }
            for name in &received.removed {
                held.resources.remove(name);
                held.accepted.remove(name);
            }
            held.version = if is_rejected { String::new() } else { received.version };
        }
        let open = self.open.as_mut().unwrap();
        open.answers.push((received.ty, received.nonce, is_rejected));
    }

    /// Answers everything that was read; whether that was anything.
    pub(super) fn answer(&mut self) -> bool {
        let Some(open) = &mut self.open else { return false };
        let answers = std::mem::take(&mut open.answers);
        let has_answered = !answers.is_empty();
        for (ty, nonce, is_rejected) in answers {
            let error = rpc::Status { code: 13, message: format!("bad {}", ty.label()), ..Default::default() };
            let error_detail = is_rejected.then_some(error);
            match self.protocol {
                Protocol::Delta => self.send(&DeltaDiscoveryRequest {
                    type_url: ty.type_url().into(),
                    response_nonce: nonce,
                    error_detail,
                    ..Default::default()
                }),
                Protocol::Sotw => {
                    let latest = std::mem::replace(&mut self.types.get_mut(&ty).unwrap().nonce, nonce);
                    self.send_sotw(ty, None, error_detail);
                    self.types.get_mut(&ty).unwrap().nonce = latest;
                }
            }
        }
        has_answered
    }

    /// That it holds what it should; `is_good`: nothing in `target` is broken.
    pub(super) fn check(&self, target: &BTreeMap<(ResourceType, &'static str), u32>, is_good: bool) {
        for (ty, held) in &self.types {
            let wanted: BTreeMap<_, _> = target
                .iter()
                .filter(|((other, name), _)| other == ty && held.wants(name))
                .map(|((_, name), version)| ((*name).to_owned(), *version))
                .collect();
            if is_good {
                let mut has = held.resources.clone();
                if self.protocol == Protocol::Sotw && matches!(ty, ResourceType::Route | ResourceType::Secret) {
                    // This variant has no way to say that these are gone.
                    has.retain(|name, _| wanted.contains_key(name));
                }
                assert_eq!(has, wanted, "{ty:?} {:?}", self.protocol);
            } else if self.acceptance == Acceptance::PerResource {
                for (name, version) in wanted.into_iter().filter(|(_, version)| *version < BROKEN) {
                    assert_eq!(held.resources.get(&name), Some(&version), "{ty:?} {:?} {name}", self.protocol);
                }
            }
        }
    }
}

fn parse(protocol: Protocol, message: Bytes) -> Received {
    let read = |any: &Any| {
        let cluster = Cluster::decode(&*any.value).unwrap();
        (cluster.name, cluster.alt_stat_name.parse().ok())
    };
    match protocol {
        Protocol::Delta => {
            let response = DeltaDiscoveryResponse::decode(message).unwrap();
            Received {
                ty: ResourceType::from_type_url(&response.type_url).unwrap(),
                version: response.system_version_info,
                nonce: response.nonce,
                resources: response.resources.iter().map(|r| read(r.resource.as_ref().unwrap())).collect(),
                removed: response.removed_resources,
            }
        }
        Protocol::Sotw => {
            let response = DiscoveryResponse::decode(message).unwrap();
            let ty = ResourceType::from_type_url(&response.type_url).unwrap();
            // The name of an empty assignment is in the same field of the message.
            let resources = response.resources.iter().map(read).collect();
            Received { ty, version: response.version_info, nonce: response.nonce, resources, removed: Vec::new() }
        }
    }
}
