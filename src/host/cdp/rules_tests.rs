use super::*;

#[test]
fn a_rule_of_nothing_is_none() {
    assert_eq!(Rule::new(None, None, None), Err(RuleError));
}

#[test]
fn all_that_is_given_must_match() {
    let rules =
        Rules::new([
            Rule::new(Some("page"), Some("*My App*"), Some("http://localhost:3000/*".parse().unwrap())).unwrap()
        ]);
    assert_eq!(rules.judge("page", "x My App y", "http://localhost:3000/"), Match::Yes);
    assert_eq!(rules.judge("page", "Mail", "http://localhost:3000/"), Match::ButTitle);
    assert_eq!(rules.judge("iframe", "My App", "http://localhost:3000/"), Match::No);
    assert_eq!(rules.judge("page", "My App", "http://localhost:3001/"), Match::No);
    assert_eq!(Rules::default().judge("page", "My App", "http://localhost:3000/"), Match::No);
    let url = WebUrl::parse("http://localhost:3000/x").unwrap();
    assert!(rules.allow_navigation(&url));
    assert_eq!(rules.origins().collect::<Vec<_>>(), ["http://localhost:3000"]);
}
