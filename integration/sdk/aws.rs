//! boto3 and the AWS command line.

use std::sync::Arc;

use super::{IntoSocket, PUBLIC, prepare_names, sdk};
use crate::support::netns::inside;
use crate::support::pki::TestCa;
use crate::support::server::{Server, WorldConfig};
use crate::support::upstream::{Aws, Upstream, UpstreamConfig};

const HOSTS: [&str; 5] = [
    "s3.eu-central-1.amazonaws.com",
    "agent-photos.s3.eu-central-1.amazonaws.com",
    // Where boto3's presigned URLs lead.
    "agent-photos.s3.amazonaws.com",
    "sts.eu-central-1.amazonaws.com",
    "dynamodb.eu-central-1.amazonaws.com",
];
const ACCESS_KEY: &str = "AKIAac2Hn5Xq7Wd9Ls3P";
const SECRET_KEY: &str = "ac4Vt/Rb8+Jm1Kz6Gy0Cx3Fp5Sw7Qa9Ue2Oi";
const SESSION: &str = "IQoJac/Yh6+Nd3Zb8Mv1Lk==";

const VAULT: &str = r#"
[credentials."*.amazonaws.com"]
type = "sigv4"
access_key_id = { provider = "env", name = "AWS_KEY" }
secret_access_key = { provider = "env", name = "AWS_SECRET" }
session_token = { provider = "env", name = "AWS_SESSION" }
"#;

fn environment(access_key_id: &str) -> [(&str, &str); 7] {
    [
        ("AWS_ACCESS_KEY_ID", access_key_id),
        ("AWS_SECRET_ACCESS_KEY", "any secret will do"),
        ("AWS_DEFAULT_REGION", "eu-central-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("BUCKET", "agent-photos"),
        ("HOME", "/nonexistent"),
        ("LANG", "C.UTF-8"),
    ]
}

/// The script itself, and the upstream's own reading of signatures, with the upstream in the place of Envoy: real clients
/// sign here with the real key.
#[test]
fn aws_clients_are_content_with_the_upstream() {
    inside("sdk::aws::aws_clients_are_content_with_the_upstream", &HOSTS, async |netns| {
        let account = Arc::new(Aws::new(ACCESS_KEY, "any secret will do", None));
        let upstream = Upstream::with(UpstreamConfig::new(&HOSTS).listen(netns.gateway()).aws(&account)).await;
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, upstream.ca_pem()).unwrap();
        let said = sdk(&netns, "aws_sdk.py", &ca_file, &environment(ACCESS_KEY)).await;
        eprintln!("{said}");
        assert_eq!(account.refused(), Vec::<String>::new());
    });
}

#[test]
fn aws_clients_work_unmodified_through_the_gateway() {
    inside("sdk::aws::aws_clients_work_unmodified_through_the_gateway", &HOSTS, async |netns| {
        let folder = tempfile::tempdir().unwrap();
        prepare_names(folder.path(), &HOSTS);
        let account = Arc::new(Aws::new(ACCESS_KEY, SECRET_KEY, Some(SESSION)));
        let config = UpstreamConfig::new(&HOSTS).listen((PUBLIC, 443).into_socket()).aws(&account);
        let upstream = Upstream::with(config).await;
        let mut sections: String = HOSTS[1..].iter().map(|host| format!("[upstream.\"{host}\"]\n")).collect();
        sections.push_str(&format!("[upstream.\"{}\"]\npaths = [\"/agent-photos/**\"]\n", HOSTS[0]));
        let world = WorldConfig::new(sections).listen(netns.gateway()).vault(VAULT).system_ca(TestCa::shared().pem());
        let world = world.env("AWS_KEY", ACCESS_KEY).env("AWS_SECRET", SECRET_KEY).env("AWS_SESSION", SESSION);
        let mut server = Server::start(world).await;
        let ca_file = server.state_dir().join("ca/ca.pem");

        let token = server.token(&[]);
        let said = sdk(&netns, "aws_sdk.py", &ca_file, &environment(&token)).await;
        eprintln!("{said}");
        assert_eq!(account.refused(), Vec::<String>::new());
        assert_eq!(said["refused"], 403, "{said}");
        let requests = upstream.requests();
        assert!(requests.len() > 40, "{}", requests.len());
        for request in requests {
            assert!(!request.contains("acm_") && !request.contains(&token[4..24]), "a token travelled on: {request:?}");
        }
        assert!(!server.log().contains(SECRET_KEY) && !server.log().contains(SESSION), "{}", server.log());
        server.stop().await;
    });
}
