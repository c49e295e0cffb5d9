//! Every shape, of every kind of refusal.

use super::*;
use crate::domain::macaroon::TokenError;

const HOST: &str = "api.example.com";

fn shape(host: &str, headers: &[(&str, &str)]) -> Shape {
    Reader::of(headers.iter().map(|(name, value)| (*name, value.as_bytes()))).shape(host)
}

fn denials() -> Vec<Denial> {
    let host = || HOST.parse().unwrap();
    vec![
        Denial::UnknownUpstream("gone.example.com".to_owned()),
        Denial::NoToken,
        Denial::SeveralTokens,
        Denial::MisplacedToken("the header `x-<\"&'>`".to_owned()),
        Denial::Token(TokenError::Signature),
        Denial::LimitMethod { host: host(), method: "DELETE".to_owned() },
        Denial::LimitPath { host: host(), path: "/<a href=\"x\">&amp;'\\u{1b}]]>".to_owned() },
        Denial::NoCredential(host()),
        Denial::CredentialUnavailable(host()),
    ]
}

fn remedies() -> Vec<Remedy> {
    let toml = Offer::Toml {
        section: "[upstream.\"api.example.com\"]".to_owned(),
        lines: vec!["methods = [\"GET\", \"DELETE\"]".to_owned(), "paths = [\"/<&>\"]".to_owned()],
    };
    let command = Offer::Command("mint --hosts api.example.com --paths '/<&>\"'".to_owned());
    let say = || "have it so <&>".to_owned();
    vec![
        Remedy { say: say(), offer: None },
        Remedy { say: say(), offer: Some(toml) },
        Remedy { say: say(), offer: Some(command) },
    ]
}

const SHAPES: [Shape; 11] = [
    Shape::Text,
    Shape::Grpc,
    Shape::Error,
    Shape::Anthropic,
    Shape::GitHub,
    Shape::Google,
    Shape::Npm,
    Shape::S3,
    Shape::AwsQuery,
    Shape::Ec2,
    Shape::AwsJson,
];

#[test]
fn programs_get_what_their_api_speaks_and_people_get_text() {
    let curl = ("user-agent", "curl/8.5.0");
    let json = ("accept", "application/json");
    for (host, headers, expected) in [
        (HOST, vec![], Shape::Error),
        ("api.openai.com", vec![json], Shape::Error),
        ("api.stripe.com", vec![("accept", "*/*"), ("user-agent", "Stripe/v1 PythonBindings/12.0")], Shape::Error),
        (HOST, vec![("accept", "text/html, Application/JSON")], Shape::Error),
        (HOST, vec![("accept", "*/*"), curl], Shape::Text),
        (HOST, vec![json, curl], Shape::Error),
        ("api.anthropic.com", vec![json], Shape::Anthropic),
        ("api.anthropic.com", vec![curl], Shape::Text),
        ("api.anthropic.com.evil.example", vec![], Shape::Error),
        ("github.com", vec![("user-agent", "git/2.47.3"), ("accept", "*/*")], Shape::Text),
        ("api.github.com", vec![("accept", "application/vnd.github.merge-info-preview+json")], Shape::GitHub),
        ("api.corp.ghe.com", vec![], Shape::GitHub),
        (HOST, vec![("accept", "text/html,*/*")], Shape::Text),
        (HOST, vec![("accept", "text/*")], Shape::Text),
        (HOST, vec![("accept", "text/event-stream")], Shape::Error),
        ("storage.googleapis.com", vec![], Shape::Google),
        ("googleapis.com", vec![], Shape::Google),
        ("evilgoogleapis.com", vec![], Shape::Error),
        (HOST, vec![("content-type", "application/grpc"), ("user-agent", "curl/8")], Shape::Grpc),
        ("pubsub.googleapis.com", vec![("content-type", "Application/gRPC+proto")], Shape::Grpc),
        (HOST, vec![("user-agent", "npm/10.8.2 node/v22.0.0"), json], Shape::Npm),
        ("bucket.s3.eu-central-1.amazonaws.com", vec![], Shape::S3),
        ("s3.amazonaws.com", vec![], Shape::S3),
        ("s3-eu-west-1.amazonaws.com", vec![], Shape::S3),
        ("s3.amazonaws.com", vec![curl], Shape::Text),
        ("minio.example.com", vec![("x-amz-content-sha256", "UNSIGNED-PAYLOAD")], Shape::S3),
        ("dynamodb.eu-central-1.amazonaws.com", vec![("x-amz-target", "DynamoDB_20120810.GetItem")], Shape::AwsJson),
        (HOST, vec![("content-type", "application/x-amz-json-1.0")], Shape::AwsJson),
        ("lambda.us-east-1.amazonaws.com", vec![], Shape::AwsJson),
        ("lambda.us-east-1.amazonaws.com", vec![("x-amz-content-sha256", "0")], Shape::AwsJson),
        (
            "iam.amazonaws.com",
            vec![("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
            Shape::AwsQuery,
        ),
        ("api.stripe.com", vec![("content-type", "application/x-www-form-urlencoded")], Shape::Error),
        ("ec2.eu-central-1.amazonaws.com", vec![("content-type", "application/x-www-form-urlencoded")], Shape::Ec2),
        ("route53.amazonaws.com", vec![], Shape::AwsQuery),
        ("amazonaws.com.evil.example", vec![], Shape::Error),
        ("notamazonaws.com", vec![], Shape::Error),
    ] {
        assert_eq!(shape(host, &headers), expected, "{host} {headers:?}");
    }
}

/// In every shape the reader finds the reason, the help and what to copy, whole.
#[test]
fn every_shape_says_all_of_it_and_can_be_read() {
    for denial in denials() {
        for remedy in remedies() {
            let sentence = format!("{denial}. Help: {}", remedy.one_line());
            for shape in SHAPES {
                let refusal = write(shape, &denial, &remedy);
                let body = refusal.body.as_str();
                let is_401 = denial.status() == 401;
                let status = if shape == Shape::Google && is_401 { 403 } else { denial.status() };
                assert_eq!(refusal.status, status, "{shape:?}");
                let json = || serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{error}: {body}"));
                let message = match shape {
                    Shape::Text => {
                        assert!(body.starts_with(&format!("{denial}\nHelp: {}", remedy.say)), "{body}");
                        let offered = remedy.offer.as_ref().map(Offer::text).unwrap_or_default();
                        assert!(offered.lines().all(|line| body.contains(&format!("\n    {line}\n"))), "{body}");
                        sentence.clone()
                    }
                    Shape::Grpc => body.to_owned(),
                    Shape::Error | Shape::Anthropic => {
                        let error = &json()["error"];
                        assert_eq!(error["code"], denial.reason());
                        error["message"].as_str().unwrap().to_owned()
                    }
                    Shape::Google => {
                        let error = &json()["error"];
                        assert_eq!(error["code"], status);
                        assert_eq!(error["errors"][0]["message"], error["message"]);
                        error["message"].as_str().unwrap().to_owned()
                    }
                    Shape::Npm => json()["error"].as_str().unwrap().to_owned(),
                    Shape::GitHub | Shape::AwsJson => json()["message"].as_str().unwrap().to_owned(),
                    Shape::S3 | Shape::AwsQuery | Shape::Ec2 => xml_message(body),
                };
                assert_eq!(message, sentence, "{shape:?}");
                for (name, value) in &refusal.headers {
                    assert!(
                        !name.is_empty() && value.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                        "{name}: {value}"
                    );
                }
            }
        }
    }
}

/// The text of `<Message>`, read back by the plainest reader of XML.
fn xml_message(body: &str) -> String {
    let mut open = Vec::new();
    let mut message = String::new();
    let mut rest = body.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").unwrap();
    while let Some((text, tag)) = rest.split_once('<') {
        if open.last() == Some(&"Message") {
            message.push_str(text);
        }
        let (name, after) = tag.split_once('>').unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{body}"),
            None => open.push(name),
        }
        rest = after;
    }
    assert!(open.is_empty() && rest == "\n", "{body}");
    message.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[test]
fn the_parts_are_there_for_programs_to_take() {
    let denial = Denial::NoToken;
    let [_, toml, command] = remedies().try_into().unwrap();
    let error = |remedy: &Remedy| serde_json::from_str::<Value>(&write(Shape::Error, &denial, remedy).body).unwrap();
    let body = error(&toml);
    assert_eq!(body["error"]["type"], REFUSAL);
    assert_eq!(body["error"]["param"], Value::Null);
    let expected = "[upstream.\"api.example.com\"]\nmethods = [\"GET\", \"DELETE\"]\npaths = [\"/<&>\"]";
    assert_eq!(body["error"]["toml"], expected);
    assert_eq!(error(&command)["error"]["command"], "mint --hosts api.example.com --paths '/<&>\"'");
    let read = |shape| serde_json::from_str::<Value>(&write(shape, &denial, &toml).body).unwrap();
    let anthropic = read(Shape::Anthropic);
    assert_eq!((&anthropic["type"], &anthropic["error"]["type"]), (&json!("error"), &json!("authentication_error")));
    assert_eq!(read(Shape::GitHub)["status"], "401");
    assert_eq!(read(Shape::Google)["error"]["status"], "PERMISSION_DENIED");
    assert_eq!(read(Shape::AwsJson)["__type"], "AccessDeniedException");
}

#[test]
fn headers_are_those_of_the_shape_and_of_the_reason() {
    let header = |shape, denial: &Denial, name: &str| {
        let headers = write(shape, denial, &remedies()[0]).headers;
        headers.into_iter().filter(|(header, _)| *header == name).map(|(_, value)| value).collect::<Vec<_>>()
    };
    let unavailable = Denial::CredentialUnavailable(HOST.parse().unwrap());
    for shape in SHAPES {
        assert_eq!(header(shape, &unavailable, "retry-after"), ["1"]);
        assert!(header(shape, &Denial::NoToken, "retry-after").is_empty());
        assert_eq!(header(shape, &Denial::NoToken, "www-authenticate").len(), 2);
        assert_eq!(header(shape, &Denial::NoToken, "cache-control"), ["no-store"]);
        assert_eq!(header(shape, &Denial::NoToken, "content-type").len(), 1);
    }
    assert_eq!(header(Shape::S3, &unavailable, "content-type"), ["application/xml"]);
    assert_eq!(header(Shape::AwsJson, &unavailable, "x-amzn-errortype"), ["ServiceUnavailableException"]);
}

#[test]
fn what_xml_cannot_write_is_replaced_and_a_header_is_not_too_long() {
    assert_eq!(xml_text("a\u{1}<b>&\u{1f600}\u{fffe}"), "a\u{fffd}&lt;b&gt;&amp;\u{1f600}\u{fffd}");
    let remedy = Remedy { say: "ü".repeat(5000), offer: None };
    let body = write(Shape::Grpc, &Denial::NoToken, &remedy).body;
    assert_eq!(body.chars().count(), 2001);
}
