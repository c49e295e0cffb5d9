//! The vault's share of a request: one check in process, and checks over the unix socket.
#![allow(clippy::expect_used, reason = "a benchmark of what does not work has nothing to measure")]
#![allow(missing_docs, reason = "of what criterion's macros make")]

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_creds::domain::decision::Rules;
use agent_creds::domain::macaroon::{KeyId, Keyring, Restriction, TokenPrefix, mint};
use agent_creds::domain::policy::{Limits, Origin, Policy, Upstream};
use agent_creds::domain::secret::{Secret, SigningKey};
use agent_creds::vault::{Credential, Credentials, Vault, VaultMetrics, VaultState};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, attribute_context, check_response::HttpResponse,
};
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};

const NOW: u64 = 1_800_000_000;

fn key() -> SigningKey {
    SigningKey::new(vec![7; 32]).expect("32 bytes are a key")
}

/// A vault that has a policy of 20 hosts, limits on the one asked for, and its credential.
fn vault() -> Vault {
    let parsed = "these literals are valid";
    let origin = Origin { file: "agent-creds.toml".into(), line: 1 };
    let limits = Limits {
        methods: Some(["GET".parse().expect(parsed), "POST".parse().expect(parsed)].into()),
        paths: Some(vec!["/v1/**".parse().expect(parsed)]),
    };
    let upstream = Upstream { limits, address: None, ca: None, origin: origin.clone() };
    let hosts = (0..19).map(|n| format!("host-{n}.example.com")).chain(["api.stripe.com".to_owned()]);
    let policy = Policy {
        id: "myproject".parse().expect(parsed),
        instance: None,
        listen: "127.0.0.1:15443".parse().expect(parsed),
        origin,
        upstreams: hosts.map(|host| (host.parse().expect(parsed), upstream.clone())).collect(),
    };
    let secret = Secret::new(b"sk_test_0123456789".to_vec()).expect(parsed);
    let credential = ("api.stripe.com".parse().expect(parsed), Credential::Bearer { token: secret });
    let state = VaultState {
        rules: Rules::new([&policy], Keyring::single(&key()), TokenPrefix::default(), true),
        credentials: Credentials::new([credential]).expect(parsed).into(),
    };
    Vault::new(state, VaultMetrics::register(&Registry::new()).expect("an empty registry"))
}

/// A request as Envoy sends it: a token with four caveats, twelve headers and the pseudo headers.
fn request() -> CheckRequest {
    let parsed = "these literals are valid";
    let restrictions = [
        Restriction::ValidityWindow { not_before: 1_767_225_600, not_after: 4_102_444_800 },
        Restriction::Hosts(vec!["api.stripe.com".parse().expect(parsed), "api.openai.com".parse().expect(parsed)]),
        Restriction::Methods(vec!["GET".parse().expect(parsed), "POST".parse().expect(parsed)]),
        Restriction::Paths(vec!["/v1/customers/*".parse().expect(parsed), "/v1/charges/**".parse().expect(parsed)]),
    ];
    let token = mint(&key(), &KeyId::default(), [9; 16], &restrictions).expect("within the limits");
    let authorization = format!("Bearer {}", *token.encode(&TokenPrefix::default()));
    let path = "/v1/charges/ch_123?expand=customer";
    let headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "api.stripe.com"),
        (":path", path),
        ("authorization", &authorization),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("connection", "keep-alive"),
        ("content-length", "42"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("idempotency-key", "5f3c1a52-57a5-4d1e-9d8b-2b8c1a5f3c1a"),
        ("stripe-version", "2024-06-20"),
        ("user-agent", "Stripe/v1 PythonBindings/9.12.0"),
        (
            "x-stripe-client-user-agent",
            "{\"bindings_version\": \"9.12.0\", \"lang\": \"python\", \"publisher\": \"stripe\"}",
        ),
        ("x-forwarded-proto", "https"),
        ("x-request-start", "t=1800000000.123"),
    ];
    let header = |(key, value): (&str, &str)| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    let extension = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(attribute_context::Request {
                http: Some(attribute_context::HttpRequest {
                    method: "POST".to_owned(),
                    path: path.to_owned(),
                    host: "api.stripe.com".to_owned(),
                    header_map: Some(HeaderMap { headers: headers.map(header).into() }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            context_extensions: HashMap::from([("sandbox", "myproject"), ("host", "api.stripe.com")].map(extension)),
            ..Default::default()
        }),
    }
}

fn assert_allowed(response: &CheckResponse) {
    assert!(matches!(response.http_response, Some(HttpResponse::OkResponse(_))), "the check allows the request");
}

fn in_process(c: &mut Criterion) {
    let (vault, request) = (vault(), request());
    assert_allowed(&vault.check(&request, NOW));
    c.bench_function("vault/check in process, 4 caveats, 12 headers", |b| {
        b.iter(|| vault.check(black_box(&request), NOW));
    });
}

async fn connect(path: &Path) -> AuthorizationClient<Channel> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://vault").connect_with_connector(connector).await;
    AuthorizationClient::new(channel.expect("the vault listens"))
}

/// `count` checks, `streams` of them under way at any time.
async fn checks(client: &AuthorizationClient<Channel>, request: &CheckRequest, count: u64, streams: u64) -> Duration {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for stream in 0..streams {
        let (mut client, request) = (client.clone(), request.clone());
        tasks.spawn(async move {
            for _ in 0..count / streams + u64::from(stream < count % streams) {
                assert_allowed(client.check(request.clone()).await.expect("an answer").get_ref());
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("every check is answered");
    }
    start.elapsed()
}

fn over_the_socket(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("xds.sock");
    let client = runtime.block_on(async {
        let listener = UnixListenerStream::new(UnixListener::bind(&socket).expect("a socket"));
        let server = Server::builder().add_service(AuthorizationServer::new(vault()));
        tokio::spawn(server.serve_with_incoming(listener));
        connect(&socket).await
    });
    let request = request();
    let mut group = c.benchmark_group("vault/checks over a unix socket");
    group.throughput(Throughput::Elements(1));
    for streams in [1, 64] {
        group.bench_function(format!("{streams} at a time"), |b| {
            b.iter_custom(|count| runtime.block_on(checks(&client, &request, count, streams)));
        });
    }
    group.finish();
}

criterion_group!(benches, in_process, over_the_socket);
criterion_main!(benches);
