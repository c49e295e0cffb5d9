use proptest::prelude::*;

use super::*;

const HEAD: &str = "# A project.\n[sandbox]\nname = \"box\"   # its name\nmemory = \"1g\"\n";

fn missing(_: &Path) -> std::io::Result<Vec<u8>> {
    Err(std::io::ErrorKind::NotFound.into())
}

fn amended(text: &str, host: &str, request: Option<(&str, &str)>) -> Result<String, AmendError> {
    let request = request.map(|(method, path)| (method.to_owned(), path.to_owned()));
    amend("f", Path::new("/p"), text, &missing, &Refused { host: host.to_owned(), request })
}

fn after_head(more: &str, host: &str, request: Option<(&str, &str)>) -> String {
    let amended = amended(&format!("{HEAD}{more}"), host, request).unwrap_or_else(|error| panic!("{more}\n{error:?}"));
    amended.strip_prefix(HEAD).unwrap_or_else(|| panic!("{amended}")).to_owned()
}

#[test]
fn lists_grow_in_the_form_they_have() {
    let post = Some(("POST", "/v1/a"));
    for (before, after) in [
        (
            "[upstream.\"a.example\"]\nmethods = [\"GET\"] # reading\n",
            "[upstream.\"a.example\"]\nmethods = [\"GET\", \"POST\"] # reading\n",
        ),
        (
            "[upstream.\"a.example\"]\nmethods = [ \"get\", 'HEAD' ]\npaths=['/v2/**']",
            "[upstream.\"a.example\"]\nmethods = [ \"get\", 'HEAD', \"POST\" ]\npaths=['/v2/**', \"/v1/a\"]\n",
        ),
        (
            "[upstream.\"a.example\"]\nmethods = [\n  \"GET\",  # reading\n  \"HEAD\", # looking\n]\n# end\n",
            "[upstream.\"a.example\"]\nmethods = [\n  \"GET\",  # reading\n  \"HEAD\", # looking\n  \"POST\",\n]\n# end\n",
        ),
        (
            "[upstream.\"a.example\"]\npaths = [\n\t\"/v2\",\n\t\"/v3\" # last\n]\n",
            "[upstream.\"a.example\"]\npaths = [\n\t\"/v2\",\n\t\"/v3\", # last\n\t\"/v1/a\"\n]\n",
        ),
        (
            "upstream.\"A.Example.\" = { methods = [\"GET\"] } # inline\n",
            "upstream.\"A.Example.\" = { methods = [\"GET\", \"POST\"] } # inline\n",
        ),
    ] {
        // Dotted keys go before tables.
        let (before, after) = match before.starts_with("upstream") {
            true => (format!("{before}{HEAD}"), format!("{after}{HEAD}")),
            false => (format!("{HEAD}{before}"), format!("{HEAD}{after}")),
        };
        assert_eq!(amended(&before, "a.example", post).unwrap(), after);
    }
}

#[test]
fn the_case_of_a_host_makes_no_difference() {
    let post = Some(("POST", "/v1/a"));
    let text = format!("{HEAD}[upstream.\"a.example\"]\nmethods = [\"GET\"]\n");
    assert_eq!(amended(&text, "A.Example", post).unwrap(), amended(&text, "a.example", post).unwrap());
    assert_eq!(amended("", "NEW.example", None).unwrap(), "[upstream.\"new.example\"]\n");
}

#[test]
fn an_upstream_is_added_where_the_others_are() {
    for (before, after) in [
        ("", "\n[upstream.\"new.example\"]\n"),
        ("\n# none yet\n", "\n# none yet\n\n[upstream.\"new.example\"]\n"),
        (
            "\n[upstream.\"a.example\"] # a\n\n# pages\n[[browser_target]]\nurl = \"https://a.example/*\"\n",
            "\n[upstream.\"a.example\"] # a\n\n[upstream.\"new.example\"]\n\n# pages\n[[browser_target]]\nurl = \"https://a.example/*\"\n",
        ),
        ("[upstream]\n\"a.example\" = {} # a\n", "[upstream]\n\"a.example\" = {} # a\n\n[upstream.\"new.example\"]\n"),
    ] {
        let text = after_head(before, "new.example", None);
        let (mut is, mut should): (Vec<&str>, Vec<&str>) = (text.lines().collect(), after.lines().collect());
        if before.contains("none yet") {
            // The comment at the end may come after what is new.
            is.sort_unstable();
            should.sort_unstable();
        }
        assert_eq!(is, should, "{text}");
    }
    let dotted = "upstream.\"a.example\".methods = [\"GET\"]\n";
    let text = amended(&format!("{dotted}{HEAD}"), "new.example", None).unwrap();
    assert!(text.starts_with(dotted) && text.contains("upstream.\"new.example\" = {}\n"), "{text}");
    let text = amended(&format!("{dotted}{HEAD}"), "a.example", Some(("PUT", "/"))).unwrap();
    assert!(text.starts_with("upstream.\"a.example\".methods = [\"GET\", \"PUT\"]\n"), "{text}");
}

#[test]
fn a_wildcard_is_widened_under_its_own_name() {
    let before = "[upstream.\"*.a.example\"]\npaths = [\"/x\"]\n";
    assert_eq!(after_head(before, "b.a.example", Some(("GET", "/y"))), before.replace("\"/x\"", "\"/x\", \"/y\""));
}

#[test]
fn what_cannot_be_allowed_says_why() {
    let text = format!("{HEAD}[upstream.\"a.example\"]\nmethods = [\"GET\"]\npaths = [\"/v1/**\"]\n");
    let why = |host: &str, request| amended(&text, host, request).unwrap_err().to_string();
    assert!(why("a.example", Some(("GET", "/v1/x"))).contains("allows this already"));
    assert!(why("a.example", None).contains("allows this already"));
    assert!(why("a.example", Some(("GET", "/a*b"))).contains("add a pattern for it to `paths`"));
    assert!(why("a.example", Some(("GET", "/a//b"))).contains("in two ways"));
    assert!(why("a.example", Some(("A'B", "/v1/x"))).contains("use a method that HTTP has"));
    assert!(why("not a host", None).contains("on the host"));
    let broken = amended("[sandbox", "a.example", None).unwrap_err();
    assert!(matches!(broken, AmendError::Broken(_)), "{broken}");
    let mixed = text.replacen('\n', "\r\n", 1);
    assert!(matches!(amended(&mixed, "b.example", None), Err(AmendError::Form(_))));
    let windows = text.replace('\n', "\r\n");
    let amended = amended(&windows, "b.example", None).unwrap();
    assert_eq!(amended, format!("{windows}\r\n[upstream.\"b.example\"]\r\n"));
}

/// Comments, in the order in which they are; there is no `#` in any text of these files.
fn comments(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.find('#').map(|at| line[at..].trim_end())).collect()
}

/// A file in one of the many forms that mean the same.
fn files() -> impl Strategy<Value = String> {
    let list = |entries: &'static [&'static str]| {
        let entry = prop::sample::select(entries.to_vec());
        (prop::collection::vec(entry, 1..4), 0..4_u8).prop_map(|(entries, form)| {
            let entries: BTreeSet<&str> = entries.into_iter().collect();
            let quoted: Vec<String> = entries.iter().map(|entry| format!("\"{entry}\"")).collect();
            match form {
                0 => format!("[{}]", quoted.join(", ")),
                1 => format!("[ {} ] # one line", quoted.join(" ,")),
                2 => format!("[\n  {}, # last\n]", quoted.join(", # each\n  ")),
                _ => format!("[ # open\n\n    {} # last\n  # closing\n  ]", quoted.join(",\n    ")),
            }
        })
    };
    let methods = prop::option::of(list(&["GET", "HEAD", "PUT"])).prop_map(|v| v.map(|v| format!("methods = {v}\n")));
    let paths = prop::option::of(list(&["/v1/**", "/a", "/b/*"])).prop_map(|v| v.map(|v| format!("paths= {v}\n")));
    let more = prop::sample::select(vec!["", "# about\n", "private = true # yes\n", "\n\n"]);
    let upstream = (methods, paths, more, any::<bool>()).prop_map(|(methods, paths, more, order)| {
        let (methods, paths) = (methods.unwrap_or_default(), paths.unwrap_or_default());
        if order { format!("{methods}{more}{paths}") } else { format!("{more}{paths}{methods}") }
    });
    let end = prop::sample::select(vec!["", "# the end", "[[browser_target]] # page\nurl = \"https://x.example/*\"\n"]);
    (prop::collection::vec(upstream, 0..3), end).prop_map(|(upstreams, end)| {
        let hosts = ["a.example", "*.b.example"];
        let sections =
            hosts.iter().zip(upstreams).map(|(host, of)| format!("\n# of {host}\n[upstream.\"{host}\"]\n{of}"));
        format!("{HEAD}{}{end}", sections.collect::<String>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// It re-parses, allows exactly what was asked for, keeps every comment, and changes nothing else.
    #[test]
    fn an_edit_allows_what_was_refused_and_nothing_else(
        text in files(),
        host in prop::sample::select(vec!["a.example", "x.b.example", "new.example"]),
        request in prop::option::of(("GET|POST|put", "/v1/[a-c]|/a|/[a-z]{1,3}(/[0-9]{1,2})?")),
    ) {
        let asked = request.as_ref().map(|(method, path)| (method.as_str(), path.as_str()));
        let before = parse_project("f", Path::new("/p"), &text, &missing).unwrap();
        let new = match amended(&text, host, asked) {
            Ok(new) => new,
            Err(AmendError::Allowed) => return Ok(()),
            Err(error) => panic!("{text}\n{error:?}"),
        };
        prop_assert_eq!(comments(&text), comments(&new), "\n{}\n{}", text, new);
        let after = parse_project("f", Path::new("/p"), &new, &missing).unwrap();
        prop_assert!(matches!(amended(&new, host, asked), Err(AmendError::Allowed)), "{}", new);
        // But for the one upstream, in which at most one method and one path are new.
        let host: crate::domain::names::Host = host.parse().unwrap();
        for (pattern, upstream) in &after.upstreams {
            match before.upstreams.get(pattern) {
                None => prop_assert!(pattern.matches(&host) && pattern.to_string() == host.as_str()),
                Some(old) if pattern.matches(&host) => {
                    prop_assert_eq!((&old.address, old.private, &old.ca), (&upstream.address, upstream.private, &upstream.ca));
                    let methods = |of: &crate::domain::policy::Upstream| of.limits.methods.clone().unwrap_or_default();
                    prop_assert!(methods(old).is_subset(&methods(upstream)) && methods(upstream).len() <= methods(old).len() + 1);
                    let paths = |of: &crate::domain::policy::Upstream| of.limits.paths.clone().unwrap_or_default();
                    prop_assert_eq!(&paths(upstream)[..paths(old).len()], &paths(old)[..]);
                    prop_assert!(paths(upstream).len() <= paths(old).len() + 1);
                    prop_assert_eq!(old.limits.methods.is_none(), upstream.limits.methods.is_none());
                    prop_assert_eq!(old.limits.paths.is_none(), upstream.limits.paths.is_none());
                }
                Some(old) => prop_assert_eq!(&old.limits, &upstream.limits),
            }
        }
        prop_assert!(before.upstreams.keys().all(|pattern| after.upstreams.contains_key(pattern)));
        prop_assert_eq!(&before.kind, &after.kind);
    }

    /// No text makes it panic.
    #[test]
    fn whatever_the_text_is_there_is_an_answer(text in "(\\PC|\n|\\[upstream\\.\"a\\.example\"\\]\n|methods = |\\[|\\]|\"GET\"){0,20}") {
        if let Ok(new) = amended(&text, "a.example", Some(("POST", "/x"))) {
            prop_assert!(parse_project("f", Path::new("/p"), &new, &missing).is_ok());
        }
    }
}
