//! What depends on what.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterConfig;
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::config::listener::v3::Listener as ListenerConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext,
};
use prost::Message;

use super::super::wire::Answer;
use super::super::wire::Kind::{Cluster, Endpoint, Listener, Route, Secret};
use super::super::world::Put;
use super::super::{Run, Step, fail};

pub(super) async fn make_before_break(run: &mut Run) -> Step {
    run.only_aggregated("between streams there is no order")?;
    let mut client = run.client().await?;
    client.ask_for_all(Cluster).await?;
    client.take(Cluster, "a=r1 b=r1").await?;
    client.subscribe(Endpoint, &["a"]).await?;
    client.take(Endpoint, "a=r1").await?;
    client.ask_for_all(Listener).await?;
    client.take(Listener, "a=r1 b=r1").await?;
    client.subscribe(Route, &["a"]).await?;
    client.take(Route, "a=r1").await?;
    let edit =
        [Put::new(Cluster, "c", 1), Put::new(Endpoint, "a", 2), Put::new(Listener, "a", 2), Put::new(Route, "a", 2)];
    run.world.edit(edit.to_vec(), &[(Cluster, "b")]).await?;
    let (with_all, with_new, last) =
        if run.is_delta() { ("c=r1", "a=r2", "-b") } else { ("a=r1 b=r1 c=r1", "a=r2 b=r1", "a=r1 c=r1") };
    for (kind, held) in [(Cluster, with_all), (Endpoint, "a=r2"), (Listener, with_new), (Route, "a=r2")] {
        let answer = client.expect(kind, held).await?;
        // Nothing more until it is accepted.
        client.quiet(kind).await?;
        client.ack(&answer).await?;
    }
    client.take(Cluster, last).await?;
    client.quiet(Cluster).await
}

pub(super) async fn endpoints_again(run: &mut Run) -> Step {
    let cluster = |revision| Put::new(Cluster, "a", revision).needing(Endpoint, "a");
    run.world.edit(vec![cluster(1)], &[]).await?;
    let mut client = run.client().await?;
    client.ask_for_all(Cluster).await?;
    client.take(Cluster, "a=r1 b=r1").await?;
    client.subscribe(Endpoint, &["a", "b"]).await?;
    client.take(Endpoint, "a=r1 b=r1").await?;
    run.world.edit(vec![cluster(2)], &[]).await?;
    let answer = client.next(Cluster).await?;
    if !answer.held().contains("a=r2") {
        return fail(format!("expected cluster a=r2, heard {}", answer.short()));
    }
    client.ack(&answer).await?;
    // A changed cluster warms anew in Envoy, and waits for its endpoints although they are the same.
    let answer = client.next(Endpoint).await?;
    client.ack(&answer).await?;
    if !answer.held().contains("a=r1") {
        return fail(format!("expected endpoint a=r1 again, heard {}", answer.short()));
    }
    Ok(())
}

pub(super) async fn late_secret(run: &mut Run) -> Step {
    let mut client = run.client().await?;
    client.subscribe(Secret, &["missing-1"]).await?;
    if run.is_delta() {
        client.take(Secret, "-missing-1").await?;
    } else {
        // An empty response would open the listener that waits for it.
        client.quiet(Secret).await?;
    }
    run.world.edit(vec![Put::new(Secret, "missing-1", 1), Put::new(Secret, "a", 2)], &[]).await?;
    client.take(Secret, "missing-1=r1").await?;
    run.world.set(Secret, "missing-1", 2).await?;
    client.take(Secret, "missing-1=r2").await?;
    Ok(())
}

pub(super) async fn config_sources(run: &mut Run) -> Step {
    run.world.policy(&["a.example.com", "b.example.com"]).await?;
    let mut client = run.client().await?;
    let mut before = BTreeMap::new();
    for kind in [Cluster, Listener] {
        client.ask_for_all(kind).await?;
        let answer = client.next(kind).await?;
        client.ack(&answer).await?;
        before.extend(sources(&answer)?);
    }
    if before.is_empty() {
        return fail("no resource refers to a secret");
    }
    run.world.policy(&["a.example.com", "b.example.com", "c.example.com"]).await?;
    let mut compared = 0;
    for kind in [Cluster, Listener] {
        let answer = client.next(kind).await?;
        client.ack(&answer).await?;
        for (what, source) in sources(&answer)? {
            match before.get(&what) {
                Some(known) if *known != source => {
                    return fail(format!("the ConfigSource of {what} was {known:02x?}, and is {source:02x?}"));
                }
                Some(_) => compared += 1,
                None => {}
            }
        }
    }
    if compared == 0 { fail("nothing that refers to a secret was sent again") } else { Ok(()) }
}

/// The bytes of every ConfigSource of a secret, by the resource and the secret.
fn sources(answer: &Answer) -> Step<BTreeMap<String, Vec<u8>>> {
    let mut sources = BTreeMap::new();
    for item in &answer.items {
        let bytes = item.body.as_ref().map_or(&[][..], |any| any.value.as_slice());
        let decoded = match answer.kind() {
            Some(Listener) => ListenerConfig::decode(bytes).map(|listener| {
                let sockets = listener.filter_chains.into_iter().filter_map(|chain| chain.transport_socket);
                sockets.filter_map(|socket| tls::<DownstreamTlsContext>(&socket)?.common_tls_context).collect()
            }),
            _ => ClusterConfig::decode(bytes).map(|cluster| {
                let matches = cluster.transport_socket_matches.into_iter().filter_map(|it| it.transport_socket);
                let sockets = cluster.transport_socket.into_iter().chain(matches);
                sockets.filter_map(|socket| tls::<UpstreamTlsContext>(&socket)?.common_tls_context).collect()
            }),
        };
        let contexts: Vec<CommonTlsContext> = match decoded {
            Ok(contexts) => contexts,
            Err(error) => return fail(format!("{} is garbage: {error}", item.name)),
        };
        for secret in contexts.into_iter().flat_map(secrets) {
            let source = secret.sds_config.map(|source| source.encode_to_vec()).unwrap_or_default();
            sources.insert(format!("{} in {}", secret.name, item.name), source);
        }
    }
    Ok(sources)
}

fn tls<M: Message + Default>(socket: &TransportSocket) -> Option<M> {
    let transport_socket::ConfigType::TypedConfig(any) = socket.config_type.as_ref()?;
    M::decode(any.value.as_slice()).ok()
}

fn secrets(context: CommonTlsContext) -> Vec<SdsSecretConfig> {
    let mut secrets = context.tls_certificate_sds_secret_configs;
    match context.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => secrets.push(secret),
        Some(ValidationContextType::CombinedValidationContext(both)) => {
            secrets.extend(both.validation_context_sds_secret_config);
        }
        _ => {}
    }
    secrets
}
