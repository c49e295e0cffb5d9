//! Every message that tells a user what is wrong is found in `docs/errors/`, with what it means and what to do.
//!
//! ```text
//! src ─ literals (each with the calls around it) ─ messages (variable parts as `…`) ─┬─ not in the documents: fails
//! docs/errors/*.md ─ lines of its text blocks ───────────────────────────────────────┴─ not in the sources: fails
//! ```

mod excluded;
mod literals;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use literals::{Literal, literals};

/// What is in one of these is a message however short it is, in every file.
const TELLS: [&str; 27] = [
    "error",
    "error!",
    "warn!",
    "bail!",
    "anyhow!",
    "ensure!",
    "context",
    "with_context",
    "Err",
    "ok_or",
    "ok_or_else",
    "map_err",
    "wrong",
    "wrong_key",
    "of_file",
    "hint",
    "refuse",
    "refused",
    "denied",
    "problem",
    "failed_precondition",
    "invalid_argument",
    "permission_denied",
    "unavailable",
    "unimplemented",
    "unseen",
    "warning",
];
/// What is in one of these is no message: what went well, names for metrics and steps, questions to a database, patterns.
const TELLS_NOT: [&str; 23] = [
    "info!",
    "debug!",
    "trace!",
    "expect",
    "counter",
    "gauge",
    "histogram",
    "metric",
    "new_registered",
    "prepare",
    "prepare_cached",
    "execute",
    "query_row",
    "contains",
    "has",
    "step",
    "spawn",
    "report",
    "header",
    "from_static",
    "ok",
    "say",
    "with_opts",
];

/// What stands before the name of a step that failed, where both are put together: `Docker could not create the container`.
const STEPS: [&str; 2] = ["cannot ", "Docker could not "];

/// A message as it is written in the documents: variable parts as `…`, white space as one space, nothing around it.
fn normal(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.peek() == Some(&c) => {
                chars.next();
                out.push(c);
            }
            // `{name:?}` of Rust, `%NAME(…)%` of Envoy; `{ from = "NAME" }` is TOML.
            '{' | '%' => {
                let end = if c == '{' { '}' } else { '%' };
                let name: String = chars.clone().take_while(|c| *c != end).collect();
                let is_name = if c == '{' {
                    name.chars().all(|c| c.is_ascii_alphanumeric() || "_:.#?*$<>^".contains(c))
                } else {
                    name.starts_with(|c: char| c.is_ascii_uppercase()) && !name.contains(' ')
                };
                if is_name {
                    chars.by_ref().find(|c| *c == end);
                    out.push('…');
                } else {
                    out.push(c);
                }
            }
            _ => out.push(c),
        }
    }
    trimmed(&out)
}

fn trimmed(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let ends = |c: char| c.is_whitespace() || "…:;,.".contains(c);
    words.join(" ").trim_matches(ends).to_owned()
}

/// How many words of two letters or more it has.
fn words(text: &str) -> usize {
    text.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 1).count()
}

/// The help of a command, a question to a database, or headers of HTTP.
fn is_other_text(text: &str) -> bool {
    let queries = ["CREATE TABLE ", "SELECT ", "INSERT INTO ", "UPDATE ", "DELETE FROM "];
    let help = ["Examples:\n", "Status: ", "Exit code: ", "what was in force stays, until"];
    let headers = ["charset=", "content-type: "];
    headers.iter().chain(&help).any(|part| text.contains(part))
        || queries.iter().any(|begin| text.trim_start().starts_with(begin))
}

/// The messages of a literal, one for each of its lines.
fn messages(file: &str, literal: &Literal) -> Vec<String> {
    // Of the calls around it the innermost one that says something counts.
    let tells = literal.around.iter().rev().find_map(|name| {
        let known = |names: &[&str]| names.contains(&name.as_str());
        if known(&TELLS) { Some(true) } else { known(&TELLS_NOT).then_some(false) }
    });
    let least = match tells {
        Some(false) => return Vec::new(),
        _ if is_other_text(&literal.text) => return Vec::new(),
        Some(true) => 2,
        _ if excluded::FILES.iter().any(|(excluded, _)| *excluded == file) => return Vec::new(),
        _ => 3,
    };
    let lines = literal.text.lines().map(normal);
    lines.filter(|line| words(line) >= least && line.contains(' ') && !excluded::is(file, line)).collect()
}

/// Scripts that users run, by themselves or by `make`.
const SCRIPTS: [&str; 4] = ["deploy", "envoy", "integration/setup.sh", "sandbox-image"];

/// What a script says when it gives up: `die "…"`.
fn of_a_script(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, begin) in text.match_indices("die \"") {
        let mut message = String::new();
        let mut chars = text[at + begin.len()..].chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => message.extend(chars.next()),
                '$' => {
                    message.push('…');
                    skip_expansion(&mut chars);
                }
                _ => message.push(c),
            }
        }
        found.push(trimmed(&message));
    }
    found.retain(|message| words(message) > 1 && !message.starts_with("usage"));
    found
}

/// `NAME`, `*`, `{…}` or `(…)`, after a `$`.
fn skip_expansion(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let (opening, closing) = match chars.peek() {
        Some('{') => ('{', '}'),
        Some('(') => ('(', ')'),
        Some(c) if c.is_alphanumeric() || *c == '_' => {
            while chars.next_if(|c| c.is_alphanumeric() || *c == '_').is_some() {}
            return;
        }
        _ => {
            chars.next();
            return;
        }
    };
    let mut depth = 0;
    for c in chars {
        depth += i32::from(c == opening) - i32::from(c == closing);
        if depth == 0 {
            return;
        }
    }
}

/// Every message, with a place where it is.
fn of_the_sources(root: &Path) -> (BTreeMap<String, String>, BTreeSet<String>) {
    let (mut told, mut all) = (BTreeMap::new(), BTreeSet::new());
    for path in files(&root.join("src"), "rs") {
        let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if file.split(['/', '.', '_']).any(|part| ["tests", "testing"].contains(&part)) {
            continue;
        }
        for literal in literals(&fs::read_to_string(&path).unwrap()) {
            all.extend(literal.text.lines().map(normal));
            for message in messages(&file, &literal) {
                told.entry(message).or_insert_with(|| format!("{file}:{}", literal.line));
            }
        }
    }
    for script in SCRIPTS {
        for path in files(&root.join(script), "sh") {
            let place = path.strip_prefix(root).unwrap().display().to_string();
            let found = of_a_script(&fs::read_to_string(&path).unwrap());
            all.extend(found.iter().cloned());
            told.extend(found.into_iter().map(|message| (message, place.clone())));
        }
    }
    (told, all)
}

/// The files of a folder and those below, or the file itself.
fn files(folder: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    if folder.is_file() {
        return vec![folder.to_owned()];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of the text blocks of a document, and what is wrong with its form: a block that nothing is said of.
fn of_a_document(name: &str, text: &str) -> (Vec<(String, String)>, Vec<String>) {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    let (mut inside, mut said) = (false, true);
    for (at, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", at + 1);
        match line {
            "```text" => {
                if !said {
                    wrong.push(format!("{place}: nothing is said of the messages before this"));
                }
                (inside, said) = (true, false);
            }
            "```" => inside = false,
            _ if inside => lines.push((trimmed(line), place)),
            _ => said |= words(line) >= 3 && !line.starts_with('#'),
        }
    }
    if inside || !said {
        wrong.push(format!("{name}: nothing is said of its last messages"));
    }
    (lines, wrong)
}

#[test]
fn every_message_that_a_user_can_see_is_in_the_documents_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (told, all) = of_the_sources(root);
    assert!(told.len() > 500, "{} messages were found", told.len());

    let mut wrong = Vec::new();
    let mut documented: BTreeMap<String, String> = BTreeMap::new();
    for path in files(&root.join("docs/errors"), "md") {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        let (lines, form) = of_a_document(name, &fs::read_to_string(&path).unwrap());
        wrong.extend(form);
        for (line, place) in lines {
            let step = STEPS.iter().find_map(|begin| line.strip_prefix(begin));
            if !all.contains(&line) && !step.is_some_and(|step| all.contains(step)) {
                wrong.push(format!("{place}: not in the sources any more: {line}"));
            }
            if let Some(before) = documented.insert(line.clone(), place.clone()) {
                wrong.push(format!("{place}: also in {before}: {line}"));
            }
        }
    }
    let is_documented = |message: &str| {
        documented.contains_key(message)
            || STEPS.iter().any(|begin| documented.contains_key(&format!("{begin}{message}")))
    };
    let missing = told.iter().filter(|(message, _)| !is_documented(message));
    wrong.extend(missing.map(|(message, place)| format!("{place}: not in docs/errors: {message}")));
    assert!(wrong.is_empty(), "{} problems\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_excluded_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all: BTreeMap<String, BTreeSet<String>> = files(&root.join("src"), "rs")
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let found = literals(&fs::read_to_string(path).unwrap());
            (name, found.iter().flat_map(|literal| literal.text.lines().map(normal)).collect())
        })
        .collect();
    for (file, _) in excluded::FILES {
        assert!(all.contains_key(*file), "{file} is excluded, and not there");
    }
    for (file, messages, _) in excluded::MESSAGES {
        let found = all.get(*file).unwrap_or_else(|| panic!("{file} is not there"));
        for message in *messages {
            assert!(found.contains(*message), "{file} does not have: {message}");
        }
    }
}

#[test]
fn a_document_names_all_its_parts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let index = fs::read_to_string(root.join("docs/errors.md")).unwrap();
    for path in files(&root.join("docs/errors"), "md") {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(index.contains(&format!("(errors/{name})")), "docs/errors.md does not name {name}");
    }
    assert!(fs::read_to_string(root.join("README.md")).unwrap().contains("(docs/errors.md)"));
}

#[test]
fn a_message_is_found_in_whatever_form_it_is_written() {
    let text = r##"
        #[error("cannot {action} {}", .0.display())]
        fn f() {
            // bail!("a comment is none")
            bail!("there is no \"{name}\" \
                   here {{x}}");
            one(r#"a raw "text" of words"#, 'x', '"', b"some bytes here");
            info!("all went very well");
        }
        #[cfg(test)]
        mod tests { fn g() { bail!("only a test says so"); } }
        fn h() -> Result<(), &'static str> { Err("two words") }
    "##;
    let found: Vec<String> = literals(text).iter().flat_map(|literal| messages("src/none.rs", literal)).collect();
    let expected = ["there is no \"…\" here {x}", "a raw \"text\" of words", "some bytes here", "two words"];
    assert_eq!(found, expected);
    assert_eq!(
        normal("{host} cannot {action}  %20 { from = \"A\" } (%A(B)%): {error:#}\n"),
        "cannot … %20 { from = \"A\" } (…)"
    );

    let script =
        "have x || die \"no $x (${y:-a b}, $(z \\\"q\\\")): \\`make z\\` builds it: $*\"\ndie \"usage: none\"\n";
    assert_eq!(of_a_script(script), ["no … (…, …): `make z` builds it"]);

    let (lines, wrong) =
        of_a_document("a.md", "# A\n```text\nit is gone\n```\n## B\n```text\nno … here\n```\nSay what it is.\n");
    let lines: Vec<&str> = lines.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(lines, ["it is gone", "no … here"]);
    assert_eq!(wrong, ["a.md:6: nothing is said of the messages before this"]);
}
