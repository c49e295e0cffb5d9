//! What a node says of itself is believed only as far as its certificate says the same.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, Node};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use futures_util::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::wire::Wire;
use super::{OPENAI, STRIPE, World, counts, serving};
use crate::support::probe::{eventually, in_use};
use crate::support::server::{OPENAI_KEY, STRIPE_KEY};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

fn node(id: &str, cluster: &str) -> Option<Node> {
    Some(Node { id: id.to_owned(), cluster: cluster.to_owned(), ..Default::default() })
}

/// Waits until the server has heard of the enrolment, and connects.
async fn connect(wire: &Wire) -> Channel {
    eventually("the node is let in", async || {
        let channel = wire.channel().await.map_err(|error| error.to_string())?;
        // By TLS 1.3 a refusal comes after the connection seems good.
        match AuthorizationClient::new(channel.clone()).check(CheckRequest::default()).await {
            Ok(_) => Ok(channel),
            Err(status) => Err(status.to_string()),
        }
    })
    .await
}

/// The first response for this type, by ADS.
async fn first(channel: &Channel, node: Option<Node>, names: &[&str], ty: &str) -> Result<DiscoveryResponse, Status> {
    let request = DiscoveryRequest {
        node,
        type_url: ty.to_owned(),
        resource_names: names.iter().map(|&name| name.to_owned()).collect(),
        ..Default::default()
    };
    // The stream stays open, as an Envoy's does.
    let requests = futures_util::stream::iter([request]).chain(futures_util::stream::pending());
    let answers = AggregatedDiscoveryServiceClient::new(channel.clone()).stream_aggregated_resources(requests).await?;
    answers.into_inner().message().await?.ok_or_else(|| Status::unknown("no answer"))
}

#[tokio::test]
async fn a_stream_is_of_the_certificates_node_and_gateway_or_of_none() {
    let world = World::start(&[]).await;
    let wire = Wire::of(world.xds, &world.enrol("edge-1", "config", &[]));
    let channel = connect(&wire).await;
    let listeners = first(&channel, node("edge-1", "config"), &[], LISTENER).await.unwrap();
    assert_eq!(listeners.resources.len(), 1);
    assert!(String::from_utf8_lossy(&listeners.resources[0].value).contains(STRIPE));
    let leaf = format!("leaf/{STRIPE}");
    assert_eq!(first(&channel, node("edge-1", "config"), &[&leaf], SECRET).await.unwrap().resources.len(), 1);

    for forged in [
        node("edge-1", "second"),
        node("edge-1", "*"),
        node("edge-1", ""),
        node("local", "*"),
        node("edge-2", "config"),
    ] {
        let status = first(&channel, forged.clone(), &[], LISTENER).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{forged:?}: {status}");

        let request =
            DeltaDiscoveryRequest { node: forged.clone(), type_url: LISTENER.to_owned(), ..Default::default() };
        let requests = futures_util::stream::iter([request]).chain(futures_util::stream::pending());
        let mut listeners = ListenerDiscoveryServiceClient::new(channel.clone());
        let status = match listeners.delta_listeners(requests).await {
            Ok(answers) => answers.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(status.code(), Code::PermissionDenied, "{forged:?}: {status}");
    }
    assert_eq!(first(&channel, None, &[], LISTENER).await.unwrap_err().code(), Code::InvalidArgument);

    // Another gateway's secrets are not there by any name, nor another node's certificate.
    for name in [format!("leaf/{OPENAI}"), "agent_creds_node".to_owned()] {
        let names = [name.as_str()];
        let stream = first(&channel, node("edge-1", "config"), &names, SECRET);
        match tokio::time::timeout(std::time::Duration::from_millis(300), stream).await {
            Err(_) => {}
            Ok(answer) => assert_eq!(answer.unwrap().resources.len(), 0, "{name}"),
        }
    }
    let log = world.server.log();
    assert!(log.contains("says it is another than its certificate has"), "{log}");
}

/// Asks whether a request to `host` of `gateway` may pass; `Ok` is what the upstream would be sent.
async fn check(channel: &Channel, gateway: &str, host: &str, token: &str) -> CheckResponse {
    let headers = [(":path", "/"), ("authorization", token)].map(|(key, value)| {
        envoy_types::pb::envoy::config::core::v3::HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..Default::default()
        }
    });
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: host.to_owned(),
        header_map: Some(HeaderMap { headers: headers.to_vec() }),
        ..Default::default()
    };
    let extensions = [("sandbox", gateway), ("host", host)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let attributes = AttributeContext {
        request: Some(Request { http: Some(http), ..Default::default() }),
        context_extensions: HashMap::from(extensions),
        ..Default::default()
    };
    let request = CheckRequest { attributes: Some(attributes) };
    AuthorizationClient::new(channel.clone()).check(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn the_vault_answers_a_node_for_its_own_gateway_alone() {
    let world = World::start(&[]).await;
    let token = format!("Bearer {}", world.server.token(&[]));
    let wire = Wire::of(world.xds, &world.enrol("edge-1", "config", &[]));
    let channel = connect(&wire).await;
    let good = check(&channel, "config", STRIPE, &token).await;
    assert!(matches!(good.http_response, Some(HttpResponse::OkResponse(_))), "{good:?}");
    assert!(format!("{good:?}").contains(STRIPE_KEY));
    // Of what it may ask about it gets what everybody gets: nothing of a host that its gateway has not.
    for (gateway, host) in
        [("second", OPENAI), ("second", STRIPE), ("config", OPENAI), ("*", OPENAI), ("", OPENAI), ("nobody", OPENAI)]
    {
        let refused = check(&channel, gateway, host, &token).await;
        assert!(matches!(refused.http_response, Some(HttpResponse::DeniedResponse(_))), "{gateway}: {refused:?}");
        let text = format!("{refused:?}");
        assert!(!text.contains(OPENAI_KEY) && !text.contains(STRIPE_KEY), "{gateway}: {text}");
    }
    counts(&world, "agent_creds_checks_total", &["not_its_gateway"], |refused| refused >= 5.0).await;
}

#[tokio::test]
async fn an_envoy_that_forges_its_name_gets_nothing() {
    let world = World::start(&[]).await;
    let token = world.server.token(&[]);
    let mut forgers = Vec::new();
    for (name, id, cluster) in [("a", "edge-a", "second"), ("b", "edge-b", "*"), ("c", "somebody-else", "config")] {
        let id_of = format!("edge-{name}");
        let mut bootstrap = world.enrol(&id_of, "config", &[]);
        bootstrap["node"] = serde_json::json!({ "id": id, "cluster": cluster });
        forgers.push(world.server.envoy_with(&id_of, &bootstrap));
    }
    eventually("they are refused", async || {
        let log = world.server.log();
        match forgers.iter().all(|forger| forger.log().contains("otherwise{via_upstream}")) {
            true if log.contains("says it is another than its certificate has") => Ok(()),
            _ => Err(log),
        }
    })
    .await;
    for forger in &forgers {
        let held = in_use(forger.admin()).await;
        // The certificate that it asks for, and waits for.
        assert!(held.is_empty() || held == ["warming secret agent_creds_node".to_owned()].into(), "{held:?}");
        assert!(forger.is_running());
    }
    assert!(world.server.log().matches("says it is another").count() < 10, "the log is not filled");
    // Who is honest is served meanwhile.
    let _honest = world.node("edge-9", "config", &[]);
    serving(&world, &token).await;
}

#[tokio::test]
async fn a_nodes_certificate_comes_by_its_own_stream_alone() {
    let world = World::start(&[]).await;
    let wire = Wire::of(world.xds, &world.enrol("edge-1", "config", &[]));
    let channel = connect(&wire).await;
    let asked = async |forged: Option<Node>| {
        let request = DiscoveryRequest {
            node: forged,
            type_url: SECRET.to_owned(),
            resource_names: vec!["agent_creds_node".to_owned()],
            ..Default::default()
        };
        let requests = futures_util::stream::iter([request]).chain(futures_util::stream::pending());
        let answers = SecretDiscoveryServiceClient::new(channel.clone()).stream_secrets(requests).await?;
        answers.into_inner().message().await?.ok_or_else(|| Status::unknown("no answer"))
    };
    let answer = asked(node("edge-1", "config")).await.unwrap();
    let text = String::from_utf8_lossy(&answer.resources[0].value).into_owned();
    assert!(text.contains("BEGIN CERTIFICATE") && text.contains("PRIVATE KEY"));
    let again = asked(node("edge-1", "config")).await.unwrap();
    assert_eq!(again.version_info, answer.version_info, "one for all connections of a node");
    assert_eq!(asked(node("edge-2", "config")).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(!world.server.log().contains("PRIVATE KEY"));
    assert_eq!(world.server.files_containing("BEGIN PRIVATE KEY").len(), 2, "the two CAs' alone");
}
