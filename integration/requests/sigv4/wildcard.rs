//! Signatures through a wildcard upstream: each name below it is signed for, as the name that it is.

use super::*;

const WILDCARD: &str = "*.eu-central-1.amazonaws.com";

async fn cloud(limits: &str) -> Cloud {
    Cloud::with(|upstream| upstream_section(WILDCARD, upstream, limits)).await
}

#[tokio::test]
async fn a_signature_by_a_token_becomes_one_by_the_key_below_a_wildcard() {
    let cloud = cloud("").await;
    let token = cloud.server.token(&["--hosts", WILDCARD]);
    for proto in [Proto::H1, Proto::H2] {
        for host in [format!("{S3}/photos"), BUCKET.to_owned()] {
            let url = format!("https://{host}/dir/b%20c%3A(d).txt");
            let put = cloud.call("PUT", &url, &token).proto(proto).body("hello").header(UNSIGNED.0, UNSIGNED.1);
            cloud.assert_signed(&put.send().await.unwrap(), &token);
            let seen = cloud.upstream.last_request();
            assert_eq!(seen.header("x-amz-security-token").as_deref(), Some(SESSION));
            assert!(url.starts_with(&format!("https://{}/", seen.host)), "{seen:?}");
            let get = cloud.call("GET", &url, &token).proto(proto).header(UNSIGNED.0, UNSIGNED.1);
            let reply = get.header("range", "bytes=1-3").send().await.unwrap();
            cloud.assert_signed(&reply, &token);
            assert_eq!((reply.text().as_str(), reply.status), ("ell", StatusCode::PARTIAL_CONTENT));
            let reply = cloud.client.get(&format!("{url}?{}", presigned(&token, &now()))).proto(proto).send().await;
            let reply = reply.unwrap();
            cloud.assert_signed(&reply, &token);
            assert_eq!(reply.text(), "hello");
        }
    }
    assert!(cloud.account.object("photos", "dir/b c:(d).txt").is_some());
    let log = cloud.server.log();
    assert!(!log.contains(SECRET_KEY) && !log.contains(SESSION), "{log}");
}

/// The route of a wildcard tells the vault its limit, and holds bodies back, as that of a host does.
#[tokio::test]
async fn bodies_are_held_back_to_be_signed_below_a_wildcard() {
    let cloud = cloud("").await;
    let token = cloud.server.token(&[]);
    let url = format!("https://{DYNAMODB}/");
    let post = |length: usize| {
        let body = format!(
            "{{\"TableName\":\"t\",\"Item\":{{\"id\":{{\"S\":\"1\"}},\"filler\":{{\"S\":\"{}\"}}}}}}",
            "x".repeat(length)
        );
        let call = cloud.call("POST", &url, &token).header("x-amz-target", "DynamoDB_20120810.PutItem");
        call.header("content-type", "application/x-amz-json-1.0").body(body)
    };
    const MOST: usize = 8 << 20;
    for proto in [Proto::H1, Proto::H2] {
        for length in [0, 300_000, MOST - 1_000] {
            cloud.assert_signed(&post(length).proto(proto).send().await.unwrap(), &token);
            assert!(cloud.upstream.last_request().body.len() > length);
        }
        let before = cloud.upstream.request_count();
        for length in [MOST, 2 * MOST] {
            let reply = post(length).proto(proto).send().await.unwrap();
            assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{length}: {}", reply.text());
        }
        let call = cloud.call("PUT", &format!("https://{BUCKET}/a"), &token).proto(proto).body("x");
        let reply = call.header("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD").send().await.unwrap();
        assert_refusal(&reply, 403, &format!("The request cannot be signed for {BUCKET}: each chunk of its body"));
        assert_eq!(cloud.upstream.request_count(), before);
        // What says its hash is not held back.
        let long = Bytes::from(vec![b'x'; 9 << 20]);
        let put = cloud.call("PUT", &format!("https://{BUCKET}/long"), &token).proto(proto).body(long);
        cloud.assert_signed(&put.header(UNSIGNED.0, UNSIGNED.1).send().await.unwrap(), &token);
    }
}

#[tokio::test]
async fn a_token_for_one_name_signs_for_no_other_below_the_wildcard() {
    let cloud = cloud("methods = [\"GET\"]").await;
    let token = cloud.server.token(&["--hosts", BUCKET]);
    for proto in [Proto::H1, Proto::H2] {
        let call = |method: &str, host: &str| {
            cloud.call(method, &format!("https://{host}/a"), &token).proto(proto).header(UNSIGNED.0, UNSIGNED.1)
        };
        for (call, beginning) in [
            (call("GET", S3), "Unauthorized: host not allowed"),
            (call("GET", "other.s3.eu-central-1.amazonaws.com"), "Unauthorized: host not allowed"),
            (call("PUT", BUCKET), "Unauthorized: method not allowed"),
        ] {
            assert_refusal(&call.send().await.unwrap(), 403, beginning);
        }
    }
    assert_eq!(cloud.upstream.request_count(), 0);
    let call = cloud.call("GET", &format!("https://{BUCKET}/a"), &token).header(UNSIGNED.0, UNSIGNED.1);
    assert_eq!(call.send().await.unwrap().status, StatusCode::NOT_FOUND);
    assert_eq!(cloud.account.refused(), Vec::<String>::new());
}
