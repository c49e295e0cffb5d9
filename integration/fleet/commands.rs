//! The command line of `actl nodes`: what it prints as things change, and its exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::{A, B, Gateway, KINDS, envoy, labelled, sections, wait_in_step};
use crate::support::server::{Server, WorldConfig};

/// A program that is killed in the end.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn following_prints_a_line_for_each_change() {
    let upstream = labelled("one", &[A, B]).await;
    let edge = Gateway::new("edge");
    let config = WorldConfig::new("")
        .file("edge.toml", &edge.text(&sections(&[A], &upstream)))
        .args(&["--config", "config/edge.toml"])
        .without_envoy();
    let mut server = Server::start(config).await;
    let mut command = server.actl_command(&["nodes", "-f", "--json"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut following = Following(child);
    let (lines_tx, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let stdout = following.0.stdout.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let value: Value = serde_json::from_str(&line).unwrap();
            if lines_tx.send(value).is_err() {
                return;
            }
        }
    });
    let mut until = async |wanted: &dyn Fn(&Value) -> bool| loop {
        let line = tokio::time::timeout(std::time::Duration::from_secs(30), lines.recv()).await;
        let line = line.expect("a line in time").expect("it goes on");
        assert_eq!(line["node"]["id"], "edge-1", "{line:#}");
        if wanted(&line) {
            return line;
        }
    };
    let envoy = envoy(&server, "edge-1", "edge", KINDS[0]);
    let is_in_step = |line: &Value| line["node"]["state"] == "in step" && line["node"]["generation"] == 1;
    let connected = until(&|line| line["event"] == "connected").await;
    // It may be so fast that this is one line.
    if !is_in_step(&connected) {
        until(&is_in_step).await;
    }
    edge.save(&server, &edge.text(&sections(&[A, B], &upstream)));
    let changed = until(&|line| line["node"]["state"] == "in step" && line["node"]["generation"] == 2).await;
    assert_eq!(changed["event"], "changed");
    drop(envoy);
    until(&|line| line["event"] == "gone").await;

    // When the server ends, so does this, and says why.
    server.stop().await;
    let status = tokio::task::spawn_blocking(move || {
        let status = following.0.wait().unwrap();
        let mut stderr = String::new();
        std::io::Read::read_to_string(following.0.stderr.as_mut().unwrap(), &mut stderr).unwrap();
        (status.code(), stderr)
    });
    let (code, stderr) = status.await.unwrap();
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: the server"), "{stderr}");
}

#[tokio::test]
async fn wrong_usage_and_trouble_have_their_codes() {
    let mut server = Server::start(WorldConfig::new("").without_envoy()).await;
    let _envoy = envoy(&server, "edge-1", "config", KINDS[0]);
    wait_in_step(&server, &["edge-1"]).await;
    for (args, code, message) in [
        (&["nodes", "diff"][..], 2, "ID"),
        (&["nodes", "diff", "nobody"], 2, "connected: `edge-1`"),
        (&["nodes", "wait", "--timeout", "soon"], 2, "10s"),
        (&["nodes", "wait", "--generation", "last"], 2, "current"),
        (&["nodes", "wait", "--nodes", "edge-1,edge-2", "--timeout", "50ms"], 1, "`edge-2`: not connected"),
        (&["nodes", "wait", "--generation", "1000", "--timeout", "50ms"], 1, "not have generation 1000"),
    ] {
        let output = server.actl(args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:#?}");
        assert!(output.stderr.contains(message), "{args:?}: {output:#?}");
    }
    let done = server.actl(&["nodes", "wait", "--generation", "1"]).await;
    assert_eq!(done.status.code(), Some(0), "{done:#?}");
    let help = server.actl(&["nodes", "--help"]).await;
    assert!(help.stdout.contains("actl nodes wait --timeout 10s") && help.stdout.contains("Exit status"), "{help:#?}");
    server.stop().await;
    for (args, code) in [(&["nodes"][..], 1), (&["nodes", "diff", "edge-1"], 2), (&["nodes", "wait"], 1)] {
        let output = server.actl(args).await;
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:#?}");
        assert!(output.stderr.contains("agent-creds serve"), "{args:?}: {output:#?}");
    }
}
