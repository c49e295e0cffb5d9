//! The cases of the conformance list, by number, for both variants, aggregated and per type where they apply.

mod cases;
mod delta;
mod garbage;
mod greed;
mod limits;
mod model;
mod on_demand;
mod order;
mod properties;
mod rejection;
mod resume;
mod sotw;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;

use super::*;
use crate::xds::snapshot::ResourceType::{Endpoint, Listener, Route, Secret};

const CDS: ResourceType = ResourceType::Cluster;

/// A resource whose version stands for a small number. The body's type does not matter to the machine.
fn resource(ty: ResourceType, name: &str, version: u32) -> Resource {
    let message = Cluster { name: name.into(), alt_stat_name: version.to_string(), ..Default::default() };
    Resource::new(ty, name, Version::of(&version), &message)
}

fn snapshot(resources: &[(ResourceType, &str, u32)]) -> Arc<Snapshot> {
    build(resources.iter().map(|(ty, name, version)| resource(*ty, name, *version)))
}

fn build(resources: impl IntoIterator<Item = Resource>) -> Arc<Snapshot> {
    Arc::new(Snapshot::build(resources, None).unwrap())
}

fn number(version: Version) -> u32 {
    static NUMBERS: LazyLock<HashMap<Version, u32>> =
        LazyLock::new(|| (0..1000).map(|number| (Version::of(&number), number)).collect());
    NUMBERS.get(&version).copied().unwrap_or(1000)
}

/// `cluster a=1 b=2 -c`: a response in short.
fn short(response: &Response) -> String {
    let mut text = response.ty.label().to_owned();
    for resource in &response.resources {
        let version = number(resource.version());
        let version = if version == 1000 { "none".to_owned() } else { version.to_string() };
        text.push_str(&format!(" {}={version}", resource.name()));
    }
    for name in &response.removed {
        text.push_str(&format!(" -{name}"));
    }
    text
}

fn shorts(output: &Output) -> Vec<String> {
    output.responses.iter().map(short).collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn rejection() -> Option<Status> {
    Some(Status { code: 13, message: "bad".into(), ..Default::default() })
}

/// The aggregated stream and the one for `ty` alone.
fn scopes(ty: ResourceType) -> [Scope; 2] {
    [Scope::Aggregated, Scope::Single(ty)]
}

/// A stream under test, and the requests a client makes.
struct Harness {
    stream: AdsStream,
}

impl Harness {
    fn new(protocol: Protocol, scope: Scope, target: &Arc<Snapshot>) -> Self {
        Self { stream: AdsStream::new(protocol, scope, target.clone()) }
    }

    fn update(&mut self, target: &Arc<Snapshot>) -> Output {
        self.stream.on_snapshot(target.clone())
    }

    fn delta(&mut self, ty: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) -> Output {
        self.request(DeltaDiscoveryRequest {
            type_url: ty.type_url().into(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            ..Default::default()
        })
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Output {
        self.stream.on_delta(request).unwrap()
    }

    /// Answers the last response of `output`.
    fn answer_delta(&mut self, output: &Output, error_detail: Option<Status>) -> Output {
        let response = output.responses.last().unwrap();
        self.request(DeltaDiscoveryRequest {
            type_url: response.ty.type_url().into(),
            response_nonce: response.nonce.to_string(),
            error_detail,
            ..Default::default()
        })
    }

    /// A request with the whole subscription; `to` is the response it answers.
    fn sotw(&mut self, ty: ResourceType, names: &[&str], to: Option<&Output>, error_detail: Option<Status>) -> Output {
        let last = to.and_then(|output| output.responses.last());
        self.stream
            .on_sotw(DiscoveryRequest {
                type_url: ty.type_url().into(),
                resource_names: owned(names),
                response_nonce: last.map(|response| response.nonce.to_string()).unwrap_or_default(),
                version_info: last.map(|response| response.version.to_string()).unwrap_or_default(),
                error_detail,
                ..Default::default()
            })
            .unwrap()
    }
}

fn is_nack(output: &Output) -> bool {
    output.events.iter().any(|event| matches!(event, Event::Nack { .. }))
}

fn is_ack(output: &Output) -> bool {
    output.events.iter().any(|event| matches!(event, Event::Ack { .. }))
}

/// A client that has subscribed to everything it needs and ACKed it.
fn settled(protocol: Protocol, target: &Arc<Snapshot>) -> Harness {
    let mut it = Harness::new(protocol, Scope::Aggregated, target);
    for (ty, names) in subscriptions() {
        match protocol {
            Protocol::Delta => {
                let output = it.delta(ty, names, &[]);
                for response in output.responses {
                    it.answer_delta(&Output { responses: vec![response], events: vec![] }, None);
                }
            }
            Protocol::Sotw => {
                let output = it.sotw(ty, names, None, None);
                if !output.responses.is_empty() {
                    it.sotw(ty, names, Some(&output), None);
                }
            }
        }
    }
    it
}

fn subscriptions() -> [(ResourceType, &'static [&'static str]); 4] {
    [(CDS, &[]), (Endpoint, &["e"]), (Listener, &[]), (Route, &["r"])]
}

fn answer(it: &mut Harness, output: &Output, error: Option<Status>) -> Output {
    let ty = output.responses[0].ty;
    match it.stream.protocol {
        Protocol::Delta => it.answer_delta(output, error),
        Protocol::Sotw => {
            let names = subscriptions().into_iter().find(|(other, _)| *other == ty).unwrap().1;
            it.sotw(ty, names, Some(output), error)
        }
    }
}

/// Answers everything until nothing more comes; what came, in order.
fn run(it: &mut Harness, mut output: Output) -> Vec<String> {
    let mut all = Vec::new();
    while !output.responses.is_empty() {
        assert_eq!(output.responses.len(), 1, "one push at a time");
        all.extend(shorts(&output));
        output = answer(it, &output, None);
    }
    all
}
