//! What AWS publishes (the signing test suite, and the examples of S3's documentation), and what it does not.

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{BodySent, Signature, Signer, Unsigned, authorization, presigned};
use crate::domain::decision::Unsignable;
use crate::domain::secret::Secret;

/// 2015-08-30T12:36:00Z, and S3's 2013-05-24T00:00:00Z.
const SUITE: u64 = 1_440_938_160;
const S3: u64 = 1_369_353_600;
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec()).unwrap()
}

fn signer(session_token: Option<&str>) -> Signer {
    let key = secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    Signer::new(&secret("AKIDEXAMPLE"), &key, session_token.map(secret).as_ref(), None, None).unwrap()
}

fn s3_signer() -> Signer {
    let key = secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    Signer::new(&secret("AKIAIOSFODNN7EXAMPLE"), &key, None, None, None).unwrap()
}

fn client(region: &str, service: &str, signed_headers: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=acm_token/20990101/{region}/{service}/aws4_request, SignedHeaders={signed_headers}, \
         Signature=00"
    )
}

fn header((name, value): (&str, &str)) -> HeaderValue {
    HeaderValue { key: name.to_owned(), raw_value: value.as_bytes().to_vec(), ..Default::default() }
}

/// A request by a client that signed it, or did not.
struct Case<'a> {
    host: &'a str,
    method: &'a str,
    target: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: Option<&'a [u8]>,
}

impl Case<'_> {
    fn new<'a>(method: &'a str, target: &'a str, headers: &'a [(&'a str, &'a str)]) -> Case<'a> {
        Case { host: "example.amazonaws.com", method, target, headers, body: None }
    }

    fn signed(
        &self,
        signer: &Signer,
        by: Option<&Signature<'_>>,
        now: u64,
    ) -> Result<Vec<(String, String)>, Unsignable> {
        let headers: Vec<HeaderValue> = self.headers.iter().copied().map(header).collect();
        let Self { host, method, target, body, .. } = *self;
        let body = body.map(BodySent::Whole);
        let signed = signer.sign(&Unsigned { host, method, target, headers: &headers, body, signature: by }, now)?;
        Ok(signed
            .set
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .chain(signed.removed.into_iter().map(|name| (format!("-{name}"), String::new())))
            .collect())
    }
}

fn value<'a>(set: &'a [(String, String)], name: &str) -> Option<&'a str> {
    set.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

#[test]
fn the_signing_test_suite() {
    let by = client("us-east-1", "service", "host;x-amz-date");
    let by = authorization(by.as_bytes()).unwrap().unwrap();
    let unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for (method, target, headers, body, signed_headers, signature) in [
        (
            "GET",
            "/",
            &[][..],
            None,
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            &[],
            None,
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "GET",
            "/?Param1=value1",
            &[],
            None,
            "host;x-amz-date",
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
        ),
        (
            "GET",
            &format!("/{unreserved}"),
            &[],
            None,
            "host;x-amz-date",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "GET",
            &format!("/?{unreserved}={unreserved}"),
            &[],
            None,
            "host;x-amz-date",
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        ),
        (
            "GET",
            "/?%E1%88%B4=bar",
            &[],
            None,
            "host;x-amz-date",
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
        ),
        (
            "POST",
            "/",
            &[],
            Some(&b""[..]),
            "host;x-amz-date",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "POST",
            "/",
            &form,
            Some(b"Param1=value1"),
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ] {
        let set = Case { body, ..Case::new(method, target, headers) }.signed(&signer(None), Some(&by), SUITE).unwrap();
        assert_eq!(
            value(&set, "authorization").unwrap(),
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders={signed_headers}, Signature={signature}"
            ),
            "{method} {target}"
        );
        assert_eq!(value(&set, "x-amz-date"), Some("20150830T123600Z"));
        // No session token, and none of the client's either.
        assert_eq!(value(&set, "-x-amz-security-token"), Some(""), "{set:?}");
        assert_eq!(set.len(), 3, "{set:?}");
    }
}

#[test]
fn a_session_token_is_sent_and_signed() {
    const SESSION: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
    let signer = signer(Some(SESSION));
    assert!(!format!("{signer:?}").contains(SESSION) && !format!("{signer:?}").contains("AKID"), "{signer:?}");
    let by = client("us-east-1", "service", "host");
    let by = authorization(by.as_bytes()).unwrap().unwrap();
    // The client's own are not signed with.
    let own = [("x-amz-security-token", "mine"), ("x-amz-date", "20010101T000000Z"), ("x-amz-security-token", "mine")];
    let set = Case::new("GET", "/", &own).signed(&signer, Some(&by), SUITE).unwrap();
    assert_eq!(value(&set, "x-amz-security-token"), Some(SESSION));
    let authorization = value(&set, "authorization").unwrap();
    let expected = "SignedHeaders=host;x-amz-date;x-amz-security-token, \
                    Signature=07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8";
    assert!(authorization.ends_with(expected), "{authorization}");
    assert_eq!(value(&set, "-x-amz-security-token"), None);
}

#[test]
fn the_examples_of_s3() {
    let by = client("us-east-1", "s3", "Date;host;range;x-amz-date;x-amz-content-sha256");
    let by = authorization(by.as_bytes()).unwrap().unwrap();
    let hash = ("x-amz-content-sha256", EMPTY);
    let put = [
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
        // What Envoy may change is not signed, whatever the client signed.
        ("content-length", "21"),
        ("user-agent", "x"),
        ("accept-encoding", "identity"),
    ];
    for (method, target, headers, signature) in [
        (
            "GET",
            "/test.txt",
            &[("range", "bytes=0-9"), hash][..],
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        ("PUT", "/test$file.text", &put, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        ("PUT", "/test%24file.text", &put, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        ("GET", "/?lifecycle", &[hash], "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("GET", "/?max-keys=2&prefix=J", &[hash], "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ] {
        let case = Case { host: "examplebucket.s3.amazonaws.com", ..Case::new(method, target, headers) };
        let set = case.signed(&s3_signer(), Some(&by), S3).unwrap();
        let authorization = value(&set, "authorization").unwrap();
        assert!(authorization.ends_with(&format!("Signature={signature}")), "{method} {target}: {authorization}");
        assert_eq!(value(&set, "x-amz-content-sha256"), None, "the client's own travels on");
    }
}

#[test]
fn presigned_urls_are_signed_for_their_own_time() {
    let url = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=acm_token%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
               &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
    let by = presigned(url).unwrap().unwrap();
    assert_eq!((by.access_key_id(), by.region(), by.service()), ("acm_token", "us-east-1", "s3"));
    assert!(!format!("{by:?}").contains("acm_"));
    let case = Case { host: "examplebucket.s3.amazonaws.com", ..Case::new("GET", url, &[]) };
    let set = case.signed(&s3_signer(), Some(&by), SUITE).unwrap();
    let path = value(&set, ":path").unwrap();
    assert_eq!(
        path,
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2F\
         aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
    assert_eq!(value(&set, "authorization"), None);
    assert!(value(&set, "-x-amz-security-token").is_some(), "{set:?}");

    // The suite's, with a session token, and with parameters of its own around and between.
    const SESSION: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
    let url = |own: &str| {
        format!(
            "/?{own}x-amz-algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=acm_token%2F20150830%2fus-east-1%2fservice/aws4_request\
             &&X-Amz-Date=20150830T123600Z&X%2DAmz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Security-Token=mine&\
             X-Amz-Signature=0"
        )
    };
    for (own, session, signature) in [
        ("", Some(SESSION), "7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c"),
        ("Param2=value2&Param1=value1&", None, "86012e2c9ad4d77369f5d81c11f75158aae4f895a085212cc6d3f923d300bed5"),
    ] {
        let url = url(own);
        let by = presigned(&url).unwrap().unwrap();
        let set = Case::new("GET", &url, &[]).signed(&signer(session), Some(&by), 0).unwrap();
        let path = value(&set, ":path").unwrap();
        assert!(path.contains(&format!("&X-Amz-Signature={signature}")), "{path}");
        assert!(path.starts_with(&format!("/?{own}X-Amz-Algorithm=")), "{path}");
        assert!(!path.contains("mine") && !path.contains("acm_"), "{path}");
        assert_eq!(path.contains(SESSION), session.is_some());
    }
}

#[test]
fn what_stands_for_the_body() {
    let s3 = client("auto", "s3", "host");
    let s3 = authorization(s3.as_bytes()).unwrap().unwrap();
    let dynamodb = client("us-east-1", "dynamodb", "host");
    let dynamodb = authorization(dynamodb.as_bytes()).unwrap().unwrap();
    let said = |said: &'static str| [("x-amz-content-sha256", said)];
    fn case<'a>(method: &'a str, headers: &'a [(&'a str, &'a str)], body: Option<&'a [u8]>) -> Case<'a> {
        Case { body, ..Case::new(method, "/x", headers) }
    }
    for known in [EMPTY, "UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
        for by in [&s3, &dynamodb] {
            let set = case("PUT", &said(known), None).signed(&signer(None), Some(by), S3).unwrap();
            assert!(value(&set, "authorization").unwrap().contains("host;x-amz-content-sha256;x-amz-date"));
        }
    }
    for (unknown, reason) in [
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", Unsignable::SignedChunks),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", Unsignable::SignedChunks),
        ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", Unsignable::SignedChunks),
        ("unsigned-payload", Unsignable::Payload),
        ("", Unsignable::Payload),
        (&EMPTY[1..], Unsignable::Payload),
    ] {
        let refused = case("PUT", &said(unknown), Some(b"x")).signed(&signer(None), Some(&s3), S3);
        assert_eq!(refused.unwrap_err(), reason, "{unknown}");
    }
    let twice = [("x-amz-content-sha256", EMPTY), ("x-amz-content-sha256", EMPTY)];
    assert_eq!(case("PUT", &twice, None).signed(&signer(None), Some(&s3), S3).unwrap_err(), Unsignable::Payload);

    // Without a word of it: S3 is told what was signed; others have to be sent the hash of the body that is there.
    let set = case("PUT", &[], None).signed(&signer(None), Some(&s3), S3).unwrap();
    assert_eq!(value(&set, "x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
    let set = case("PUT", &[], Some(b"")).signed(&signer(None), Some(&s3), S3).unwrap();
    assert_eq!(value(&set, "x-amz-content-sha256"), Some(EMPTY));
    assert_eq!(case("POST", &[], None).signed(&signer(None), Some(&dynamodb), S3).unwrap_err(), Unsignable::NoBody);
    let of = |body| case("POST", &[], Some(body)).signed(&signer(None), Some(&dynamodb), S3).unwrap();
    assert_ne!(of(b"{}"), of(b"{ }"));
    let unsigned = |headers| Unsigned {
        host: "example.amazonaws.com",
        method: "POST",
        target: "/",
        headers,
        body: Some(BodySent::Cut),
        signature: Some(&dynamodb),
    };
    assert_eq!(signer(None).sign(&unsigned(&[]), S3).err(), Some(Unsignable::LongBody));
    assert!(signer(None).sign(&unsigned(&[header(("x-amz-content-sha256", EMPTY))]), S3).is_ok());
    assert_eq!(value(&of(b"{}"), "x-amz-content-sha256"), None);
    let empty = case("GET", &[], None).signed(&signer(None), Some(&dynamodb), S3).unwrap();
    assert_eq!(empty, case("GET", &[], Some(b"")).signed(&signer(None), Some(&dynamodb), S3).unwrap());
}

#[test]
fn where_a_signature_is_for() {
    let scope = |signer: &Signer, host: &str, by: Option<&str>| -> Result<String, Unsignable> {
        let by = by.map(|by| authorization(by.as_bytes()).unwrap().unwrap());
        let set = Case { host, ..Case::new("GET", "/", &[]) }.signed(signer, by.as_ref(), S3)?;
        let authorization = value(&set, "authorization").unwrap().to_owned();
        Ok(authorization.split_once("/20130524/").unwrap().1.split_once("/aws4").unwrap().0.to_owned())
    };
    let own = |region: Option<&str>, service: Option<&str>| {
        let (region, service) = (region.map(str::to_owned), service.map(str::to_owned));
        Signer::new(&secret("A"), &secret("S"), None, region, service).unwrap()
    };
    let by = client("eu-west-1", "sqs", "host");
    let amazon = "sts.us-east-2.amazonaws.com";
    for (signer, host, by, expected) in [
        (own(None, None), amazon, Some(&*by), Ok("eu-west-1/sqs")),
        (own(None, None), amazon, None, Ok("us-east-2/sts")),
        (own(Some("auto"), None), amazon, Some(&by), Ok("auto/sqs")),
        (own(None, Some("s3")), amazon, None, Ok("us-east-2/s3")),
        (own(Some("auto"), Some("s3")), "minio.example.com", None, Ok("auto/s3")),
        (own(Some("auto"), None), "minio.example.com", None, Err(Unsignable::NoScope)),
        (own(None, None), "minio.example.com", None, Err(Unsignable::NoScope)),
        (own(None, None), "minio.example.com", Some(&by), Ok("eu-west-1/sqs")),
    ] {
        assert_eq!(scope(&signer, host, by).as_deref(), expected.as_ref().copied(), "{host}");
    }
    let asymmetric =
        "AWS4-ECDSA-P256-SHA256 Credential=acm_x/20130524/s3/aws4_request, SignedHeaders=host, Signature=0";
    assert_eq!(scope(&own(None, None), amazon, Some(asymmetric)).unwrap_err(), Unsignable::Asymmetric);
    for id in ["A/B", "A,B", "A=B", "A B"] {
        assert!(Signer::new(&secret(id), &secret("S"), None, None, None).is_err(), "{id}");
    }
}

#[test]
fn authorization_headers() {
    for text in [
        "AWS4-HMAC-SHA256 Credential=K/20130524/r-1/s3/aws4_request, SignedHeaders=host;X-Amz-Date, Signature=ab",
        "aws4-hmac-sha256\tSignature=ab,Credential=K/20130524/r-1/s3/aws4_request,SignedHeaders=host;x-amz-date",
        " AWS4-HMAC-SHA256 , SignedHeaders=x-amz-date  Signature=ab  Credential=K/20130524/r-1/s3/aws4_request ,",
    ] {
        let signature = authorization(text.as_bytes()).unwrap().unwrap();
        assert_eq!((signature.access_key_id(), signature.region(), signature.service()), ("K", "r-1", "s3"), "{text}");
        assert!(signature.covers("x-amz-date") && !signature.covers("x-amz"), "{text}");
    }
    // Tokens that are presented together have a comma between them.
    let both = b"AWS4-HMAC-SHA256 Credential=acm_a,acm_b/20130524/r/s3/aws4_request, SignedHeaders=host, Signature=0";
    assert_eq!(authorization(both).unwrap().unwrap().access_key_id(), "acm_a,acm_b");
    for other in ["Bearer x", "AWS K:signature", "", "AWS4-HMAC-SHA256x Credential=K", "AWS4"] {
        assert!(authorization(other.as_bytes()).is_none(), "{other}");
    }
    let (credential, rest) = ("Credential=K/20130524/r/s3/aws4_request", "SignedHeaders=host, Signature=0");
    for fields in [
        String::new(),
        rest.to_owned(),
        credential.to_owned(),
        format!("{credential}, Signature=0"),
        format!("{credential}, SignedHeaders=host"),
        format!("{credential}, {credential}, {rest}"),
        format!("{credential}, {rest}, Signature=1"),
        format!("{credential}, {rest}, Other=1"),
        format!("{credential}, {rest}, Other"),
        format!("{credential}/x, {rest}"),
        format!("credential=K/20130524/r/s3/aws4_request, {rest}"),
        format!("Credential=/20130524/r/s3/aws4_request, {rest}"),
        format!("Credential=a b/20130524/r/s3/aws4_request, {rest}"),
        format!("Credential=K/2013052/r/s3/aws4_request, {rest}"),
        format!("Credential=K/20130524/r/s3, {rest}"),
        format!("Credential=K/20130524//s3/aws4_request, {rest}"),
        format!("Credential=K/20130524/r/s\u{e9}3/aws4_request, {rest}"),
        format!("Credential=K/20130524/{}/s3/aws4_request, {rest}", "r".repeat(41)),
        format!("{credential}, SignedHeaders={}, Signature=0", "a;".repeat(200)),
    ] {
        assert!(authorization(format!("AWS4-HMAC-SHA256 {fields}").as_bytes()).unwrap().is_err(), "{fields}");
    }
    assert!(authorization(b"AWS4-HMAC-SHA256 \xff").unwrap().is_err());
}

#[test]
fn presigned_urls() {
    let good = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=K/20130524/r/s3/aws4_request&X-Amz-Date=20130524T000000Z&\
                X-Amz-Expires=1&X-Amz-SignedHeaders=host;range&X-Amz-Signature=0";
    let read = |query: &str| presigned(&format!("/x?{query}")).map(|read| read.map(|by| by.covers("range")));
    assert_eq!(read(good), Some(Ok(true)));
    for none in ["", "a=b", "X-Amz-Signature=0", "xX-Amz-Credential=K"] {
        assert_eq!(read(none), None, "{none}");
    }
    for name in ["Algorithm", "SignedHeaders", "Signature"] {
        assert!(read(&good.replace(&format!("X-Amz-{name}"), "X")).unwrap().is_err(), "{name}");
    }
    for name in ["Date", "Expires"] {
        assert!(read(&good.replace(&format!("X-Amz-{name}"), "X")).unwrap().is_err(), "{name}");
    }
    for twice in ["x-amz-credential=K", "X%2dAmz-Date=20130524T000000Z", "X-Amz-Expires=1"] {
        assert!(read(&format!("{good}&{twice}")).unwrap().is_err(), "{twice}");
    }
    for (date, expires) in [
        ("20130524T000000", "1"),
        ("20131324T000000Z", "1"),
        ("19690524T000000Z", "1"),
        ("20130524T000000Z", "0"),
        ("20130524T000000Z", "604801"),
        ("20130524T000000Z", "-1"),
        ("20130524T000000Z", "99999999999999999999999"),
    ] {
        let url =
            format!("/x?{good}").replace("20130524T000000Z", date).replace("Expires=1", &format!("Expires={expires}"));
        let by = presigned(&url).unwrap().unwrap();
        let refused = Case::new("GET", &url, &[]).signed(&signer(None), Some(&by), S3);
        assert_eq!(refused.unwrap_err(), Unsignable::Validity, "{date} {expires}");
    }
}

#[test]
fn what_a_signature_cannot_cover_is_refused() {
    let by = client("us-east-1", "s3", "host");
    let by = authorization(by.as_bytes()).unwrap().unwrap();
    for target in ["*", "/?a=%ff", "/?%c3=1", "/\u{7f}?a#b", "x"] {
        let refused = Case::new("GET", target, &[]).signed(&signer(None), Some(&by), S3);
        if target.starts_with("/\u{7f}") {
            // S3's path is encoded, and a fragment is not part of a target: Envoy refuses it before.
            continue;
        }
        assert_eq!(refused.unwrap_err(), Unsignable::Encoding, "{target}");
    }
    let headers = [HeaderValue { key: "x-amz-meta-a".to_owned(), raw_value: vec![0xff], ..Default::default() }];
    let request = Unsigned {
        host: "s3.amazonaws.com",
        method: "GET",
        target: "/",
        headers: &headers,
        body: None,
        signature: Some(&by),
    };
    assert_eq!(signer(None).sign(&request, S3).err(), Some(Unsignable::Encoding));
}

proptest! {
    /// Of whatever looks like a signature, only what is harmless in another one is read.
    #[test]
    fn what_is_read_of_a_signature_is_harmless(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", " ", ",", "Credential=", "acm_a", "/20130524", "/us-east-1", "/s3",
                "/aws4_request", "SignedHeaders=", "host;range", ", Signature=0", "=", "\u{e4}", "/", "\n", "%2F", "&", "?",
                "X-Amz-Credential=", "X-Amz-Algorithm=AWS4-HMAC-SHA256&", "&X-Amz-Date=20130524T000000Z",
                "&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=0",
            ]),
            0..14,
        ),
    ) {
        let text = pieces.concat();
        for signature in [authorization(text.as_bytes()), presigned(&text)].into_iter().flatten().flatten() {
            let id = signature.access_key_id();
            prop_assert!(!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{}", text);
            for name in [signature.region(), signature.service()] {
                prop_assert!(name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)));
            }
        }
    }

    /// Whatever a client sends, there is a signature or a refusal, and the same one each time.
    #[test]
    fn signing_never_panics(
        path in "/[ -~\u{80}-\u{ff}]{0,30}",
        query in prop::option::of("[ -~]{0,40}"),
        headers in prop::collection::vec(("(x-amz-[a-z-]{0,8}|content-type|range|host)", prop::collection::vec(any::<u8>(), 0..12)), 0..6),
        service in prop::sample::select(vec!["s3", "sqs"]),
        in_query: bool,
        body in prop::option::of(prop::collection::vec(any::<u8>(), 0..8)),
    ) {
        let mut target = path;
        let client = client("us-east-1", service, "host;range;content-type");
        let signing = format!("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=acm_token%2F20130524%2Fr%2F{service}%2F\
                               aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=0");
        let target = match (query, in_query) {
            (Some(query), true) => { target.push_str(&format!("?{query}&{signing}")); target }
            (None, true) => { target.push_str(&format!("?{signing}")); target }
            (Some(query), false) => { target.push_str(&format!("?{query}")); target }
            (None, false) => target,
        };
        let by = if in_query { presigned(&target) } else { authorization(client.as_bytes()) };
        let by = by.and_then(Result::ok);
        let headers: Vec<HeaderValue> = headers
            .into_iter()
            .map(|(key, raw_value)| HeaderValue { key, raw_value, ..Default::default() })
            .collect();
        let request = Unsigned { host: "example.amazonaws.com", method: "PUT", target: &target, headers: &headers, body: body.as_deref().map(BodySent::Whole), signature: by.as_ref() };
        let signer = signer(Some("SESSION"));
        let (once, again) = (signer.sign(&request, S3), signer.sign(&request, S3));
        if let Ok(signed) = &once {
            let path = signed.set.iter().find(|(name, _)| *name == ":path");
            prop_assert_eq!(path.is_some(), in_query && by.is_some());
            prop_assert!(path.is_none_or(|(_, path)| path.contains("AKIDEXAMPLE") && !path.contains("acm_token%2F")));
        }
        prop_assert_eq!(once.map(|signed| signed.set), again.map(|signed| signed.set));
    }
}
