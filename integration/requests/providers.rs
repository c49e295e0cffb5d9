//! Where secrets are kept, for real: files that change, programs that hang, a keyring, an encrypted file; and what a request
//! gets while they cannot be had.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::{STRIPE, assert_refusal};
use crate::support::client::{Client, Reply};
use crate::support::load::{Load, LoadConfig, Target};
use crate::support::server::{DEADLINE, Server, WorldConfig, install_script, upstream_section};
use crate::support::upstream::Upstream;

const FIRST: &str = "sk-ac1-Xw7Kd2Rn";
const SECOND: &str = "sk-ac2-Lp5Vb8Tz";

struct World {
    server: Server,
    client: Client,
    upstream: Upstream,
    token: String,
    /// Where the secrets are.
    folder: tempfile::TempDir,
}

/// A bearer credential with this provider.
fn bearer(provider: &str) -> String {
    format!("[credentials.\"{STRIPE}\"]\ntype = \"bearer\"\ntoken = {provider}\n")
}

impl World {
    /// `provider` is given the folder of the secrets, in which `prepare` has made them.
    async fn start(
        prepare: impl FnOnce(&Path),
        provider: impl FnOnce(&Path) -> String,
        change: impl FnOnce(WorldConfig) -> WorldConfig,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let upstream = Upstream::start(&[STRIPE]).await;
        let config = WorldConfig::new(upstream_section(STRIPE, &upstream, "")).vault(&bearer(&provider(folder.path())));
        let server = Server::start(change(config)).await;
        let (client, token) = (server.client(), server.token(&["--hosts", STRIPE]));
        Self { server, client, upstream, token, folder }
    }

    async fn ask(&self) -> Reply {
        self.client.get(&format!("https://{STRIPE}/v1/x")).bearer(&self.token).send().await.unwrap()
    }

    /// The key that the upstream was sent.
    async fn key(&self) -> String {
        let reply = self.ask().await;
        assert_eq!(reply.status, StatusCode::OK, "{} {}", reply.text(), self.problems().await);
        let sent = self.upstream.last_request().header("authorization").unwrap_or_default();
        sent.strip_prefix("Bearer ").unwrap().to_owned()
    }

    /// Waits until the upstream is sent this key.
    async fn until_key(&self, key: &str) -> Duration {
        let started = Instant::now();
        while self.key().await != key {
            assert!(started.elapsed() < DEADLINE, "{key} is not sent: {}", self.problems().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started.elapsed()
    }

    async fn problems(&self) -> String {
        self.server.ready().await.unwrap().body["credentials"]["problems"].to_string()
    }

    async fn until_problem(&self, text: &str) {
        let started = Instant::now();
        loop {
            // It is asked for again when somebody needs it.
            let _ = self.ask().await;
            let problems = self.problems().await;
            if problems.contains(text) {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "no {text} in {problems}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until requests are refused.
    async fn until_refused(&self) {
        let started = Instant::now();
        loop {
            let reply = self.ask().await;
            if reply.status != StatusCode::OK {
                return assert_refusal(&reply, 503, "Credential not available for this host: api.stripe.com");
            }
            assert!(started.elapsed() < DEADLINE, "it still is sent");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// No secret is anywhere but where the test put it.
    fn assert_silent(&self) {
        for secret in [FIRST, SECOND] {
            assert_eq!(self.server.files_containing(secret), [] as [&Path; 0]);
        }
    }
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_while_requests_flow() {
    let prepare = |folder: &Path| {
        // As secret stores do it: a link into a folder of this version, which is swapped.
        for (version, secret) in [("v1", FIRST), ("v2", SECOND)] {
            std::fs::create_dir(folder.join(version)).unwrap();
            std::fs::write(folder.join(version).join("key"), format!("{secret}\n")).unwrap();
        }
        symlink("v1", folder.join("data")).unwrap();
    };
    let provider = |folder: &Path| format!("{{ provider = \"file\", path = \"{}/data/key\" }}", folder.display());
    let world = World::start(prepare, provider, |config| config).await;
    assert_eq!(world.key().await, FIRST);
    let mut target = Target::new(&format!("https://{STRIPE}/echo"));
    target.token = Some(world.token.clone());
    let load = Load::start(&world.client, LoadConfig::new(vec![target])).await;
    symlink("v2", world.folder.path().join("next")).unwrap();
    std::fs::rename(world.folder.path().join("next"), world.folder.path().join("data")).unwrap();
    let took = world.until_key(SECOND).await;
    eprintln!("the new secret was sent after {took:?}");
    load.stop().await.assert_clean();
    world.assert_silent();
}

#[tokio::test]
async fn a_file_that_is_lost_is_missed_after_its_grace() {
    let prepare = |folder: &Path| std::fs::write(folder.join("key"), FIRST).unwrap();
    let provider =
        |folder: &Path| format!("{{ provider = \"file\", path = \"{}/key\", grace = \"3s\" }}", folder.display());
    let world = World::start(prepare, provider, |config| config).await;
    assert_eq!((world.key().await.as_str(), world.problems().await.as_str()), (FIRST, "[]"));
    let file = world.folder.path().join("key");
    std::fs::write(&file, "").unwrap();
    world.until_problem("is empty").await;
    // For its grace the last good one is used, and that is said.
    assert_eq!(world.key().await, FIRST);
    assert!(world.problems().await.contains("\"stale\""), "{}", world.problems().await);
    assert_eq!(world.server.metric("agent_creds_credential_good", &[STRIPE]).await, 0.0);
    let ready = world.server.ready().await.unwrap();
    assert!(ready.is_ready() && ready.body["credentials"]["ok"] == false, "{ready:?}");
    world.until_refused().await;
    assert!(world.problems().await.contains("\"failed\""), "{}", world.problems().await);
    std::fs::remove_file(&file).unwrap();
    world.until_problem("No such file").await;
    std::fs::write(&file, SECOND).unwrap();
    let started = Instant::now();
    while world.ask().await.status != StatusCode::OK {
        assert!(started.elapsed() < DEADLINE, "{}", world.problems().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((world.key().await.as_str(), world.problems().await.as_str()), (SECOND, "[]"));
    world.assert_silent();
}

/// A program of the test's that says how often it ran.
fn program(folder: &Path, script: &str) {
    install_script(&format!("#!/bin/sh\necho run >> {}/runs\n{script}\n", folder.display()), &folder.join("program"));
}

fn runs(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("runs")).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn a_program_is_asked_when_it_is_needed_and_again_after_its_ttl() {
    let prepare = |folder: &Path| {
        std::fs::write(folder.join("key"), FIRST).unwrap();
        program(folder, &format!("env > {0}/env; exec cat {0}/key", folder.display()));
    };
    let provider = |folder: &Path| {
        format!("{{ provider = \"exec\", command = [\"{}/program\", \"a b\"], ttl = \"2s\" }}", folder.display())
    };
    let signing_key = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=";
    let world = World::start(prepare, provider, |config| config.env("MACAROON_SIGNING_KEY", signing_key)).await;
    let folder = world.folder.path();
    assert_eq!(runs(folder), 0, "asked before anybody needed it");
    for _ in 0..5 {
        assert_eq!(world.key().await, FIRST);
    }
    assert_eq!(runs(folder), 1);
    let environment = std::fs::read_to_string(folder.join("env")).unwrap();
    assert!(environment.contains("STRIPE_API_KEY") && !environment.contains(signing_key), "{environment}");
    std::fs::write(folder.join("key"), SECOND).unwrap();
    world.until_key(SECOND).await;
    world.assert_silent();
}

#[tokio::test]
async fn a_program_that_hangs_or_fails_opens_nothing() {
    let prepare = |folder: &Path| program(folder, "exec sleep 1000");
    let provider = |folder: &Path| {
        format!("{{ provider = \"exec\", command = [\"{}/program\"], timeout = \"1s\" }}", folder.display())
    };
    let world = World::start(prepare, provider, |config| config).await;
    let started = Instant::now();
    assert_refusal(&world.ask().await, 503, "Credential not available");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert!(world.problems().await.contains("gave no answer within 1s"), "{}", world.problems().await);
    assert_eq!(world.upstream.request_count(), 0);
    program(world.folder.path(), &format!("echo {FIRST}; echo {FIRST} >&2; exit 3"));
    world.until_refused().await;
    world.until_problem("exit status: 3").await;
    // What is wrong is not told to who asks, and no secret is anywhere.
    let reply = world.ask().await;
    assert!(!reply.text().contains("program") && !reply.text().contains("exit"), "{}", reply.text());
    std::fs::set_permissions(world.folder.path().join("program"), PermissionsExt::from_mode(0o600)).unwrap();
    world.until_problem("cannot run").await;
    assert_eq!(world.upstream.request_count(), 0);
    program(world.folder.path(), &format!("echo {FIRST}"));
    let started = Instant::now();
    while world.ask().await.status != StatusCode::OK {
        assert!(started.elapsed() < 2 * DEADLINE, "{}", world.problems().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.assert_silent();
}

/// `actl secret WORDS`, with a secret on standard input.
fn actl_secret(words: &[&str], input: &str, env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_actl"))
        .arg("secret")
        .args(words)
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn an_encrypted_file_is_written_by_actl_and_read_by_the_server() {
    const PASSPHRASE: [(&str, &str); 1] = [("AGENT_CREDS_AGE_PASSPHRASE", "pp-ac9 Qz4Mk7Jd")];
    let set = |folder: &Path, name: &str, secret: &str| {
        let file = folder.join("secrets.age");
        actl_secret(&["set", name, "--age", file.to_str().unwrap()], secret, &PASSPHRASE)
    };
    let prepare = |folder: &Path| {
        let (code, out, err) = set(folder, "stripe", &format!("{FIRST}\n"));
        assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
        assert!(err.contains("kept `stripe`") && !err.contains(FIRST), "{err}");
        assert_eq!(set(folder, "other", "another").0, Some(0));
    };
    let provider = |folder: &Path| {
        format!("{{ provider = \"age\", file = \"{}/secrets.age\", name = \"stripe\" }}", folder.display())
    };
    let world = World::start(prepare, provider, |config| config.env(PASSPHRASE[0].0, PASSPHRASE[0].1)).await;
    assert_eq!(world.key().await, FIRST, "{}", world.problems().await);
    let folder = world.folder.path();
    let file = folder.join("secrets.age");
    let file = file.to_str().unwrap();
    assert_eq!(actl_secret(&["list", "--age", file], "", &PASSPHRASE).1, "other\nstripe\n");
    assert_eq!(actl_secret(&["list", "--json", "--age", file], "", &PASSPHRASE).1, "[\"other\",\"stripe\"]\n");
    assert_eq!(set(folder, "stripe", SECOND).0, Some(0));
    world.until_key(SECOND).await;
    // What goes wrong is said, and loses nothing.
    let before = std::fs::read(file).unwrap();
    for (words, env, expected) in [
        (&["set", "a", "--age", file][..], &[("AGENT_CREDS_AGE_PASSPHRASE", "wrong")][..], "cannot decrypt"),
        (&["set", "a", "--age", file], &[], "--identity FILE"),
        (&["set", "a b", "--age", file], &PASSPHRASE, "the name of a secret has"),
        (&["remove", "nothing", "--age", file], &PASSPHRASE, "there is no `nothing`"),
        (&["set", "a", "--age", "/no/such/folder/file"], &PASSPHRASE, "/no/such/folder"),
    ] {
        let (code, _, err) = actl_secret(words, "sk-ac3", env);
        assert!(code != Some(0) && err.contains(expected) && !err.contains("sk-ac3"), "{words:?}: {err}");
    }
    let (code, _, err) = actl_secret(&["set", "a", "--age", file], "\n", &PASSPHRASE);
    assert!(code == Some(1) && err.contains("no secret was kept"), "{err}");
    assert_eq!(std::fs::read(file).unwrap(), before);
    assert_eq!(actl_secret(&["remove", "other", "--age", file], "", &PASSPHRASE).0, Some(0));
    world.assert_silent();
}

/// A keyring of its own, on a D-Bus session of its own; both end with it.
struct Desktop {
    bus: Child,
    keyring: Child,
    address: String,
}

impl Desktop {
    fn start(home: &Path) -> Self {
        // One that starts nobody by itself: the session's own configuration would start another keyring, which is locked, for who
        // asks before this one is there.
        let config = home.join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}/bus</listen><policy context=\"default\"><allow \
             send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
            home.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut bus = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--print-address=1", "--config-file"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon is there: integration/setup.sh test installs it");
        // One line, once it listens.
        let mut address = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(bus.stdout.take().unwrap()), &mut address).unwrap();
        let address = address.trim().to_owned();
        let mut keyring = Command::new("gnome-keyring-daemon")
            .args(["--foreground", "--components=secrets", "--unlock"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home)
            .env("DBUS_SESSION_BUS_ADDRESS", &address)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("gnome-keyring-daemon is there: integration/setup.sh test installs it");
        // The password, to its end.
        std::io::Write::write_all(&mut keyring.stdin.take().unwrap(), b"password").unwrap();
        Self { bus, keyring, address }
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        for child in [&mut self.keyring, &mut self.bus] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn the_desktops_keyring_is_written_by_actl_and_read_by_the_server() {
    let home = tempfile::tempdir().unwrap();
    let desktop = Desktop::start(home.path());
    let env = [("DBUS_SESSION_BUS_ADDRESS", desktop.address.as_str())];
    let started = Instant::now();
    loop {
        let (code, _, err) = actl_secret(&["set", "stripe"], &format!("{FIRST}\n"), &env);
        if code == Some(0) {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{err}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let provider = |_: &Path| "{ provider = \"keyring\", name = \"stripe\", ttl = \"1s\", grace = \"1s\" }".to_owned();
    let world = World::start(|_| (), provider, |config| config.env(env[0].0, env[0].1)).await;
    assert_eq!(world.key().await, FIRST, "{}", world.problems().await);
    assert_eq!(actl_secret(&["list"], "", &env).1, "stripe\n");
    assert_eq!(actl_secret(&["set", "stripe"], SECOND, &env).0, Some(0));
    world.until_key(SECOND).await;
    assert_eq!(actl_secret(&["remove", "stripe"], "", &env).0, Some(0));
    world.until_refused().await;
    assert!(world.problems().await.contains("`actl secret set stripe` writes it"), "{}", world.problems().await);
    let (code, _, err) = actl_secret(&["remove", "stripe"], "", &env);
    assert!(code == Some(1) && err.contains("there is no `stripe` in the keyring"), "{err}");
    // Without a desktop.
    let (code, _, err) = actl_secret(&["list"], "", &[("DBUS_SESSION_BUS_ADDRESS", "unix:path=/no/such/bus")]);
    assert!(code == Some(1) && err.contains("--age FILE") && err.contains("DBUS_SESSION_BUS_ADDRESS"), "{err}");
    drop(desktop);
    world.assert_silent();
}

#[tokio::test]
async fn vault_toml_is_reloaded_and_what_is_known_is_not_asked_for_again() {
    let prepare = |folder: &Path| program(folder, &format!("echo {FIRST}"));
    let provider = |folder: &Path| format!("{{ provider = \"exec\", command = [\"{}/program\"] }}", folder.display());
    let world = World::start(prepare, provider, |config| config).await;
    assert_eq!(world.key().await, FIRST);
    let mut target = Target::new(&format!("https://{STRIPE}/echo"));
    target.token = Some(world.token.clone());
    let load = Load::start(&world.client, LoadConfig::new(vec![target])).await;
    let known = bearer(&provider(world.folder.path()));
    // Another line of the file changes, then a broken edit: neither asks again.
    let save = |text: String| std::fs::write(world.server.vault_file(), text).unwrap();
    let generation = world.server.generation().await;
    save(format!(
        "# moved\n{known}[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = {{ provider = \"env\", name = \"STRIPE_API_KEY\" }}\n"
    ));
    world.server.wait_generation(generation + 1).await;
    assert_eq!(world.key().await, FIRST);
    save(format!(
        "{known}[credentials.\"b.example\"]\ntype = \"bearer\"\ntoken = {{ provider = \"env\", name = \"NOT_SET\" }}\n"
    ));
    let ready = world.server.wait_for("the vault is refused", |ready| !ready.config_ok()).await;
    assert!(ready.problems()[0]["message"].as_str().unwrap().contains("NOT_SET is not set"), "{ready:?}");
    assert_eq!((world.key().await.as_str(), runs(world.folder.path())), (FIRST, 1));
    // Another kind of credential is in force at once.
    std::fs::write(world.folder.path().join("second"), SECOND).unwrap();
    save(bearer(&format!("{{ provider = \"file\", path = \"{}/second\" }}", world.folder.path().display())));
    world.until_key(SECOND).await;
    load.stop().await.assert_clean();
}
