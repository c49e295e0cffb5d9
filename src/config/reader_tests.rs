use super::*;

fn problems(text: &str) -> Vec<String> {
    let reader = Reader::new("f.toml", text);
    if let Some(tree) = reader.parse()
        && let Some(mut root) = reader.root(&tree)
    {
        root.optional("methods").and_then(|item| item.parse_list::<u8>("fill it"));
        root.optional("flag").and_then(|item| item.boolean());
        root.required("name", "\"x\"").and_then(|item| item.string().map(str::len));
        root.finish();
    }
    reader.finish().err().map(|all| all.0.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

#[test]
fn all_problems_are_reported_in_order_and_in_characters() {
    assert_eq!(
        problems("flag = 1\n\"é\" = 2\nmethod = []\nname = 4\n"),
        [
            "f.toml:1:8: `flag` must be true or false, not an integer",
            "f.toml:2:1: unknown key `é`\n    help: known here: methods, flag, name",
            "f.toml:3:1: unknown key `method`\n    help: did you mean `methods`?",
            "f.toml:4:8: `name` must be a string, not an integer\n    help: write \"4\"",
        ]
    );
    assert_eq!(
        problems("methods = 'é'\n[name]"),
        [
            "f.toml:1:11: `methods` must be a list, not a string\n    help: write methods = [\"é\"]",
            "f.toml:2:2: `name` must be a string, not a table",
        ]
    );
    assert_eq!(
        problems("methods = []"),
        [
            "f.toml:1:1: `the file` needs `name`\n    help: add name = \"x\"",
            "f.toml:1:11: `methods` is empty\n    help: fill it",
        ]
    );
}

#[test]
fn syntax_errors_have_a_place() {
    let problems = problems("name = \"é\" x\nflag = = 1\n");
    assert!(problems[0].starts_with("f.toml:1:12: not TOML: "), "{problems:?}");
    assert!(problems.iter().any(|p| p.starts_with("f.toml:2:8: not TOML: ")), "{problems:?}");
    assert_eq!(
        Reader::new("f", &"#".repeat(MAX_FILE + 1)).parse().map(|_| ()),
        None,
        "a file over 1 MiB is not even parsed"
    );
}

#[test]
fn a_flood_of_problems_is_bounded() {
    let text: String = (0..500).map(|i| format!("k{i} = 1\n")).collect();
    let problems = problems(&text);
    assert_eq!(problems.len(), MAX_PROBLEMS);
    assert!(problems[99].contains("(and 401 more problems)"), "{}", problems[99]);
}

#[test]
fn hostile_files_take_neither_stack_nor_time() {
    for text in [
        format!("{}a = 1", "a.".repeat(MAX_FILE / 2 - 8)),
        format!("[{}a]", "a.".repeat(MAX_FILE / 2 - 8)),
        "[".repeat(MAX_FILE),
        format!("methods = {}", "[".repeat(MAX_FILE - 20)),
        format!("x = {}", "{a=".repeat(MAX_FILE / 3 - 20)),
        "= ".repeat(MAX_FILE / 2),
        "=\n".repeat(MAX_FILE / 2),
        format!("name = {{{}}}", (0..80_000).map(|i| format!("k{i}=1,")).collect::<String>()),
        (0..80_000).map(|i| format!("k{i} = 1\n")).collect(),
        format!("name = {}", "1".repeat(MAX_FILE - 20)),
        format!("methods = \"{}\"", "\u{1}".repeat(1000)),
    ] {
        let problems = problems(&text);
        assert!((1..=MAX_PROBLEMS).contains(&problems.len()), "{}", &text[..20]);
        assert!(problems.iter().all(|problem| problem.len() < 2000), "{}", &text[..20]);
    }
}

#[test]
fn slips_are_recognised() {
    let known = ["methods", "paths", "address", "ca", "use_host_browser"];
    for (word, meant) in
        [("method", "methods"), ("Path", "paths"), ("adress", "address"), ("use-host-browser", "use_host_browser")]
    {
        assert_eq!(nearest(word, known), Some(meant), "{word}");
    }
    assert_eq!(nearest("timeout", known), None);
}
