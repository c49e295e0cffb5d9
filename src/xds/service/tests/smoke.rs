//! Every service, in both variants.

use super::*;

/// The type to try a service with.
fn tried(scope: Scope) -> ResourceType {
    match scope {
        Scope::Aggregated => ResourceType::Route,
        Scope::Single(ty) => ty,
    }
}

#[tokio::test]
async fn every_service_speaks_delta() {
    for (index, service) in SERVICES.iter().enumerate() {
        let ty = tried(service.scope);
        let server = Server::start([resource(ty, "a", 1), resource(ty, "b", 1)]);
        let mut client = server.delta(index).await;
        client.send(first_delta(ty, &["a"]));
        let response = client.receive().await;
        assert_eq!(held(&response), [("a", Version::of(&1).as_str())], "{}", service.name);
        assert_eq!(response.type_url, ty.type_url());
        assert_eq!(response.resources[0].resource.as_ref().unwrap().type_url, ty.type_url());
        assert_eq!(response.control_plane.as_ref().unwrap().identifier, "agent-creds test", "case 32");
        client.send(answer_delta(&response, None));

        server.publish([resource(ty, "a", 2), resource(ty, "b", 2)]);
        let response = client.receive().await;
        assert_eq!(held(&response), [("a", Version::of(&2).as_str())]);
        server.until(|nodes| nodes[0].of_type(ty).sent == 2 && !nodes[0].converged).await;
        client.send(answer_delta(&response, None));
        let nodes = server.until(|nodes| nodes[0].converged && nodes[0].generation == 2).await;
        assert_eq!((nodes[0].of_type(ty).acked, nodes[0].of_type(ty).nacked), (2, 0));
        assert!(nodes[0].of_type(ty).subscribed);
        assert_eq!((nodes[0].protocol, nodes[0].scope), (Protocol::Delta, service.scope));

        server.publish([resource(ty, "b", 2)]);
        assert_eq!(client.receive().await.removed_resources, ["a"]);
    }
}

#[tokio::test]
async fn every_service_speaks_state_of_the_world() {
    for (index, service) in SERVICES.iter().enumerate() {
        let ty = tried(service.scope);
        let server = Server::start([resource(ty, "a", 1), resource(ty, "b", 1)]);
        let mut client = server.sotw(index).await;
        let mut request = DiscoveryRequest {
            node: node(),
            type_url: ty.type_url().into(),
            resource_names: vec!["a".into()],
            ..Default::default()
        };
        client.send(request.clone());
        for version in 2..=3 {
            let response = client.receive().await;
            assert_eq!(response.resources.len(), 1, "{}", service.name);
            assert_eq!(Cluster::decode(&*response.resources[0].value).unwrap().name, "a");
            assert_eq!(response.control_plane.unwrap().identifier, "agent-creds test", "case 32");
            let set = server.fleet.borrow().everything.of_type(ty).version();
            // A full set without `b` is another set.
            assert_eq!(response.version_info == set.as_str(), !ty.is_full_set());
            request = DiscoveryRequest {
                node: None,
                response_nonce: response.nonce,
                version_info: response.version_info,
                ..request
            };
            client.send(request.clone());
            server.until(|nodes| nodes[0].converged).await;
            server.publish([resource(ty, "a", version), resource(ty, "b", version)]);
        }
        client.receive().await;
    }
}

#[tokio::test]
async fn case_13_a_reconnect_is_resent_nothing() {
    let server = Server::start([resource(ResourceType::Cluster, "a", 1), resource(ResourceType::Secret, "s", 1)]);
    let mut client = server.delta(0).await;
    client.send(first_delta(ResourceType::Cluster, &[]));
    let response = client.receive().await;
    assert_eq!(response.resources.len(), 1);
    drop(client);
    server.until(<[_]>::is_empty).await;

    let mut client = server.delta(0).await;
    let versions = |name: &str| [(name.to_owned(), Version::of(&1).to_string())].into();
    let request = first_delta(ResourceType::Cluster, &["*"]);
    client.send(DeltaDiscoveryRequest { initial_resource_versions: versions("a"), ..request });
    let response = client.receive().await;
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
    let request = first_delta(ResourceType::Secret, &["s"]);
    client.send(DeltaDiscoveryRequest { node: None, initial_resource_versions: versions("s"), ..request });
    assert!(client.hears_nothing().await);
}

#[tokio::test]
async fn case_17_18_the_node_is_needed_once() {
    let server = Server::start([resource(ResourceType::Cluster, "a", 1)]);
    let mut client = server.delta(0).await;
    client.send(DeltaDiscoveryRequest { node: None, ..first_delta(ResourceType::Cluster, &[]) });
    let status = client.try_receive().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("node"), "{status:?}");
    let mut client = server.sotw(0).await;
    client.send(DiscoveryRequest { type_url: ResourceType::Cluster.type_url().into(), ..Default::default() });
    assert_eq!(client.try_receive().await.unwrap_err().code(), tonic::Code::InvalidArgument);

    let mut client = server.delta(0).await;
    client.send(first_delta(ResourceType::Cluster, &[]));
    client.receive().await;
    client.send(DeltaDiscoveryRequest { node: None, ..first_delta(ResourceType::Cluster, &["a"]) });
    client.receive().await;
}

#[tokio::test]
async fn case_19_an_unknown_type_is_ignored() {
    let server = Server::start([resource(ResourceType::Cluster, "a", 1)]);
    let mut client = server.delta(0).await;
    let type_url = "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned();
    client.send(DeltaDiscoveryRequest { type_url, ..first_delta(ResourceType::Cluster, &["x"]) });
    assert!(client.hears_nothing().await);
    client.send(first_delta(ResourceType::Cluster, &[]));
    assert_eq!(client.receive().await.resources.len(), 1);
}

#[tokio::test]
async fn case_20_30_several_streams_of_one_node() {
    let server = Server::start([resource(ResourceType::Cluster, "a", 1), resource(ResourceType::Secret, "s", 1)]);
    let mut aggregated = server.delta(0).await;
    let mut again = server.delta(0).await;
    let mut secrets = server.delta(5).await;
    aggregated.send(first_delta(ResourceType::Cluster, &[]));
    again.send(first_delta(ResourceType::Cluster, &[]));
    secrets.send(first_delta(ResourceType::Secret, &["s"]));
    assert_eq!(aggregated.receive().await.resources.len(), 1);
    assert_eq!(again.receive().await.resources.len(), 1);
    assert_eq!(secrets.receive().await.resources.len(), 1);
    let nodes = server.until(|nodes| nodes.len() == 3).await;
    assert!(nodes.iter().all(|node| node.node_id == "edge-1" && node.user_agent == "envoy"));
    drop(again);
    server.until(|nodes| nodes.len() == 2).await;
    server.publish([resource(ResourceType::Cluster, "a", 2), resource(ResourceType::Secret, "s", 1)]);
    aggregated.send(first_delta(ResourceType::Cluster, &[]));
    assert_eq!(held(&aggregated.receive().await)[0].1, Version::of(&2).as_str());
}
