//! A sandbox that runs, and what changes around it: its file, the CA, the server. No `adev` is attached; what holds inside is
//! asked through Docker's own client.

use std::fs;
use std::process::{Child, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use super::world::{World, eventually};
use crate::support::server::{run, upstream_section};

const TOKEN: &str = "STRIPE_API_KEY = { token = { hosts = [\"api.stripe.com\"] } }";

/// The status of a request from inside; 000 when there was no answer.
fn status(world: &World, host: &str) -> String {
    world.exec("shop", &format!("curl -s -o /dev/null --max-time 10 -w '%{{http_code}}' https://{host}/"))
}

/// What `adev list --json` and `aenv --json` inside say is wrong with the file.
fn problems(world: &World) -> (String, String) {
    let inside: Value = serde_json::from_str(&world.exec("shop", "/opt/agent-creds-bin/aenv --json")).unwrap();
    let text = |value: &Value| {
        let all = value["problems"].as_array().expect("an array");
        all.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect::<Vec<_>>().join("\n")
    };
    (text(&world.listed("shop")), text(&inside))
}

fn edits_are_followed(runtime: &'static str) {
    let world = World::new(runtime);
    world.project("shop", "", TOKEN, &["api.stripe.com"]);
    world.says("shop", "true");
    assert_eq!(
        (status(&world, "api.stripe.com").as_str(), status(&world, "other.example.com").as_str()),
        ("200", "000")
    );
    let container = world.inspect("shop", "{{.Id}} {{.State.StartedAt}}");

    // A host comes.
    world.project("shop", "", TOKEN, &["api.stripe.com", "other.example.com"]);
    eventually("other.example.com can be reached", || status(&world, "other.example.com") == "200");
    assert_eq!(status(&world, "api.stripe.com"), "200");
    // Inside it is the same file, and only read.
    assert!(world.exec("shop", "cat agent-creds.toml").contains("other.example.com"));
    let written = world.inside("shop", "echo >>agent-creds.toml || { rm -f agent-creds.toml; mv agent-creds.toml x; }");
    assert!(!written.status.success(), "{written:?}");

    // A host goes, and another is limited.
    let limited = upstream_section("other.example.com", &world.upstream, "methods = [\"POST\"]");
    let (name, before) = (world.name("shop"), fs::read_to_string(world.config_file("shop")).unwrap());
    world.write_config("shop", &format!("[sandbox]\nname = \"{name}\"\nruntime = \"{runtime}\"\n\n{limited}"));
    eventually("api.stripe.com cannot be reached", || status(&world, "api.stripe.com") == "000");
    eventually("only POST is allowed", || status(&world, "other.example.com") == "403");
    world.write_config("shop", &before);
    eventually("both are back", || {
        ["api.stripe.com", "other.example.com"].iter().all(|host| status(&world, host) == "200")
    });
    assert_eq!(problems(&world), (String::new(), String::new()));

    // A broken file changes nothing, and everybody says so.
    world.write_config("shop", &before.replace("[upstream.\"api.stripe.com\"]", "[upstrean.\"api.stripe.com\"]"));
    eventually("the problem is shown on the host and inside", || {
        let (host, inside) = problems(&world);
        host.contains("upstrean") && inside.contains("upstrean")
    });
    for host in ["api.stripe.com", "other.example.com"] {
        assert_eq!(status(&world, host), "200");
    }
    world.write_config("shop", &before);
    eventually("nothing is wrong any more", || problems(&world) == (String::new(), String::new()));
    assert_eq!(world.inspect("shop", "{{.Id}} {{.State.StartedAt}}"), container, "all in one life of one container");
}

#[test]
fn edits_are_followed_with_runc() {
    edits_are_followed("runc");
}

#[test]
fn edits_are_followed_with_gvisor() {
    edits_are_followed("runsc");
}

#[test]
fn limits_apply_at_once_and_the_rest_asks_for_a_new_container() {
    let world = World::new("runc");
    world.project("shop", "memory = \"256m\"\ncpus = \"1\"", "", &["api.stripe.com"]);
    let limit = || world.exec("shop", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>&-");
    let limits = || world.inspect("shop", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}");
    world.says("shop", "true");
    assert_eq!((limits(), limit()), ("268435456 1000000000".into(), "268435456".into()));
    let container = world.inspect("shop", "{{.Id}} {{.State.StartedAt}}");

    world.project("shop", "memory = \"320m\"\ncpus = \"0.5\"", "", &["api.stripe.com"]);
    eventually("the limits are the new ones", || limits() == "335544320 500000000");
    assert_eq!(limit(), "335544320", "in the kernel too");
    assert_eq!(world.listed("shop")["restart_needed"], serde_json::json!([]));

    let config = fs::read_to_string(world.config_file("shop")).unwrap();
    let config = config.replace("runtime = \"runc\"", "runtime = \"runsc\"\nimage = \"another\"");
    world.write_config("shop", &config);
    let needed = serde_json::json!(["runtime = \"runsc\"", "image = \"another\""]);
    eventually("a new container is asked for", || world.listed("shop")["restart_needed"] == needed);
    let list = world.adev("shop", &["list"]).stdout;
    assert!(list.contains(&format!("`adev stop {}`", world.name("shop"))), "{list}");
    assert_eq!(world.inspect("shop", "{{.Id}} {{.State.StartedAt}}"), container);
    assert_eq!(status(&world, "api.stripe.com"), "200", "it goes on as it is");
}

#[test]
fn a_new_ca_is_trusted_inside_at_once() {
    let world = World::new("runc");
    world.project("shop", "", TOKEN, &["api.stripe.com"]);
    world.says("shop", "cp /opt/agent-creds/ca.pem old.pem");
    let with_old = "curl -s -o /dev/null --cacert old.pem https://api.stripe.com/; echo $?";
    assert_eq!(world.exec("shop", with_old), "0");
    let mut rotate = world.command(env!("CARGO_BIN_EXE_agent-creds"), "shop");
    let rotated = run(rotate.args(["ca", "rotate", "--state-dir"]).arg(world.path("state")));
    assert!(rotated.status.success(), "{rotated:?}");
    let new = fs::read_to_string(world.path("state/ca/ca.pem")).unwrap();
    eventually("the new CA is inside", || world.exec("shop", "cat /opt/agent-creds/ca.pem") == new.trim_end());
    // 60: the certificate is not trusted.
    eventually("certificates are of the new CA", || world.exec("shop", with_old) == "60");
    eventually("the system's bundle is the new CA", || status(&world, "api.stripe.com") == "200");
    let node = "node -e \"fetch('https://api.stripe.com/').then(r => console.log(r.status))\"";
    assert_eq!(world.says("shop", node), "200");
}

/// A program of the sandbox that asks without end, and writes each status on a line of `PROJECT/codes`.
struct Asking<'a> {
    world: &'a World,
    adev: Child,
}

impl<'a> Asking<'a> {
    fn start(world: &'a World) -> Self {
        let script = "while :; do curl -s -o /dev/null --max-time 5 -w '%{http_code}\\n' \
                      -H \"Authorization: Bearer $STRIPE_API_KEY\" https://api.stripe.com/v1/charges >>codes; done";
        let mut command = world.adev_command("shop", &["run", "--", "sh", "-c", script]);
        let adev = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { world, adev }
    }

    fn codes(&self) -> Vec<String> {
        let text = fs::read_to_string(self.world.path("shop/codes")).unwrap_or_default();
        // Without a line that is not whole yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits for `count` more, and returns them.
    fn more(&self, count: usize) -> Vec<String> {
        let before = self.codes().len();
        eventually("requests go on", || self.codes().len() >= before + count);
        self.codes()[before..].to_vec()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let _ = self.adev.kill();
        let _ = self.adev.wait();
    }
}

fn is_all_200(codes: &[String]) -> bool {
    codes.iter().all(|code| code == "200")
}

#[test]
fn a_sandbox_outlives_its_server() {
    let world = World::new("runc");
    world.project("shop", "", TOKEN, &["api.stripe.com"]);
    let token = world.says("shop", "echo $STRIPE_API_KEY");
    let container = world.inspect("shop", "{{.Id}} {{.State.StartedAt}}");
    let asking = Asking::start(&world);
    let codes = asking.more(10);
    assert!(is_all_200(&codes), "{codes:?}");

    // Without the server nothing leaves, and nothing ends.
    world.signal_server(Signal::KILL);
    eventually("a request fails", || !is_all_200(&asking.more(1)));
    let refused = asking.more(1);
    assert!(refused.iter().all(|code| code == "000" || code == "503"), "{refused:?}");
    let seen = world.upstream.request_count();
    asking.more(2);
    assert_eq!(world.upstream.request_count(), seen, "nothing reached the upstream");

    // Any command brings it back, and the sandbox as it was: token, container, what runs in it.
    assert_eq!(world.listed("shop")["state"], "running", "{}", world.listed("shop"));
    eventually("requests succeed", || is_all_200(&asking.more(1)));
    // One that began before may still be told so; from here on none is lost.
    let codes = asking.more(30);
    assert!(is_all_200(&codes), "{codes:?}");
    assert_eq!(world.says("shop", &format!("curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {token}' https://api.stripe.com/v1/charges")), "200");
    assert_eq!(world.inspect("shop", "{{.Id}} {{.State.StartedAt}}"), container);
    // It is followed as before.
    world.project("shop", "", TOKEN, &["api.stripe.com", "other.example.com"]);
    eventually("an edit is followed", || status(&world, "other.example.com") == "200");
    world.forwarded();

    // A server that is asked to end, and comes back: the same.
    world.signal_server(Signal::TERM);
    assert_eq!(world.listed("shop")["state"], "running");
    eventually("requests succeed", || is_all_200(&asking.more(1)));
    let codes = asking.more(10);
    assert!(is_all_200(&codes), "{codes:?}");
}

/// An agent hands a narrower token to a program of its own: it works, and can do less.
fn a_token_is_narrowed_inside(runtime: &'static str) {
    let world = World::new(runtime);
    world.project("shop", "", TOKEN, &["api.stripe.com"]);
    let ask = r#"ask() { curl -s -o /dev/null -w '%{http_code} ' -X "$2" -H "Authorization: Bearer $1" "https://api.stripe.com$3"; }"#;
    let said = world.says(
        "shop",
        &format!(
            "{ask}\nnarrow=$(mint attenuate \"$STRIPE_API_KEY\" --methods GET --paths '/v1/charges/**') || exit 1\n\
             ask \"$STRIPE_API_KEY\" POST /v1/customers; ask \"$narrow\" GET /v1/charges; ask \"$narrow\" POST /v1/charges\n\
             ask \"$narrow\" GET /v1/customers"
        ),
    );
    assert_eq!(said, "200 200 403 403");
    world.forwarded();
    let inspected = world.says("shop", "mint attenuate \"$STRIPE_API_KEY\" --valid-for 1h | mint inspect -");
    assert!(inspected.contains("unchecked (the key is on the host)"), "{inspected}");
    // It has no key here, and makes nothing.
    let made = world.inside("shop", "mint --hosts api.stripe.com; mint keys list; mint list");
    assert!(made.stdout.is_empty() && made.stderr.contains("Usage: mint"), "{made:?}");
    // The program is everybody's: nothing inside can change it.
    let changed = world.inside(
        "shop",
        ": > /opt/agent-creds-bin/mint || rm -f /opt/agent-creds-bin/mint || echo x >> /opt/agent-creds-bin/mint",
    );
    assert!(!changed.status.success(), "{changed:?}");
    assert_eq!(world.says("shop", "mint --version | cut -d' ' -f1"), "mint");
}

#[test]
fn a_token_is_narrowed_inside_with_runc() {
    a_token_is_narrowed_inside("runc");
}

#[test]
fn a_token_is_narrowed_inside_with_gvisor() {
    a_token_is_narrowed_inside("runsc");
}
