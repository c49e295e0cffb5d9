use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::*;

fn places(root: &Path) -> Places {
    Places {
        state_dir: root.join("state"),
        runtime_dir: root.join("run"),
        vault: Some(root.join("vault.toml")),
        docker_host: Some(format!("unix://{}", root.join("docker.sock").display())),
        envoy_bin: None,
        path: None,
        ca_file: None,
        root: root.to_owned(),
        now: i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap(),
    }
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn text_says_what_and_how_without_tricks() {
    let findings = [
        Finding::ok("Docker", "Engine 20.10.24"),
        Finding::problem("state", "open\u{1b}[2J\nto others", "chmod 700 /x\nor so"),
        Finding::of_error("Envoy", Verdict::Warning, "there is none: get one"),
    ];
    let expected = "\
ok       Docker     Engine 20.10.24
problem  state      open\\u{1b}[2J
                    to others
                    → chmod 700 /x
                      or so
warning  Envoy      there is none
                    → get one
1 problem, 1 warning
";
    assert_eq!(as_text(&findings, false), expected);
    assert!(as_text(&findings[..1], true).ends_with("Engine 20.10.24\nnothing is in the way\n"));
}

#[test]
fn files_that_are_open_to_others_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let places = places(dir.path());
    let verdict = |check: &str| {
        let found = files::verdicts(&places);
        found.iter().find(|(name, _)| *name == check).unwrap_or_else(|| panic!("{check}: {found:?}")).1
    };
    for check in ["state", "runtime", "CA", "vault"] {
        assert_eq!(verdict(check), Verdict::Ok, "{check} is not there yet");
    }
    std::fs::create_dir(&places.state_dir).unwrap();
    chmod(&places.state_dir, 0o755);
    assert_eq!(verdict("state"), Verdict::Problem);
    chmod(&places.state_dir, 0o700);
    assert_eq!(verdict("state"), Verdict::Ok);
    // The folder may be a link to where there is room.
    std::fs::rename(&places.state_dir, dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &places.state_dir).unwrap();
    assert_eq!(verdict("state"), Verdict::Ok);
    std::fs::write(&places.runtime_dir, "").unwrap();
    chmod(&places.runtime_dir, 0o600);
    assert_eq!(verdict("runtime"), Verdict::Problem);
    let database = places.state_dir.join("tokens.db");
    std::fs::write(&database, "").unwrap();
    chmod(&database, 0o644);
    assert_eq!(verdict("state"), Verdict::Problem);
    let vault = places.vault.clone().unwrap();
    std::fs::write(&vault, "").unwrap();
    chmod(&vault, 0o664);
    assert_eq!(verdict("vault"), Verdict::Problem);
    chmod(&vault, 0o644);
    assert_eq!(verdict("vault"), Verdict::Ok);

    let ca = places.state_dir.join("ca");
    crate::pki::Ca::load_or_create(&ca, SystemTime::now()).unwrap();
    assert_eq!(verdict("CA"), Verdict::Ok);
    let later = |days: i64| Places { now: places.now + days * 86400, ..self::places(dir.path()) };
    let at = |places: &Places| files::verdicts(places).iter().find(|(name, _)| *name == "CA").unwrap().1;
    let end = crate::pki::Ca::load(&ca).unwrap().summary(&ca).not_after;
    let left = (end - places.now) / 86400;
    assert_eq!((at(&later(left - 5)), at(&later(left + 2))), (Verdict::Warning, Verdict::Problem));
    chmod(&ca.join("ca-bundle.pem"), 0o644);
    assert_eq!(verdict("CA"), Verdict::Problem);
}

#[test]
fn a_clock_that_was_set_back_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let Places { state_dir, now, .. } = places(dir.path());
    std::fs::create_dir(&state_dir).unwrap();
    std::fs::write(state_dir.join("lock"), "").unwrap();
    let clock = |now, docker| host::clock(&state_dir, now, docker).verdict;
    assert_eq!(clock(now, Some((now, now..=now))), Verdict::Ok);
    // Docker took its time to answer.
    assert_eq!(clock(now + 20, Some((now + 15, now..=now + 20))), Verdict::Ok);
    for theirs in [now - 60, now + 60] {
        assert_eq!(clock(now, Some((theirs, now..=now))), Verdict::Problem);
    }
    assert_eq!(clock(now - 3600, None), Verdict::Problem);
}

#[tokio::test]
async fn firewalls_are_found_and_what_is_not_seen_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("etc/ufw/ufw.conf", "# x\nENABLED=yes\n");
    write("etc/default/ufw", "DEFAULT_INPUT_POLICY=\"DROP\"\n");
    write("run/firewalld.pid", "1");
    let found = host::firewall(dir.path()).await;
    assert_eq!((found[0].verdict, found[1].verdict, found.len()), (Verdict::Warning, Verdict::Warning, 3));
    write("etc/default/ufw", "DEFAULT_INPUT_POLICY=\"ACCEPT\"\n");
    assert_eq!(host::firewall(dir.path()).await[0].verdict, Verdict::Ok);

    std::fs::remove_dir_all(dir.path().join("run")).unwrap();
    let with_ufw = |rules: &str| host::verdicts_with(dir.path(), rules);
    write("etc/default/ufw", "DEFAULT_INPUT_POLICY=\"DROP\"\n");
    let ufw = "-P INPUT DROP\n-A INPUT -j ufw-before-input\n";
    assert_eq!(with_ufw(ufw), [Verdict::Warning, Verdict::Warning]);
    // What it was told to do is seen.
    assert_eq!(with_ufw(&format!("{ufw}-A ufw-user-input -i ac+ -j ACCEPT\n")), [Verdict::Ok, Verdict::Ok]);
    write("etc/ufw/ufw.conf", "ENABLED=no\n");
    write("run/firewalld.pid", "1");
    write("etc/firewalld/zones/trusted.xml", "<zone target=\"ACCEPT\"><interface name=\"ac+\"/></zone>\n");
    assert_eq!(with_ufw(""), [Verdict::Ok, Verdict::Ok]);
    std::fs::remove_dir_all(dir.path().join("run")).unwrap();

    for (rules, verdict) in [
        ("-P INPUT ACCEPT\n-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n", Verdict::Ok),
        ("-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n", Verdict::Warning),
        ("-P INPUT DROP\n-A INPUT -i ac+ -j ACCEPT\n", Verdict::Ok),
        ("-P INPUT ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n", Verdict::Warning),
    ] {
        assert_eq!(host::verdicts_with(dir.path(), rules), [verdict], "{rules}");
    }

    assert_eq!(host::kernel(dir.path()).verdict, Verdict::Unseen);
    write("proc/sys/kernel/osrelease", "6.1.0\n");
    write("lib/modules/6.1.0/modules.dep", "kernel/net/bridge/bridge.ko.xz:\n");
    let found = host::kernel(dir.path());
    assert_eq!(found.verdict, Verdict::Problem);
    assert!(found.what.contains("no nf_tables") && !found.what.contains("no bridge"), "{found:?}");
    write("lib/modules/6.1.0/modules.builtin", "kernel/net/netfilter/nf_tables.ko\n");
    assert_eq!(host::kernel(dir.path()).verdict, Verdict::Ok);
    assert_eq!(host::routing(dir.path()).verdict, Verdict::Unseen);
}

#[tokio::test]
async fn nothing_there_is_said_and_is_no_hang() {
    let dir = tempfile::tempdir().unwrap();
    let places = places(dir.path());
    let (found, about) = docker::look(&places).await;
    assert_eq!((found.len(), found[0].verdict, about.is_none()), (1, Verdict::Problem, true));
    assert!(found[0].mend.as_ref().unwrap().contains("install Docker"), "{found:?}");
    assert_eq!(host::envoy(&places, None).await.verdict, Verdict::Problem);
    let named = Places { envoy_bin: Some("/nonexistent".into()), ..self::places(dir.path()) };
    assert!(host::envoy(&named, None).await.what.contains("/nonexistent"));
    let fails = Places { envoy_bin: Some("/bin/false".into()), ..self::places(dir.path()) };
    assert!(host::envoy(&fails, None).await.what.contains("fails"));
    let (server, http) = host::server(&places).await;
    assert_eq!((server.verdict, http), (Verdict::Ok, None));
    assert_eq!(
        host::helpers(Err("missing; `make build` builds them".into())).mend.unwrap(),
        "`make build` builds them"
    );
}
