//! What a sandbox reaches of the host by plain HTTP to its listener, as whom, and what it does not reach.

use std::fs;

use serde_json::{Value, json};

use super::yard::{DEADLINE, Yard, container, docker, kill9, wait_until};

const ASK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/sandbox/ask.py");

/// Sends these texts from a sandbox; the status and the text of each answer.
fn ask(yard: &Yard, project: &str, requests: &[String]) -> Vec<(u16, String)> {
    fs::copy(ASK, yard.workspace(project, "ask.py")).unwrap();
    fs::write(yard.workspace(project, "requests"), json!(requests).to_string()).unwrap();
    let script = "exec python3 /workspace/ask.py </workspace/requests";
    let said = docker(&["exec", "-u", "0", &container(project), "sh", "-c", script]);
    let answers: Vec<String> = serde_json::from_str(&said).unwrap();
    let read = |answer: String| {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default(), body.to_owned())
    };
    answers.into_iter().map(read).collect()
}

/// A request with these lines of head.
fn request(target: &str, lines: &[&str]) -> String {
    format!("GET {target} HTTP/1.1\r\n{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"))
}

/// Who the host takes a sandbox for.
fn who(yard: &Yard, project: &str) -> Value {
    let (status, text) = ask(yard, project, &[request("/sandbox", &["Host: host.agent-creds"])]).remove(0);
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn the_host_knows_who_asks(runtime: &str) {
    let yard = Yard::new();
    let (own, other) = (yard.project("own", runtime, ""), yard.project("other", runtime, ""));
    yard.launch(&own);
    yard.launch(&other);
    let (me, they) = (who(&yard, &own), who(&yard, &other));
    assert_eq!((&me["name"], &they["name"]), (&json!(own), &json!(other)));
    let their_life = they["instance"].as_str().unwrap();

    // Another sandbox's identity, in every spelling.
    let host = "Host: host.agent-creds";
    let (name, life) = (format!("x-agent-creds-sandbox: {other}"), format!("x-agent-creds-instance: {their_life}"));
    let upper = name.replace("x-agent-creds-sandbox", "X-AGENT-CREDS-SANDBOX");
    let underscores = (name.replace("x-agent-creds-sandbox", "x_agent_creds_sandbox"), life.replace('-', "_"));
    let mixed = name.replace("x-agent-creds-sandbox", "X-Agent_Creds-Sandbox");
    let empty = "x-agent-creds-sandbox:";
    let forged: Vec<String> = [
        &[host, &name, &life][..],
        &[&name, &life, host],
        &[host, &name, &name, &life, &life],
        &[host, &upper, &life],
        &[host, &underscores.0, &underscores.1],
        &[host, &mixed, &name],
        &[host, empty, &name, empty],
        &[host, "Connection: x-agent-creds-sandbox, x-agent-creds-instance"],
        &[host, "Connection: x-agent-creds-sandbox", &name],
        &[host, "X-Forwarded-For: 127.0.0.1", "X-Envoy-Internal: true", &name, &life],
    ]
    .iter()
    .map(|lines| request("/sandbox", lines))
    .chain([format!(
        "GET /sandbox HTTP/1.1\r\n{host}\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n{name}\r\n\
         {life}\r\n\r\n"
    )])
    .collect();
    for ((status, text), forged) in ask(&yard, &own, &forged).into_iter().zip(&forged) {
        assert_eq!(status, 200, "{forged:?}: {text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), me, "{forged:?}");
    }
    // The neighbour's listener is no way to be the neighbour: it is not reached.
    let theirs: Value =
        serde_json::from_str(&docker(&["exec", &container(&other), "cat", "/opt/agent-creds/policy.json"])).unwrap();
    let address = theirs["host"]["address"].as_str().unwrap();
    let reached = format!("curl -s --max-time 10 -H '{host}' http://{address}/sandbox");
    let said = yard.run(&own, &reached).stdout;
    assert!(said.is_empty() || serde_json::from_str::<Value>(&said).unwrap() == me, "{said}");

    which_names_lead_to_the_host(&yard, &own);
    // Another life is another instance.
    yard.stop(&own);
    yard.launch(&own);
    let again = who(&yard, &own);
    assert_eq!(again["name"], me["name"]);
    assert_ne!(again["instance"], me["instance"]);
    // Nobody to ask: said so, at once.
    kill9(yard.server_pid());
    let lines = [request("/sandbox", &[host])];
    wait_until("Envoy says that the server does not answer", DEADLINE, || {
        let (status, text) = ask(&yard, &own, &lines).remove(0);
        if status == 503 && text.contains("agent-creds serve") { Ok(()) } else { Err(format!("{status} {text}")) }
    });
    // The next server takes over Envoy and sandbox, and serves on.
    yard.launch(&own);
    assert_eq!(who(&yard, &own), again);
}

fn which_names_lead_to_the_host(yard: &Yard, own: &str) {
    let to_host = ["localhost:9222", "LocalHost:9222", "127.0.0.1:9222", "[::1]:9222", "localhost:65535"];
    let requests: Vec<_> = to_host.map(|host| request("/json/version", &[&format!("Host: {host}")])).into();
    for ((status, text), host) in ask(yard, own, &requests).into_iter().zip(to_host) {
        assert_eq!(status, 403, "{host}: {text}");
        assert!(text.contains("[[cdp_target]]"), "{host}: {text}");
    }
    let refused = [
        "api.example.com",
        "localhost.evil.com",
        "evil.localhost",
        "host.agent-creds.evil.com",
        "127.0.0.2",
        "127.0.0.1.",
        "[::2]:9222",
        "localhost:9222@evil.com",
        "evil.com:9222",
        "169.254.169.254",
    ];
    let mut requests: Vec<_> = refused.map(|host| request("/json/version", &[&format!("Host: {host}")])).into();
    requests.push(request("/sandbox", &["Host: host.agent-creds", "Host: localhost:9222"]));
    requests.push(request("/sandbox", &[]));
    // Absolute forms are no path of any route.
    let absolute = [["Host: evil.com"], ["Host: host.agent-creds"]];
    requests.extend(absolute.map(|lines| request("http://host.agent-creds/sandbox", &lines)));
    for ((status, text), request) in ask(yard, own, &requests).into_iter().zip(&requests) {
        let expected = if request.starts_with("GET http:") { 404 } else { 400 };
        assert_eq!(status, expected, "{request:?}: {text}");
        assert!(!text.contains("\"name\""), "{request:?}: {text}");
    }
    // The path arrives as it is: the server, not Envoy, reads it.
    let paths = ["/x/../sandbox", "//sandbox", "/%73andbox", "/sandbox/", "/sandbox%2f"];
    let requests: Vec<_> = paths.map(|path| request(path, &["Host: host.agent-creds"])).into();
    for ((status, text), path) in ask(yard, own, &requests).into_iter().zip(paths) {
        assert_eq!(status, 404, "{path}: {text}");
    }
    // An upgrade to anything but what is asked for by its name.
    let upgrade = ["Host: evil.com", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"];
    let (status, text) = ask(yard, own, &[request("/", &upgrade)]).remove(0);
    assert!(matches!(status, 400 | 403), "{status} {text}");
}

#[test]
fn the_host_knows_who_asks_from_runc() {
    the_host_knows_who_asks("runc");
}

#[test]
fn the_host_knows_who_asks_from_gvisor() {
    the_host_knows_who_asks("runsc");
}
