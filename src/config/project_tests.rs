use std::io;

use super::*;
use crate::config::ca::tests::make_ca;
use crate::domain::names::Method;

fn parse(text: &str) -> Result<ProjectConfig, Diagnostics> {
    let (ca, _) = make_ca();
    let read = move |path: &Path| match path.to_str() {
        Some("/srv/My Project/private-ca.pem" | "/etc/ca.pem") => Ok(ca.clone().into_bytes()),
        Some("/srv/My Project/empty.pem") => Ok(Vec::new()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    parse_project("p.toml", Path::new("/srv/My Project"), text, &read)
}

fn problems(text: &str) -> Vec<String> {
    parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

fn sandbox(project: &ProjectConfig) -> &SandboxConfig {
    match &project.kind {
        ProjectKind::Sandbox(sandbox) => sandbox,
        ProjectKind::Gateway(_) => panic!("a gateway"),
    }
}

fn host(text: &str) -> HostPattern {
    text.parse().unwrap()
}

#[test]
fn an_empty_file_is_a_sandbox_named_after_its_folder() {
    let project = parse("").unwrap();
    assert_eq!(project.id.as_str(), "my-project");
    assert_eq!(sandbox(&project), &SandboxConfig::default());
    assert_eq!(project.policy(None), None);
    assert_eq!(project.origin.to_string(), "p.toml:1");
}

#[test]
fn a_sandbox_with_everything() {
    let project = parse(
        r#"
[sandbox]
name = "myproject"
runtime = "runc"
image = "team/sandbox:1"
memory = "8g"
cpus = "1.5"
use_host_browser = false
use_host_browser_cdp = false
[sandbox.env]
LANG = "C.UTF-8"
TERM = { from = "TERM" }
STRIPE_API_KEY = { token = { hosts = ["API.stripe.com"], methods = ["get"], paths = ["/v1/**"] } }
[upstream."API.Stripe.com."]
methods = ["GET", "post"]
paths = ["/v1/**"]
address = "10.0.0.7:8443"
ca = "private-ca.pem"
[upstream."b.example"]
ca = "private-ca.pem"
[upstream."c.example"]
ca = "/etc/ca.pem"
[upstream."*.s3.amazonaws.com"]
[[browser_target]]
url = "https://claude.ai/oauth/authorize*"
[[cdp_target]]
type = "page"
title = "*My App*"
"#,
    )
    .unwrap();
    assert_eq!(project.id.as_str(), "myproject");
    let sandbox = sandbox(&project);
    assert_eq!(sandbox.runtime, Runtime::Runc);
    assert_eq!(sandbox.image.as_str(), "team/sandbox:1");
    assert_eq!(sandbox.memory.map(Memory::bytes), Some(8 << 30));
    assert_eq!(sandbox.cpus.map(Cpus::nanos), Some(1_500_000_000));
    assert!(!sandbox.use_host_browser && !sandbox.use_host_browser_cdp);
    let env: Vec<_> = sandbox.env.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    assert_eq!(env[0], ("LANG", EnvValue::Plain("C.UTF-8".into())));
    let EnvValue::Token { hosts, limits } = &env[1].1 else { panic!("{env:?}") };
    assert_eq!(hosts.iter().collect::<Vec<_>>(), [&host("api.stripe.com")]);
    assert!(limits.allow_method("GET") && !limits.allow_method("POST"));
    assert_eq!(env[2], ("TERM", EnvValue::FromHost { name: "TERM".parse().unwrap() }));

    assert_eq!(project.upstreams.len(), 4);
    let stripe = &project.upstreams[&host("api.stripe.com")];
    assert_eq!(stripe.limits.methods.as_ref().unwrap().iter().map(Method::as_str).collect::<Vec<_>>(), ["GET", "POST"]);
    assert_eq!(stripe.limits.paths.as_ref().unwrap()[0].as_str(), "/v1/**");
    assert_eq!(stripe.address.as_ref().unwrap().to_string(), "10.0.0.7:8443");
    assert!(stripe.ca.as_ref().unwrap().starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(stripe.origin.to_string(), "p.toml:14");
    assert!(project.upstreams[&host("*.s3.amazonaws.com")].ca.is_none());
    assert_eq!(project.watch, [PathBuf::from("/etc/ca.pem"), PathBuf::from("/srv/My Project/private-ca.pem")]);

    assert_eq!(&*project.browser_targets[0].url, "https://claude.ai/oauth/authorize*");
    assert_eq!(project.cdp_targets[0].kind.as_deref(), Some("page"));
    assert_eq!(project.cdp_targets[0].title.as_deref(), Some("*My App*"));
    assert_eq!(project.cdp_targets[0].port, 9222);
    assert!(project.cdp_ports().is_empty(), "use_host_browser_cdp = false");
}

#[test]
fn the_browser_is_found_at_the_ports_of_its_targets() {
    let text = "[[cdp_target]]\nurl = \"https://a.example/*\"\nport = 9_333\n[[cdp_target]]\ntype = \"page\"\n";
    assert_eq!(parse(text).unwrap().cdp_ports().into_iter().collect::<Vec<_>>(), [9222, 9333]);
    assert_eq!(parse("").unwrap().cdp_ports().into_iter().collect::<Vec<_>>(), [9222]);
    let target = |port: usize| format!("[[cdp_target]]\ntype = \"page\"\nport = {port}\n");
    assert!(parse(&(2000..2016).map(target).collect::<String>()).is_ok());
    assert!(
        parse(&(2000..2017).map(target).collect::<String>()).unwrap_err().to_string().contains("more than 16 ports")
    );
}

#[test]
fn a_gateway_has_a_policy() {
    let project = parse("[gateway]\nlisten = \"127.0.0.1:15443\"\n[upstream.\"api.stripe.com\"]\n").unwrap();
    let policy = project.policy(None).unwrap();
    assert_eq!(policy.id.as_str(), "my-project");
    assert_eq!(policy.listen, "127.0.0.1:15443".parse().unwrap());
    assert_eq!(policy.origin.to_string(), "p.toml:2");
    assert_eq!(policy.upstreams.len(), 1);
    let named = parse("[gateway]\nlisten = \"[::1]:1\"\nname = \"ci\"\n").unwrap();
    assert_eq!(named.policy(None).unwrap().id.as_str(), "ci");
}

/// Each file with exactly one problem, and how that problem must read.
#[test]
fn each_mistake_has_its_place_and_its_hint() {
    for (text, expected) in [
        (
            "[upstream.\"a.example\"]\nmethod = [\"GET\"]",
            "p.toml:2:1: unknown key `method`\n    help: did you mean `methods`?",
        ),
        (
            "[upstream.\"https://api.stripe.com\"]",
            "p.toml:1:11: `https://api.stripe.com` is not a host: give the host name alone, without scheme, path, user or \
             port\n    help: write [upstream.\"api.stripe.com\"]",
        ),
        (
            "[upstream.api.stripe.com]",
            "p.toml:1:11: `api.stripe.com` is read as tables in tables\n    help: write the name in quotes: \
             [upstream.\"api.stripe.com\"]",
        ),
        (
            "[upstream.\"a.example\"]\nmethods = []",
            "p.toml:2:11: `methods` is empty\n    help: it would allow nothing: remove the upstream instead",
        ),
        (
            "[upstream.\"a.example\"]\nmethods = \"GET\"",
            "p.toml:2:11: `methods` must be a list, not a string\n    help: write methods = [\"GET\"]",
        ),
        (
            "[upstream.\"a.example\"]\nmethods = [\"GET\", 1]",
            "p.toml:2:19: `methods` must be a string, not an integer\n    help: write \"1\"",
        ),
        (
            "[upstream.\"a.example\"]\npaths = [\"/a\", \"v1/**\"]",
            "p.toml:2:16: `v1/**` is not valid here: a path pattern begins with `/`",
        ),
        (
            "[upstream.\"a.example\"]\naddress = \"10.0.0.7\"",
            "p.toml:2:11: `10.0.0.7` is not valid here: an address is HOST:PORT, as in \"10.0.0.7:8443\", \"[::1]:8443\" or \
             \"internal.example.com:443\"",
        ),
        (
            "[upstream.\"a.example\"]\nca = \"no.pem\"",
            "p.toml:2:6: `no.pem` cannot be read: entity not found\n    help: the path begins at the folder of this file: \
             `/srv/My Project`",
        ),
        (
            "[upstream.\"a.example\"]\nca = \"empty.pem\"",
            "p.toml:2:6: `empty.pem` is not a CA file: it has no PEM block (`-----BEGIN CERTIFICATE-----`)\n    help: the \
             path begins at the folder of this file: `/srv/My Project`",
        ),
        (
            "[upstream.\"a.example\"]\n[upstream.\"A.example.\"]",
            "p.toml:2:11: `A.example.` is the same host as on line 1\n    help: case and a final dot make no difference: put \
             everything into one table",
        ),
        (
            "[upstream.\"a.example\"]\naddress = \"10.0.0.7:443\"\nprivate = true",
            "p.toml:3:11: `private` says nothing beside `address`\n    help: remove it: with `address` the name is not resolved",
        ),
        (
            "[gateway]\nlisten = \"127.0.0.1:0\"",
            "p.toml:2:10: `127.0.0.1:0` is no address to listen on\n    help: write an IP address and a port other than 0, as \
             in \"127.0.0.1:15443\" or \"[::1]:15443\"",
        ),
        ("[gateway]", "p.toml:1:2: `gateway` needs `listen`\n    help: add listen = \"127.0.0.1:15443\""),
        (
            "[sandbox]\n[gateway]\nlisten = \"127.0.0.1:1\"",
            "p.toml:2:2: [gateway] beside [sandbox] (line 1)\n    help: a project is one or the other: remove one of them",
        ),
        (
            "[gateway]\nlisten = \"127.0.0.1:1\"\n[[browser_target]]\nurl = \"https://a.example/\"",
            "p.toml:3:3: `browser_target` in a gateway's file\n    help: remove it: a gateway has no sandbox that could open a \
             browser",
        ),
        (
            "[sandbox]\nname = \"My Project\"",
            "p.toml:2:8: `My Project` is not valid here: a name has 1 to 63 lower-case letters, digits, `-`, `_` or dots, and \
             begins with a letter or digit\n    help: write \"my-project\"",
        ),
        ("[sandbox]\nruntime = \"runs\"", "p.toml:2:11: there is no runtime `runs`\n    help: did you mean \"runsc\"?"),
        ("[sandbox]\ncpus = 4", "p.toml:2:8: `cpus` must be a string, not an integer\n    help: write \"4\""),
        (
            "[sandbox.env]\n\"1A\" = \"\"",
            "p.toml:2:1: `1A` is not valid here: the name of an environment variable has letters, digits and `_`, and does not \
             begin with a digit",
        ),
        (
            "[sandbox.env]\nA = 1",
            "p.toml:2:5: `A` must be a string or a table\n    help: write a text, { from = \"NAME\" } or { token = { hosts \
             = [\"api.stripe.com\"] } }",
        ),
        (
            "[sandbox.env]\nA = { token = { hosts = [] } }",
            "p.toml:2:25: `hosts` is empty\n    help: a token needs a host it is good for: hosts = [\"api.stripe.com\"]",
        ),
        (
            "[[browser_target]]\nurl = \"file:///etc/passwd\"",
            "p.toml:2:7: `file:///etc/passwd` matches no page: only http:// and https:// are pages of the web\n    help: write \
             scheme, host and path, as in \"https://claude.ai/oauth/authorize*\"; `*.` before a host stands for all below it",
        ),
        (
            "[[browser_target]]\nurl = \"https://claude.ai@evil.example/\"",
            "p.toml:2:7: `https://claude.ai@evil.example/` matches no page: a URL with a user or a password before the host is \
             never allowed\n    help: remove what stands before the `@`",
        ),
        (
            "[[browser_target]]\nurl = \"https://claude.ai/oauth?client=*\"",
            "p.toml:2:7: `https://claude.ai/oauth?client=*` matches no page: query and fragment take no part: whatever stands \
             behind `?` and `#` is allowed with the rest\n    help: write \"https://claude.ai/oauth\"",
        ),
        (
            "[[browser_target]]\nurl = \"*\"",
            "p.toml:2:7: `*` matches no page: its host can be that of no URL\n    help: write scheme, host and path, as in \
             \"https://claude.ai/oauth/authorize*\"; `*.` before a host stands for all below it",
        ),
        (
            "[browser_target]\nurl = \"https://a.example/\"",
            "p.toml:1:2: `browser_target` must be a list of tables\n    help: write [[browser_target]]",
        ),
        (
            "[[cdp_target]]\nurl = \"https://a.example/?x=*\"",
            "p.toml:2:7: `https://a.example/?x=*` matches no page: query and fragment take no part: whatever stands behind `?` and \
             `#` is allowed with the rest\n    help: write \"https://a.example/\"",
        ),
        (
            "[[cdp_target]]\ntype = \"page\"\nport = 80",
            "p.toml:3:8: a sandbox's programs cannot be found at port 80\n    help: write a port from 1024 to 65535, as in port = \
             9222",
        ),
        ("[[cdp_target]]\ntype = \"page\"\nport = \"9222\"", "p.toml:3:8: `port` must be a whole number, not a string"),
        (
            "[[cdp_target]]",
            "p.toml:1:1: a `cdp_target` with no field would allow every page\n    help: add type, title or url, as in title = \
             \"*My App*\"",
        ),
        (
            "[vault]\nhost = \"https://vault.example.com\"",
            "p.toml:2:8: `https://vault.example.com` is no address of a vault\n    help: write the name or the address of its \
             machine, as in \"vault.example.com\", with a port unless it is 18000: \"vault.example.com:443\"",
        ),
        ("[vault]", "p.toml:1:2: `vault` needs `host`\n    help: add host = \"vault.example.com\""),
        (
            "upstream = 1",
            "p.toml:1:12: `upstream` must be a table, not an integer\n    help: write [upstream] and its keys below",
        ),
        ("[upstreams.\"a.example\"]", "p.toml:1:2: unknown key `upstreams`\n    help: did you mean `upstream`?"),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn all_problems_of_a_file_at_once() {
    let text = "[sandbox]\nmemory = \"8q\"\ncpu = \"4\"\n[upstream.\"a b\"]\nmethod = []\n[upstream.\"b.example\"]\npaths = \
                [1, \"x\"]\n[upstream.\"c.example\"]\nca = \"no.pem\"\naddress = 7\n";
    let places: Vec<_> = parse(text).unwrap_err().0.iter().map(|d| (d.line, d.column)).collect();
    assert_eq!(places, [(2, 10), (3, 1), (4, 11), (5, 1), (7, 10), (7, 13), (9, 6), (10, 11)]);
}

#[test]
fn ten_thousand_upstreams_are_read_and_one_more_is_not() {
    let header = "[gateway]\nlisten = \"127.0.0.1:1\"\n";
    let upstreams = |n: usize| {
        (0..n).map(|i| format!("[upstream.\"h{i}.example\"]\nca = \"private-ca.pem\"\n")).collect::<String>()
    };
    assert_eq!(parse(&format!("{header}{}", upstreams(10_000))).unwrap().upstreams.len(), 10_000);
    assert_eq!(
        problems(&format!("{header}{}", upstreams(10_001))),
        ["p.toml:20003:11: more than 10,000 hosts in one file"]
    );
}

#[test]
fn a_folder_without_a_usable_name_must_be_named() {
    let read = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let error = parse_project("p.toml", Path::new("/"), "[sandbox]", &read).unwrap_err();
    assert_eq!(error.0[0].message, "the folder's name gives no name for the project");
    assert!(parse_project("p.toml", Path::new("/"), "[sandbox]\nname = \"x\"", &read).is_ok());
}
