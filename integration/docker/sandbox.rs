//! One sandbox from its creation to its end, and the two helper containers.

use std::fs;

use agent_creds::sandbox::docker::{
    BoxStream, ContainerEvent, ContainerState, Content, DockerError, EventKind, InsideFile, Output,
};
use agent_creds::sandbox::spec::body::{EnvoySpec, GuardSpec, Runtime, SandboxSpec};
use agent_creds::sandbox::spec::{Labels, Role};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::world::{DEADLINE, World, finish, request};

async fn event(events: &mut BoxStream<Result<ContainerEvent, DockerError>>, container: &str, kind: EventKind) {
    let seen = tokio::time::timeout(DEADLINE, events.next()).await.expect("an event").expect("a connection").unwrap();
    assert_eq!((seen.id.as_str(), seen.kind), (container, kind));
    assert!(seen.sandbox().is_some_and(|name| name.as_str().starts_with("life-")));
}

#[tokio::test]
async fn a_sandbox_lives_and_leaves_nothing() {
    life(Runtime::Runc).await;
}

#[tokio::test]
async fn so_does_one_in_gvisor() {
    life(Runtime::Runsc).await;
}

async fn life(runtime: Runtime) {
    let world = World::new().await;
    let docker = &world.docker;
    let runtimes = docker.runtimes().await.unwrap();
    assert!(runtimes.contains(runtime.as_str()), "sandbox-image/gvisor.sh installs gVisor; Docker has {runtimes:?}");
    assert!(docker.image_exists(&world.image).await.unwrap());

    // Made, and found by one that knows nothing.
    let spec = SandboxSpec { runtime, ..world.sandbox("life") };
    let network = docker.create_network(&world.network("life")).await.unwrap();
    let (subnet, prefix) = network.subnet;
    let mask = u32::MAX << (32 - u32::from(prefix));
    assert_eq!(network.gateway.to_bits() & mask, subnet.to_bits(), "{network:?}");
    assert!(fs::metadata(format!("/sys/class/net/{}", world.bridge("life"))).is_ok());
    let id = docker.create_container(&spec.create().unwrap()).await.unwrap();
    let found = docker.find(&world.server).await.unwrap();
    assert_eq!(found.networks.len(), 1);
    assert_eq!(found.networks[0].info, network);
    let labels = Labels { server: world.server.clone(), role: Role::Sandbox(spec.sandbox.clone()) };
    assert_eq!(found.networks[0].labels, labels);
    let [container] = &found.containers[..] else { panic!("{found:?}") };
    assert_eq!((&container.id, &container.labels, container.started), (&id, &labels, None));
    assert_eq!((container.state, container.runtime.as_str()), (ContainerState::Created, runtime.as_str()));
    assert_eq!(
        (container.image.as_str(), container.name.as_str()),
        (&*world.image, &*format!("adev-{}", spec.sandbox.name))
    );

    // Files, before anything runs.
    let file = |path: &str, content| InsideFile { path: path.to_owned(), mode: 0o640, uid: 0, gid: 0, content };
    let files = [
        file("/etc/passwd", Content::File("agent:x:0:0::/home/agent:/bin/sh\n".into())),
        file("/etc/ssl/certs/ca-certificates.crt", Content::Symlink("/opt/agent-creds/ca.pem".to_owned())),
        InsideFile { mode: 0o755, ..file("/home/agent", Content::Dir) },
    ];
    docker.upload(&id, &files).await.unwrap();
    let passwd = docker.read_file(&id, "/etc/passwd", 1024).await.unwrap().unwrap();
    assert_eq!(passwd, b"agent:x:0:0::/home/agent:/bin/sh\n");
    assert!(matches!(docker.read_file(&id, "/etc/passwd", 8).await, Err(DockerError::TooLarge { max: 8, .. })));
    assert_eq!(docker.read_file(&id, "/etc/nothing", 1024).await.unwrap(), None);
    assert_eq!(docker.read_file(&id, "/home/agent", 1024).await.unwrap(), None);

    let mut events = docker.events(&world.server).await.unwrap();
    docker.start(&id).await.unwrap();
    event(&mut events, &id, EventKind::Started).await;
    let found = docker.find(&world.server).await.unwrap();
    assert_eq!(found.containers[0].state, ContainerState::Running);
    assert!(found.containers[0].started.is_some());

    confined(&world, &id, runtime).await;
    processes(&world, &id).await;
    terminals(&world, &id).await;

    // Limits.
    let limits = || {
        let json = world.cli(&["inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", &id]);
        String::from_utf8(json.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(limits(), "268435456 1000000000");
    if runtime == Runtime::Runsc {
        let error = docker.update(&id, Some(128 << 20), None).await.unwrap_err();
        assert!(matches!(error, DockerError::NotInGvisor { .. }), "{error:?}");
    } else {
        docker.update(&id, Some(128 << 20), Some(500_000_000)).await.unwrap();
        assert_eq!(limits(), "134217728 500000000");
        docker.update(&id, None, None).await.unwrap();
        let (memory, cpus) =
            limits().split_once(' ').map(|(m, c)| (m.parse::<u64>().unwrap(), c.parse::<u64>().unwrap())).unwrap();
        assert!(memory > 1 << 50 && cpus >= 1_000_000_000, "{memory} {cpus}");
    }

    // Paused: nothing starts in it.
    docker.pause(&id).await.unwrap();
    docker.pause(&id).await.unwrap();
    event(&mut events, &id, EventKind::Paused).await;
    assert_eq!(docker.find(&world.server).await.unwrap().containers[0].state, ContainerState::Paused);
    assert!(matches!(docker.start_exec(&id, &request("true")).await, Err(DockerError::Paused { .. })));
    docker.unpause(&id).await.unwrap();
    docker.unpause(&id).await.unwrap();
    event(&mut events, &id, EventKind::Unpaused).await;
    assert_eq!(world.run(&id, "echo on").await, (0, "on\n".to_owned(), String::new()));

    // Gone, paused as it is, and again.
    assert_eq!(docker.wait(&id, std::time::Duration::from_millis(50)).await.unwrap(), None);
    assert_eq!(docker.logs(&id, 10).await.unwrap(), "init runs\n");
    docker.pause(&id).await.unwrap();
    event(&mut events, &id, EventKind::Paused).await;
    let (removed, again) = tokio::join!(docker.kill_and_remove(&id), docker.kill_and_remove(&id));
    removed.unwrap();
    again.unwrap();
    loop {
        let seen = tokio::time::timeout(DEADLINE, events.next()).await.expect("an event").unwrap().unwrap();
        match seen.kind {
            EventKind::Unpaused => {}
            // Killed: 137; gVisor says 255.
            EventKind::Died { code: 137 | 255 } => break,
            other => panic!("{other:?}"),
        }
    }
    event(&mut events, &id, EventKind::Removed).await;
    docker.remove_network(&network.id).await.unwrap();
    docker.remove_network(&network.id).await.unwrap();
    let found = docker.find(&world.server).await.unwrap();
    assert!(found.containers.is_empty() && found.networks.is_empty(), "{found:?}");
    assert!(matches!(docker.start(&id).await, Err(DockerError::NotFound { .. })));
    assert!(matches!(docker.start_exec(&id, &request("true")).await, Err(DockerError::NotFound { .. })));
    assert_eq!(
        fs::read_to_string(world.path("inside/resolv.conf")).unwrap(),
        "nameserver 192.0.2.53\n",
        "Docker wrote it"
    );
}

/// What an agent that is root inside can do, and what it cannot.
async fn confined(world: &World, id: &str, runtime: Runtime) {
    let read = |file: &'static str| async move { world.run(id, &format!("cat {file}")).await.1 };
    assert_eq!(read("/etc/resolv.conf").await, "nameserver 192.0.2.53\n");
    assert_eq!(read("/etc/ssl/certs/ca-certificates.crt").await, "our CA\n");
    assert_eq!(read("/proc/sys/kernel/hostname").await.trim(), world.name("life"));
    if runtime == Runtime::Runc && fs::metadata("/proc/sys/net/ipv6").is_ok() {
        assert_eq!(read("/proc/sys/net/ipv6/conf/all/disable_ipv6").await, "1\n");
        assert_eq!(read("/proc/net/if_inet6").await, "");
    }
    let status = read("/proc/self/status").await;
    // gVisor does not tell of the other two.
    let kernel: &[&str] = if runtime == Runtime::Runc { &["NoNewPrivs:\t1", "Seccomp:\t2"] } else { &[] };
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"].iter().chain(kernel) {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(world.run(id, "ulimit -c").await.1, "0\n");
    assert_eq!(world.run(id, "echo hi > new && cat new && rm new").await.1, "hi\n");
    // A swapped file would be what the server reads next. Renaming a folder on the way to it would do as well.
    for attempt in [
        "echo x > agent-creds.toml",
        "rm -f agent-creds.toml",
        "mv agent-creds.toml other",
        "mkdir d; ln agent-creds.toml d/l",
        "echo x > new; mv new agent-creds.toml",
        "echo x > certs/dev/ca.pem",
        "mv certs other",
        "mv certs/dev certs/other",
        "rm -rf certs",
        "echo x > /opt/agent-creds/policy.json",
        "echo x > /opt/agent-creds-bin/aenv",
        "echo x > /etc/resolv.conf",
        "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
    ] {
        assert_ne!(world.run(id, attempt).await.0, 0, "{attempt}");
    }
    assert_eq!(fs::read_to_string(world.path("shop/agent-creds.toml")).unwrap(), "[sandbox]\n");
    assert_eq!(fs::read_to_string(world.path("shop/certs/dev/ca.pem")).unwrap(), "a CA\n");
}

/// Without a terminal.
async fn processes(world: &World, id: &str) {
    let docker = &world.docker;
    let script = "cd /; read -r line; echo \"out $line $TOKEN\"; echo bad >&2; exit 7";
    let mut with_input = request(script);
    with_input.stdin = true;
    with_input.environment = vec!["TOKEN=acm_secret \"quoted\" é".to_owned()].into();
    let mut exec = docker.start_exec(id, &with_input).await.unwrap();
    exec.input.write_all(b"hello\n").await.unwrap();
    let seen = finish(docker, exec).await;
    assert_eq!(seen, (7, "out hello acm_secret \"quoted\" é\n".to_owned(), "bad\n".to_owned()));
    let inspected = world.cli(&["inspect", id]);
    assert!(
        !String::from_utf8_lossy(&inspected.stdout).contains("acm_secret"),
        "the container's configuration has a token"
    );

    // The end of the input reaches it, and nothing is lost on the way there and back.
    let mut through = request("cat; echo end");
    through.stdin = true;
    let mut exec = docker.start_exec(id, &through).await.unwrap();
    let mut input = std::mem::replace(&mut exec.input, Box::pin(tokio::io::sink()));
    let megabyte = "0123456789abcde\n".repeat(1 << 16);
    let sent = megabyte.clone();
    let writer = tokio::spawn(async move {
        input.write_all(sent.as_bytes()).await.unwrap();
        input.shutdown().await.unwrap();
    });
    let (code, stdout, _) = finish(docker, exec).await;
    writer.await.unwrap();
    assert_eq!((code, stdout.len()), (0, megabyte.len() + 4));
    assert!(stdout.strip_suffix("end\n") == Some(&megabyte));

    // No input is an empty one; a signal and a missing program have their codes.
    assert_eq!(world.run(id, "cat; echo end").await, (0, "end\n".to_owned(), String::new()));
    assert_eq!(world.run(id, "kill -9 $$").await.0, 137);
    let mut missing = request("");
    missing.command = vec!["/nonesuch".to_owned()];
    match docker.start_exec(id, &missing).await {
        Ok(exec) => assert!([126, 127].contains(&finish(docker, exec).await.0)),
        Err(error) => assert!(error.to_string().contains("/nonesuch"), "{error}"),
    }
}

/// With a terminal.
async fn terminals(world: &World, id: &str) {
    let docker = &world.docker;
    let mut terminal = request(
        "stty -echo; until [ \"$(stty size)\" = '33 101' ]; do sleep 0.02; done; echo first; read -r x; stty size; exit 3",
    );
    terminal.terminal = Some((33, 101));
    terminal.stdin = true;
    let mut exec = docker.start_exec(id, &terminal).await.unwrap();
    let mut seen = Vec::new();
    let until_size = async {
        while !seen.ends_with(b"first\r\n") {
            let Some(Ok(Output::Console(bytes))) = exec.output.next().await else { panic!("{seen:?}") };
            seen.extend_from_slice(&bytes);
        }
    };
    tokio::time::timeout(DEADLINE, until_size).await.expect("the first size comes by itself");
    docker.resize_exec(&exec.id, 40, 120).await.unwrap();
    exec.input.write_all(b"\n").await.unwrap();
    let (code, rest, _) = finish(docker, exec).await;
    assert_eq!((code, rest.as_str()), (3, "40 120\r\n"));

    // What looks like the header of a frame is the program's output, and no more.
    let mut odd = request(r"printf '\001\000\000\000\377\377\377\377hello\n'");
    odd.terminal = Some((24, 80));
    let exec = docker.start_exec(id, &odd).await.unwrap();
    let (code, seen, _) = finish(docker, exec).await;
    assert_eq!(code, 0);
    assert!(seen.starts_with('\u{1}') && seen.ends_with("hello\r\n"), "{seen:?}");
}

#[tokio::test]
async fn the_guard_has_the_hosts_network_and_outlives_its_server() {
    let world = World::new().await;
    let docker = &world.docker;
    let helpers_dir = world.path("helpers");
    let guard = GuardSpec { server: world.server.clone(), image: world.image.clone(), helpers_dir };
    let id = docker.create_container(&guard.create().unwrap()).await.unwrap();
    let mut attached = docker.attach(&id).await.unwrap();
    docker.start(&id).await.unwrap();
    let mut status = String::new();
    loop {
        let line = tokio::time::timeout(DEADLINE, attached.lines.next()).await.expect("a line").unwrap().unwrap();
        if line == "ready" {
            break;
        }
        status.push_str(&line);
        status.push('\n');
    }
    // CAP_NET_ADMIN, and nothing else.
    for line in ["CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    for word in ["one", "two"] {
        attached.input.write_all(format!("{word}\n").as_bytes()).await.unwrap();
        let line = tokio::time::timeout(DEADLINE, attached.lines.next()).await.expect("a line").unwrap().unwrap();
        assert_eq!(line, format!("got {word}"));
    }
    assert_eq!(docker.find(&world.server).await.unwrap().containers[0].labels.role, Role::Guard);
    let docker = world.docker.clone();
    let waiting = {
        let id = id.clone();
        tokio::spawn(async move { docker.wait(&id, DEADLINE).await })
    };
    // The server is gone, however it went: the guard goes on, and the next server takes its place.
    drop(attached);
    assert_eq!(world.docker.find(&world.server).await.unwrap().containers[0].state, ContainerState::Running);
    world.docker.kill_and_remove(&id).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), Some(137));
    let gone = async { while !world.docker.find(&world.server).await.unwrap().containers.is_empty() {} };
    tokio::time::timeout(DEADLINE, gone).await.expect("it is removed with its end");
}

#[tokio::test]
async fn envoys_container_writes_in_the_runtime_folder_only() {
    let world = World::new().await;
    let docker = &world.docker;
    let runtime_dir = world.path("runtime");
    let script = format!(
        "cd {dir}; echo hi > made; (echo no > /x) 2>/dev/null && exit 9; cat /proc/self/status; exit 4",
        dir = runtime_dir.display()
    );
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&runtime_dir).unwrap());
    let gid = std::os::unix::fs::MetadataExt::gid(&fs::metadata(&runtime_dir).unwrap());
    let command = ["sh".to_owned(), "-c".to_owned(), script].into();
    let (server, image) = (world.server.clone(), world.image.clone());
    let envoy = EnvoySpec { server, image, runtime_dir, uid, gid, command };
    let id = docker.create_container(&envoy.create().unwrap()).await.unwrap();
    docker.start(&id).await.unwrap();
    assert_eq!(docker.wait(&id, DEADLINE).await.unwrap(), Some(4));
    assert_eq!(fs::read_to_string(world.path("runtime/made")).unwrap(), "hi\n");
    let log = docker.logs(&id, 100).await.unwrap();
    assert!(log.contains("CapEff:\t0000000000000000") && log.contains("CapBnd:\t0000000000000000"), "{log}");
    let found = docker.find(&world.server).await.unwrap().containers.remove(0);
    assert_eq!((found.state, found.labels.role), (ContainerState::Exited { code: 4 }, Role::Envoy));
    assert!(matches!(docker.start_exec(&id, &request("true")).await, Err(DockerError::NotRunningContainer { .. })));
    docker.kill_and_remove(&id).await.unwrap();
}
