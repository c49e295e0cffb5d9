//! AWS: requests that are signed with a token arrive signed with the real keys, whatever Envoy makes of them on the way.

mod wildcard;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::{STRIPE, assert_refusal, assert_swapped};
use crate::support::client::{Call, Client, Proto, Reply};
use crate::support::server::{STRIPE_KEY, Server, WorldConfig, upstream_section};
use crate::support::upstream::{Aws, Upstream, UpstreamConfig};

const S3: &str = "s3.eu-central-1.amazonaws.com";
const BUCKET: &str = "photos.s3.eu-central-1.amazonaws.com";
const DYNAMODB: &str = "dynamodb.eu-central-1.amazonaws.com";

const ACCESS_KEY: &str = "AKIAac6Vb2Nw8Qr4Tz1Y";
const SECRET_KEY: &str = "ac9Jx/Lp3+Ks7Hd5Gf1Wq0Zm8Cn2Vb4Rt6Yu";
const SESSION: &str = "IQoJac+Mk4/Xw8Pz2Qe6Ra==";

const VAULT: &str = r#"
[credentials."*.eu-central-1.amazonaws.com"]
type = "sigv4"
access_key_id = { provider = "env", name = "AWS_KEY" }
secret_access_key = { provider = "env", name = "AWS_SECRET" }
session_token = { provider = "env", name = "AWS_SESSION" }
"#;

struct Cloud {
    server: Server,
    client: Client,
    upstream: Upstream,
    stripe: Upstream,
    account: Arc<Aws>,
}

impl Cloud {
    /// `limits` are more lines of the section of [`S3`].
    async fn start(limits: &str) -> Self {
        Self::with(|upstream| {
            upstream_section(S3, upstream, limits)
                + &upstream_section(BUCKET, upstream, "")
                + &upstream_section(DYNAMODB, upstream, "")
        })
        .await
    }

    /// With these sections for it.
    async fn with(sections: impl FnOnce(&Upstream) -> String) -> Self {
        let account = Arc::new(Aws::new(ACCESS_KEY, SECRET_KEY, Some(SESSION)));
        let upstream = Upstream::with(UpstreamConfig::new(&[S3, BUCKET, DYNAMODB]).aws(&account)).await;
        let stripe = Upstream::start(&[STRIPE]).await;
        let sections = sections(&upstream) + &upstream_section(STRIPE, &stripe, "");
        let config = WorldConfig::new(sections).credentials(VAULT);
        let config = config
            .env("AGENT_CREDS_LOG", "trace")
            .env("AWS_KEY", ACCESS_KEY)
            .env("AWS_SECRET", SECRET_KEY)
            .env("AWS_SESSION", SESSION);
        let server = Server::start(config).await;
        let client = server.client();
        Self { server, client, upstream, stripe, account }
    }

    /// A call that says it is signed by `token`.
    fn call(&self, method: &str, url: &str, token: &str) -> Call {
        let service = if url.contains(DYNAMODB) { "dynamodb" } else { "s3" };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        self.client
            .call(method, url)
            .header("authorization", signed(token, service))
            .header("x-amz-date", "20010101T000000Z")
    }

    /// Asserts that the last request was let through, and carried nothing of the token's.
    #[track_caller]
    fn assert_signed(&self, reply: &Reply, token: &str) {
        let refused = self.account.refused();
        assert!(reply.status.is_success(), "{}: {} {refused:?}", reply.status, reply.text());
        let seen = self.upstream.last_request();
        assert!(!seen.contains("acm_") && !seen.contains(&token[4..24]), "{seen:?}");
        assert_eq!(refused, Vec::<String>::new());
    }
}

fn signed(token: &str, service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={token}/20010101/eu-central-1/{service}/aws4_request, \
         SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature={:064}",
        0
    )
}

fn presigned(token: &str, date: &str) -> String {
    format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={token}%2F{}%2Feu-central-1%2Fs3%2Faws4_request&X-Amz-Date={date}\
         &X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature={:064}",
        &date[..8],
        0
    )
}

/// Now, as signatures have it.
fn now() -> String {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    time::OffsetDateTime::now_utc().format(format).unwrap()
}

const UNSIGNED: (&str, &str) = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD");

#[tokio::test]
async fn a_signature_by_a_token_becomes_one_by_the_key() {
    let cloud = Cloud::start("").await;
    let token = cloud.server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        for host in [format!("{S3}/photos"), BUCKET.to_owned()] {
            // Keys, and the same as a client may write it.
            for key in ["a.txt", "dir/b%20c%3A%28d%29.txt", "dir/e:(f)!$&'*,;=@g+~.txt", "%C3%A4%e2%82%ac", "h%2Bi%25j"]
            {
                let url = format!("https://{host}/{key}");
                let put = cloud.call("PUT", &url, &token).proto(proto).body("hello").header(UNSIGNED.0, UNSIGNED.1);
                let put = put
                    .header("content-type", "text/x")
                    .header("x-amz-meta-a", " two  spaces ")
                    .header("x-amz-meta-a", "b");
                cloud.assert_signed(&put.send().await.unwrap(), &token);
                assert_eq!(cloud.upstream.last_request().header("x-amz-security-token").as_deref(), Some(SESSION));
                let get = cloud
                    .call("GET", &url, &token)
                    .proto(proto)
                    .header(UNSIGNED.0, UNSIGNED.1)
                    .header("range", "bytes=1-3");
                let reply = get.send().await.unwrap();
                cloud.assert_signed(&reply, &token);
                assert_eq!((reply.text().as_str(), reply.status), ("ell", StatusCode::PARTIAL_CONTENT), "{url}");
                assert_eq!(reply.header("x-amz-meta-a").as_deref().map(str::trim), Some("two  spaces"));
            }
            for query in [
                "list-type=2",
                "list-type=2&prefix=dir%2F&delimiter=%2f",
                "delimiter&prefix=+b%20c&list-type=2&&a=~*'()",
            ] {
                let url = format!("https://{host}?{query}").replace(&format!("{BUCKET}?"), &format!("{BUCKET}/?"));
                let list = cloud.call("GET", &url, &token).proto(proto).header(UNSIGNED.0, UNSIGNED.1);
                cloud.assert_signed(&list.send().await.unwrap(), &token);
            }
        }
    }
    assert!(cloud.account.object("photos", "dir/b c:(d).txt").is_some());
    let log = cloud.server.log();
    assert!(!log.contains(SECRET_KEY) && !log.contains(SESSION), "{log}");
}

#[tokio::test]
async fn the_payload_is_what_the_client_says_and_s3_is_told() {
    let cloud = Cloud::start("").await;
    let token = cloud.server.token(&[]);
    let url = format!("https://{BUCKET}/a");
    let hash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    // Longer than what is ever held back; the vault does not see it.
    let long = Bytes::from(vec![b'x'; 20 << 20]);
    let trailer = "5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n";
    for proto in [Proto::H1, Proto::H2] {
        for (said, body) in [
            (Some(hash), Bytes::from_static(b"hello")),
            (Some("UNSIGNED-PAYLOAD"), long.clone()),
            (Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"), Bytes::from_static(trailer.as_bytes())),
            (None, Bytes::from_static(b"hello")),
            (None, Bytes::new()),
        ] {
            let mut call = cloud.call("PUT", &url, &token).proto(proto).body(body.clone());
            if let Some(said) = said {
                call = call.header("x-amz-content-sha256", said);
            }
            if said.is_some_and(|said| said.starts_with("STREAMING")) {
                call = call.header("x-amz-decoded-content-length", "5").header("x-amz-trailer", "x-amz-checksum-crc32");
                call = call.header("content-encoding", "aws-chunked");
            }
            cloud.assert_signed(&call.send().await.unwrap(), &token);
            let stored = cloud.account.object("photos", "a").unwrap().body;
            assert!(stored == body || stored == "hello", "{said:?}");
        }
        // A token that is not in a signature: S3 takes a body that nobody hashed.
        let call = cloud.client.call(Method::PUT, &url).proto(proto).body("bearer").bearer(&token);
        cloud.assert_signed(&call.send().await.unwrap(), &token);
        assert_eq!(cloud.account.object("photos", "a").unwrap().body, "bearer");
    }
    let before = cloud.upstream.request_count();
    for (said, beginning) in [
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "each chunk of its body is signed"),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "each chunk of its body is signed"),
        ("nonsense", "its x-amz-content-sha256"),
    ] {
        let call = cloud.call("PUT", &url, &token).header("x-amz-content-sha256", said).body(trailer);
        let beginning = format!("The request cannot be signed for {BUCKET}: {beginning}");
        assert_refusal(&call.send().await.unwrap(), 403, &beginning);
    }
    assert_eq!(cloud.upstream.request_count(), before);
    assert!(cloud.server.metric("agent_creds_checks_total", &["reason=\"unsignable\""]).await >= 3.0);
}

#[tokio::test]
async fn a_body_that_the_signature_covers_goes_by_the_vault() {
    let cloud = Cloud::start("").await;
    let token = cloud.server.token(&[]);
    let url = format!("https://{DYNAMODB}/");
    let post = |body: String| {
        let call = cloud.call("POST", &url, &token).header("x-amz-target", "DynamoDB_20120810.PutItem");
        call.header("content-type", "application/x-amz-json-1.0").body(body)
    };
    let item = |length: usize| {
        let filler = "x".repeat(length);
        format!("{{\"TableName\":\"t\",\"Item\":{{\"id\":{{\"S\":\"1\"}},\"filler\":{{\"S\":\"{filler}\"}}}}}}")
    };
    const MOST: usize = 8 << 20;
    let overhead = item(0).len();
    for proto in [Proto::H1, Proto::H2] {
        for length in [0, 100, 300_000, 5 << 20, MOST - 1 - overhead] {
            let reply = post(item(length)).proto(proto).send().await.unwrap();
            cloud.assert_signed(&reply, &token);
            assert_eq!(cloud.upstream.last_request().body.len(), length + overhead);
        }
        let before = cloud.upstream.request_count();
        for length in [MOST, MOST + 1, MOST + 10_000, MOST + 300_000, 2 * MOST] {
            let reply = post(item(length - overhead)).proto(proto).send().await.unwrap();
            assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{length}: {}", reply.text());
            assert!(reply.text().contains("x-amz-content-sha256"), "{length}: {}", reply.text());
        }
        // Without a signature there is nobody who says what the body is for.
        let call = cloud.client.post(&url, "{}").proto(proto).bearer(&token);
        let beginning = format!("The request cannot be signed for {DYNAMODB}: its signature has to cover its body");
        assert_refusal(&call.send().await.unwrap(), 403, &beginning);
        assert_eq!(cloud.upstream.request_count(), before);
    }
}

/// S3 signs a path as it is, and all others sign it encoded once more.
#[tokio::test]
async fn the_path_of_other_services_is_encoded_twice() {
    let cloud = Cloud::start("").await;
    let token = cloud.server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        for path in ["/model/a.b-v1%3A0/invoke", "/model/a.b-v1:0/x%20y/~%7e/%C3%A4/+", "/x?a=b%20c&A=+~&c"] {
            for method in ["GET", "POST"] {
                let call = cloud.call(method, &format!("https://{DYNAMODB}{path}"), &token).proto(proto).body("{}");
                // It is no operation, but it is signed.
                assert_eq!(call.send().await.unwrap().status, StatusCode::BAD_REQUEST, "{path}");
                assert_eq!(cloud.account.refused(), Vec::<String>::new());
            }
        }
    }
}

/// Only what the vault needs is held back: neither what says its hash, nor anything at hosts that need no signature.
#[tokio::test]
async fn no_other_body_is_held_back() {
    let cloud = Cloud::start("").await;
    let token = cloud.server.token(&[]);
    let long = Bytes::from(vec![b'x'; 9 << 20]);
    for proto in [Proto::H1, Proto::H2] {
        let call = cloud.client.post(&format!("https://{STRIPE}/"), long.clone()).proto(proto);
        let reply = call.header("authorization", signed(&token, "s3")).send().await.unwrap();
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        // The host's credential is another one: it is what the signature is swapped for.
        assert_swapped(&cloud.stripe.last_request(), "authorization", &format!("Bearer {STRIPE_KEY}"), &token);
        assert_eq!(cloud.stripe.last_request().body.len(), long.len());
    }
}

/// Whether bodies are held back follows `vault.toml`, as the credential itself does.
#[tokio::test]
async fn a_credential_that_is_added_signs_at_once() {
    let account = Arc::new(Aws::new(ACCESS_KEY, SECRET_KEY, None));
    let upstream = Upstream::with(UpstreamConfig::new(&[DYNAMODB]).aws(&account)).await;
    let config = WorldConfig::new(upstream_section(DYNAMODB, &upstream, ""));
    let server = Server::start(config.env("AWS_KEY", ACCESS_KEY).env("AWS_SECRET", SECRET_KEY)).await;
    let (client, token) = (server.client(), server.token(&[]));
    let post = || {
        let call = client.post(&format!("https://{DYNAMODB}/"), "{\"TableName\":\"t\"}");
        let call = call.header("x-amz-target", "DynamoDB_20120810.GetItem");
        call.header("authorization", signed(&token, "dynamodb")).send()
    };
    assert_refusal(&post().await.unwrap(), 403, "No credentials configured for this host");
    let generation = server.generation().await;
    let vault: Vec<&str> = VAULT.lines().filter(|line| !line.starts_with("session_token")).collect();
    std::fs::write(server.vault_file(), vault.join("\n")).unwrap();
    server.wait_generation(generation + 1).await;
    let reply = post().await.unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{} {:?}", reply.text(), account.refused());
    assert!(!upstream.last_request().headers.contains_key("x-amz-security-token"));
}

#[tokio::test]
async fn presigned_urls() {
    let cloud = Cloud::start("").await;
    let token = cloud.server.token(&[]);
    for proto in [Proto::H1, Proto::H2] {
        let url = |own: &str| format!("https://{BUCKET}/dir/a%20b.txt?{own}{}", presigned(&token, &now()));
        let put =
            cloud.client.call(Method::PUT, &url("")).proto(proto).body("presigned").header("content-type", "text/x");
        cloud.assert_signed(&put.send().await.unwrap(), &token);
        for own in ["", "response-content-type=text%2Fplain&a=+b&&", "x-id=GetObject&X-Amz-Security-Token=mine&"] {
            let get = cloud.client.get(&url(own)).proto(proto).header("x-amz-security-token", "mine");
            let reply = get.send().await.unwrap();
            cloud.assert_signed(&reply, &token);
            assert_eq!(reply.text(), "presigned");
            assert!(!cloud.upstream.last_request().contains("mine"), "{:?}", cloud.upstream.last_request());
        }
        // The same token in a header, too: one of both is enough for AWS.
        let get = cloud.client.get(&url("")).proto(proto).header("authorization", signed(&token, "s3"));
        cloud.assert_signed(&get.send().await.unwrap(), &token);
        let before = cloud.upstream.request_count();
        let elsewhere =
            [format!("{}&a={token}", url("")), url(&format!("a=%22{token}%22&")), url(&format!("{token}&"))];
        for url in elsewhere.iter().chain([&url("").replace(BUCKET, STRIPE)]) {
            let reply = cloud.client.get(url).proto(proto).send().await.unwrap();
            assert_refusal(&reply, 401, "Unauthorized: a token in the URL");
        }
        let twice = format!("{}&X-Amz-Date=20010101T000000Z", url(""));
        assert_refusal(
            &cloud.client.get(&twice).proto(proto).send().await.unwrap(),
            401,
            "Unauthorized: a token in the URL",
        );
        let reply = cloud.client.get(&url("").replace("Expires=600", "Expires=0")).proto(proto).send().await.unwrap();
        assert_refusal(&reply, 403, "The request cannot be signed for ");
        assert_eq!((cloud.upstream.request_count(), cloud.stripe.request_count()), (before, 0));
    }
    // It is as old as its date, whatever the vault's clock says.
    let url = format!("https://{BUCKET}/dir/a?{}", presigned(&token, "20130524T000000Z"));
    assert_eq!(cloud.client.get(&url).send().await.unwrap().status, StatusCode::FORBIDDEN);
    assert!(cloud.account.refused()[0].contains("seconds ago"), "{:?}", cloud.account.refused());
}

#[tokio::test]
async fn what_is_refused_for_other_credentials_is_for_signatures() {
    let cloud = Cloud::start("methods = [\"GET\"]\npaths = [\"/photos/**\"]").await;
    let token =
        cloud.server.token(&["--hosts", S3, "--hosts", BUCKET, "--paths", "/photos/public/**", "--paths", "/a"]);
    let other = cloud.server.token(&[]);
    let url = format!("https://{S3}/photos/public/a");
    for proto in [Proto::H1, Proto::H2] {
        let call = |method: &str, url: &str, token: &str| {
            cloud.call(method, url, token).proto(proto).header(UNSIGNED.0, UNSIGNED.1)
        };
        for (call, status, beginning) in [
            (call("PUT", &url, &token), 403, "Unauthorized: method not allowed"),
            (call("GET", &url.replace("photos", "x"), &token), 403, "Unauthorized: path not allowed"),
            (call("GET", &url.replace("public", "private"), &token), 403, "Unauthorized: path not allowed"),
            (call("GET", &format!("https://{DYNAMODB}/a"), &token), 403, "Unauthorized: host not allowed"),
            (call("GET", &url, &token[..60]), 401, "Unauthorized: "),
            (call("GET", &url, &format!("{token}A")), 401, "Unauthorized: "),
            (call("GET", &url, &token).header("x-api-key", &other), 401, "Unauthorized: the request has two different tokens"),
            (call("GET", &url, &token).header("x-amz-security-token", &other), 401, "Unauthorized: the request has two"),
            (call("GET", &url, &token).header("x-amz-meta-a", &token), 401, "Unauthorized: a token in the header"),
            (cloud.client.get(&url).header("authorization", signed(&token, "s3")).header("authorization", signed(&other, "s3")), 401, "Unauthorized: "),
            (cloud.client.get(&url).header("authorization", signed(&token, "s3").replace("aws4_request", "x")), 401, "Unauthorized: a token in an unusual form"),
            (cloud.client.get(&url).header("authorization", format!("AWS {token}:c2lnbmF0dXJl")), 401, "Unauthorized: "),
            (
                cloud.client.get(&url).header(
                    "authorization",
                    format!("AWS4-ECDSA-P256-SHA256 Credential={token}/20010101/s3/aws4_request, SignedHeaders=host, Signature=0"),
                ),
                403,
                "The request cannot be signed for s3.eu-central-1.amazonaws.com: its signature is asymmetric",
            ),
        ] {
            assert_refusal(&call.send().await.unwrap(), status, beginning);
        }
        let reply = cloud.client.get(&format!("{url}?{}", presigned(&other, &now()))).proto(proto);
        let reply = reply.header("x-api-key", &token).send().await.unwrap();
        assert_refusal(&reply, 401, "Unauthorized: the request has two different tokens");
    }
    assert_eq!((cloud.upstream.request_count(), cloud.stripe.request_count()), (0, 0));
    // The same token for all that a client's environment may hold.
    let call = cloud.call("GET", &url, &token).header(UNSIGNED.0, UNSIGNED.1).header("x-amz-security-token", &token);
    assert_eq!(call.send().await.unwrap().status, StatusCode::NOT_FOUND);
    assert_eq!(cloud.account.refused(), Vec::<String>::new());
    assert!(!cloud.upstream.last_request().contains("acm_"));
}

/// Who signs with keys of their own is left alone, as with any other key.
#[tokio::test]
async fn signatures_without_a_token_pass_unchanged() {
    let cloud = Cloud::start("").await;
    let own = signed("AKIAIOSFODNN7EXAMPLE", "s3");
    let url = format!("https://{BUCKET}/a?{}", presigned("AKIAIOSFODNN7EXAMPLE", "20130524T000000Z"));
    for proto in [Proto::H1, Proto::H2] {
        let call = cloud.client.get(&url).proto(proto).header("authorization", &own);
        assert_eq!(call.header("x-amz-security-token", "own").send().await.unwrap().status, StatusCode::FORBIDDEN);
        let seen = cloud.upstream.last_request();
        assert_eq!(seen.authorization().as_deref(), Some(own.as_str()));
        assert_eq!(seen.header("x-amz-security-token").as_deref(), Some("own"));
        assert!(url.ends_with(&seen.path), "{}", seen.path);
    }
}
