//! The script that masks, made to fail: what it has not looked into does not come, whatever fails.
//!
//! The script is the one that is shipped, with an error put into it, in a real Envoy of the test's own.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::probe::eventually;
use crate::support::server::{ForeignEnvoy, STRIPE_KEY as KEY, envoy_bin, loopback};

const SCRIPT: &str = include_str!("../../../src/xds/resources/redact.lua");
const PATIENCE: Duration = Duration::from_secs(20);

/// What an upstream may answer: a name, and the pieces, each of which arrives by itself.
fn answers() -> Vec<(&'static str, Vec<String>)> {
    let (one, two) = (format!("one {KEY} and {}", &KEY[..12]), format!("{} and {KEY} three", &KEY[12..]));
    let head = format!("HTTP/1.1 200 OK\r\nx-key: {KEY}\r\nx-other: a\r\nset-cookie: {KEY}\r\nset-cookie: {KEY}2\r\n");
    let length = one.len() + two.len();
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    vec![
        ("headers", vec![format!("{head}content-length: 0\r\n\r\n")]),
        ("whole", vec![format!("{head}content-length: {length}\r\n\r\n{one}{two}")]),
        ("pieces", vec![format!("{head}content-length: {length}\r\n\r\n"), one.clone(), two.clone()]),
        ("chunked", vec![chunked.clone(), chunk(&one), chunk(&two), "0\r\n\r\n".to_owned()]),
        ("trailers", vec![chunked, chunk(&one), chunk(&two), format!("0\r\nx-key: {KEY}\r\nx-more: {KEY}\r\n\r\n")]),
    ]
}

/// Where the script fails: what stands there, and what is put in its place.
const ERROR: &str = "error('sabotage') ";
fn sabotages() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut before = |place: &str| all.push((place.to_owned(), format!("{ERROR}{place}")));
    before("local needles = known[text]");
    before("local told = handle:streamInfo()");
    before("local values, n = {}, 0");
    before("headers:remove(name)\n    for i");
    before("for i = 1, #again do");
    before("local encoding = headers:get");
    before("local carry, bytes = \"\", \"\"");
    before("local length = chunk:length()");
    before("state.length = length");
    before("bytes = chunk:getBytes(0, length)");
    before("local open = begun(text, needles)");
    before("if out ~= bytes then chunk:setBytes(out) end");
    before("collect(length)");
    before("if hold and carry ~= \"\" then");
    before("local trailers = handle:trailers()\n  if not trailers then");
    before("mask_headers(trailers, needles)");
    before("local notes = {}");
    // From the second chunk on.
    let length = "local length = chunk:length()";
    let at_second = format!("state.seen = (state.seen or 0) + 1 if state.seen > 1 then {ERROR}end {length}");
    all.push((length.to_owned(), at_second));
    let set = "if out ~= bytes then chunk:setBytes(out) end";
    all.push((set.to_owned(), format!("{set} if carry == '' and hold then {ERROR}end")));
    // A header that cannot be changed.
    all.push(("headers:remove(name)\n    for i".to_owned(), "headers:remove(nil)\n    for i".to_owned()));
    all
}

/// An upstream that answers by the last part of the path.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await.is_ok_and(|length| length > 0) {
        while let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8(read.drain(..end + 4).collect()).unwrap();
            let name = head.split(' ').nth(1).unwrap().rsplit('/').next().unwrap();
            let pieces = answers().into_iter().find(|(known, _)| *known == name).map(|(_, pieces)| pieces);
            let last = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast".to_owned();
            for piece in pieces.unwrap_or_else(|| vec![last]) {
                if stream.write_all(piece.as_bytes()).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// An Envoy in which each of `scripts` looks into the answers below a path, `/0/`, `/1/` and so on, as ours does for the vault.
fn bootstrap(dir: &str, listen: SocketAddr, upstream: SocketAddr, scripts: &[String]) -> Value {
    let typed = |kind: &str, mut value: Value| {
        value["@type"] = format!("type.googleapis.com/envoy.{kind}").into();
        value
    };
    let address = |at: SocketAddr| json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}});
    let trailers = json!({"enable_trailers": true});
    let routes = scripts.iter().enumerate().map(|(number, script)| {
        let script = typed("extensions.filters.http.lua.v3.LuaPerRoute", json!({"source_code": {"inline_string": script}}));
        json!({"match": {"prefix": format!("/{number}/")}, "route": {"cluster": "upstream"}, "typed_per_filter_config": {"redact": script}})
    });
    let told =
        json!([{"metadata_namespace": "envoy.filters.http.ext_authz", "value": {"redact": KEY, "redact_body": "1"}}]);
    let filters = json!([
        {"name": "told", "typed_config": typed("extensions.filters.http.set_metadata.v3.Config", json!({"metadata": told}))},
        {"name": "redact", "typed_config": typed("extensions.filters.http.lua.v3.Lua", json!({"default_source_code": {"inline_string": SCRIPT}}))},
        {"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router", json!({}))},
    ]);
    let manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({"stat_prefix": "redact", "http_protocol_options": trailers, "http_filters": filters,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes.collect::<Vec<_>>()}]}}),
    );
    let options = typed(
        "extensions.upstreams.http.v3.HttpProtocolOptions",
        json!({"explicit_http_config": {"http_protocol_options": trailers}}),
    );
    json!({
        "admin": {"address": {"pipe": {"path": format!("{dir}/admin.sock")}}},
        "static_resources": {
            "listeners": [{"name": "redact", "address": address(listen), "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}]}],
            "clusters": [{"name": "upstream", "type": "STATIC", "connect_timeout": "5s",
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
                "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}]}}],
        },
    })
}

/// All that comes on one connection for a request below `/number/`, with another one behind it.
async fn ask(envoy: SocketAddr, number: usize, name: &str) -> String {
    let mut stream = TcpStream::connect(envoy).await.unwrap();
    let next = format!("GET /{number}/last HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close\r\n\r\n");
    let both = format!("GET /{number}/{name} HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n{next}");
    stream.write_all(both.as_bytes()).await.unwrap();
    let mut came = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut came)).await;
    assert!(read.is_ok(), "{number}/{name}: no end of {:?}", String::from_utf8_lossy(&came));
    String::from_utf8(came).unwrap()
}

/// The first answer of several on a connection: head and body; and what follows it.
fn first(text: &str) -> (&str, String, &str) {
    let (head, mut rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    if let Some((_, length)) = head.split_once("content-length: ") {
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let (body, rest) = rest.split_at_checked(length).unwrap_or_else(|| panic!("shorter than it says: {text:?}"));
        return (head, body.to_owned(), rest);
    }
    let mut body = String::new();
    loop {
        let (length, more) = rest.split_once("\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let length = usize::from_str_radix(length, 16).unwrap_or_else(|_| panic!("no chunk: {text:?}"));
        if length == 0 {
            // Trailers, and an empty line.
            let end = if more.starts_with("\r\n") { 2 } else { more.find("\r\n\r\n").unwrap() + 4 };
            body.push_str(more[..end].trim_end());
            return (head, body, &more[end..]);
        }
        body.push_str(&more[..length]);
        rest = &more[length + 2..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failing_script_has_not_looked_into_does_not_come() {
    let mut scripts = vec![SCRIPT.to_owned()];
    for (from, to) in sabotages() {
        assert_eq!(SCRIPT.matches(&from).count(), 1, "{from}");
        scripts.push(SCRIPT.replacen(&from, &to, 1));
    }
    // Several things at once: looking fails, and refusing as well.
    let (fails, refusing) = ("local told = handle:streamInfo()", "headers:replace(\":status\", \"502\")");
    assert_eq!(SCRIPT.matches(refusing).count(), 1);
    for (from, to) in [(refusing.to_owned(), ERROR.to_owned()), ("chunk:setBytes(text)".to_owned(), ERROR.to_owned())] {
        assert_eq!(SCRIPT.matches(&from).count(), 1, "{from}");
        scripts.push(SCRIPT.replacen(fails, &format!("{ERROR}{fails}"), 1).replacen(&from, &to, 1));
    }
    // Not caught: the key comes. So this test could fail.
    let caught = "pcall(redact, handle, state)";
    assert_eq!(SCRIPT.matches(caught).count(), 1);
    let uncaught = scripts.len();
    scripts.push(SCRIPT.replacen(caught, &format!("true, {ERROR}"), 1));

    let dir = tempfile::tempdir().unwrap();
    let listen = SocketAddr::new(loopback(), 15080);
    let bootstrap = bootstrap(dir.path().to_str().unwrap(), listen, upstream().await, &scripts);
    let envoy = ForeignEnvoy::start(Command::new(envoy_bin()), dir.path(), "redact", &bootstrap);
    eventually("Envoy listens", async || {
        TcpStream::connect(listen).await.map_err(|error| format!("{error} {}", envoy.log()))
    })
    .await;

    for (name, _) in answers() {
        assert!(ask(listen, uncaught, name).await.contains(KEY), "{name}: not caught");
        for (number, script) in scripts.iter().enumerate().take(uncaught) {
            let came = ask(listen, number, name).await;
            let what = || {
                let differs = SCRIPT.lines().zip(script.lines()).find(|(is, was)| is != was);
                format!("{name} {number} {differs:?}: {came:?}\n{}", envoy.log())
            };
            assert!(!came.contains(&KEY[..6]), "{}", what());
            let (head, body, rest) = first(&came);
            if number == 0 {
                assert!(
                    head.starts_with("HTTP/1.1 200") && (name == "headers" || body.contains("one ****")),
                    "{}",
                    what()
                );
            }
            // The next answer is where it should be.
            let (next, body, rest) = first(rest);
            let masked = next.starts_with("HTTP/1.1 200") && ["last", "****"].contains(&body.as_str());
            assert!((masked || next.starts_with("HTTP/1.1 502")) && rest.is_empty(), "{}", what());
        }
    }
    assert!(envoy.is_running() && envoy.log().contains("sabotage"), "{}", envoy.log());
}
