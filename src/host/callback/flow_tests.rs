use std::str::FromStr;

use http::Request;
use proptest::prelude::*;

use super::*;
use crate::domain::web::UrlPattern;

const OPENED: &str = "https://idp.example/authorize?redirect_uri=http%3A%2F%2Flocalhost%3A4000%2Fcb&state=s1";

fn flow_of(url: &str, now: Instant) -> Flow {
    Flow::new(Callback::of(&WebUrl::parse(url).unwrap()).unwrap().unwrap(), now)
}

fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost:4000");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

const RIGHT: &str = "/cb?code=c&state=s1";
const NAVIGATION: [(&str, &str); 3] =
    [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-site", "cross-site")];

#[test]
fn the_right_request_is_carried_and_then_it_is_over() {
    let now = Instant::now();
    for headers in [&NAVIGATION[..], &[], &[("host", "LOCALHOST:4000")]] {
        let mut flow = flow_of(OPENED, now);
        assert_eq!(flow.judge(now, &request("GET", RIGHT, headers), b""), Ok(()));
        assert!(!flow.is_over(now));
        assert_eq!(flow.answered(now, None, &Allowed::default()), Next::Show);
        assert!(flow.is_over(now));
        assert_eq!(flow.judge(now, &request("GET", RIGHT, headers), b""), Err(Refused::Over), "a second one");
    }
}

#[test]
fn threats_what_is_not_the_callback_is_refused_and_changes_nothing() {
    let now = Instant::now();
    let mut flow = flow_of(OPENED, now);
    let with = |name, value| vec![(name, value)];
    for (method, target, headers, refused) in [
        ("GET", "/cb?code=c&state=s2", vec![], Refused::State),
        ("GET", "/cb?code=c", vec![], Refused::State),
        ("GET", "/cb?state=s1&state=s2", vec![], Refused::State),
        ("GET", "/cb?state=s1&state=s1", vec![], Refused::State),
        ("GET", "/cb?State=s1", vec![], Refused::State),
        ("GET", "/cb?x=%26state=s1", vec![], Refused::State),
        ("GET", "/?state=s1", vec![], Refused::Path),
        ("GET", "/cb/?state=s1", vec![], Refused::Path),
        ("GET", "//cb?state=s1", vec![], Refused::Path),
        ("GET", "/%63b?state=s1", vec![], Refused::Path),
        ("GET", "/json?state=s1", vec![], Refused::Path),
        ("GET", "/favicon.ico", vec![], Refused::Icon),
        ("POST", RIGHT, vec![], Refused::Method),
        ("HEAD", RIGHT, vec![], Refused::Method),
        ("OPTIONS", RIGHT, vec![], Refused::Method),
        ("DELETE", RIGHT, vec![], Refused::Method),
        ("GET", RIGHT, with("host", "evil.example:4000"), Refused::Host),
        ("GET", RIGHT, with("host", "localhost"), Refused::Host),
        ("GET", RIGHT, with("host", "127.0.0.1:4000"), Refused::Host),
        ("GET", RIGHT, with("host", "localhost:4001"), Refused::Host),
        ("GET", RIGHT, vec![("host", "localhost:4000"), ("host", "evil.example")], Refused::Host),
        ("GET", "http://localhost:4000/cb?state=s1", vec![], Refused::Host),
        ("GET", RIGHT, with("origin", "https://evil.example"), Refused::NotShown),
        ("GET", RIGHT, with("origin", "null"), Refused::NotShown),
        ("GET", RIGHT, with("sec-fetch-mode", "cors"), Refused::NotShown),
        ("GET", RIGHT, with("sec-fetch-mode", "no-cors"), Refused::NotShown),
        ("GET", RIGHT, with("sec-fetch-mode", "websocket"), Refused::NotShown),
        ("GET", RIGHT, with("sec-fetch-dest", "iframe"), Refused::NotShown),
        ("GET", RIGHT, with("sec-fetch-dest", "image"), Refused::NotShown),
        ("GET", RIGHT, with("sec-fetch-dest", "empty"), Refused::NotShown),
        ("GET", RIGHT, vec![("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "embed")], Refused::NotShown),
        ("GET", RIGHT, vec![("sec-fetch-mode", "navigate"), ("sec-fetch-mode", "cors")], Refused::NotShown),
        ("GET", RIGHT, with("sec-purpose", "prefetch;prerender"), Refused::NotShown),
        ("GET", RIGHT, with("purpose", "prefetch"), Refused::NotShown),
        ("GET", RIGHT, with("upgrade", "websocket"), Refused::NotShown),
    ] {
        assert_eq!(
            flow.judge(now, &request(method, target, &headers), b"state=s1"),
            Err(refused),
            "{method} {target} {headers:?}"
        );
    }
    assert_eq!(flow.judge(now, &request("GET", RIGHT, &NAVIGATION), b""), Ok(()));
    // While it is carried, another one is not.
    assert_eq!(flow.judge(now, &request("GET", RIGHT, &NAVIGATION), b""), Err(Refused::Busy));
    flow.failed();
    assert_eq!(flow.judge(now, &request("GET", RIGHT, &NAVIGATION), b""), Ok(()), "the program was not there: again");
}

#[test]
fn a_form_is_taken_where_the_sign_in_said_so() {
    let now = Instant::now();
    let opened = format!("{OPENED}&response_mode=form_post");
    let form = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("origin", "https://idp.example"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-site", "cross-site"),
    ];
    let mut flow = flow_of(&opened, now);
    assert_eq!(flow.judge(now, &request("POST", "/cb", &form), b"code=c&state=s2"), Err(Refused::State));
    assert_eq!(flow.judge(now, &request("POST", "/cb?state=s1", &form), b"code=c"), Err(Refused::State));
    assert_eq!(flow.judge(now, &request("POST", "/cb", &form[..2]), b"state=s1"), Err(Refused::NotShown), "a script's");
    assert_eq!(flow.judge(now, &request("POST", "/cb", &form[1..]), b"state=s1"), Err(Refused::Method));
    assert_eq!(flow.judge(now, &request("POST", "/cb", &form), b"code=c&state=s1"), Ok(()));
}

#[test]
fn without_a_state_the_rest_has_to_do() {
    let now = Instant::now();
    let mut flow = flow_of("https://i.example/?redirect_uri=http://[::1]:4000/cb", now);
    assert_eq!(flow.judge(now, &request("GET", "/cb?code=c", &[]), b""), Err(Refused::Host));
    assert_eq!(flow.judge(now, &request("GET", "/cb?code=c&state=any", &[("host", "[::1]:4000")]), b""), Ok(()));
}

#[test]
fn it_takes_ten_minutes_at_most() {
    let now = Instant::now();
    let mut flow = flow_of(OPENED, now);
    let late = now + LIFETIME;
    assert_eq!(flow.judge(late, &request("GET", RIGHT, &[]), b""), Err(Refused::Over));
    assert!(flow.is_over(late) && flow.is_waiting());
    assert_eq!(left(flow.until(), late), Duration::ZERO);
    // One that came in time is answered.
    let early = late - Duration::from_millis(1);
    assert_eq!(flow.judge(early, &request("GET", RIGHT, &[]), b""), Ok(()));
    assert!(!flow.is_over(late));
}

#[test]
fn redirects_of_the_program_are_followed_where_they_may_lead() {
    let now = Instant::now();
    let allowed = Allowed::new(true, [UrlPattern::from_str("https://idp.example/done*").unwrap()]);
    let answered = |location: &str| {
        let mut flow = flow_of(OPENED, now);
        flow.judge(now, &request("GET", RIGHT, &[]), b"").unwrap();
        let next = flow.answered(now, Some(location), &allowed);
        (flow, next)
    };
    for location in ["/success?x=1", "http://localhost:4000/success?x=1", "success?x=1", "//localhost:4000/success?x=1"]
    {
        let (mut flow, next) = answered(location);
        assert_eq!(next, Next::Redirect("http://localhost:4000/success?x=1".to_owned()), "{location}");
        assert!(!flow.is_over(now) && flow.is_over(now + GRACE));
        assert_eq!(flow.judge(now, &request("GET", RIGHT, &[]), b""), Err(Refused::Path), "a second callback");
        assert_eq!(flow.judge(now, &request("GET", "/success", &[]), b""), Err(Refused::Path));
        assert_eq!(flow.judge(now, &request("POST", "/success?x=1", &[]), b""), Err(Refused::Method));
        assert_eq!(
            flow.judge(now, &request("GET", "/success?x=1", &[("sec-fetch-mode", "cors")]), b""),
            Err(Refused::NotShown)
        );
        assert_eq!(flow.judge(now, &request("GET", "/success?x=1", &NAVIGATION), b""), Ok(()));
        assert_eq!(flow.answered(now, None, &allowed), Next::Show);
        assert!(flow.is_over(now));
    }
    let (flow, next) = answered("https://idp.example/done?ok");
    assert_eq!(next, Next::Redirect("https://idp.example/done?ok".to_owned()));
    assert!(flow.is_over(now));
    for location in [
        "http://localhost:631/",
        "http://127.0.0.1:4000/",
        "https://localhost:4000/",
        "https://evil.example/?d",
        "//evil.example",
    ] {
        let (flow, next) = answered(location);
        assert!(matches!(&next, Next::Stay(text) if text.contains("[[browser_target]]")), "{location}: {next:?}");
        assert!(flow.is_over(now));
    }
    for location in ["javascript:alert(1)", "file:///etc/passwd", "http://user@localhost:4000/", "http://"] {
        assert!(matches!(answered(location).1, Next::Stay(_)), "{location}");
    }
    // Not for ever.
    let mut flow = flow_of(OPENED, now);
    flow.judge(now, &request("GET", RIGHT, &[]), b"").unwrap();
    for _ in 0..HOPS {
        assert!(matches!(flow.answered(now, Some("/again"), &allowed), Next::Redirect(_)));
        flow.judge(now, &request("GET", "/again", &[]), b"").unwrap();
    }
    assert!(matches!(flow.answered(now, Some("/again"), &allowed), Next::Stay(_)));
}

proptest! {
    #[test]
    fn whatever_is_carried_is_the_callback(
        requests in prop::collection::vec(
            (
                prop::sample::select(vec!["GET", "GET", "POST", "HEAD", "PUT", "OPTIONS"]),
                prop::sample::select(vec!["/cb", "/cb", "/cb/", "/", "/success", "/favicon.ico"]),
                prop::sample::select(vec!["", "?state=s1", "?code=c&state=s1", "?state=s2", "?state=s1&state=s1", "?x=state=s1"]),
                prop::collection::vec(
                    prop::sample::select(vec![
                        ("host", "localhost:4000"),
                        ("host", "evil.example"),
                        ("origin", "https://evil.example"),
                        ("sec-fetch-mode", "navigate"),
                        ("sec-fetch-mode", "cors"),
                        ("sec-fetch-dest", "document"),
                        ("sec-fetch-dest", "iframe"),
                        ("content-type", "application/x-www-form-urlencoded"),
                    ]),
                    0..4,
                ),
                0_u64..700,
            ),
            1..12,
        ),
        answers in prop::collection::vec(prop::sample::select(vec![None, Some("/success"), Some("http://evil.example/")]), 12),
    ) {
        let start = Instant::now();
        let mut flow = flow_of(OPENED, start);
        let mut followed = false;
        let mut now = start;
        for ((method, path, query, headers, later), answer) in requests.into_iter().zip(answers) {
            now += Duration::from_secs(later / 10);
            let request = request(method, &format!("{path}{query}"), &headers);
            let was_over = flow.is_over(now);
            if flow.judge(now, &request, b"state=s1").is_ok() {
                prop_assert!(!was_over && method == "GET");
                prop_assert_eq!(request.headers.get_all("host").iter().collect::<Vec<_>>(), ["localhost:4000"]);
                prop_assert!(!request.headers.contains_key("origin"));
                prop_assert!(request.headers.get_all("sec-fetch-mode").iter().all(|mode| mode == "navigate"));
                prop_assert!(request.headers.get_all("sec-fetch-dest").iter().all(|dest| dest == "document"));
                if followed {
                    prop_assert_eq!((path, query), ("/success", ""));
                } else {
                    prop_assert!(path == "/cb" && ["?state=s1", "?code=c&state=s1"].contains(&query));
                }
                let next = flow.answered(now, answer, &Allowed::default());
                followed = answer == Some("/success");
                prop_assert_eq!(matches!(next, Next::Redirect(_)), followed && !flow.is_over(now));
                prop_assert!(followed || flow.is_over(now));
            }
        }
    }
}
