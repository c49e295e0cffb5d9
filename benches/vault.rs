//! The vault's share of a request: one check in process, and checks over the unix socket.
#![allow(clippy::expect_used, reason = "a benchmark of what does not work has nothing to measure")]
#![allow(missing_docs, reason = "of what criterion's macros make")]

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_creds::domain::decision::Rules;
use agent_creds::domain::macaroon::{KeyId, Keyring, Restriction, TokenId, TokenPrefix, mint};
use agent_creds::domain::policy::{Limits, Origin, Policy, Upstream};
use agent_creds::domain::secret::{Secret, SigningKey};
use agent_creds::server::audited;
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

/// A host whose credential signs.
const S3: &str = "bucket.s3.eu-central-1.amazonaws.com";

fn key() -> SigningKey {
    SigningKey::new(vec![7; 32]).expect("32 bytes are a key")
}

/// A vault that has a policy of 20 hosts, limits on the one asked for, and its credential.
fn vault() -> Vault {
    vault_with(0)
}

/// The same, and so many tokens are revoked: others.
fn vault_with(revoked: u128) -> Vault {
    let parsed = "these literals are valid";
    let origin = Origin { file: "agent-creds.toml".into(), line: 1 };
    let limits = Limits {
        methods: Some(["GET", "POST", "PUT"].map(|method| method.parse().expect(parsed)).into()),
        paths: Some(vec!["/v1/**".parse().expect(parsed)]),
    };
    let upstream = Upstream { limits, address: None, private: false, ca: None, origin: origin.clone() };
    let hosts = (0..18).map(|n| format!("host-{n}.example.com")).chain(["api.stripe.com".to_owned(), S3.to_owned()]);
    let policy = Policy {
        id: "myproject".parse().expect(parsed),
        instance: None,
        listen: "127.0.0.1:15443".parse().expect(parsed),
        origin,
        upstreams: hosts.map(|host| (host.parse().expect(parsed), upstream.clone())).collect(),
        vault: None,
    };
    let secret = Secret::new(b"sk_test_0123456789".to_vec()).expect(parsed);
    let signing = Credential::SigV4 {
        access_key_id: Secret::new(b"AKIAIOSFODNN7EXAMPLE".to_vec()).expect(parsed),
        secret_access_key: Secret::new(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_vec()).expect(parsed),
        session_token: None,
        region: None,
        service: None,
    };
    let credentials = [("api.stripe.com", Credential::Bearer { token: secret }), (S3, signing)];
    let credentials = credentials.map(|(host, credential)| (host.parse().expect(parsed), credential, true));
    let rules = Rules::new([&policy], Keyring::single(&key()), TokenPrefix::default(), true);
    // As ids are: at random.
    let id = |n: u128| TokenId::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes());
    rules.revocations.add((1..=revoked).map(id));
    let state = VaultState {
        rules,
        credentials: Credentials::new(credentials).expect(parsed).into(),
        shared: Default::default(),
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

/// The same as boto3 puts an object of 1 KB, with its hash: signed with the token, and to be signed with the key.
fn signed_request() -> CheckRequest {
    let parsed = "these literals are valid";
    let mut request = request();
    let attributes = request.attributes.as_mut().expect(parsed);
    attributes.context_extensions.insert("host".to_owned(), S3.to_owned());
    let http = attributes.request.as_mut().and_then(|request| request.http.as_mut()).expect(parsed);
    let restriction = Restriction::ValidityWindow { not_before: 1_767_225_600, not_after: 4_102_444_800 };
    let token = mint(&key(), &KeyId::default(), [9; 16], &[restriction]).expect("within the limits");
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/20270115/eu-central-1/s3/aws4_request, \
         SignedHeaders=content-md5;content-type;host;x-amz-content-sha256;x-amz-date, Signature={:064}",
        *token.encode(&TokenPrefix::default()),
        0
    );
    let path = "/v1/objects/report%202027.json?x-id=PutObject";
    http.method = "PUT".to_owned();
    http.path = path.to_owned();
    let headers = [
        (":method", "PUT"),
        (":scheme", "https"),
        (":authority", S3),
        (":path", path),
        ("accept-encoding", "identity"),
        ("amz-sdk-invocation-id", "5f3c1a52-57a5-4d1e-9d8b-2b8c1a5f3c1a"),
        ("amz-sdk-request", "attempt=1"),
        ("authorization", &authorization),
        ("content-length", "1024"),
        ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("content-type", "application/json"),
        ("user-agent", "Boto3/1.44.8 md/Botocore#1.44.8 ua/2.1 os/linux"),
        ("x-amz-content-sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("x-amz-date", "20270115T080000Z"),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
        ("x-forwarded-proto", "https"),
    ];
    let header = |(key, value): (&str, &str)| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    http.header_map = Some(HeaderMap { headers: headers.map(header).into() });
    request
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
    let folder = tempfile::tempdir().expect("a folder");
    let (audited, _writer) = audited(vault_with(100_000), folder.path()).expect("an audit log");
    assert_allowed(&audited.check(&request, NOW));
    c.bench_function("vault/check in process, the same, written down, 100,000 tokens revoked", |b| {
        b.iter(|| audited.check(black_box(&request), NOW));
    });
    let signed = signed_request();
    assert_allowed(&vault.check(&signed, NOW));
    c.bench_function("vault/check in process, signed anew (SigV4), 1 caveat, 12 headers", |b| {
        b.iter(|| vault.check(black_box(&signed), NOW));
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
