//! What Envoy is told: all of it for one policy (a golden file), and what holds for every policy.

mod builder;
mod render;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{ConfigSource, TransportSocket, transport_socket};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::cert_selectors::on_demand_secret::v3::Config as OnDemandSecret;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    DownstreamTlsContext, Secret, UpstreamTlsContext, common_tls_context::ValidationContextType, secret,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use proptest::prelude::{ProptestConfig, Strategy, prop, prop_assert, prop_assert_eq, proptest};
use prost::{Message, Name};
use zeroize::Zeroizing;

use self::render::render;
use super::*;
use crate::domain::names::HostPattern;
use crate::domain::policy::{Address as UpstreamAddress, Limits, Origin, Policy, Upstream};
use crate::xds::snapshot::{Fleet, Resource, ResourceType};
use crate::xds::stream;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/xds/resources/golden.txt");
const GOLDEN_MANY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/xds/resources/golden_many.txt");
const GOLDEN_SANDBOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/xds/resources/golden_sandbox.txt");

/// Leaves that say what they are.
pub(super) struct FakeLeaves;

impl Leaves for FakeLeaves {
    fn authority(&self) -> String {
        "a CA".to_owned()
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn slot(&self, _host: &Host, epoch: u64) -> u64 {
        epoch
    }

    fn mint(&self, host: &Host) -> Result<Leaf, String> {
        Ok(Leaf { chain: format!("the chain of {host}"), key: Zeroizing::new(format!("the key of {host}")) })
    }
}

fn origin(line: u32) -> Origin {
    Origin { file: "agent-creds.toml".into(), line }
}

fn upstream(limits: Limits, address: Option<&str>, ca: Option<&str>) -> Upstream {
    let address = address.map(|address| address.parse::<UpstreamAddress>().unwrap());
    Upstream { limits, address, private: false, ca: ca.map(Arc::from), origin: origin(5) }
}

fn policy(listen: &str, upstreams: impl IntoIterator<Item = (&'static str, Upstream)>) -> Policy {
    let upstreams = upstreams.into_iter().map(|(host, upstream)| (host.parse::<HostPattern>().unwrap(), upstream));
    Policy {
        id: "ci".parse().unwrap(),
        instance: None,
        listen: listen.parse().unwrap(),
        origin: origin(2),
        upstreams: upstreams.collect(),
        vault: None,
    }
}

/// The host whose requests are signed.
const SIGNED: &str = "crm.example.com";

fn fleet_of(policy: Policy) -> Fleet {
    let leaves: Arc<dyn Leaves> = Arc::new(FakeLeaves);
    let mut builder = FleetBuilder::new(leaves, TrustedCa::new("the system's CAs".into()));
    builder.build(&[Arc::new(policy)], &[SIGNED.parse().unwrap()], 1).unwrap()
}

/// The resource's message, as it is sent.
fn body(resource: &Resource) -> Vec<u8> {
    resource.prepare();
    let mut sent = DiscoveryResponse::decode(resource.entry(stream::Protocol::Sotw)).unwrap();
    assert_eq!(sent.resources[0].type_url, resource.ty().type_url());
    sent.resources.remove(0).value
}

fn all<M: Message + Name + Default>(fleet: &Fleet) -> Vec<M> {
    let of_type = |ty: &ResourceType| ty.type_url() == M::type_url();
    let ty = ResourceType::ALL.into_iter().find(of_type).unwrap();
    fleet.everything.of_type(ty).iter().map(|resource| M::decode(body(resource).as_slice()).unwrap()).collect()
}

fn rendered(resource: &Resource) -> String {
    let body = body(resource);
    match resource.ty() {
        ResourceType::Cluster => render(&Cluster::decode(body.as_slice()).unwrap()),
        ResourceType::Listener => render(&Listener::decode(body.as_slice()).unwrap()),
        ResourceType::Route => render(&RouteConfiguration::decode(body.as_slice()).unwrap()),
        ResourceType::Secret => render(&Secret::decode(body.as_slice()).unwrap()),
        ResourceType::Endpoint => panic!("none are made"),
    }
}

/// By type and name: version and content.
fn contents(fleet: &Fleet) -> BTreeMap<(ResourceType, String), (Version, String)> {
    let resources = ResourceType::ALL.into_iter().flat_map(|ty| fleet.everything.of_type(ty).iter());
    resources.map(|r| ((r.ty(), r.name().to_string()), (r.version(), rendered(r)))).collect()
}

#[test]
fn everything_an_envoy_is_told_for_a_small_policy() {
    let limits =
        Limits { methods: Some(["GET".parse().unwrap()].into()), paths: Some(vec!["/v1/**".parse().unwrap()]) };
    let fleet = fleet_of(policy(
        "127.0.0.1:15443",
        [
            ("api.stripe.com", upstream(limits, None, None)),
            ("crm.example.com", upstream(Limits::default(), Some("10.0.0.7:8443"), Some("a private CA"))),
            ("*.s3.example.com", upstream(Limits::default(), None, None)),
        ],
    ));
    assert_golden(GOLDEN, contents(&fleet));
}

/// Of many hosts what they share, and one of them.
#[test]
fn what_an_envoy_is_told_for_many_hosts() {
    let hosts = HOSTS.into_iter().filter(|host| !host.starts_with('*'));
    let hosts = hosts.chain([SIGNED, "*.s3.example.com"]).map(|host| (host, upstream(Limits::default(), None, None)));
    let mut contents = contents(&fleet_of(policy("127.0.0.1:15443", hosts)));
    contents.retain(|(ty, name), _| match ty {
        ResourceType::Listener => true,
        ResourceType::Route => name == "ci/*",
        _ => name.contains("api.stripe.com"),
    });
    assert_golden(GOLDEN_MANY, contents);
}

/// What a sandbox has that a gateway has not: the way to the host.
#[test]
fn what_an_envoy_is_told_for_a_sandbox() {
    let instance = Some("00ff".parse().unwrap());
    let policy = Policy { instance, ..policy("172.30.0.1:15001", []) };
    let leaves: Arc<dyn Leaves> = Arc::new(FakeLeaves);
    let builder = || FleetBuilder::new(Arc::clone(&leaves), TrustedCa::new("the system's CAs".into()));
    let fleet = |builder: FleetBuilder, policy: &Policy| {
        let mut builder = builder.with_host(Path::new("/run/agent-creds/host.sock"));
        builder.build(&[Arc::new(policy.clone())], &[], 1).unwrap()
    };
    let told = contents(&fleet(builder(), &policy));
    assert_golden(GOLDEN_SANDBOX, told.clone());
    // Another life is told apart; a gateway has no way to the host.
    let next = Policy { instance: Some("0100".parse().unwrap()), ..policy.clone() };
    let listener = (ResourceType::Listener, "gateway/ci".to_owned());
    assert_ne!(contents(&fleet(builder(), &next))[&listener], told[&listener]);
    let gateway = Policy { instance: None, ..policy };
    let with = contents(&fleet(builder(), &gateway));
    assert_eq!(with, contents(&builder().build(&[Arc::new(gateway)], &[], 1).unwrap()));
    assert!(!with[&listener].1.contains("x-agent-creds") && with.len() == 1);
}

fn assert_golden(path: &str, contents: BTreeMap<(ResourceType, String), (Version, String)>) {
    let mut text = String::new();
    for ((ty, name), (version, content)) in contents {
        let title = format!("══ {} {name} @{version}\n", ty.label());
        text.push_str(&title);
        text.push_str(&content);
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    let differs = golden.lines().zip(text.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or(golden.lines().count().min(text.lines().count()));
    assert!(
        text == golden,
        "line {} of {path}:\n  is now {:?}\n  was    {:?}\nIf that is meant: raise REVISION, and run this with \
         UPDATE_GOLDEN=1.",
        line + 1,
        text.lines().nth(line).unwrap_or("(the end)"),
        golden.lines().nth(line).unwrap_or("(the end)"),
    );
}

/// Hosts and wildcards, more than have a chain each.
const HOSTS: [&str; 25] = [
    "a.example",
    "b.example.com",
    "api.stripe.com",
    "localhost",
    "x-1.y",
    "c.s3.example.com",
    "d.eu.s3.example.com",
    "h1.example",
    "h2.example",
    "h3.example",
    "h4.example",
    "h5.example",
    "h6.example",
    "h7.example",
    "h8.example",
    "h9.example",
    "h10.example",
    "h11.example",
    "h12.example",
    "h13.example",
    "h14.example",
    "h15.example",
    "h16.example",
    "*.s3.example.com",
    "*.eu.s3.example.com",
];

fn any_upstream() -> impl Strategy<Value = Upstream> {
    let limits = prop::option::of(prop::sample::select(vec!["/v1/**", "/"])).prop_map(|path| Limits {
        methods: path.map(|_| ["GET".parse().unwrap()].into()),
        paths: path.map(|path| vec![path.parse().unwrap()]),
    });
    let address = prop::option::of(prop::sample::select(vec!["10.0.0.7:8443", "[::1]:1", "inner.example:443"]));
    let ca = prop::option::of(prop::sample::select(vec!["one CA", "another CA"]));
    (limits, address, ca, prop::bool::weighted(0.1)).prop_map(|(limits, address, ca, private)| {
        let private = private && address.is_none();
        Upstream { private, ..upstream(limits, address, ca) }
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let upstreams = prop::collection::btree_map(prop::sample::select(HOSTS.to_vec()), any_upstream(), 0..25);
    let listen = prop::sample::select(vec!["127.0.0.1:15443", "[::1]:15443"]);
    (listen, upstreams).prop_map(|(listen, upstreams)| policy(listen, upstreams))
}

fn tls<M: Message + Default>(socket: Option<&TransportSocket>) -> M {
    let Some(transport_socket::ConfigType::TypedConfig(context)) = socket.and_then(|s| s.config_type.as_ref()) else {
        panic!("there is no TLS");
    };
    M::decode(context.value.as_slice()).unwrap()
}

/// The chains of the listener that are for hosts.
fn chains(fleet: &Fleet) -> BTreeMap<String, FilterChain> {
    let listeners: Vec<Listener> = all(fleet);
    let chains = listeners.into_iter().flat_map(|listener| listener.filter_chains);
    chains.filter(|chain| chain.name != PLAIN_HTTP_CHAIN).map(|chain| (chain.name.clone(), chain)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn every_upstream_is_verified_whatever_the_policy(policy in any_policy()) {
        let hosts = policy.upstreams.len();
        let fleet = fleet_of(policy);
        let secrets: BTreeMap<String, Secret> =
            all::<Secret>(&fleet).into_iter().map(|secret| (secret.name.clone(), secret)).collect();
        let clusters: Vec<Cluster> = all(&fleet);
        prop_assert_eq!(clusters.len(), hosts * 2);
        let mut sources: Vec<ConfigSource> = Vec::new();
        for cluster in &clusters {
            let host = cluster.name.split('/').nth(1).unwrap();
            prop_assert!(cluster.transport_socket_matches.is_empty());
            let context: UpstreamTlsContext = tls(cluster.transport_socket.as_ref());
            let by_request = cluster.typed_extension_protocol_options.values().any(|options| {
                let options = HttpProtocolOptions::decode(options.value.as_slice()).unwrap();
                options.upstream_http_protocol_options.is_some_and(|options| options.auto_sni && options.auto_san_validation)
            });
            prop_assert_eq!(by_request, host.starts_with('*'));
            prop_assert_eq!(&context.sni, if by_request { "" } else { host });
            prop_assert!(context.auto_sni_san_validation);
            let common = context.common_tls_context.unwrap();
            let Some(ValidationContextType::ValidationContextSdsSecretConfig(reference)) = common.validation_context_type
            else {
                panic!("{}: certificates are not checked", cluster.name);
            };
            let Some(secret::Type::ValidationContext(context)) = &secrets[&reference.name].r#type else {
                panic!("{} is no validation context", reference.name);
            };
            prop_assert!(context.trusted_ca.is_some());
            prop_assert_eq!(context.trust_chain_verification, 0, "VERIFY_TRUST_CHAIN");
            sources.push(reference.sds_config.unwrap());
        }
        for chain in chains(&fleet).values() {
            let context: DownstreamTlsContext = tls(chain.transport_socket.as_ref());
            let common = context.common_tls_context.unwrap();
            let leaves = common.tls_certificate_sds_secret_configs;
            if chain.name.starts_with('*') {
                prop_assert!(leaves.is_empty());
                let selector = common.custom_tls_certificate_selector.unwrap().typed_config.unwrap();
                sources.push(OnDemandSecret::decode(selector.value.as_slice()).unwrap().config_source.unwrap());
                continue;
            }
            prop_assert_eq!(leaves.len(), 1);
            prop_assert_eq!(&leaves[0].name, &format!("leaf/{}", chain.name));
            sources.push(leaves[0].sds_config.clone().unwrap());
        }
        // envoy#47309: a reference that changes leaves a listener without its certificate.
        prop_assert!(sources.iter().all(|source| *source == super::listener::secret_reference(String::new()).sds_config.unwrap()));
    }

    #[test]
    fn a_chain_depends_on_its_name_alone(policy in any_policy()) {
        let all = chains(&fleet_of(policy));
        for (name, chain) in &all {
            let others = HOSTS.into_iter().filter(|host| if name == "*" { !host.starts_with('*') } else { host == name });
            let others = others.map(|host| (host, upstream(Limits::default(), None, None)));
            let alone = super::tests::policy("127.0.0.2:1", others);
            prop_assert_eq!(render(chain), render(&chains(&fleet_of(alone))[name]));
        }
    }

    /// Whatever is not too much has a chain, and the listener leads to it.
    #[test]
    fn there_are_few_chains(policy in any_policy()) {
        let wildcards = policy.upstreams.keys().filter(|pattern| pattern.exact().is_none()).count();
        let private = policy.upstreams.iter().filter(|(pattern, up)| up.private && pattern.exact().is_some()).count();
        let hosts = policy.upstreams.len() - wildcards - private;
        let shared = hosts > super::layout::MOST_CHAINS;
        let chains = chains(&fleet_of(policy));
        prop_assert_eq!(chains.contains_key("*"), shared);
        prop_assert_eq!(chains.len(), wildcards + private + if shared { 1 } else { hosts });
    }

    /// Envoy is sent a resource exactly when its content changed: no drain for nothing, and no change that does not arrive.
    #[test]
    fn versions_change_if_and_only_if_contents_do(one in any_policy(), two in any_policy()) {
        let same = contents(&fleet_of(one.clone())) == contents(&fleet_of(one.clone()));
        prop_assert!(same, "the same input gives the same versions");
        let (one, two) = (contents(&fleet_of(one)), contents(&fleet_of(two)));
        for (key, (version, content)) in &one {
            if let Some((other_version, other_content)) = two.get(key) {
                prop_assert_eq!(version == other_version, content == other_content, "{:?}", key);
            }
        }
    }
}

#[test]
fn a_new_edition_of_a_leaf_is_a_new_version_of_its_secrets_alone() {
    struct Second;
    impl Leaves for Second {
        fn authority(&self) -> String {
            "a CA".to_owned()
        }
        fn epoch(&self) -> u64 {
            2
        }
        fn slot(&self, _host: &Host, epoch: u64) -> u64 {
            epoch
        }
        fn mint(&self, _host: &Host) -> Result<Leaf, String> {
            Err("it is not asked for".to_owned())
        }
    }
    let policy = Arc::new(policy("127.0.0.1:1", [("a.example", upstream(Limits::default(), None, None))]));
    let ca = TrustedCa::new("the system's CAs".into());
    let versions = |leaves: Arc<dyn Leaves>| -> BTreeMap<String, Version> {
        let mut builder = FleetBuilder::new(leaves, ca.clone());
        let fleet = builder.build(&[Arc::clone(&policy)], &[], 1).unwrap();
        let all = ResourceType::ALL
            .into_iter()
            .flat_map(|ty| fleet.everything.of_type(ty).iter().cloned().collect::<Vec<_>>());
        all.map(|r| (format!("{} {}", r.ty().label(), r.name()), r.version())).collect()
    };
    let (first, second) = (versions(Arc::new(FakeLeaves)), versions(Arc::new(Second)));
    let changed: Vec<&String> = first.keys().filter(|key| first[*key] != second[*key]).collect();
    assert_eq!(changed, ["secret a.example", "secret leaf/a.example"]);
}
