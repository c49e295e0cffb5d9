use std::time::Duration;

use super::*;

fn problems(text: &str) -> String {
    parse_vault("vault.toml", text).unwrap_err().to_string()
}

#[test]
fn every_kind_of_credential() {
    let vault = parse_vault(
        "vault.toml",
        r#"
[credentials."API.stripe.com"]
type = "bearer"
token = { provider = "env", name = "STRIPE" }
[credentials."pb.example.com"]
type = "basic"
username = { provider = "env", name = "U" }
password = { provider = "env", name = "P" }
[credentials."*.s3.amazonaws.com"]
type = "header"
name = "X-Api-Key"
prefix = "Token "
[credentials."*.s3.amazonaws.com".value]
provider = "env"
name = "V"
[credentials."supabase.example.com"]
type = "headers"
[credentials."supabase.example.com".headers]
ApiKey = { provider = "env", name = "S" }
authorization = { provider = "env", name = "S", prefix = "Bearer " }
[credentials."maps.example.com"]
type = "query"
name = "key"
value = { provider = "env", name = "M" }
[credentials."*.eu-west-1.amazonaws.com"]
type = "sigv4"
access_key_id = { provider = "env", name = "K" }
secret_access_key = { provider = "env", name = "S" }
[credentials."minio.example.com"]
type = "sigv4"
access_key_id = { provider = "env", name = "K" }
secret_access_key = { provider = "env", name = "S" }
session_token = { provider = "env", name = "T" }
region = "auto"
service = "s3"
"#,
    )
    .unwrap();
    let credential = |host: &str| &vault.credentials[&host.parse::<HostPattern>().unwrap()];
    let env = |name: &str| ProviderRef::Env { name: name.parse().unwrap() };
    let header = |name: &str, variable: &str, prefix: &str| HeaderConfig {
        name: name.parse().unwrap(),
        value: env(variable),
        prefix: prefix.into(),
    };
    assert_eq!(credential("api.stripe.com").kind, CredentialKind::Bearer { token: env("STRIPE") });
    assert_eq!(credential("api.stripe.com").origin.to_string(), "vault.toml:2");
    assert_eq!(credential("pb.example.com").kind, CredentialKind::Basic { username: env("U"), password: env("P") });
    assert_eq!(
        credential("*.s3.amazonaws.com").kind,
        CredentialKind::Headers(vec![header("x-api-key", "V", "Token ")])
    );
    assert_eq!(
        credential("supabase.example.com").kind,
        CredentialKind::Headers(vec![header("apikey", "S", ""), header("authorization", "S", "Bearer ")])
    );
    assert_eq!(
        credential("maps.example.com").kind,
        CredentialKind::Query { name: "key".parse().unwrap(), value: env("M") }
    );
    let sigv4 = SigV4Config {
        access_key_id: env("K"),
        secret_access_key: env("S"),
        session_token: None,
        region: None,
        service: None,
    };
    assert_eq!(credential("*.eu-west-1.amazonaws.com").kind, CredentialKind::SigV4(sigv4.clone()));
    let (region, service) = ("auto".parse().ok(), "s3".parse().ok());
    let sigv4 = SigV4Config { session_token: Some(env("T")), region, service, ..sigv4 };
    assert_eq!(credential("minio.example.com").kind, CredentialKind::SigV4(sigv4));
    let signing: Vec<String> = vault.signing().iter().map(ToString::to_string).collect();
    assert_eq!(signing, ["minio.example.com", "*.eu-west-1.amazonaws.com"]);
    assert_eq!(parse_vault("vault.toml", "").unwrap(), VaultConfig::default());
}

#[test]
fn what_is_wrong_with_keys_to_sign_with() {
    let keys = "access_key_id = { provider = \"env\", name = \"K\" }\nsecret_access_key = { provider = \"env\", name = \"S\" }\n";
    for (lines, expected) in [
        ("access_key_id = { provider = \"env\", name = \"K\" }", "secret_access_key"),
        ("access_key_id = \"AKIAsk_live\"", "access_key_id"),
        (&format!("{keys}session_token = \"sk_live\""), "session_token"),
        (&format!("{keys}region = \"sk_live/x\""), "us-east-1"),
        (&format!("{keys}service = \"\""), "us-east-1"),
        (&format!("{keys}service = {{ provider = \"env\", name = \"K\" }}"), "service"),
        (&format!("{keys}regions = \"us-east-1\""), "region"),
    ] {
        let problems = problems(&format!("[credentials.\"s3.amazonaws.com\"]\ntype = \"sigv4\"\n{lines}\n"));
        assert!(problems.contains(expected) && !problems.contains("sk_live"), "{lines}: {problems}");
    }
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_repeated() {
    for line in [
        "token = \"sk_live_51H\"",
        "token = { provider = \"env\", name = \"sk_live_51H-x\" }",
        "token = { provider = \"sk_live_51H\" }",
        "token = [\"sk_live_51H\"]",
        "token = { provider = \"env\", name = [\"sk_live_51H\"] }",
        "token = 51515151 # sk_live_51H",
        "token = { provider = 51515151, name = 51515151 }",
        "token = { provider = \"env\", name = \"A\", value = \"sk_live_51H\" }",
        "token = sk_live_51H",
        "token = \"sk_live_51H",
    ] {
        let problems = problems(&format!("[credentials.\"api.stripe.com\"]\ntype = \"bearer\"\n{line}\n"));
        assert!(problems.contains("vault.toml:3:"), "{problems}");
        assert!(!problems.contains("sk_live") && !problems.contains("51515151"), "{problems}");
    }
    assert_eq!(
        problems("[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = \"x\""),
        "vault.toml:3:9: `token` must be a table: this file says where a secret is, and never holds one\n    help: put \
         it into the server's environment, and write token = { provider = \"env\", name = \"STRIPE_API_KEY\" }"
    );
}

#[test]
fn whether_it_is_masked_in_bodies() {
    let read = |line: &str| {
        let token = "token = { provider = \"env\", name = \"T\" }";
        parse_vault("vault.toml", &format!("[credentials.\"a.example\"]\ntype = \"bearer\"\n{token}\n{line}\n"))
    };
    for (line, redact) in [("", true), ("redact = true", true), ("redact = false", false)] {
        assert!(read(line).unwrap().credentials.values().all(|credential| credential.redact == redact), "{line}");
    }
    let problems = read("redact = \"no\"").unwrap_err().to_string();
    assert!(problems.starts_with("vault.toml:4:10: "), "{problems}");
}

#[test]
fn all_problems_at_once() {
    let problems = problems(
        r#"[credentials."https://api.stripe.com/v1"]
type = "barer"
[credentials."b.example"]
type = "basic"
user = { provider = "env", name = "U" }
password = { provider = "vault", name = "P" }
[credentials.c.example.com]
type = "bearer"
[credentials."d.example"]
[credential]
"#,
    );
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(
        lines,
        [
            "vault.toml:1:14: `https://api.stripe.com/v1` is not a host: give the host name alone, without scheme, path, \
             user or port",
            "    help: write [credentials.\"api.stripe.com\"]",
            "vault.toml:2:8: there is no credential of type `barer`",
            "    help: did you mean \"bearer\"?",
            "vault.toml:3:14: `b.example` needs `username`",
            "    help: add username = { provider = \"env\", name = \"STRIPE_API_KEY\" }",
            "vault.toml:5:1: unknown key `user`",
            "    help: known here: type, username, password, redact",
            "vault.toml:6:25: there is no such provider",
            "    help: there are: env, file, exec, keyring, age",
            "vault.toml:7:14: `c.example.com` is read as tables in tables",
            "    help: write the name in quotes: [credentials.\"c.example.com\"]",
            "vault.toml:9:14: `d.example` needs `type`",
            "    help: add type = \"bearer\"",
            "vault.toml:10:2: unknown key `credential`",
            "    help: did you mean `credentials`?",
        ]
    );
}

#[test]
fn headers_that_steer_are_refused() {
    for (name, error) in [
        (":authority", CredentialHeaderError::Pseudo),
        ("Host", CredentialHeaderError::Routing),
        ("X-Forwarded-Host", CredentialHeaderError::Routing),
        ("Connection", CredentialHeaderError::Connection),
        ("transfer-encoding", CredentialHeaderError::Connection),
        ("X-Envoy-Original-Path", CredentialHeaderError::Envoy),
        ("a b", CredentialHeaderError::NotAHeader),
        ("", CredentialHeaderError::NotAHeader),
        ("x\r\n", CredentialHeaderError::NotAHeader),
    ] {
        assert_eq!(name.parse::<CredentialHeader>(), Err(error), "{name:?}");
    }
    assert_eq!("X-API-Key".parse::<CredentialHeader>().unwrap().as_str(), "x-api-key");
    let text = "[credentials.\"a.example\"]\ntype = \"header\"\nname = \"x\"\nvalue = { provider = \"env\", name = \
                \"V\" }\nprefix = \"a\\r\\nb\"";
    assert!(problems(text).contains("vault.toml:5:10: `prefix`"));
}

#[test]
fn several_headers_are_checked_one_by_one() {
    let problems = problems(
        r#"[credentials."a.example"]
type = "headers"
[credentials."a.example".headers]
X-Key = { provider = "env", name = "A" }
x-key = { provider = "env", name = "B" }
Host = { provider = "env", name = "C" }
x-d = "sk_live_51H"
x-e = { provider = "env", nam = "E" }
"sk_live 51H" = { provider = "env", name = "F" }
x-g = { provider = "env", name = "G", prefix = "sk_live\n" }
[credentials."b.example"]
type = "headers"
headers = {}
[credentials."c.example"]
type = "headers"
headers = "sk_live_51H"
[credentials."d.example"]
type = "headers"
x-key = { provider = "env", name = "A" }
"#,
    );
    assert!(!problems.contains("sk_live"), "{problems}");
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(
        lines,
        [
            "vault.toml:5:1: this is the same header as on line 4",
            "    help: case makes no difference in the name of a header",
            "vault.toml:6:1: the name of this header is not valid here: this header chooses where the request goes",
            "vault.toml:7:7: a header must be a table: this file says where a secret is, and never holds one",
            "    help: put it into the server's environment, and write the header's name = { provider = \"env\", name = \
             \"STRIPE_API_KEY\" }",
            "vault.toml:8:1: `x-e` needs `name`",
            "    help: add name = \"STRIPE_API_KEY\"",
            "vault.toml:8:27: unknown key `nam`",
            "    help: did you mean `name`?",
            "vault.toml:9:1: the name of this header is not valid here: it is not the name of an HTTP header",
            "vault.toml:10:48: `prefix` is up to 128 visible ASCII characters and spaces, as in \"Token \"",
            "vault.toml:13:1: `headers` is empty",
            "    help: write a line for each header, as in x-api-key = { provider = \"env\", name = \"STRIPE_API_KEY\" }",
            "vault.toml:16:11: `headers` must be a table, not a string",
            "    help: write [headers] and its keys below",
            "vault.toml:17:14: `d.example` needs `headers`",
            "    help: add headers = { x-api-key = { provider = \"env\", name = \"EXAMPLE_API_KEY\" } }",
            "vault.toml:19:1: unknown key `x-key`",
            "    help: known here: type, headers, redact",
        ]
    );
}

#[test]
fn parameters_of_a_query_have_plain_names() {
    let vault = |name: &str, value: &str| {
        format!("[credentials.\"a.example\"]\ntype = \"query\"\nname = {name}\nvalue = {value}\n")
    };
    let env = "{ provider = \"env\", name = \"V\" }";
    for name in ["\"\"", "\"sk_live 51H\"", "\"sk_live+51H/=\"", "\"k\u{e4}y\"", "\"a&b\"", "[\"sk_live\"]", "51515151"]
    {
        let problems = problems(&vault(name, env));
        assert!(problems.starts_with("vault.toml:3:8: `name` "), "{problems}");
        assert!(!problems.contains("sk_live") && !problems.contains("51515151"), "{problems}");
    }
    let in_file = problems(&vault("\"key\"", "\"sk_live_51H\""));
    assert!(
        in_file.starts_with("vault.toml:4:9: `value` must be a table") && !in_file.contains("sk_live"),
        "{in_file}"
    );
    assert_eq!("api_key".parse::<CredentialParameter>().unwrap().to_string(), "api_key");
    assert_eq!("a=b".parse::<CredentialParameter>(), Err(CredentialParameterError));
}

#[test]
fn every_provider() {
    let vault = parse_vault(
        "vault.toml",
        r#"
[credentials."a.example"]
type = "bearer"
token = { provider = "file", path = "/run/secrets/a", grace = "1h" }
[credentials."b.example"]
type = "bearer"
token = { provider = "exec", command = ["op", "read", "op://b/c"], timeout = "30s", ttl = "1h30m", grace = "1m" }
[credentials."c.example"]
type = "bearer"
token = { provider = "keyring", name = "C_KEY" }
[credentials."d.example"]
type = "headers"
[credentials."d.example".headers]
x-d = { provider = "age", file = "/etc/d.age", name = "d.key", identity = "/etc/d.txt", prefix = "Token " }
x-e = { provider = "age", file = "/etc/d.age", name = "d.key" }
"#,
    )
    .unwrap();
    let providers = |host: &str| vault.credentials[&host.parse::<HostPattern>().unwrap()].kind.providers();
    let seconds = Duration::from_secs;
    assert_eq!(providers("a.example"), [&ProviderRef::File { path: "/run/secrets/a".into(), grace: seconds(3600) }]);
    let command: Vec<String> = ["op", "read", "op://b/c"].map(str::to_owned).into();
    let kept = Kept { ttl: seconds(5400), grace: seconds(60) };
    assert_eq!(providers("b.example"), [&ProviderRef::Exec { command: command.into(), timeout: seconds(30), kept }]);
    let kept = Kept { ttl: seconds(300), grace: seconds(600) };
    assert_eq!(providers("c.example"), [&ProviderRef::Keyring { name: "C_KEY".parse().unwrap(), kept }]);
    let age = |identity: Option<&str>| ProviderRef::Age {
        file: "/etc/d.age".into(),
        name: "d.key".parse().unwrap(),
        identity: identity.map(Into::into),
        grace: seconds(600),
    };
    assert_eq!(providers("d.example"), [&age(Some("/etc/d.txt")), &age(None)]);
}

#[test]
fn what_is_wrong_with_a_provider_is_said_without_repeating_it() {
    for (provider, place, expected) in [
        (r#"{ provider = "fil", path = "/a" }"#, "3:22", r#"did you mean "file"?"#),
        (r#"{ provider = "sk_live", path = "/a" }"#, "3:22", "there are: env, file, exec, keyring, age"),
        (r#"{ provider = "file" }"#, "3:1", "`token` needs `path`"),
        (r#"{ provider = "file", path = "sk_live" }"#, "3:37", "`path` must be an absolute path"),
        (r#"{ provider = "file", path = "~/sk_live" }"#, "3:37", "`~` and variables are not expanded"),
        (r#"{ provider = "file", path = "/a", name = "A" }"#, "3:43", "unknown key `name`"),
        (r#"{ provider = "file", path = "/a", grace = "soon" }"#, "3:51", "a time span is a number with a unit"),
        (r#"{ provider = "exec", command = "op read" }"#, "3:40", "`command` must be a list"),
        (r#"{ provider = "exec", command = [] }"#, "3:40", "`command` is empty"),
        (r#"{ provider = "exec", command = [""] }"#, "3:40", "none of them with a NUL"),
        (r#"{ provider = "exec", command = ["./sk_live"] }"#, "3:40", "an absolute path"),
        (r#"{ provider = "exec", command = ["a"], ttl = "0s" }"#, "3:53", "a time span"),
        (r#"{ provider = "keyring", name = "sk live" }"#, "3:40", "the name of a secret has"),
        (r#"{ provider = "age", file = "/a" }"#, "3:1", "`token` needs `name`"),
    ] {
        let problems = problems(&format!("[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = {provider}\n"));
        assert!(problems.contains(&format!("vault.toml:{place}")), "{provider}: {problems}");
        assert!(
            problems.contains(expected) && !problems.contains("sk_live") && !problems.contains("sk live"),
            "{problems}"
        );
    }
}

#[test]
fn credentials_that_are_got_in_exchange() {
    let vault = parse_vault(
        "vault.toml",
        r#"
[credentials."a.example"]
type = "oauth2"
grant = "client_credentials"
token_url = "https://auth.example.com:8443/oauth/token"
client_id = "my-client"
client_secret = { provider = "env", name = "A" }
client_auth = "body"
scopes = ["read", "a:b"]
audience = "https://a.example/"
[credentials."b.example"]
type = "oauth2"
grant = "refresh_token"
token_url = "https://auth.example.com/token"
client_id = "public"
refresh_token = { provider = "env", name = "B" }
[credentials."api.github.com"]
type = "github_app"
app_id = "123"
installation_id = "456"
private_key = { provider = "file", path = "/etc/app.pem" }
repositories = ["a", "b"]
permissions = { contents = "read", issues = "write" }
[credentials."github.com"]
type = "github_app"
app_id = "Iv1.abc"
installation_id = "456"
private_key = { provider = "file", path = "/etc/app.pem" }
api_url = "https://github.example.com/api/v3"
send_as = "basic"
[credentials."*.googleapis.com"]
type = "google_service_account"
key = { provider = "file", path = "/etc/key.json" }
scopes = ["https://www.googleapis.com/auth/devstorage.read_only"]
subject = "someone@example.com"
"#,
    )
    .unwrap();
    let kind = |host: &str| vault.credentials[&host.parse::<HostPattern>().unwrap()].kind.clone();
    let env = |name: &str| ProviderRef::Env { name: name.parse().unwrap() };
    let CredentialKind::Oauth2(a) = kind("a.example") else { panic!() };
    assert_eq!((a.grant, a.client_secret, a.auth_in_body), (OauthGrant::ClientCredentials, Some(env("A")), true));
    assert_eq!((a.token_url.to_string().as_str(), a.scopes.len()), ("https://auth.example.com:8443/oauth/token", 2));
    assert_eq!(a.audience.as_deref(), Some("https://a.example/"));
    let CredentialKind::Oauth2(b) = kind("b.example") else { panic!() };
    assert_eq!((b.grant, b.client_secret, b.auth_in_body), (OauthGrant::RefreshToken(env("B")), None, false));
    let CredentialKind::GithubApp(api) = kind("api.github.com") else { panic!() };
    assert_eq!((api.installation_id, api.repositories, api.permissions.len()), (456, vec!["a".into(), "b".into()], 2));
    assert_eq!((api.api_url.to_string().as_str(), api.basic), ("https://api.github.com/", false));
    let CredentialKind::GithubApp(git) = kind("github.com") else { panic!() };
    assert_eq!(
        (git.app_id.as_str(), git.api_url.to_string().as_str(), git.basic),
        ("Iv1.abc", "https://github.example.com/api/v3", true)
    );
    let CredentialKind::GoogleServiceAccount(google) = kind("*.googleapis.com") else { panic!() };
    assert_eq!((google.scopes.len(), google.subject.as_deref()), (1, Some("someone@example.com")));
}

#[test]
fn what_is_wrong_with_an_exchange_is_all_said() {
    let problems = problems(
        r#"[credentials."a.example"]
type = "oauth2"
grant = "client_credential"
token_url = "http://auth.example.com/token"
client_id = "sk_live 1"
client_auth = "post"
scopes = ["read write"]
[credentials."b.example"]
type = "oauth2"
grant = "client_credentials"
token_url = "https://user@auth.example.com/token"
client_id = "b"
client_secret = "sk_live_1"
refresh_token = { provider = "env", name = "B" }
[credentials."c.example"]
type = "github_app"
app_id = "1"
installation_id = "c"
private_key = { provider = "env", name = "C" }
permissions = { contents = "all" }
[credentials."d.example"]
type = "google_service_account"
key = { provider = "env", name = "D" }
"#,
    );
    assert!(!problems.contains("sk_live"), "{problems}");
    let lines: Vec<&str> = problems.lines().filter(|line| line.starts_with("vault.toml")).collect();
    let begins = [
        "vault.toml:3:9: `grant` is \"client_credentials\" or \"refresh_token\"",
        "vault.toml:4:13: `token_url` is not valid: it has to begin with https://",
        "vault.toml:5:13: `client_id` is not valid: it has 1 to 512 visible ASCII characters",
        "vault.toml:6:15: `client_auth` is \"basic\" or \"body\"",
        "vault.toml:7:11: `read write` is not valid here: a scope has no spaces",
        "vault.toml:11:13: `token_url` is not valid: it cannot have a user",
        "vault.toml:13:17: `client_secret` must be a table",
        "vault.toml:14:1: unknown key `refresh_token`",
        "vault.toml:18:19: `c` is not valid here",
        "vault.toml:20:28: `contents` is \"read\" or \"write\" or \"admin\"",
        "vault.toml:21:14: `d.example` needs `scopes`",
    ];
    assert_eq!(lines.len(), begins.len(), "{problems}");
    for (line, begin) in lines.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line} / {begin}");
    }
}

#[test]
fn what_is_masked_in_bodies_by_default_stays_the_same_for_long() {
    let vault =
        |kind: &str, redact: &str| parse_vault("v", &format!("[credentials.\"a.example\"]\n{kind}\n{redact}\n"));
    let bearer = "type = \"bearer\"\ntoken = { provider = \"env\", name = \"A\" }";
    let google = "type = \"google_service_account\"\nkey = { provider = \"env\", name = \"A\" }\nscopes = [\"a\"]";
    let sigv4 = "type = \"sigv4\"\naccess_key_id = { provider = \"env\", name = \"A\" }\nsecret_access_key = { provider = \"env\", \
                 name = \"A\" }";
    let redact = |kind, redact| vault(kind, redact).unwrap().credentials.into_values().next().unwrap().redact;
    for (kind, by_default) in [(bearer, true), (google, false), (sigv4, false)] {
        assert_eq!((redact(kind, ""), redact(kind, "redact = false")), (by_default, false), "{kind}");
    }
    assert!(redact(google, "redact = true"));
    assert!(vault(sigv4, "redact = true").unwrap_err().to_string().contains("v:5:10: bodies of answers"));
    assert!(
        vault(bearer, "redact = \"no\"").unwrap_err().to_string().contains("v:4:10: `redact` must be true or false")
    );
}
