//! The table of answers (design §4), in the order in which they are given.

use super::*;
use crate::domain::macaroon::{KeyId, Restriction, mint};
use crate::domain::policy::{Origin, Upstream};
use crate::domain::secret::SigningKey;

const NOW: u64 = 1_800_000_000;

pub(super) fn key(byte: u8) -> SigningKey {
    SigningKey::new(vec![byte; 32]).unwrap()
}

pub(super) fn rules(strict: bool) -> Rules {
    let origin = Origin { file: "agent-creds.toml".into(), line: 1 };
    let upstream = |limits| Upstream { limits, address: None, private: false, ca: None, origin: origin.clone() };
    let limited =
        Limits { methods: Some(["GET".parse().unwrap()].into()), paths: Some(vec!["/v1/**".parse().unwrap()]) };
    let policy = Policy {
        id: "box".parse().unwrap(),
        instance: None,
        listen: "127.0.0.1:1".parse().unwrap(),
        origin: origin.clone(),
        vault: None,
        upstreams: [
            ("limited.example".parse().unwrap(), upstream(limited)),
            ("free.example".parse().unwrap(), upstream(Limits::default())),
            ("*.wild.example".parse().unwrap(), upstream(Limits::default())),
        ]
        .into(),
    };
    Rules::new([&policy], Keyring::single(&key(7)), TokenPrefix::default(), strict)
}

fn signed(key: &SigningKey, restrictions: &[Restriction]) -> String {
    mint(key, &KeyId::default(), [9; 16], restrictions).unwrap().encode(&TokenPrefix::default()).to_string()
}

fn token(restrictions: &[Restriction]) -> String {
    signed(&key(7), restrictions)
}

#[test]
fn what_a_stream_rests_on_ends_with_its_time_its_key_and_its_revocation() {
    let mut rules = rules(false);
    let request = AccessRequest {
        sandbox: "box",
        host: "free.example",
        method: "GET",
        target: "/",
        token: Presented::Token(token(&[window(-10, 10)]).into()),
        behind: None,
    };
    let Decision::Allow(grant) = decide(&rules, &request, NOW) else { panic!("it is refused") };
    let holding = grant.holding().to_string().parse().unwrap();
    assert_eq!(&holding, grant.holding());
    assert!(rules.still_hold(&holding, NOW + 10) && !rules.still_hold(&holding, NOW + 11));
    // With several keys, the one that signed it has to be among them.
    rules.keyring = Keyring::default().with(KeyId::default(), &key(7));
    assert!(rules.still_hold(&holding, NOW));
    rules.keyring = Keyring::default().with("k2".parse().unwrap(), &key(7));
    assert!(!rules.still_hold(&holding, NOW));
    rules.keyring = Keyring::single(&key(7));
    rules.revocations.add([holding.token]);
    assert!(!rules.still_hold(&holding, NOW));
}

#[test]
fn a_revoked_token_is_none_whatever_it_was_narrowed_to() {
    let rules = rules(false);
    let request = |token| AccessRequest {
        sandbox: "box",
        host: "free.example",
        method: "GET",
        target: "/",
        token: Presented::Token(std::borrow::Cow::Owned(token)),
        behind: None,
    };
    let narrowed = token(&[window(-10, 10), methods("GET")]);
    assert!(matches!(decide(&rules, &request(narrowed.clone()), NOW), Decision::Allow(_)));
    // All tokens of these tests have one nonce.
    assert_eq!(rules.revocations.add([[9; 16].into(), [9; 16].into()]), 1);
    for (token, reason) in [(narrowed, "revoked"), (token(&[]), "revoked"), (signed(&key(8), &[]), "bad_signature")] {
        let Decision::Deny(denial) = decide(&rules, &request(token), NOW) else { panic!("it is allowed") };
        assert_eq!((denial.status(), denial.reason()), (401, reason));
    }
}

fn window(from: i64, to: i64) -> Restriction {
    let now = i64::try_from(NOW).unwrap();
    Restriction::ValidityWindow { not_before: now + from, not_after: now + to }
}

fn hosts(host: &str) -> Restriction {
    Restriction::Hosts(vec![host.parse().unwrap()])
}

fn methods(method: &str) -> Restriction {
    Restriction::Methods(vec![method.parse().unwrap()])
}

fn paths(path: &str) -> Restriction {
    Restriction::Paths(vec![path.parse().unwrap()])
}

fn sandbox(name: &str) -> Restriction {
    Restriction::Sandbox(name.parse().unwrap())
}

/// `METHOD HOST TARGET` with a token, as an answer: `allow`, `pass`, or status and reason.
fn ask(rules: &Rules, sandbox: &str, request: &str, token: Presented<'_>) -> String {
    let mut words = request.split(' ');
    let mut word = || words.next().unwrap();
    let request = AccessRequest { sandbox, method: word(), host: word(), target: word(), token, behind: None };
    let decision = decide(rules, &request, NOW);
    let foreseen = foresee(rules, &request, NOW);
    match &decision {
        // Who has no key cannot know.
        Decision::Deny(Denial::Token(TokenError::Signature)) => {}
        Decision::Deny(denial) => assert_eq!(foreseen.as_ref(), Err(denial), "{request:?}"),
        Decision::Allow(_) | Decision::PassThrough => assert_eq!(foreseen, Ok(()), "{request:?}"),
        Decision::Refer(_) => {}
    }
    match decision {
        Decision::Allow(grant) => {
            assert_eq!(grant.host().as_str(), request.host, "a grant is for the host that was asked about");
            "allow".to_owned()
        }
        Decision::PassThrough => "pass".to_owned(),
        Decision::Deny(denial) => {
            assert!(remedy(rules, &request, &denial).one_line().len() > 10);
            format!("{} {}", denial.status(), denial.reason())
        }
        Decision::Refer(_) => "refer".to_owned(),
    }
}

/// The rules of [`rules`], with the credentials at another server.
fn shared_rules(strict: bool) -> Rules {
    let mut rules = rules(strict);
    for reachable in rules.sandboxes.values_mut() {
        reachable.vault = Some("vault.example.com:18000".parse().unwrap());
        reachable.instance = Some("00ff".parse().unwrap());
    }
    rules
}

#[test]
fn with_a_shared_vault_limits_are_judged_here_and_tokens_there() {
    let request =
        |host, method, token| AccessRequest { sandbox: "box", host, method, target: "/", token, behind: None };
    let decided = |rules: &Rules, request: AccessRequest<'_>| match decide(rules, &request, NOW) {
        Decision::Refer(referral) => {
            assert_eq!(referral.vault.to_string(), "vault.example.com:18000");
            assert_eq!(referral.behind.unwrap().to_string(), "box/00ff");
            format!("refer {}", referral.host)
        }
        Decision::Deny(denial) => denial.reason().to_owned(),
        Decision::PassThrough => "pass".to_owned(),
        Decision::Allow(_) => panic!("nothing here may allow it"),
    };
    let rules = shared_rules(false);
    // This server's own key has made it, and that says nothing.
    let own = token(&[]);
    for token in [Presented::Token(own.as_str().into()), Presented::Token("acm_x".into()), Presented::Several] {
        assert_eq!(decided(&rules, request("free.example", "GET", token)), "refer free.example");
    }
    let misplaced = Presented::Misplaced("the header `x-own`".into());
    assert_eq!(decided(&rules, request("free.example", "GET", misplaced)), "refer free.example");
    assert_eq!(decided(&rules, request("free.example", "GET", Presented::None)), "pass");
    assert_eq!(decided(&shared_rules(true), request("free.example", "GET", Presented::None)), "no_token");
    let limited = request("limited.example", "DELETE", Presented::Token(own.as_str().into()));
    assert_eq!(decided(&rules, limited), "limit_method");
    assert_eq!(decided(&rules, request("gone.example", "GET", Presented::Several)), "unknown_upstream");
}

#[test]
fn another_servers_token_names_its_gateway_here_and_its_sandbox_there() {
    let rules = rules(false);
    let sandbox = |name: &str| Restriction::Sandbox(name.parse().unwrap());
    let life = |name: &str, instance: &str| Restriction::Instance(name.parse().unwrap(), instance.parse().unwrap());
    let asked = |restrictions: &[Restriction], behind: Option<&str>| {
        let request = AccessRequest {
            sandbox: "box",
            host: "free.example",
            method: "GET",
            target: "/",
            token: Presented::Token(token(restrictions).into()),
            behind: behind.map(|behind| behind.parse().unwrap()),
        };
        matches!(decide(&rules, &request, NOW), Decision::Allow(_))
    };
    let own = sandbox("box");
    assert!(asked(&[own.clone(), life("shop", "00ff")], Some("shop/00ff")));
    // Another life, another sandbox, another gateway, or whoever asks as the gateway alone.
    assert!(!asked(&[own.clone(), life("shop", "00ff")], Some("shop/11ff")));
    assert!(!asked(&[own.clone(), life("shop", "00ff")], Some("other/00ff")));
    assert!(!asked(&[sandbox("prod"), life("shop", "00ff")], Some("shop/00ff")));
    assert!(!asked(&[own.clone(), life("shop", "00ff")], None));
    // A sandbox that is called as a gateway is none, in either order.
    assert!(!asked(&[sandbox("prod")], Some("prod/00ff")));
    assert!(!asked(&[life("shop", "00ff"), sandbox("prod")], Some("shop/00ff")));
    assert!(!asked(&[life("shop", "00ff"), sandbox("shop")], Some("shop/00ff")));
    assert!(asked(&[own], Some("shop/00ff")) && asked(&[], Some("shop/00ff")));
}

#[test]
fn each_token_gets_the_answer_of_the_table() {
    let rules = rules(false);
    let good = token(&[]);
    let altered = format!("{}{}", &good[..good.len() - 4], if good.ends_with("AAAA") { "BBBB" } else { "AAAA" });
    for (request, token, answer) in [
        ("GET free.example /", good.clone(), "allow"),
        ("GET free.example /a?b=c#d", token(&[paths("/a")]), "allow"),
        ("get free.example /", token(&[methods("GET")]), "allow"),
        ("OPTIONS free.example *", good.clone(), "allow"),
        ("OPTIONS free.example *", token(&[paths("/**")]), "403 caveat_path"),
        ("GET limited.example /v1/x", good.clone(), "allow"),
        ("GET limited.example *", good.clone(), "403 limit_path"),
        ("get limited.example /v1", good.clone(), "allow"),
        ("POST limited.example /v1", good.clone(), "403 limit_method"),
        ("GET limited.example /v2?/v1/x", good.clone(), "403 limit_path"),
        ("GET limited.example /v1/../admin", good.clone(), "403 limit_path"),
        ("GET free.example /", token(&[hosts("limited.example")]), "403 caveat_host"),
        ("GET free.example /", token(&[methods("POST")]), "403 caveat_method"),
        ("GET free.example /v2", token(&[paths("/v1/**")]), "403 caveat_path"),
        ("GET free.example /", token(&[sandbox("other")]), "403 caveat_sandbox"),
        ("GET free.example /", token(&[sandbox("box")]), "allow"),
        ("GET free.example /", token(&[window(-10, -1)]), "401 expired"),
        ("GET free.example /", token(&[window(1, 10)]), "401 not_yet_valid"),
        ("GET free.example /", token(&[window(0, 0)]), "allow"),
        ("GET free.example /", altered, "401 bad_signature"),
        ("GET free.example /", signed(&key(8), &[]), "401 bad_signature"),
        ("GET free.example /", "acm_".to_owned(), "401 malformed_token"),
        ("GET free.example /", "acm_!".to_owned(), "401 malformed_token"),
        ("GET free.example /", format!("acm_{}", "A".repeat(9000)), "401 malformed_token"),
        ("GET nowhere.example /", good.clone(), "403 unknown_upstream"),
        ("GET a.wild.example /", good.clone(), "allow"),
        ("GET a.b.wild.example /", token(&[hosts("*.wild.example")]), "allow"),
        ("GET a.wild.example /", token(&[hosts("b.wild.example")]), "403 caveat_host"),
        ("GET wild.example /", good.clone(), "403 unknown_upstream"),
        ("GET A.wild.example:443 /", good, "403 unknown_upstream"),
    ] {
        assert_eq!(ask(&rules, "box", request, Presented::Token(token.as_str().into())), answer, "{request} {token}");
    }
}

#[test]
fn without_one_token_in_its_place() {
    type Make = fn() -> Presented<'static>;
    let none: Make = || Presented::None;
    let several: Make = || Presented::Several;
    let misplaced: Make = || Presented::Misplaced("the URL".into());
    for (strict, request, presented, answer) in [
        (false, "GET free.example /", none, "pass"),
        (false, "GET limited.example /v1", none, "pass"),
        (false, "DELETE limited.example /v1", none, "403 limit_method"),
        (false, "GET limited.example /v2", none, "403 limit_path"),
        (false, "GET nowhere.example /", none, "403 unknown_upstream"),
        (true, "GET free.example /", none, "401 no_token"),
        (true, "GET nowhere.example /", none, "403 unknown_upstream"),
        (false, "GET free.example /", several, "401 several_tokens"),
        (true, "GET free.example /", misplaced, "401 misplaced_token"),
        (false, "GET free.example /", misplaced, "401 misplaced_token"),
    ] {
        assert_eq!(ask(&rules(strict), "box", request, presented()), answer, "{strict} {request}");
    }
    // The same host from a sandbox that does not have it.
    assert_eq!(ask(&rules(false), "other", "GET free.example /", Presented::None), "403 unknown_upstream");
}

/// Everything is wrong with the first request; each next one has the cause of the answer before mended.
#[test]
fn the_order_of_checks_is_fixed() {
    let rules = rules(true);
    let caveats = |first: Restriction| [first, hosts("x.example"), methods("PUT"), paths("/x"), sandbox("other")];
    let forged = signed(&key(8), &caveats(window(-10, -1)));
    let expired = token(&caveats(window(-10, -1)));
    let [_, host, method, path, other] = caveats(window(0, 1));
    for (request, token, answer) in [
        ("POST nowhere.example /v2", Some(forged.clone()), "403 unknown_upstream"),
        ("POST limited.example /v2", None, "401 no_token"),
        ("POST limited.example /v2", Some("acm_!".to_owned()), "401 malformed_token"),
        ("POST limited.example /v2", Some(forged), "401 bad_signature"),
        ("POST limited.example /v2", Some(expired), "401 expired"),
        ("POST limited.example /v2", Some(token(&caveats(window(0, 1)))), "403 limit_method"),
        ("GET limited.example /v2", Some(token(&caveats(window(0, 1)))), "403 limit_path"),
        (
            "GET limited.example /v1",
            Some(token(&[other.clone(), path.clone(), method.clone(), host])),
            "403 caveat_host",
        ),
        ("GET limited.example /v1", Some(token(&[other.clone(), path.clone(), method])), "403 caveat_method"),
        ("GET limited.example /v1", Some(token(&[other.clone(), path])), "403 caveat_path"),
        ("GET limited.example /v1", Some(token(&[other])), "403 caveat_sandbox"),
        ("GET limited.example /v1", Some(token(&[])), "allow"),
    ] {
        let presented = token.map_or(Presented::None, |token| Presented::Token(token.into()));
        assert_eq!(ask(&rules, "box", request, presented), answer, "{request}");
    }
}

#[test]
fn what_the_agent_sent_is_escaped_and_cut_and_tokens_are_not_shown() {
    let target = format!("/\u{1b}[31m\n{}", "x".repeat(1000));
    let text = token(&[]);
    let request = AccessRequest {
        sandbox: "box",
        host: "limited.example",
        method: "GET",
        target: &target,
        token: Presented::Token(text.as_str().into()),
        behind: None,
    };
    assert!(!format!("{request:?}").contains(&text[4..30]));
    let Decision::Deny(denial) = decide(&rules(false), &request, NOW) else { panic!("it is refused") };
    let (message, help) = (denial.to_string(), remedy(&rules(false), &request, &denial).one_line());
    assert!(message.starts_with("Unauthorized: path not allowed: /\\u{1b}[31m\\nxxx"), "{message}");
    assert!(message.chars().count() < 350 && message.contains('…'), "{message}");
    assert!(help.is_ascii() && help.contains("read this path in two ways"), "{help}");
    assert_eq!(Denial::NoCredential("a.example".parse().unwrap()).status(), 403);
    assert!(
        Denial::NoCredential("a.example".parse().unwrap())
            .to_string()
            .starts_with("No credentials configured for this host")
    );
}

#[test]
fn a_credential_that_cannot_be_had_now_is_a_fault_of_the_server_and_no_more_is_told() {
    let denial = Denial::CredentialUnavailable("a.example".parse().unwrap());
    assert_eq!((denial.status(), denial.reason()), (503, "credential_unavailable"));
    assert_eq!(denial.to_string(), "Credential not available for this host: a.example");
    assert!(denial.is_after_verification());
}
