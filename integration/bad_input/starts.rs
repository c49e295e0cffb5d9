//! Starts of the server that must fail, and why they say so.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::place::{Place, REAL_KEY, Serve, healthy, stop};
use crate::support::server::{envoy_bin, run};

/// A mistake: how it is made, how it is mended (beyond [`Place::mend`]), how the program ends, and what it says. `{dir}` is
/// the place's folder.
struct Mistake {
    name: &'static str,
    make: fn(&Place, &mut Serve),
    code: i32,
    says: &'static [&'static str],
}

/// What looks like a secret in a mistake, and must not be repeated.
const BAD_SECRET: &str = "hunter2-hunter2";

/// A port of 127.0.0.1 that another program has.
fn taken_port() -> u16 {
    static TAKEN: OnceLock<TcpListener> = OnceLock::new();
    TAKEN.get_or_init(|| TcpListener::bind("127.0.0.1:0").unwrap()).local_addr().unwrap().port()
}

fn with_envoy(serve: &mut Serve) {
    serve.envoy = "process";
    serve.env.insert("ENVOY_BIN", envoy_bin().into());
}

/// Makes the CA, as an earlier start would have.
fn make_ca(place: &Place) {
    place.private_dir("state");
    let made = place.agent_creds(&["ca", "show", "--state-dir", "state"]);
    assert!(made.status.success(), "{}", made.stderr);
}

const CONFIGURATION: &[Mistake] = &[
    Mistake {
        name: "unknown key",
        make: |place, _| place.config("[upstream.\"api.stripe.com\"]\nmethod = [\"GET\"]\n"),
        code: 1,
        says: &["config/agent-creds.toml:5:1: unknown key `method`", "did you mean `methods`?", "nothing was started"],
    },
    Mistake {
        name: "wrong type",
        make: |place, _| place.config("[upstream.\"api.stripe.com\"]\nmethods = \"GET\"\n"),
        code: 1,
        says: &["agent-creds.toml:5:11: `methods` must be a list, not a string", "write methods = [\"GET\"]"],
    },
    Mistake {
        name: "bad host",
        make: |place, _| place.config("[upstream.\"https://api.stripe.com/v1\"]\n"),
        code: 1,
        says: &["agent-creds.toml:4:11: ", "is not a host", "write [upstream.\"api.stripe.com\"]"],
    },
    Mistake {
        name: "empty methods",
        make: |place, _| place.config("[upstream.\"api.stripe.com\"]\nmethods = []\n"),
        code: 1,
        says: &["agent-creds.toml:5:11: `methods` is empty", "remove the upstream"],
    },
    Mistake {
        name: "empty paths",
        make: |place, _| place.config("[upstream.\"api.stripe.com\"]\npaths = [ ]\n"),
        code: 1,
        says: &["agent-creds.toml:5:9: `paths` is empty"],
    },
    Mistake {
        name: "upstreams as a list",
        make: |place, _| place.write("config/agent-creds.toml", "upstream = []\n[gateway]\nlisten = \"127.0.0.1:1\"\n"),
        code: 1,
        says: &["agent-creds.toml:1:12: `upstream` must be a table, not an array"],
    },
    Mistake {
        name: "two mistakes are told at once",
        make: |place, _| place.config("[upstream.\"a b\"]\n[upstream.\"c.example\"]\npaths = [\"v1\"]\n"),
        code: 1,
        says: &["agent-creds.toml:4:11: ", "agent-creds.toml:6:10: ", "begins with `/`"],
    },
    Mistake {
        name: "not TOML",
        make: |place, _| place.config("[upstream.\n"),
        code: 1,
        says: &["agent-creds.toml:4:", "not TOML"],
    },
    Mistake {
        name: "not UTF-8",
        make: |place, _| place.write("config/agent-creds.toml", b"[gateway]\n\xff\xfe"),
        code: 1,
        says: &["agent-creds.toml:2:1: not UTF-8"],
    },
    Mistake {
        name: "address without a port",
        make: |place, _| place.write("config/agent-creds.toml", "[gateway]\nlisten = \"127.0.0.1\"\n"),
        code: 1,
        says: &["agent-creds.toml:2:10: ", "no address to listen on", "127.0.0.1:15443"],
    },
    Mistake {
        name: "CA file that is not there",
        make: |place, _| place.config("[upstream.\"api.stripe.com\"]\nca = \"private.pem\"\n"),
        code: 1,
        says: &[
            "agent-creds.toml:5:6: `private.pem` cannot be read",
            "begins at the folder of this file: `{dir}/config`",
        ],
    },
    Mistake {
        name: "CA file that is a folder",
        make: |place, _| place.config("[upstream.\"api.stripe.com\"]\nca = \".\"\n"),
        code: 1,
        says: &["agent-creds.toml:5:6: `.` cannot be read"],
    },
    Mistake {
        name: "CA file that is a pipe nobody writes to",
        make: |place, _| {
            let pipe = place.path("config/pipe.pem");
            assert!(run(Command::new("mkfifo").arg(pipe)).status.success());
            place.config("[upstream.\"api.stripe.com\"]\nca = \"pipe.pem\"\n");
        },
        code: 1,
        says: &["agent-creds.toml:5:6: `pipe.pem` cannot be read"],
    },
    Mistake {
        name: "CA file that is not PEM",
        make: |place, _| {
            place.write("config/private.pem", BAD_SECRET);
            place.config("[upstream.\"api.stripe.com\"]\nca = \"private.pem\"\n");
        },
        code: 1,
        says: &["agent-creds.toml:5:6: `private.pem` is not a CA file", "-----BEGIN CERTIFICATE-----"],
    },
    Mistake {
        name: "CA file that holds a key instead",
        make: |place, _| {
            let key = "-----BEGIN PRIVATE KEY-----\naHVudGVyMi1odW50ZXIy\n-----END PRIVATE KEY-----\n";
            place.write("config/private.pem", key);
            place.config("[upstream.\"api.stripe.com\"]\nca = \"private.pem\"\n");
        },
        code: 1,
        says: &["agent-creds.toml:5:6: `private.pem` is not a CA file", "no CERTIFICATE"],
    },
    Mistake {
        name: "configuration that is not there",
        make: |place, serve| serve.configs = vec![place.path("nowhere/agent-creds.toml")],
        code: 1,
        says: &["{dir}/nowhere/agent-creds.toml:1:1: cannot be read", "create it, or give another path"],
    },
    Mistake {
        name: "no configuration at all",
        make: |_, serve| serve.configs.clear(),
        code: 1,
        says: &["no configuration: give --config FILE or DIR"],
    },
    Mistake {
        name: "two gateways of one name",
        make: |place, serve| {
            place.write("other/config/agent-creds.toml", "[gateway]\nlisten = \"127.0.0.1:15444\"\n");
            serve.configs.push(place.path("other/config"));
        },
        code: 1,
        says: &["config/agent-creds.toml:", "{dir}/other/config"],
    },
    Mistake {
        name: "vault file that is not there",
        make: |place, serve| serve.vault = Some(place.path("nothing.toml")),
        code: 1,
        says: &["{dir}/nothing.toml:1:1: cannot be read"],
    },
    Mistake {
        name: "a secret in the vault's file",
        make: |place, _| {
            place.write("vault.toml", "[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = \"hunter2-hunter2\"\n")
        },
        code: 1,
        says: &["vault.toml:3:9: ", "never holds one", "provider = \"env\""],
    },
    Mistake {
        name: "variable that is not set",
        make: |_, serve| drop(serve.env.remove("STRIPE_API_KEY")),
        code: 1,
        says: &[
            "{dir}/vault.toml:2:",
            "the environment variable STRIPE_API_KEY is not set",
            "set STRIPE_API_KEY in the environment of `agent-creds serve`",
        ],
    },
    Mistake {
        name: "variable that is empty",
        make: |_, serve| drop(serve.env.insert("STRIPE_API_KEY", "".into())),
        code: 1,
        says: &["{dir}/vault.toml:2:", "STRIPE_API_KEY"],
    },
    Mistake {
        name: "variable that is no header value",
        make: |_, serve| drop(serve.env.insert("STRIPE_API_KEY", "hunter2-hunter2\r\nx-evil: 1".into())),
        code: 1,
        says: &["{dir}/vault.toml:2:", "STRIPE_API_KEY"],
    },
];

const SURROUNDINGS: &[Mistake] = &[
    Mistake {
        name: "HTTP port in use",
        make: |_, serve| serve.http = format!("127.0.0.1:{}", taken_port()),
        code: 1,
        says: &["cannot listen on 127.0.0.1:", "--http", "in use"],
    },
    Mistake {
        name: "HTTP port in use, with an Envoy",
        make: |_, serve| {
            serve.http = format!("127.0.0.1:{}", taken_port());
            with_envoy(serve);
        },
        code: 1,
        says: &["cannot listen on 127.0.0.1:", "--http", "in use"],
    },
    Mistake {
        name: "gateway's port in use",
        make: |place, serve| {
            let port = taken_port();
            place.write("config/agent-creds.toml", format!("[gateway]\nlisten = \"127.0.0.1:{port}\"\n"));
            with_envoy(serve);
        },
        code: 1,
        says: &["agent-creds.toml:2: cannot listen on 127.0.0.1:", "another program listens there"],
    },
    Mistake {
        name: "gateway's address not of this machine",
        make: |place, serve| {
            place.write("config/agent-creds.toml", "[gateway]\nlisten = \"192.0.2.1:15443\"\n");
            with_envoy(serve);
        },
        code: 1,
        says: &["agent-creds.toml:2: cannot listen on 192.0.2.1:15443", "does not have that address"],
    },
    Mistake {
        name: "runtime folder with too long a path",
        make: |place, serve| serve.run = place.path(&"r".repeat(100)),
        code: 1,
        says: &["107 characters", "shorter --runtime-dir"],
    },
    Mistake {
        name: "state folder open to others",
        make: |place, _| {
            place.private_dir("state");
            place.chmod("state", 0o755);
        },
        code: 1,
        says: &["{dir}/state is open to others (mode 755)", "run `chmod 700 {dir}/state`"],
    },
    Mistake {
        name: "runtime folder open to its group",
        make: |place, _| {
            place.private_dir("run");
            place.chmod("run", 0o750);
        },
        code: 1,
        says: &["{dir}/run is open to others (mode 750)", "run `chmod 700 {dir}/run`"],
    },
    Mistake {
        name: "state folder that is a file",
        make: |place, serve| {
            place.write("file", "");
            serve.state = place.path("file");
        },
        code: 1,
        says: &["{dir}/file"],
    },
    Mistake {
        name: "signing key that others can read",
        make: |place, _| {
            place.private_dir("state");
            place.write("state/signing.key", "RR2lAqayINqpuZERdDnUWceiXG83eGXXJdEcskfk7bQ=\n");
            place.chmod("state/signing.key", 0o644);
        },
        code: 1,
        says: &["others may read {dir}/state/signing.key (mode 0644)", "run `chmod 600 {dir}/state/signing.key`"],
    },
    Mistake {
        name: "CA key that others can read",
        make: |place, _| {
            make_ca(place);
            place.chmod("state/ca/ca-bundle.pem", 0o640);
        },
        code: 1,
        says: &["{dir}/state/ca/ca-bundle.pem can be read by others (mode 640)", "chmod 600"],
    },
    Mistake {
        name: "signing key in the environment that is none",
        make: |_, serve| drop(serve.env.insert("MACAROON_SIGNING_KEY", BAD_SECRET.into())),
        code: 1,
        says: &["MACAROON_SIGNING_KEY is not a signing key", "openssl rand -base64 32", "not base64"],
    },
    Mistake {
        name: "signing key in the environment that is too short",
        make: |_, serve| drop(serve.env.insert("MACAROON_SIGNING_KEY", "aHVudGVyMi1odW50ZXIy".into())),
        code: 1,
        says: &["MACAROON_SIGNING_KEY is not a signing key", "at least 32 bytes"],
    },
    Mistake {
        name: "bad TOKEN_PREFIX",
        make: |_, serve| drop(serve.env.insert("TOKEN_PREFIX", "a b".into())),
        code: 2,
        says: &["a token prefix has 1 to 16 letters", "TOKEN_PREFIX"],
    },
    Mistake {
        name: "bad STRICT_MODE",
        make: |_, serve| drop(serve.env.insert("STRICT_MODE", "maybe".into())),
        code: 2,
        says: &["STRICT_MODE", "true", "false"],
    },
    Mistake {
        name: "STRICT_MODE set to nothing",
        make: |_, serve| drop(serve.env.insert("STRICT_MODE", "".into())),
        code: 2,
        says: &["STRICT_MODE", "true", "false"],
    },
    Mistake {
        name: "bad log level",
        make: |_, serve| drop(serve.env.insert("AGENT_CREDS_LOG", "loud".into())),
        code: 2,
        says: &["loud", "error, warn, info, debug, trace"],
    },
    Mistake {
        name: "bad lifetime",
        make: |_, serve| serve.more = vec!["--leaf-lifetime", "soon"],
        code: 2,
        says: &["soon", "as in 24h"],
    },
    Mistake {
        name: "ENVOY_BIN that cannot be run",
        make: |place, serve| {
            place.write("envoy", "#!/bin/sh\n");
            serve.envoy = "process";
            serve.env.insert("ENVOY_BIN", place.path("envoy").into());
        },
        code: 1,
        says: &["ENVOY_BIN names {dir}/envoy", "not an executable file"],
    },
    Mistake {
        name: "no Envoy anywhere",
        make: |place, serve| {
            serve.envoy = "process";
            serve.env.insert("PATH", place.path("empty").into());
        },
        code: 1,
        says: &["no Envoy found", "ENVOY_BIN", "envoy/fetch.sh", "--envoy none"],
    },
    Mistake {
        name: "CA bundle that is not there",
        make: |place, serve| drop(serve.env.insert("SSL_CERT_FILE", place.path("no.pem").into())),
        code: 1,
        says: &["cannot read the CA bundle {dir}/no.pem", "No such file"],
    },
    Mistake {
        name: "CA bundle that is empty",
        make: |place, _| place.write("system-ca.pem", ""),
        code: 1,
        says: &["{dir}/system-ca.pem is not a CA bundle", "no PEM block"],
    },
    Mistake {
        name: "CA bundle with a damaged certificate",
        make: |place, _| {
            place.write("system-ca.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n");
        },
        code: 1,
        says: &["{dir}/system-ca.pem is not a CA bundle", "PEM block 1"],
    },
];

fn each(mistakes: &[Mistake]) {
    // As many at a time as a small machine takes.
    for some in mistakes.chunks(4) {
        std::thread::scope(|scope| {
            for mistake in some {
                scope.spawn(move || try_one(mistake));
            }
        });
    }
}

fn try_one(mistake: &Mistake) {
    let Mistake { name, make, code, says } = mistake;
    let place = Place::new();
    let mut serve = place.serve();
    make(&place, &mut serve);
    let outcome = place.fails(&serve);
    let said = &outcome.stderr;
    assert_eq!(outcome.status.code(), Some(*code), "{name}: {said}");
    assert_eq!(outcome.stdout, "", "{name}: problems go to standard error");
    let dir = place.path("");
    for text in *says {
        let text = text.replace("{dir}/", dir.to_str().unwrap());
        assert!(said.contains(&text), "{name}: {text:?} is not in: {said}");
    }
    for secret in [REAL_KEY, BAD_SECRET, "aHVudGVyMi1odW50ZXIy", "panicked"] {
        assert!(!said.contains(secret), "{name}: {secret} is in: {said}");
    }
    place.nothing_is_left(name);
    place.mend();
    place.starts_and_stops();
}

#[test]
fn wrong_configuration_starts_nothing_and_names_the_line() {
    each(CONFIGURATION);
}

#[test]
fn wrong_surroundings_start_nothing_and_name_the_cure() {
    each(SURROUNDINGS);
}

#[test]
fn what_a_killed_server_left_behind_is_no_obstacle() {
    let place = Place::new();
    place.private_dir("run");
    drop(UnixListener::bind(place.path("run/xds.sock")).unwrap());
    place.write("run/http.addr", "127.0.0.1:1");
    place.write("run/lock", "1\n");
    place.write("run/envoy.pid", "1 1\n");
    place.starts_and_stops();
    assert!(!place.path("run/http.addr").exists(), "a server that stops takes its address back");
}

/// A server that is told to stop while it starts, stops in order: nothing of it stays behind.
#[test]
fn a_signal_during_the_start_is_not_lost() {
    for delay in [0, 5, 20, 80, 200] {
        let place = Place::new();
        let mut serve = place.serve();
        with_envoy(&mut serve);
        let ended = place.starts_until(&serve, std::time::Duration::from_millis(delay));
        place.nothing_is_left(&format!("SIGTERM after {delay} ms ({ended})"));
        place.starts_and_stops();
    }
}

#[test]
fn a_second_server_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let (first, addr) = place.starts(&place.serve());
    let pid = first.id().to_string();
    let mut elsewhere = place.serve();
    elsewhere.state = place.path("state2");
    let mut other_run = place.serve();
    other_run.run = place.path("run2");
    for (serve, folder) in [(place.serve(), "state"), (elsewhere, "run"), (other_run, "state")] {
        let refused = place.fails(&serve);
        assert_eq!(refused.status.code(), Some(1));
        let expected = format!("another agent-creds server (process {pid}) uses {}", place.path(folder).display());
        assert!(refused.stderr.contains(&expected), "{expected:?} is not in: {}", refused.stderr);
        assert!(healthy(&addr), "the first server still answers");
        assert!(place.path("run/xds.sock").exists(), "its socket is still there");
    }
    stop(first);
}

#[test]
fn the_usual_folders_are_used_when_none_is_named() {
    let place = Place::new();
    let home: PathBuf = place.path("home");
    place.write("home/.config/agent-creds/vault.toml", super::place::VAULT);
    let mut serve = place.serve();
    serve.vault = None;
    serve.env.remove("STRIPE_API_KEY");
    let missing = place.fails(&serve);
    assert!(
        missing.stderr.contains(&format!("{}/.config/agent-creds/vault.toml:2:", home.display())),
        "{}",
        missing.stderr
    );

    // Only an absolute XDG_CONFIG_HOME counts, and its vault may be missing.
    place.private_dir("xdg");
    serve.env.insert("XDG_CONFIG_HOME", place.path("xdg").into());
    let (child, _) = place.starts(&serve);
    stop(child);
    serve.env.insert("XDG_CONFIG_HOME", "xdg".into());
    assert_eq!(place.fails(&serve).status.code(), Some(1));

    // A link to the configuration's folder is that folder.
    symlink(place.path("config"), place.path("link")).unwrap();
    let mut linked = place.serve();
    linked.configs = vec![place.path("link/agent-creds.toml")];
    let (child, _) = place.starts(&linked);
    stop(child);
    assert!(fs::metadata(place.path("state/signing.key")).is_ok());
}
