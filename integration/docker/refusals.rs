//! What Docker refuses, and what we say then.

use std::path::Path;

use agent_creds::sandbox::docker::{Docker, DockerError};
use agent_creds::sandbox::spec::ServerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::world::World;

#[tokio::test]
async fn names_that_are_taken_are_left_alone() {
    let world = World::new().await;
    let docker = &world.docker;
    let label = format!("agent-creds.server={}", world.server);
    let name = |what: &str| format!("adev-{}", world.name(what));

    // The label alone (so that it is cleaned up) does not make it ours.
    world.cli(&["create", "--name", &name("foreign"), "--label", &label, &world.image, "sh"]);
    world.cli(&["network", "create", "--label", &label, &name("foreign")]);
    let create = world.sandbox("foreign").create().unwrap();
    let error = docker.create_container(&create).await.unwrap_err();
    assert!(matches!(&error, DockerError::NameTaken { kind: "container", .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&name("foreign")) && text.contains(&world.image), "{text}");
    assert!(text.contains("which agent-creds did not make") && text.contains("another name"), "{text}");
    let error = docker.create_network(&world.network("foreign")).await.unwrap_err();
    assert!(matches!(&error, DockerError::NameTaken { kind: "network", .. }), "{error:?}");
    assert!(error.to_string().contains("bridge network") && error.to_string().contains("did not make"), "{error}");
    let found = docker.find(&world.server).await.unwrap();
    assert!(found.containers.is_empty() && found.networks.is_empty(), "{found:?}");

    // Ours, and another server's.
    docker.create_network(&world.network("ours")).await.unwrap();
    docker.create_container(&world.sandbox("ours").create().unwrap()).await.unwrap();
    let mut others = world.sandbox("ours");
    others.server = ServerId::of(Path::new("/another/state"));
    let mut network = world.network("ours");
    for whose in ["of this server".to_owned(), format!("of another agent-creds server ({})", world.server)] {
        let error = docker.create_network(&network).await.unwrap_err().to_string();
        assert!(error.contains(&whose), "{error}");
        network.server = others.server.clone();
    }
    let error = docker.create_container(&others.create().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("of another agent-creds server ({})", world.server)), "{error}");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let world = World::new().await;
    let docker = &world.docker;
    docker.create_network(&world.network("missing")).await.unwrap();
    let refused = |spec| async move { docker.create_container(&spec).await.unwrap_err() };

    let mut image = world.sandbox("missing");
    image.image = "agent-creds-nonesuch".to_owned();
    assert!(!docker.image_exists(&image.image).await.unwrap());
    let error = refused(image.create().unwrap()).await;
    assert!(matches!(&error, DockerError::ImageMissing { image } if image == "agent-creds-nonesuch"), "{error:?}");
    assert!(error.to_string().contains("make build"), "{error}");

    let mut runtime = world.sandbox("missing").create().unwrap();
    runtime.body.host_config.as_mut().unwrap().runtime = Some("nonesuch".to_owned());
    let error = refused(runtime).await;
    assert!(matches!(&error, DockerError::RuntimeMissing { runtime } if runtime == "nonesuch"), "{error:?}");
    assert!(error.to_string().contains("gvisor.sh") && error.to_string().contains("runtime = \"runc\""), "{error}");

    let mut folder = world.sandbox("missing");
    folder.inside_dir = world.path("nowhere");
    let error = refused(folder.create().unwrap()).await;
    assert!(error.to_string().contains(world.path("nowhere").to_str().unwrap()), "{error}");

    // A folder without a program of ours.
    let mut program = world.sandbox("missing");
    program.helpers_dir = world.path("inside");
    let error = docker.create_container(&program.create().unwrap()).await.unwrap_err();
    assert!(matches!(&error, DockerError::Refused { .. } | DockerError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("aenv"), "{error}");
}

#[tokio::test]
async fn a_docker_that_is_not_there_is_told_from_one_that_is_unfit() {
    let dir = tempfile::tempdir().unwrap();
    let host = |name: &str| format!("unix://{}", dir.path().join(name).display());
    let connect = |host: String| async move { Docker::connect(Some(&host)).await.unwrap_err() };

    let error = connect(host("nothing")).await;
    assert!(matches!(error, DockerError::NoDocker { .. }) && error.to_string().contains("install"), "{error}");
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("dead")).unwrap());
    let error = connect(host("dead")).await;
    assert!(matches!(error, DockerError::NotRunning { .. }) && error.to_string().contains("systemctl"), "{error}");
    for bad in ["ssh://me@build", "unix://relative", "fd://", "/var/run/docker.sock"] {
        assert!(matches!(connect(bad.to_owned()).await, DockerError::BadHost { .. }), "{bad}");
    }

    let listener = UnixListener::bind(dir.path().join("old")).unwrap();
    let old = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        let body = r#"{"Version":"19.03.15","ApiVersion":"1.40"}"#;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let error = connect(host("old")).await;
    assert!(matches!(error, DockerError::TooOld { .. }) && error.to_string().contains("19.03.15"), "{error}");
    old.await.unwrap();
}

/// Bollard writes bodies and answers to the `log` facade. That is harmless as long as nothing in the program listens to it.
#[test]
fn nothing_listens_to_what_the_library_logs() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    for listener in ["tracing-log", "env_logger", "simple_logger", "fern", "log4rs", "flexi_logger"] {
        assert!(!lock.contains(&format!("name = \"{listener}\"")), "{listener} would show what requests hold");
    }
}
