//! What is in the way at the start, or gets in the way later.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{A, B, STRIPE};
use crate::support::client::Client;
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::probe::{eventually, served_by};
use crate::support::server::{DEADLINE, Server, WorldConfig, envoy_bin, loopback, upstream_section};
use crate::support::upstream::Upstream;

/// Runs a command that should fail by itself.
///
/// # Panics
/// If it has not ended within [`DEADLINE`]; then it is killed.
async fn fails(command: &mut Command) -> Output {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("{command:?} does not end: {:?}", child.wait_with_output());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn a_second_server_on_the_same_folders_is_refused_and_the_first_goes_on() {
    let upstream = Upstream::start(&[STRIPE]).await;
    let server = Server::start(WorldConfig::new(upstream_section(STRIPE, &upstream, ""))).await;
    let client = server.client();
    let target = Target::new(&format!("https://{STRIPE}/echo"));
    let load = Load::start(&client, LoadConfig::new(vec![target])).await;
    let ready = server.ready().await.unwrap();
    let metrics = server.metric("agent_creds_xds_pushes_total", &[]).await;
    let (state, runtime) = (server.state_dir(), server.runtime_dir());
    let elsewhere = server.dir().join("elsewhere");
    let own = format!("[gateway]\nlisten = \"{}\"\n", SocketAddr::new(loopback(), 15443));
    std::fs::write(server.dir().join("own.toml"), own).unwrap();
    for (what, state, runtime, shared) in [
        ("both folders", state.clone(), runtime.clone(), &state),
        ("the state folder", state.clone(), elsewhere.join("run"), &state),
        ("the runtime folder", elsewhere.join("state"), runtime.clone(), &runtime),
    ] {
        let mut command = server.agent_creds_command();
        command.args(["serve", "--config", "own.toml", "--http", "127.0.0.1:0", "--envoy", "none", "--vault-config"]);
        command.arg(server.vault_file()).arg("--state-dir").arg(state).arg("--runtime-dir").arg(runtime);
        let output = fails(&mut command).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {error}");
        assert!(error.contains(&format!("another agent-creds server (process {})", server.pid())), "{what}: {error}");
        assert!(error.contains(shared.to_str().unwrap()), "{what}: {error}");
        assert!(error.contains("--state-dir") && error.contains("--runtime-dir"), "{what}: {error}");
        assert_eq!(server.processes().len(), 2, "{what}: the first server and its Envoy");
    }
    let now = server.ready().await.unwrap();
    assert!(now.is_ready());
    assert_eq!((now.envoy_pid(), now.generation()), (ready.envoy_pid(), ready.generation()));
    assert_eq!(server.metric("agent_creds_xds_pushes_total", &[]).await, metrics, "Envoy did not lose its server");
    load.stop().await.assert_clean();
    // It still follows its file, and its sockets are its own.
    server.apply(&upstream_section(STRIPE, &upstream, "methods = [\"POST\"]")).await;
    assert!(served_by(&client, STRIPE).await.unwrap_err().starts_with("403"));
}

#[tokio::test]
async fn a_port_in_use_at_the_start_is_told_with_its_line() {
    let upstream = Upstream::start(&[A]).await;
    let addr = SocketAddr::new(loopback(), 15443);
    let taken = TcpListener::bind(addr).unwrap();
    let config = WorldConfig::new(upstream_section(A, &upstream, "")).listen(addr);
    let mut server = Server::spawn(config);
    let status = server.wait_exit(DEADLINE).await;
    let log = server.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let place = format!("{}:2", server.config_file().display());
    for part in [place.as_str(), &addr.to_string(), "stop it, or choose another port"] {
        assert!(log.contains(part), "`{part}` is not in {log}");
    }
    assert_eq!(server.processes(), Vec::<u32>::new(), "nothing was started");
    assert!(!server.envoy_admin().exists() && !server.runtime_dir().join("xds.sock").exists());
    // It was the port, and nothing else.
    drop(taken);
    server.restart();
    server.wait_ready().await;
    eventually("requests are answered", async || served_by(&server.client(), A).await).await;

    // The HTTP address likewise.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = taken.local_addr().unwrap().to_string();
    server.stop().await;
    let mut command = server.agent_creds_command();
    command.env("ENVOY_BIN", envoy_bin()).args(["serve", "--http", &http, "--config"]).arg(server.config_file());
    command.arg("--vault-config").arg(server.vault_file());
    command.arg("--state-dir").arg(server.state_dir()).arg("--runtime-dir").arg(server.runtime_dir());
    let output = fails(&mut command).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&http) && error.contains("--http"), "{error}");
    assert_eq!(server.processes(), Vec::<u32>::new(), "nothing was started");
}

#[tokio::test]
async fn a_port_in_use_in_a_live_edit_is_traced_to_its_line_and_the_others_go_on() {
    let upstream = Upstream::start(&[A, B, STRIPE]).await;
    let second = |addr: SocketAddr| {
        format!(
            "# the second gateway\n[gateway]\nname = \"second\"\nlisten = \"{addr}\"\n{}",
            upstream_section(B, &upstream, "")
        )
    };
    let (free, busy) = (SocketAddr::new(loopback(), 15443), SocketAddr::new(loopback(), 15444));
    let config = WorldConfig::new(upstream_section(A, &upstream, ""))
        .file("second.toml", &second(free))
        .args(&["--config", "config/second.toml"]);
    let server = Server::start(config).await;
    let file = server.dir().join("config/second.toml");
    let (first, other) = (server.client(), Client::new(&server.ca_pem(), free));
    assert!(served_by(&first, A).await.is_ok() && served_by(&other, B).await.is_ok());
    let load = Load::start(&first, LoadConfig::new(vec![Target::new(&format!("https://{A}/echo"))])).await;

    let taken = TcpListener::bind(busy).unwrap();
    std::fs::write(&file, second(busy)).unwrap();
    let rejected =
        |ready: &crate::support::server::Ready| !ready.body["envoy"]["rejected"].as_array().unwrap().is_empty();
    let ready = server.wait_for("Envoy's refusal is told", rejected).await;
    let rejection = &ready.body["envoy"]["rejected"][0];
    assert_eq!(rejection["type"], "listener", "{ready:?}");
    assert_eq!(rejection["lines"], serde_json::json!(["config/second.toml:4"]), "{ready:?}");
    assert!(rejection["message"].as_str().unwrap().contains("Address already in use"), "{ready:?}");
    assert!(!ready.is_ready(), "what is on disk is not what is served: {ready:?}");
    assert!(server.log().contains("config/second.toml:4"), "the log names the line");
    assert!(server.metric("agent_creds_xds_nacks_total", &[]).await >= 1.0);

    // The old listener of that gateway serves on, and the other gateway takes edits.
    assert!(served_by(&other, B).await.is_ok());
    let more = upstream_section(A, &upstream, "") + &upstream_section(STRIPE, &upstream, "");
    server.write_config(&server.config_text(&more));
    eventually("the other gateway takes an edit", async || served_by(&first, STRIPE).await).await;
    assert!(served_by(&first, A).await.is_ok());

    // Repaired by another edit …
    let elsewhere = SocketAddr::new(loopback(), 15445);
    std::fs::write(&file, second(elsewhere)).unwrap();
    let ready = server.wait_ready().await;
    assert!(!rejected(&ready), "{ready:?}");
    let moved = Client::new(&server.ca_pem(), elsewhere);
    eventually("the new address is served", async || served_by(&moved, B).await).await;
    drop(taken);
    // … and the port that was in use is free for the next one.
    std::fs::write(&file, second(busy)).unwrap();
    let moved = Client::new(&server.ca_pem(), busy);
    eventually("the port that was in use is served", async || served_by(&moved, B).await).await;
    server.wait_ready().await;
    load.stop().await.assert_clean();
}

/// Two Envoys of one user could share an address, each taking some of the connections (`SO_REUSEPORT`): they must not.
#[tokio::test]
async fn an_address_of_another_server_is_in_use_like_any_other() {
    let upstream = Upstream::start(&[A, B]).await;
    let owner = Server::start(WorldConfig::new(upstream_section(A, &upstream, ""))).await;
    let intruder = Server::start(WorldConfig::new(upstream_section(B, &upstream, ""))).await;
    let moved = format!("[gateway]\nlisten = \"{}\"\n{}", owner.addr(), upstream_section(B, &upstream, ""));
    intruder.write_config(&moved);
    let generation = 2;
    let ready = intruder
        .wait_for("the edit is refused", |ready| {
            let rejected = ready.body["envoy"]["rejected"].as_array().unwrap();
            ready.generation() == generation && (!rejected.is_empty() || ready.is_ready())
        })
        .await;
    let rejection = &ready.body["envoy"]["rejected"][0];
    assert!(rejection["message"].as_str().is_some_and(|text| text.contains("Address already in use")), "{ready:?}");
    assert_eq!(rejection["lines"], serde_json::json!([format!("{}:2", intruder.config_file().display())]));
    for _ in 0..20 {
        // With a certificate of its own CA, each time.
        assert_eq!(served_by(&owner.client(), A).await, Ok("upstream".to_owned()));
    }
    assert_eq!(served_by(&intruder.client(), B).await, Ok("upstream".to_owned()), "the old address is kept");
}
