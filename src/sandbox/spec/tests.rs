use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::body::{Create, EnvoySpec, GuardSpec, NetworkSpec, Runtime, SandboxSpec};
use super::*;

fn server() -> ServerId {
    ServerId::of(Path::new("/home/ada/.local/state/agent-creds"))
}

fn sandbox() -> SandboxLabels {
    SandboxLabels {
        name: "shop".parse().unwrap(),
        config: "/home/ada/shop/agent-creds.toml".into(),
        workspace: "/home/ada/shop".into(),
        uid: 1000,
        gid: 100,
        instance: Instance::from_random([0, 1, 2, 3, 4, 5, 0xab, 0xff]),
        ports: Some(Ports { listener: 15001, dns: 15053 }),
        files: BTreeSet::from([(65024, 131, 7), (65024, 99, 0)]),
    }
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        server: server(),
        sandbox: sandbox(),
        image: "agent-creds-sandbox".to_owned(),
        runtime: Runtime::Runc,
        memory: Some(8 << 30),
        cpus: Some(2_500_000_000),
        protected: vec![
            "/home/ada/shop/agent-creds.toml".into(),
            "/home/ada/shop/certs/dev/ca.pem".into(),
            "/home/ada/shop/certs/other.pem".into(),
            "/etc/ssl/private-ca.pem".into(),
        ],
        inside_dir: "/run/user/1000/agent-creds/sandboxes/shop".into(),
        helpers_dir: "/opt/agent-creds/helpers".into(),
        environment: BTreeMap::from([("HOME".to_owned(), "/home/agent".to_owned())]),
        host_has_ipv6: true,
    }
}

/// What Docker is told, to the last field: any change shows here. `UPDATE_GOLDEN=1 cargo test` rewrites it.
#[test]
fn bodies_are_as_in_the_golden_file() {
    let guard =
        GuardSpec { server: server(), image: "agent-creds-envoy".to_owned(), helpers_dir: "/opt/helpers".into() };
    let envoy = EnvoySpec {
        server: server(),
        image: "agent-creds-envoy".to_owned(),
        runtime_dir: "/run/user/1000/agent-creds".into(),
        uid: 1000,
        gid: 100,
        command: ["envoy", "-c", "/run/user/1000/agent-creds/envoy.json"].map(str::to_owned).into(),
    };
    let container = |create: Create| serde_json::json!({ "name": create.name, "body": create.body });
    let all = serde_json::json!({
        "sandbox": container(spec().create().unwrap()),
        "network": NetworkSpec {
            server: server(),
            sandbox: SandboxLabels { ports: None, files: BTreeSet::new(), ..sandbox() },
            bridge: "ac0123456789abc".to_owned(),
        }
        .create().unwrap(),
        "guard": container(guard.create().unwrap()),
        "envoy": container(envoy.create().unwrap()),
    });
    let seen = format!("{all:#}\n");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sandbox/spec/golden.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &seen).unwrap();
    }
    assert_eq!(seen, std::fs::read_to_string(&golden).unwrap(), "UPDATE_GOLDEN=1 rewrites {}", golden.display());
}

#[test]
fn gvisor_differs_in_runtime_and_sysctls_only() {
    let runc = spec().create().unwrap();
    let mut runsc = SandboxSpec { runtime: Runtime::Runsc, ..spec() }.create().unwrap();
    let host = runsc.body.host_config.as_mut().unwrap();
    assert_eq!((host.runtime.as_deref(), host.sysctls.as_ref()), (Some("runsc"), None));
    host.runtime = Some("runc".to_owned());
    host.sysctls = runc.body.host_config.as_ref().unwrap().sysctls.clone();
    assert_eq!(runsc, runc);
}

#[test]
fn names_fit_where_they_go() {
    let long: SandboxId = "a".repeat(63).parse().unwrap();
    assert_eq!(container_name(&long), format!("adev-{long}"));
    assert_eq!(network_name(&long), format!("adev-{long}"));
}

#[test]
fn labels_come_back_and_nothing_else_does() {
    for role in [Role::Sandbox(sandbox()), Role::Guard, Role::Envoy] {
        let labels = Labels { server: server(), role };
        let map = labels.to_map().unwrap();
        assert_eq!(Labels::from_map(&map), Some(labels));
        // A network tells neither ports nor files.
        for label in map.keys().filter(|label| ![LABEL_PORTS, LABEL_FILES].contains(&label.as_str())) {
            let without: HashMap<_, _> =
                map.iter().filter(|(l, _)| *l != label).map(|(l, v)| (l.clone(), v.clone())).collect();
            assert_eq!(Labels::from_map(&without), None, "without {label}");
        }
    }
    let map = Labels { server: server(), role: Role::Sandbox(sandbox()) }.to_map().unwrap();
    for (label, bad) in [
        (LABEL_SERVER, "0123456789AB"),
        (LABEL_SERVER, "0123456789abc"),
        (LABEL_SANDBOX, "../shop"),
        (LABEL_ROLE, "Sandbox"),
        (LABEL_CONFIG, "agent-creds.toml"),
        (LABEL_WORKSPACE, ""),
        (LABEL_USER, "1000"),
        (LABEL_USER, "+1000:100"),
        (LABEL_USER, "1000:0100"),
        (LABEL_USER, "4294967296:0"),
        (LABEL_INSTANCE, "0001-2030405abff"),
        (LABEL_FILES, "1:2"),
        (LABEL_FILES, "1:2:3:4"),
        (LABEL_FILES, "1:2:3,"),
        (LABEL_PORTS, "15001"),
        (LABEL_PORTS, "15001:65536"),
    ] {
        let mut map = map.clone();
        map.insert(label.to_owned(), bad.to_owned());
        assert_eq!(Labels::from_map(&map), None, "{label}={bad}");
    }
}

#[test]
fn a_workspace_is_the_folder_of_a_project() {
    let forbidden: Vec<PathBuf> =
        ["/home/ada/.local/state/agent-creds", "/run/user/1000/agent-creds", "/srv/docker.sock"].map(Into::into).into();
    let check = |path: &str| check_workspace(Path::new(path), &forbidden);
    for good in ["/home/ada/shop", "/home/ada/.local/state/agent-creds-2", "/tmp/try", "/usr/src/app"] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("/", "whole file system"),
        ("/home", "holds /home"),
        ("/var/lib", "holds /var/lib/docker"),
        ("/var/run", "holds /var/run"),
        ("/etc/app", "lies in /etc"),
        ("/proc/self/cwd", "lies in /proc"),
        ("/home/ada", "holds /home/ada/.local/state/agent-creds,"),
        ("/home/ada/.local/state/agent-creds", "agent-creds, which no agent"),
        ("/home/ada/.local/state/agent-creds/x", "lies in /home/ada/.local/state/agent-creds,"),
        ("/run/user/1000", "holds /run/user/1000/agent-creds"),
        ("/srv", "holds /srv"),
        ("shop", "not an absolute path"),
        ("/home/ada/../bob/shop", "not an absolute path"),
        ("/home/ada/./shop", "not an absolute path"),
        ("/home/ada/shop/", "not an absolute path"),
    ] {
        let error = check(bad).unwrap_err().to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
}

#[test]
fn paths_that_docker_cannot_be_told_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"/home/ada/sh\xffop"));
    let path = odd.clone();
    assert_eq!(check_workspace(&odd, &[]), Err(SpecError::NotUtf8 { path: path.clone() }));
    let odd = SandboxSpec { sandbox: SandboxLabels { workspace: odd, ..sandbox() }, ..spec() };
    assert_eq!(odd.create().unwrap_err(), SpecError::NotUtf8 { path });
    let relative = SandboxSpec { inside_dir: "inside".into(), ..spec() };
    assert_eq!(relative.create().unwrap_err(), SpecError::NotAbsolute { path: "inside".into() });
    let hidden = SandboxSpec { protected: vec!["/home/ada/shop/../x".into()], ..spec() };
    assert!(hidden.create().is_err());
}

proptest! {
    /// Whatever the project is called and wherever it is: the host shows in exactly the mounts that were asked for.
    #[test]
    fn only_what_was_asked_for_is_mounted(folder in "[a-z0-9 :,日é-]{1,20}", files in proptest::collection::vec("[a-z:]{1,5}(/[a-z]{1,5}){0,3}", 0..4)) {
        let workspace = Path::new("/home/ada").join(folder);
        let protected: Vec<_> = files.iter().map(|file| workspace.join(file)).collect();
        let sandbox = SandboxLabels { workspace: workspace.clone(), ..sandbox() };
        let create = SandboxSpec { sandbox, protected: protected.clone(), ..spec() }.create().unwrap();
        let host = create.body.host_config.unwrap();
        prop_assert!(host.binds.is_none() && host.volumes_from.is_none() && host.devices.is_none());
        prop_assert!(host.port_bindings.is_none() && host.cap_add.is_none());
        let mounts = host.mounts.unwrap();
        for mount in &mounts {
            let (source, target) = (mount.source.clone().unwrap(), mount.target.clone().unwrap());
            let within = Path::new(&source).strip_prefix(&workspace);
            match within {
                Ok(within) => {
                    prop_assert_eq!(Path::new("/workspace").join(within), Path::new(&target).to_owned());
                    prop_assert_eq!(mount.read_only.unwrap(), protected.contains(&PathBuf::from(&source)));
                }
                Err(_) => prop_assert_eq!(mount.read_only, Some(true)),
            }
        }
        for file in &protected {
            // It, and every folder on the way to it, is a mount: none of them can be renamed away.
            for path in file.ancestors().take_while(|path| path.starts_with(&workspace)) {
                let mounted = mounts.iter().filter(|m| m.source.as_deref() == path.to_str()).count();
                prop_assert_eq!(mounted, 1, "{}", path.display());
            }
        }
    }
}
