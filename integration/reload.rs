//! Edits while requests flow: what is saved is served, what is broken is not, and nothing else notices.

mod broken;
mod storm;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::support::client::{Client, ClientError, Proto};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::pki::TestCa;
use crate::support::probe::{admin, eventually, refused, served_by};
use crate::support::server::{OPENAI_KEY, Ready, STRIPE_KEY, Server, WorldConfig, loopback, upstream_section};
use crate::support::upstream::{Upstream, UpstreamConfig};

const A: &str = "a.example.com";
const B: &str = "b.example.com";

/// An upstream that says who it is.
async fn labelled(label: &str, names: &[&str]) -> Upstream {
    Upstream::with(UpstreamConfig::new(names).label(label)).await
}

async fn wait_served_by(client: &Client, host: &str, label: &str) {
    eventually(&format!("{host} is served by {label}"), async || match served_by(client, host).await {
        Ok(answered) if answered == label => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

async fn wait_refused(client: &Client, host: &str) {
    eventually(&format!("{host} is refused"), async || refused(client, host).await).await;
}

#[tokio::test]
async fn a_host_comes_and_goes_and_the_others_do_not_notice() {
    let upstream = labelled("one", &[A, B]).await;
    let only_a = upstream_section(A, &upstream, "");
    let both = only_a.clone() + &upstream_section(B, &upstream, "");
    let server = Server::start(WorldConfig::new(&only_a)).await;
    let client = server.client();
    assert_eq!(refused(&client, B).await, Ok(()));

    let url = format!("https://{A}/echo");
    let mut kept = Vec::new();
    for proto in [Proto::H1, Proto::H2] {
        let mut connection = client.connect(A, proto).await.unwrap();
        let request = client.get(&url).proto(proto).to_request();
        assert_eq!(connection.send(request).await.unwrap().status, StatusCode::OK);
        kept.push((proto, connection));
    }
    let mut stream = client.get(&format!("https://{A}/sse?ms=5")).stream().await.unwrap();

    for round in 0..3 {
        server.apply(&both).await;
        wait_served_by(&client, B, "one").await;
        let mut on_removed = client.connect(B, Proto::H1).await.unwrap();
        let to_removed = || client.get(&format!("https://{B}/echo")).to_request();
        assert_eq!(on_removed.send(to_removed()).await.unwrap().status, StatusCode::OK);

        server.apply(&only_a).await;
        wait_refused(&client, B).await;
        // A connection that was open before the removal gets no further, either.
        let before = upstream.request_count();
        match on_removed.send(to_removed()).await {
            Ok(reply) => {
                assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text());
                assert!(reply.text().contains("agent-creds.toml"), "{}", reply.text());
            }
            Err(error) => assert!(matches!(error, ClientError::Http(_)), "{error}"),
        }
        assert_eq!(upstream.request_count(), before);

        for (proto, connection) in &mut kept {
            let reply = connection.send(client.get(&url).proto(*proto).to_request()).await.unwrap();
            assert_eq!((reply.status, connection.answers()), (StatusCode::OK, round + 2));
        }
        let tick = stream.next_event().await.unwrap().expect("the stream goes on");
        assert!(tick.data.starts_with("tick "));
    }
    // A chain that is drained is cut ten minutes later, which no test waits for: only those of the removed host are.
    let stats = admin(&server.envoy_admin(), "/stats?filter=listener_manager").await.unwrap();
    for (name, expected) in
        [("listener_modified", 6), ("listener_in_place_updated", 6), ("total_filter_chains_draining", 3)]
    {
        assert!(stats.lines().any(|line| line == format!("listener_manager.{name}: {expected}")), "{name}: {stats}");
    }
}

/// Limits are the vault's alone: they hold from the next request on, and Envoy is told nothing.
#[tokio::test]
async fn limits_hold_on_connections_that_are_open() {
    let upstream = Upstream::start(&[A]).await;
    let section = |more: &str| upstream_section(A, &upstream, more);
    let server = Server::start(WorldConfig::new(section(""))).await;
    let client = server.client();
    let pushes = server.metric("agent_creds_xds_pushes_total", &[]).await;
    let mut connections = Vec::new();
    for proto in [Proto::H1, Proto::H2] {
        connections.push((proto, client.connect(A, proto).await.unwrap()));
    }
    let (ok, no) = (StatusCode::OK, StatusCode::FORBIDDEN);
    let steps = [
        ("# no limits", [("GET", "/v/1", ok), ("POST", "/v/1", ok), ("GET", "/w", ok)], ""),
        ("methods = [\"GET\"]", [("GET", "/v/1", ok), ("POST", "/v/1", no), ("GET", "/w", ok)], "method not allowed"),
        ("paths = [\"/v/*\"]", [("GET", "/v/1", ok), ("POST", "/v/1", ok), ("GET", "/w", no)], "path not allowed"),
        ("methods = [\"POST\"]", [("GET", "/v/1", no), ("POST", "/v/1", ok), ("GET", "/w", no)], "method not allowed"),
        ("# none again", [("GET", "/v/1", ok), ("POST", "/v/1", ok), ("GET", "/w", ok)], ""),
    ];
    for (number, (limits, requests, message)) in steps.into_iter().enumerate() {
        if number > 0 {
            server.apply(&section(limits)).await;
        }
        for (proto, connection) in &mut connections {
            for (method, path, expected) in requests {
                let before = upstream.request_count();
                let call = client.call(method.parse().unwrap(), &format!("https://{A}{path}")).proto(*proto);
                let reply = connection.send(call.to_request()).await.unwrap();
                assert_eq!(reply.status, expected, "{proto:?} {method} {path} under {limits}: {}", reply.text());
                assert_eq!(upstream.request_count() - before, usize::from(expected == ok));
                assert!(expected == ok || reply.text().contains(message), "{}", reply.text());
            }
            assert_eq!(connection.answers(), 3 * (number + 1), "{proto:?}");
        }
    }
    assert_eq!(server.metric("agent_creds_xds_pushes_total", &[]).await, pushes);
}

#[tokio::test]
async fn traffic_moves_to_another_address_without_a_failed_request() {
    let (one, two) = (labelled("one", &[A]).await, labelled("two", &[A]).await);
    let server = Server::start(WorldConfig::new(upstream_section(A, &one, ""))).await;
    let client = server.client();
    let config = LoadConfig::new(vec![Target::new(&format!("https://{A}/echo"))]);
    // A stream stays where it began.
    let config = config.sse(Target::new(&format!("https://{A}/sse?ms=10")));
    let load = Load::start(&client, config).await;
    for round in 0..20 {
        let (label, to, from) = if round % 2 == 0 { ("two", &two, &one) } else { ("one", &one, &two) };
        server.apply(&upstream_section(A, to, "")).await;
        wait_served_by(&client, A, label).await;
        // Envoy's threads take the cluster over one after the other; then nothing comes to the old address.
        eventually("the old address is left alone", async || {
            let before = from.request_count();
            tokio::time::sleep(Duration::from_millis(50)).await;
            match from.request_count() - before {
                0 => Ok(()),
                more => Err(format!("{more} requests")),
            }
        })
        .await;
    }
    let report = load.stop().await;
    report.assert_clean();
    assert!(report.ok > 200, "{report:?}");
    assert_eq!(report.retried, 0, "agents' connections stay: {report:?}");
}

#[tokio::test]
async fn another_ca_is_trusted_from_the_next_connection_on() {
    let own_ca = Arc::new(TestCa::new("own"));
    let upstream = Upstream::with(UpstreamConfig::new(&[A]).ca(Arc::clone(&own_ca))).await;
    let section = |file: &str| format!("[upstream.\"{A}\"]\naddress = \"{}\"\nca = \"{file}\"\n", upstream.addr());
    let config = WorldConfig::new(section("upstream-ca.pem")).file("own.pem", own_ca.pem());
    let server = Server::start(config).await;
    let client = server.client();
    let answers = async |expected: StatusCode| {
        let before = upstream.request_count();
        eventually(&format!("{A} answers {expected}"), async || {
            let reply = client.get(&format!("https://{A}/echo")).send().await.map_err(|error| error.to_string())?;
            if reply.status == expected { Ok(()) } else { Err(format!("{}: {}", reply.status, reply.text())) }
        })
        .await;
        upstream.request_count() - before
    };
    assert_eq!(answers(StatusCode::BAD_GATEWAY).await, 0);
    for _ in 0..3 {
        server.apply(&section("own.pem")).await;
        answers(StatusCode::OK).await;
        server.apply(&section("upstream-ca.pem")).await;
        answers(StatusCode::BAD_GATEWAY).await;
        let before = upstream.request_count();
        assert_eq!(answers(StatusCode::BAD_GATEWAY).await, 0);
        assert_eq!(upstream.request_count(), before, "no request follows on an old connection");
    }
    // The PEM file is watched like the configuration that names it.
    let pem = server.dir().join("config/upstream-ca.pem");
    for (text, expected) in [(own_ca.pem(), StatusCode::OK), (TestCa::shared().pem(), StatusCode::BAD_GATEWAY)] {
        let generation = server.generation().await;
        std::fs::write(&pem, text).unwrap();
        server.wait_generation(generation + 1).await;
        answers(expected).await;
    }
}

#[tokio::test]
async fn a_second_gateway_comes_moves_and_goes() {
    let upstream = labelled("one", &[A, B]).await;
    let nothing = "[sandbox]\nname = \"second\"\n";
    let config = WorldConfig::new(upstream_section(A, &upstream, ""))
        .file("second.toml", nothing)
        .args(&["--config", "config/second.toml"]);
    let server = Server::start(config).await;
    let file = server.dir().join("config/second.toml");
    let first = server.client();
    let load = Load::start(&first, LoadConfig::new(vec![Target::new(&format!("https://{A}/echo"))])).await;
    let at = |addr| Client::new(&server.ca_pem(), addr);
    let section = upstream_section(B, &upstream, "");
    let text = |addr| format!("[gateway]\nname = \"second\"\nlisten = \"{addr}\"\n{section}");
    let save = async |text: &str| {
        let generation = server.generation().await;
        std::fs::write(&file, text).unwrap();
        server.wait_generation(generation + 1).await;
    };
    let is_gone = async |addr| {
        let client = at(addr);
        eventually("nobody listens there", async || match client.get(&format!("https://{B}/")).send().await {
            Err(ClientError::Connect(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    let (here, there) = (std::net::SocketAddr::new(loopback(), 15443), std::net::SocketAddr::new(loopback(), 15444));
    for _ in 0..2 {
        save(&text(here)).await;
        wait_served_by(&at(here), B, "one").await;
        assert_eq!(refused(&at(here), A).await, Ok(()), "each gateway serves its own hosts");
        assert_eq!(refused(&first, B).await, Ok(()));
        save(&text(there)).await;
        wait_served_by(&at(there), B, "one").await;
        is_gone(here).await;
        save(nothing).await;
        is_gone(there).await;
    }
    save(&text(here)).await;
    wait_served_by(&at(here), B, "one").await;
    // A file that is deleted is more likely an accident: its last good version serves on, and that is said.
    std::fs::remove_file(&file).unwrap();
    let ready = server.wait_for("the loss is noticed", |ready| !ready.config_ok()).await;
    assert!(ready.is_ready());
    assert_eq!(ready.problems()[0]["file"], "config/second.toml", "{ready:?}");
    wait_served_by(&at(here), B, "one").await;
    std::fs::write(&file, text(here)).unwrap();
    server.wait_for("the file is back", |ready| ready.config_ok()).await;
    load.stop().await.assert_clean();
}

/// The key that reaches the upstream for a request with `token`; the answer's text when there is none.
async fn key_sent(client: &Client, token: &str, host: &str) -> Result<String, String> {
    let reply = client.get(&format!("https://{host}/echo")).bearer(token).send().await.unwrap();
    match reply.status {
        StatusCode::OK => {
            let echo = reply.json();
            Ok(echo["authorization_backwards"].as_str().unwrap_or_default().chars().rev().collect())
        }
        _ => Err(reply.text()),
    }
}

#[tokio::test]
async fn credentials_follow_the_vault_file() {
    let upstream = Upstream::start(&[A, "api.stripe.com"]).await;
    let upstreams = upstream_section(A, &upstream, "") + &upstream_section("api.stripe.com", &upstream, "");
    let section = |host: &str, name: &str| {
        format!("[credentials.\"{host}\"]\ntype = \"bearer\"\ntoken = {{ provider = \"env\", name = \"{name}\" }}\n")
    };
    let stripe = section("api.stripe.com", "STRIPE_API_KEY");
    let server = Server::start(WorldConfig::new(upstreams).vault(&stripe)).await;
    let client = server.client();
    let token = server.token(&["--hosts", &format!("{A},api.stripe.com")]);
    let save = |text: &str| std::fs::write(server.vault_file(), text).unwrap();
    let sent = async |host: &str| key_sent(&client, &token, host).await;
    let (stripe_key, openai_key) = (format!("Bearer {STRIPE_KEY}"), format!("Bearer {OPENAI_KEY}"));
    assert_eq!(sent("api.stripe.com").await, Ok(stripe_key.clone()));
    assert!(sent(A).await.unwrap_err().contains("No credentials configured for this host"));

    // New, then another one, then gone again.
    for (text, expected) in [
        (stripe.clone() + &section(A, "OPENAI_API_KEY"), Some(&openai_key)),
        (stripe.clone() + &section(A, "STRIPE_API_KEY"), Some(&stripe_key)),
        (stripe.clone(), None),
        (stripe.clone() + &section(A, "OPENAI_API_KEY"), Some(&openai_key)),
    ] {
        let generation = server.generation().await;
        save(&text);
        server.wait_generation(generation + 1).await;
        assert_eq!(sent(A).await.ok().as_ref(), expected);
        assert_eq!(sent("api.stripe.com").await, Ok(stripe_key.clone()));
    }

    // Broken in its form or by a variable that is not set: all stays as it was, and the place is told.
    let good = stripe.clone() + &section(A, "OPENAI_API_KEY");
    for (text, line, message) in [
        (format!("{stripe}[credentials.\"{A}\"]\ntype = \"bearer\"\ntokn = 1\n"), 6, "tokn"),
        (format!("{stripe}{}", section(A, "NOT_SET_ANYWHERE")), 4, "NOT_SET_ANYWHERE is not set"),
        (format!("{stripe}[credentials.\n"), 4, ""),
    ] {
        let broken = server.metric("agent_creds_config_reloads_total", &["result=\"broken\""]).await;
        save(&text);
        // A file of the right form is a new generation, which Envoy has only a moment later.
        let refused = |ready: &Ready| !ready.config_ok() && ready.is_ready();
        let ready = server.wait_for("the vault file is refused", refused).await;
        let problems = ready.problems();
        let named = problems.iter().find(|problem| problem["message"].as_str().unwrap().contains(message));
        let problem = named.unwrap_or_else(|| panic!("`{message}` is not told: {ready:?}"));
        assert_eq!(problem["file"], server.vault_file().to_str().unwrap(), "{ready:?}");
        assert_eq!(problem["line"], line, "{ready:?}");
        assert!(problem["column"].as_u64().unwrap() >= 1);
        assert!(server.log().contains(&format!("/vault.toml:{line}:")), "the log names the line");
        assert!(server.metric("agent_creds_config_reloads_total", &["result=\"broken\""]).await > broken);
        assert_eq!(server.metric("agent_creds_config_ok", &[]).await, 0.0);
        assert_eq!(sent(A).await, Ok(openai_key.clone()));
        assert_eq!(sent("api.stripe.com").await, Ok(stripe_key.clone()));
        save(&good);
        server.wait_for("the vault file is repaired", |ready| ready.config_ok()).await;
        assert_eq!(server.metric("agent_creds_config_ok", &[]).await, 1.0);
        assert_eq!(sent(A).await, Ok(openai_key.clone()));
    }
}
