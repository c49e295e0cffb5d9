//! Pages that a sandbox has opened in the host's browser, by every name that programs know; and those that are not opened.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::process::Signal;

use super::world::{World, eventually};
use crate::support::server::Output;

/// The world's browser notes what it is given, one page a line, with the number of its arguments.
const NOTES: &str =
    "#!/bin/sh\nprintf '%s %s %s\\n' \"$#\" \"${STRIPE_API_KEY-none}\" \"$1\" >>\"$(dirname \"$0\")/opened\"\n";

/// What is allowed in these tests.
const ALLOWED: &str =
    "\n[[browser_target]]\nurl = \"https://idp.example/ok*\"\n[[browser_target]]\nurl = \"*old.example/x*\"\n";

/// A sandbox that runs and may open pages, in a world with a browser.
fn prepared(runtime: &'static str) -> World {
    let world = World::new(runtime);
    browser(&world, NOTES);
    world.project("shop", "", "", &["other.example.com"]);
    edit(&world, |text| format!("{text}{ALLOWED}"));
    // What a launch says is not to be taken for what a page's opening says.
    world.says("shop", "true");
    world
}

/// The program that is the world's browser.
pub(super) fn browser(world: &World, script: &str) {
    let path = world.path("browser");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub(super) fn edit(world: &World, change: impl Fn(String) -> String) {
    let before = fs::read_to_string(world.config_file("shop")).unwrap();
    world.write_config("shop", &change(before));
}

/// The pages that were opened, in order.
fn opened(world: &World) -> Vec<String> {
    let text = fs::read_to_string(world.path("opened")).unwrap_or_default();
    text.lines().map(|line| line.strip_prefix("1 none ").unwrap_or_else(|| panic!("{line}")).to_owned()).collect()
}

/// Runs a script inside; its status and what it says.
fn inside(world: &World, script: &str) -> (i32, String) {
    let Output { status, stdout, stderr } = world.inside("shop", script);
    (status.code().unwrap_or(-1), format!("{stdout}{stderr}"))
}

fn pages_are_opened(runtime: &'static str) {
    let world = prepared(runtime);
    let said = world.says("shop", "aenv open 'https://idp.example/ok?state=s3cret'");
    assert_eq!(said, "opened https://idp.example/ok in the host's browser");
    for (name, script) in [
        ("xdg-open", "xdg-open URL"),
        ("open", "open URL"),
        ("sensible-browser", "sensible-browser URL"),
        ("x-www-browser", "x-www-browser -- URL"),
        ("www-browser", "/usr/local/bin/www-browser URL"),
        ("browser", "\"$BROWSER\" URL"),
        ("login-shell", "env -u PATH bash -lc 'xdg-open URL'"),
        ("python", "python3 -c 'import sys, webbrowser; sys.exit(not webbrowser.open(\"URL\"))'"),
        // What Node's package `open` does where it has no script of its own; with it, that script asks $BROWSER.
        ("node", "node -e 'require(\"child_process\").spawn(\"xdg-open\", [\"URL\"]).on(\"close\", process.exit)'"),
    ] {
        assert_eq!(
            inside(&world, &script.replace("URL", &format!("https://idp.example/ok/{name}"))),
            (0, String::new()),
            "{name}"
        );
        assert_eq!(opened(&world).last().unwrap(), &format!("https://idp.example/ok/{name}"));
    }
    // The usual names come first, whatever the image has.
    let first = world.says("shop", "command -v xdg-open open sensible-browser x-www-browser www-browser");
    assert!(first.lines().all(|path| path.starts_with("/opt/agent-creds/bin/")), "{first}");
    let said = world
        .inside(
            "shop",
            "echo >/opt/agent-creds/bin/x; ln -sf /bin/true /opt/agent-creds/bin/xdg-open; xdg-open --version",
        )
        .stdout;
    assert!(said.starts_with("xdg-open "), "{said}");
    // Secrets stay out of the server's log: a sign-in's are in the query.
    assert!(world.log().contains("opened https://idp.example/ok in the host's browser"), "{}", world.log());
    assert!(!world.log().contains("s3cret"));
}

#[test]
fn pages_are_opened_with_runc() {
    pages_are_opened("runc");
}

#[test]
fn pages_are_opened_with_gvisor() {
    pages_are_opened("runsc");
}

#[test]
fn threats_what_is_not_allowed_does_not_reach_the_hosts_browser() {
    let world = prepared("runc");
    let not_allowed =
        "is not allowed. To allow it, add to agent-creds.toml, on the host:\n\n[[browser_target]]\nurl = ";
    for (url, why) in [
        ("file:///etc/passwd", "`file:` is not opened on the host"),
        ("javascript:alert(1)", "`javascript:` is not opened"),
        ("mailto:me@idp.example", "`mailto:` is not opened"),
        ("vscode://file/etc/passwd", "`vscode:` is not opened"),
        ("/etc/passwd", "this is no URL"),
        ("https://user:pass@idp.example/ok", "with a user or a password"),
        ("https://idp.example@evil.example/ok", "with a user or a password"),
        ("https://evil.example/?https://idp.example/ok", not_allowed),
        ("https://evil.example/#idp.example/ok", not_allowed),
        ("https://evil.example/old.example/x", not_allowed),
        ("https://evil.example/?old.example/x", not_allowed),
        ("https://idp.example.evil.example/ok", not_allowed),
        ("http://idp.example/ok", not_allowed),
        ("https://idp.example:8443/ok", not_allowed),
        ("https://idp.example/ok/../no", "url = \"https://idp.example/no\""),
        ("http://169.254.169.254/latest", not_allowed),
        ("http://localhost:9222/json/new", not_allowed),
        ("https://idp.example/ok\u{1b}]0;x", "a control character"),
        ("https://idp.example/ok?redirect_uri=http://localhost:631/", "port 631 of localhost"),
        ("https://idp.example/ok?redirect_uri=http://127.0.0.1/", "port 80 of localhost"),
        (
            "https://idp.example/ok?redirect_uri=http://localhost:4000/&redirect_uri=http://localhost:4001/",
            "several places",
        ),
    ] {
        let (status, said) = inside(&world, &format!("aenv open -- '{url}'"));
        assert!(status == 1 && said.starts_with("aenv: not opened: ") && said.contains(why), "{url}: {status} {said}");
        assert!(!said.contains('\u{1b}'));
    }
    // Usage is no refusal.
    for wrong in [
        "aenv open",
        "aenv open --new-window https://idp.example/ok",
        "xdg-open",
        "open -a Safari https://idp.example/ok",
    ] {
        assert_eq!(inside(&world, wrong).0, 2, "{wrong}");
    }
    // Long ones: as an argument, and past `aenv`.
    let long = "python3 -c 'import webbrowser; print(webbrowser.open(\"https://idp.example/ok\" + \"x\" * LENGTH))'";
    assert!(inside(&world, &long.replace("LENGTH", "100000")).1.contains("has 100022 bytes, and no more than 32768"));
    let post = "import http.client, sys
gateway = open('/etc/resolv.conf').read().split()[1]
for body, headers in [(b'https://idp.example/ok' + b'x' * (1 << 20), {}), (b'https://idp.example/ok\\n', {}), (b'\\xff\\xfe', {}), (b'', {}),
                      (b'https://idp.example/ok', {'Host': 'other.agent-creds'}), (b'https://idp.example/ok', {'Host': 'other.example.com'})]:
    connection = http.client.HTTPConnection(gateway, 80)
    try:
        connection.request('POST', '/open', body, {'Host': 'host.agent-creds', **headers})
        print(connection.getresponse().status)
    except OSError:
        print('cut')
connection.request('GET', '/open', headers={'Host': 'host.agent-creds'})
print(connection.getresponse().status)
";
    fs::write(world.path("shop/post.py"), post).unwrap();
    let said = world.says("shop", "python3 post.py");
    let said: Vec<_> = said.lines().collect();
    assert_eq!(said[0], "413", "{said:?}");
    assert_eq!(said[1..4], ["403", "403", "403"], "{said:?}");
    assert!(said[4..].iter().all(|status| status.starts_with('4')), "{said:?}");
    assert_eq!(opened(&world), Vec::<String>::new());
    assert!(world.log().contains("a page was not opened: "), "{}", world.log());
}

#[test]
fn the_file_switches_the_browser_on_and_off_at_once() {
    let world = prepared("runc");
    let open = |path: &str| inside(&world, &format!("aenv open -q https://idp.example/{path}"));
    assert_eq!(open("ok/1"), (0, String::new()));
    edit(&world, |text| text.replace("[sandbox]\n", "[sandbox]\nuse_host_browser = false\n"));
    eventually("it is off", || open("ok/2").1.contains("switched off for this sandbox"));
    edit(&world, |text| text.replace("use_host_browser = false\n", ""));
    eventually("it is on again", || open("ok/3").0 == 0);
    edit(&world, |text| text.replace("idp.example/ok*", "idp.example/new*"));
    eventually("another page is allowed", || open("new").0 == 0);
    assert_eq!(open("ok/4").0, 1);
    // What the file suggests, works.
    let (_, said) = open("suggested?code=s3cret");
    let lines = said.split_once("\n\n").unwrap().1.to_owned();
    edit(&world, |text| format!("{text}\n{lines}"));
    eventually("it is allowed", || open("suggested?code=s3cret").0 == 0);
    let pages = opened(&world);
    assert!(!pages.iter().any(|page| page.ends_with("ok/2") || page.ends_with("ok/4")), "{pages:?}");
    assert_eq!(pages.last().unwrap(), "https://idp.example/suggested?code=s3cret");
}

#[test]
fn a_sandbox_opens_ten_pages_in_ten_seconds_and_a_browser_that_fails_says_so() {
    let world = prepared("runc");
    let said = world.inside("shop", "for n in $(seq 14); do aenv open https://idp.example/ok/$n; done");
    assert_eq!(opened(&world).len(), 10, "{said:?}");
    assert!(said.stderr.contains("aenv: not opened: 10 pages were opened in 10 seconds"), "{said:?}");

    let world = prepared("runc");
    browser(&world, "#!/bin/sh\nexit 3\n");
    let (status, said) = inside(&world, "aenv open https://idp.example/ok");
    assert!(
        status == 2
            && said.contains("aenv: cannot be opened: no browser could be started on the host")
            && said.contains("exit status: 3"),
        "{status} {said}"
    );
    fs::remove_file(world.path("browser")).unwrap();
    let (status, said) = inside(&world, "xdg-open 'https://idp.example/ok?redirect_uri=http://localhost:23456/'");
    assert!(status == 2 && said.contains("No such file") && said.contains("BROWSER"), "{status} {said}");
    // Nobody waits for what was not opened.
    eventually("the port is closed", || TcpListener::bind("127.0.0.1:23456").is_ok());
}

/// A port that is free on this host, outside of those that the kernel gives to anybody.
pub(super) fn callback_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new();
    (0_u32..200)
        .map(|n| 12_000 + u16::try_from(random.hash_one((n, std::process::id())) % 18_000).unwrap())
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .unwrap()
}

#[test]
fn threats_callback_ports_are_the_sandboxs_alone_and_end_with_it() {
    let world = prepared("runc");
    let port = callback_port();
    let open = |place: &str| {
        inside(&world, &format!("aenv open 'https://idp.example/ok?redirect_uri=http://{place}/cb&state=x'"))
    };
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for place in ["localhost", "127.0.0.1"] {
        let (status, said) = open(&format!("{place}:{port}"));
        assert!(
            status == 1 && said.contains(&format!("port {port} of the host's localhost is taken by another program")),
            "{said}"
        );
    }
    assert_eq!(opened(&world), Vec::<String>::new());
    drop(taken);
    let (status, said) = open(&format!("127.0.0.1:{port}"));
    assert!(
        status == 0 && said.contains(&format!("comes back to 127.0.0.1:{port} is carried into the sandbox")),
        "{said}"
    );
    let get = |headers: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(format!("GET /cb?state=x HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("host: rebound.evil.example").starts_with("HTTP/1.1 421 "));
    let answer = get(&format!("host: 127.0.0.1:{port}"));
    assert!(
        answer.starts_with("HTTP/1.1 502 ")
            && answer.contains(&format!("nothing listens on port {port} of the sandbox")),
        "{answer}"
    );
    world.adev("shop", &["stop", &world.name("shop")]);
    eventually("the port ended with the sandbox", || TcpListener::bind(("127.0.0.1", port)).is_ok());

    // A later life of it has nothing of an earlier one.
    world.says("shop", "true");
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    assert_eq!(open(&format!("localhost:{port}")).0, 0);
    let off = |text: String| text.replace("[sandbox]\n", "[sandbox]\nuse_host_browser = false\n");
    edit(&world, off);
    eventually("the port is closed when the browser is switched off", || {
        TcpListener::bind(("127.0.0.1", port)).is_ok()
    });
}

#[test]
fn a_server_that_ends_closes_its_ports_and_the_next_one_opens_pages() {
    let world = prepared("runc");
    let port = callback_port();
    let page = format!("https://idp.example/ok?redirect_uri=http://localhost:{port}/cb");
    assert_eq!(inside(&world, &format!("aenv open -q '{page}'")), (0, String::new()));
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
    world.signal_server(Signal::TERM);
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    // The sandbox goes on, and is taken up.
    let container = world.inspect("shop", "{{.Id}} {{.State.StartedAt}}");
    let said = world.says("shop", &format!("aenv open '{page}'"));
    assert!(said.contains(&format!("comes back to localhost:{port}")), "{said}");
    assert_eq!(world.inspect("shop", "{{.Id}} {{.State.StartedAt}}"), container);
    assert_eq!(opened(&world), [page.clone(), page]);
}

/// The folder of a party, in the world.
pub(super) fn folder(world: &World, name: &str) -> PathBuf {
    let path = world.path(name);
    fs::create_dir_all(&path).unwrap();
    path
}
