//! `actl doctor` on this machine, with a server and without.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{ACTL, World};
use crate::support::pty::Terminal;
use crate::support::server::{Output, envoy_bin, install_script};

async fn doctor(world: &World, args: &[&str], change: impl FnOnce(&mut std::process::Command)) -> Output {
    let mut command = world.server.actl_command(&[&["doctor"], args].concat());
    command.arg("--state-dir").arg(world.server.state_dir()).env("ENVOY_BIN", envoy_bin());
    change(&mut command);
    tokio::task::spawn_blocking(move || crate::support::server::run(&mut command)).await.unwrap()
}

fn verdict(output: &Output, check: &str) -> (String, String) {
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|found| found["check"] == check).unwrap_or_else(|| panic!("{check}: {report:#}"));
    (found["verdict"].as_str().unwrap().to_owned(), found["what"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_is_in_the_way_and_how_to_mend_it() {
    let world = World::start("").await;
    let well = doctor(&world, &["--json"], |_| {}).await;
    for check in ["Envoy", "server", "ports", "clock", "state", "runtime", "CA", "CA trust"] {
        assert_eq!(verdict(&well, check).0, "ok", "{check}: {well:?}");
    }
    assert!(verdict(&well, "Envoy").1.contains("1.40"), "{well:?}");
    for check in ["Docker", "kernel", "firewall", "routing", "helpers"] {
        verdict(&well, check);
    }

    let state = world.server.state_dir();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let open = doctor(&world, &["--json"], |command| {
        command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").env("ENVOY_BIN", "/nonexistent/envoy");
    })
    .await;
    assert_eq!(open.status.code(), Some(1), "{open:?}");
    for check in ["Docker", "Envoy", "state"] {
        assert_eq!(verdict(&open, check).0, "problem", "{check}");
    }
    let text = doctor(&world, &[], |_| {}).await;
    assert!(text.stdout.contains(&format!("→ chmod 700 {}", state.display())), "{text:?}");
    assert!(text.stdout.lines().last().unwrap().contains("problem"), "{text:?}");
}

#[test]
fn on_a_terminal_it_says_what_it_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let envoy = dir.path().join("envoy");
    install_script("#!/bin/sh\nsleep 2\necho 'envoy  version: abc/1.40.0/Clean/RELEASE'\n", &envoy);
    let mut command = std::process::Command::new(ACTL);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm").env("ENVOY_BIN", &envoy);
    command.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    command.arg("doctor").arg("--state-dir").arg(dir.path().join("state"));
    let mut terminal = Terminal::run(command.arg("--runtime-dir").arg(dir.path().join("run")));
    terminal.shows("looking at Envoy …");
    terminal.shows("1.40.0");
    terminal.shows("1 problem");
    assert_eq!(terminal.ended().code(), Some(1), "there is no Docker");
    assert!(!dir.path().join("state").exists(), "looking makes nothing");
}
