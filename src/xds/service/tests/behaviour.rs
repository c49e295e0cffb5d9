//! What takes time, or goes wrong.

use super::*;

const CDS: ResourceType = ResourceType::Cluster;

#[tokio::test]
async fn case_04_a_nack_names_its_line_and_is_repaired() {
    let server = Server::start([resource(CDS, "api", 1), resource(CDS, "other", 1)]);
    let mut client = server.delta(0).await;
    client.send(first_delta(CDS, &[]));
    let response = client.receive().await;
    client.send(answer_delta(&response, Some("cluster api:\n no such thing")));
    let nodes = server.until(|nodes| nodes[0].of_type(CDS).nacked == 1).await;
    let rejection = nodes[0].of_type(CDS).rejection.clone().unwrap();
    assert_eq!(&*rejection.message, "cluster api:\\n no such thing");
    assert_eq!(rejection.origins.iter().map(ToString::to_string).collect::<Vec<_>>(), ["agent-creds.toml:7"]);
    assert!(!nodes[0].converged);
    assert!(client.hears_nothing().await);

    server.publish([resource(CDS, "api", 2), resource(CDS, "other", 1)]);
    let response = client.receive().await;
    assert_eq!(held(&response).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["api", "other"]);
    client.send(answer_delta(&response, None));
    let nodes = server.until(|nodes| nodes[0].converged).await;
    assert_eq!(nodes[0].of_type(CDS).rejection, None);
    let count = |name: &str| server.counter(&format!("agent_creds_xds_{name}_total"), CDS);
    assert_eq!((count("pushes"), count("acks"), count("nacks")), (2, 1, 1));
    assert!(count("sent_bytes") > 100);
}

#[tokio::test]
async fn case_23_a_resumed_session_that_forgets_a_type_is_closed() {
    let listener = resource(ResourceType::Listener, "l", 1).referring_to(ResourceType::Route, "r");
    let resources = [listener, resource(ResourceType::Route, "r", 1)];
    let server = Server::start_with_grace(resources, Duration::from_millis(50));
    let initial_resource_versions: std::collections::HashMap<_, _> =
        [("l".to_owned(), Version::of(&1).to_string())].into();
    let first = || DeltaDiscoveryRequest {
        initial_resource_versions: initial_resource_versions.clone(),
        ..first_delta(ResourceType::Listener, &["*"])
    };
    let mut client = server.delta(0).await;
    client.send(first());
    client.receive().await;
    let status = client.try_receive().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("route"), "{status:?}");
    server.until(<[_]>::is_empty).await;

    let mut client = server.delta(0).await;
    client.send(first());
    client.send(first_delta(ResourceType::Route, &["r"]));
    client.receive().await;
    client.receive().await;
    assert!(client.hears_nothing().await, "the stream goes on");
}

#[tokio::test]
async fn case_26_a_slow_reader_holds_nobody_up_and_gets_the_latest() {
    let size = 1 << 20;
    let server = Server::start([sized(CDS, "a", 0, size)]);
    // Asks for 50 MiB and reads nothing.
    let mut slow = server.delta(0).await;
    for _ in 0..50 {
        slow.send(first_delta(CDS, &["a"]));
    }
    server.until(|nodes| nodes.len() == 1 && nodes[0].of_type(CDS).sent > 0).await;

    let mut quick = server.delta(0).await;
    quick.send(first_delta(CDS, &["a"]));
    for version in 1..=30 {
        let response = quick.receive().await;
        quick.send(answer_delta(&response, None));
        server.publish([sized(CDS, "a", version, size)]);
    }
    let last = Version::of(&30);
    while held(&quick.receive().await) != [("a", last.as_str())] {}
    let sent = server.connections.nodes()[0].of_type(CDS).sent;
    assert!(sent <= 10, "{sent} responses wait in memory for a client that does not read");

    let mut versions = Vec::new();
    for _ in 0..50 {
        let response = slow.receive().await;
        versions.push(held(&response)[0].1.to_owned());
    }
    assert_eq!(versions.last().unwrap(), last.as_str());
    versions.dedup();
    assert!(versions.len() <= 10, "{} versions were kept for it", versions.len());
}

#[tokio::test]
async fn case_27_a_hundred_edits_are_a_few_pushes() {
    let server = Server::start([resource(CDS, "a", 0)]);
    let mut client = server.delta(0).await;
    client.send(first_delta(CDS, &[]));
    let first = client.receive().await;
    client.send(answer_delta(&first, None));
    server.until(|nodes| nodes[0].converged).await;
    for version in 1..=100 {
        server.publish([resource(CDS, "a", version)]);
        tokio::task::yield_now().await;
    }
    let mut pushes = 0;
    loop {
        let response = client.receive().await;
        pushes += 1;
        client.send(answer_delta(&response, None));
        if held(&response) == [("a", Version::of(&100).as_str())] {
            break;
        }
    }
    assert!(pushes <= 3, "{pushes}");
    server.until(|nodes| nodes[0].converged && nodes[0].generation == 101).await;
}

#[tokio::test]
async fn a_foreign_cluster_gets_only_its_own() {
    let server = Server::start([resource(CDS, "everything", 1)]);
    let edge = Arc::new(Snapshot::build([resource(CDS, "edge", 1)], None).unwrap());
    let old = server.fleet.borrow().clone();
    let by_cluster = [("edge".to_owned(), edge)].into();
    server.fleet.send_replace(Arc::new(Fleet { by_cluster, ..(*old).clone() }));
    for (cluster, expected) in [("edge", 1), ("forged", 0)] {
        let mut client = server.delta(0).await;
        let node = Some(Node { id: "n".into(), cluster: cluster.into(), ..Default::default() });
        client.send(DeltaDiscoveryRequest { node, ..first_delta(CDS, &[]) });
        let response = client.receive().await;
        assert_eq!(held(&response).len(), expected);
        assert!(held(&response).iter().all(|(name, _)| *name == "edge"));
    }
}

#[tokio::test]
async fn a_client_stays_served_when_no_more_configuration_can_come() {
    let mut server = Server::start([resource(CDS, "a", 1), resource(CDS, "b", 1)]);
    let mut client = server.delta(0).await;
    client.send(first_delta(CDS, &["a"]));
    client.receive().await;
    server.fleet = watch::channel(Arc::default()).0;
    client.send(first_delta(CDS, &["b"]));
    assert_eq!(held(&client.receive().await).len(), 1);
}

#[tokio::test]
async fn bad_input_gets_a_clear_status() {
    let server = Server::start([resource(CDS, "a", 1)]);
    let mut client = server.delta(1).await;
    client.send(first_delta(ResourceType::Secret, &[]));
    assert_eq!(client.try_receive().await.unwrap_err().code(), tonic::Code::InvalidArgument);

    let mut client = server.delta(0).await;
    client.send(first_delta(CDS, &[&"x".repeat(2000)]));
    assert_eq!(client.try_receive().await.unwrap_err().code(), tonic::Code::ResourceExhausted);

    let mut client = server.delta(0).await;
    client.send(first_delta(CDS, &[&"x".repeat(5 << 20)]));
    assert_eq!(client.try_receive().await.unwrap_err().code(), tonic::Code::OutOfRange);

    // A text that is not UTF-8 in the place of a type URL.
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let mut client: Client<Garbage, DeltaDiscoveryResponse> = server.connect(path).await;
    client.send(Garbage { type_url: vec![0xff, 0xfe] });
    assert_eq!(client.try_receive().await.unwrap_err().code(), tonic::Code::InvalidArgument);

    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/FetchResources";
    let uri = format!("unix://{}", server.folder.path().join("xds.sock").display());
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = TestCodec::<DiscoveryRequest, DiscoveryResponse>(PhantomData);
    let request = tonic::Request::new(tokio_stream::iter([DiscoveryRequest::default()]));
    let status = grpc.streaming(request, path.parse().unwrap(), codec).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    server.until(<[_]>::is_empty).await;
}

/// The wire shape of a request with bytes where text belongs.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(bytes = "vec", tag = "2")]
    type_url: Vec<u8>,
}

#[tokio::test]
async fn case_31_what_exceeds_a_message_arrives_in_parts() {
    let names: Vec<_> = (0..10).map(|i| format!("c{i}")).collect();
    let server = Server::start(names.iter().map(|name| sized(CDS, name, 1, 1 << 20)));
    let mut client = server.delta(0).await;
    client.send(first_delta(CDS, &[]));
    let mut received = Vec::new();
    while received.len() < names.len() {
        let response = client.receive().await;
        assert!(response.encoded_len() < 4 << 20);
        received.extend(response.resources.iter().map(|resource| resource.name.clone()));
        client.send(answer_delta(&response, None));
    }
    assert_eq!(received, names);
    server.until(|nodes| nodes[0].converged).await;

    // State of the world cannot be split: the client has to take larger messages.
    let mut client = server.sotw(0).await;
    client.send(DiscoveryRequest { node: node(), type_url: CDS.type_url().into(), ..Default::default() });
    assert_eq!(client.receive().await.resources.len(), names.len());
}

#[tokio::test]
async fn a_client_that_asks_for_ever_and_never_answers_is_told_so() {
    let server = Server::start([resource(CDS, "a", 1)]);
    let mut client = server.delta(5).await;
    let names: Vec<_> = (0..10_000).map(|i| format!("n{i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let status = loop {
        client.send(first_delta(ResourceType::Secret, &names));
        match client.try_receive().await {
            Ok(response) => assert_eq!(response.removed_resources.len(), names.len()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    server.until(<[_]>::is_empty).await;
}

#[tokio::test]
async fn a_client_that_rejects_everything_is_served_and_sent_only_what_changes() {
    let server = Server::start([resource(CDS, "a", 0)]);
    let mut client = server.delta(0).await;
    client.send(first_delta(CDS, &[]));
    for version in 1..=20 {
        let response = client.receive().await;
        client.send(answer_delta(&response, Some(&"no\n".repeat(1000))));
        let nodes = server.until(|nodes| nodes[0].of_type(CDS).nacked == u64::from(version)).await;
        assert!(nodes[0].of_type(CDS).rejection.as_ref().unwrap().message.len() <= 512);
        server.publish([resource(CDS, "a", version)]);
    }
    client.receive().await;
    assert!(client.hears_nothing().await);
}

#[tokio::test]
async fn what_a_node_says_about_itself_is_cut() {
    let server = Server::start([resource(CDS, "a", 1)]);
    let mut client = server.delta(0).await;
    let text = "\u{1b}[2J".repeat(100_000);
    let node = Some(Node { id: text.clone(), user_agent_name: text, ..node().unwrap() });
    client.send(DeltaDiscoveryRequest { node, ..first_delta(CDS, &[]) });
    assert_eq!(client.receive().await.resources.len(), 1);
    let nodes = server.connections.nodes();
    assert!(nodes[0].node_id.len() <= 256 && nodes[0].user_agent.len() <= 256);
    assert!(!nodes[0].node_id.contains('\u{1b}'));
}
