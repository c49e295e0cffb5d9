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
    assert_eq!(parse_vault("vault.toml", "").unwrap(), VaultConfig::default());
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
            "    help: write provider = \"env\": it is the only one",
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
