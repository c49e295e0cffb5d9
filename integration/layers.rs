//! The shape of the source: who may know whom (`src/lib.rs` says it in words), how long a file may be, and what no file of
//! the repository may name.
//!
//! ```text
//! text ─ tokens (without comments and strings) ─ paths (use trees spread out) ─ resolved (super, self) ─ violations
//! ```

use std::fs;
use std::path::{Path, PathBuf};

/// Know nobody but `domain` and the leaves, and never each other.
const ADAPTERS: [&str; 8] = ["config", "xds", "vault", "pki", "envoy", "sandbox", "host", "control"];
/// May be known by everyone above `domain`.
const LEAVES: [&str; 3] = ["metrics", "telemetry", "shutdown"];
/// Put the adapters together.
const ROOTS: [&str; 3] = ["server", "launch", "cli"];
/// Crates that do input or output, or draw random numbers: none of them is `domain`'s.
const IMPURE_CRATES: [&str; 17] = [
    "arc_swap",
    "bollard",
    "clap",
    "envoy_types",
    "getrandom",
    "hickory_server",
    "hyper",
    "hyper_util",
    "notify",
    "prometheus",
    "ratatui",
    "rusqlite",
    "rustix",
    "tokio",
    "tokio_stream",
    "tonic",
    "tracing",
];
/// What `domain` may take from `std::net`: addresses are data.
const ADDRESSES: [&str; 8] =
    ["AddrParseError", "IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "self"];
/// What the programs in `src/bin` may use besides the library's command lines.
const BIN_CRATES: [&str; 5] = ["anyhow", "clap", "std", "tikv_jemallocator", "time"];

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

// ── Text → tokens ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// Identifiers, `::`, and single characters of Rust source; comments, strings and lifetimes are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    while at < chars.len() {
        let c = chars[at];
        if starts(at, "//") {
            at += chars[at..].iter().take_while(|&&c| c != '\n').count();
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                match (starts(at, "/*"), starts(at, "*/")) {
                    (true, _) => depth += 1,
                    (_, true) => depth -= 1,
                    _ if at >= chars.len() => break,
                    _ => {
                        at += 1;
                        continue;
                    }
                }
                at += 2;
                if depth == 0 || at >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            at = after_string(&chars, at);
        } else if c == '\'' {
            // `'x'` and `'\n'` are characters, `'x` is a lifetime.
            at = match (chars.get(at + 1), chars.get(at + 2)) {
                (Some('\\'), _) => at + 3 + chars[at + 3..].iter().take_while(|&&c| c != '\'').count() + 1,
                (Some(_), Some('\'')) => at + 3,
                _ => at + 1 + chars[at + 1..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count(),
            };
        } else if c.is_alphanumeric() || c == '_' {
            let word: String = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
            let end = at + word.chars().count();
            let hashes = chars[end..].iter().take_while(|&&c| c == '#').count();
            let quoted = chars.get(end + hashes) == Some(&'"');
            match word.as_str() {
                "r" | "br" | "cr" if quoted => at = after_raw_string(&chars, end + hashes, hashes),
                "b" | "c" if quoted && hashes == 0 => at = after_string(&chars, end),
                // A raw identifier is the identifier.
                "r" if hashes == 1 => at = end + 1,
                _ => {
                    tokens.push(word);
                    at = end;
                }
            }
        } else if starts(at, "::") {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            at += 1;
        }
    }
    tokens
}

fn after_string(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn after_raw_string(chars: &[char], quote: usize, hashes: usize) -> usize {
    let ends =
        |at: usize| chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    (quote + 1..chars.len()).find(|&at| ends(at)).map_or(chars.len(), |at| at + 1 + hashes)
}

// ── Tokens → paths ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Every path that is written out in `text`, from the crate's root on where it is one of this crate (`crate::…`), with use
/// trees spread out. `module` is the module whose file it is.
fn paths(module: &[&str], text: &str) -> Vec<Vec<String>> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    // The inline modules around a token, each with the depth of braces outside it.
    let mut inline: Vec<(usize, String)> = Vec::new();
    let mut depth = 0_usize;
    let mut in_use = false;
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |at| tokens[at].as_str());
        let after = tokens.get(at + 1).map_or("", String::as_str);
        match token.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(outside, _)| *outside < depth);
            }
            ";" => in_use = false,
            "mod" if tokens.get(at + 2).is_some_and(|token| token == "{") => inline.push((depth, after.to_owned())),
            "use" if before != "::" => in_use = true,
            word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                let begins = before != "::" && before != "." || before == "::" && !is_name(&tokens, at.wrapping_sub(2));
                let alone = in_use && ["use", "{", ","].contains(&before) && [";", "as", "}", ","].contains(&after);
                let nested = in_use && inside_tree(&tokens, at);
                if begins && !nested && (after == "::" || alone || before == "crate" && word != "as") {
                    let mut here: Vec<String> = module.iter().map(|&name| name.to_owned()).collect();
                    here.extend(inline.iter().map(|(_, name)| name.clone()));
                    let mut spread = Vec::new();
                    tree(&tokens, at, &mut Vec::new(), &mut spread);
                    found.extend(spread.into_iter().map(|path| resolved(&here, path)));
                }
            }
            _ => {}
        }
    }
    found
}

fn is_name(tokens: &[String], at: usize) -> bool {
    tokens.get(at).is_some_and(|token| token.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '>'))
}

/// Whether the token is within the braces of a use tree that has a prefix, and so was spread out with it.
fn inside_tree(tokens: &[String], at: usize) -> bool {
    let mut depth = 0;
    for before in (0..at).rev() {
        match tokens[before].as_str() {
            "use" | ";" => return false,
            "}" => depth += 1,
            "{" if depth > 0 => depth -= 1,
            "{" if before > 0 && tokens[before - 1] == "::" => return true,
            _ => {}
        }
    }
    false
}

/// Spreads out `a::{b, c::d}` from `at` on; returns where it ends.
fn tree(tokens: &[String], mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let own = prefix.len();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let end = tree(tokens, at, &mut prefix.clone(), found);
                    // Past `as NAME` to the comma.
                    at = (end..tokens.len()).find(|&at| [",", "}"].contains(&tokens[at].as_str())).unwrap_or(end);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            Some("<") => break,
            Some(name) => prefix.push(name.to_owned()),
            None => break,
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    if prefix.len() > own || own > 0 {
        found.push(std::mem::take(prefix));
    }
    at
}

fn resolved(here: &[String], path: Vec<String>) -> Vec<String> {
    let up = path.iter().take_while(|name| *name == "super").count();
    let own = usize::from(path.first().is_some_and(|name| name == "self"));
    // `self::super::x` goes up as well.
    let up = up + path[own..].iter().take_while(|name| own > 0 && *name == "super").count();
    if up == 0 && own == 0 {
        return path;
    }
    let mut absolute = vec!["crate".to_owned()];
    absolute.extend(here[..here.len().saturating_sub(up)].iter().cloned());
    absolute.extend(path[own + up..].iter().cloned());
    absolute
}

// ── Paths → violations ────────────────────────────────────────────────────────────────────────────────────────────────

/// What a file in `src` must not have; `file` is its path below `src`.
fn violations(file: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    let module = match parts.as_slice() {
        ["lib"] => &[],
        [folder @ .., "mod"] => folder,
        all => all,
    };
    let layer = module.first().copied().unwrap_or("lib");
    let paths = paths(module, text);
    let mut wrong: Vec<String> = Vec::new();
    let mut refuse = |path: &[String], why: &str| wrong.push(format!("{file}: `{}`: {why}", path.join("::")));
    for path in &paths {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match (layer, names.as_slice()) {
            ("bin", ["agent_creds", "cli", ..]) => {}
            ("bin", ["agent_creds", ..]) => refuse(path, "a program only calls the library's command lines"),
            ("bin", [outside, ..])
                if !BIN_CRATES.contains(outside) && is_crate(outside) && !imported(&paths, outside) =>
            {
                refuse(path, "a program does nothing itself");
            }
            (_, ["crate", "*" | "as" | "self", ..] | ["crate"]) => refuse(path, "imports every layer at once"),
            (_, ["crate", other, ..]) if !may_know(layer, other) => {
                refuse(path, &format!("`{layer}` does not know `{other}`"));
            }
            ("domain", _) => {
                if let Some(why) = impurity(&names) {
                    refuse(path, why);
                }
            }
            _ => {}
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong
}

fn may_know(layer: &str, other: &str) -> bool {
    let above_domain = other == "domain" || LEAVES.contains(&other);
    match layer {
        _ if layer == other => true,
        "domain" => false,
        _ if LEAVES.contains(&layer) => false,
        "state" => other == "domain",
        _ if ADAPTERS.contains(&layer) => above_domain,
        "server" | "launch" => !ROOTS.contains(&other),
        "cli" => true,
        _ => false,
    }
}

fn is_crate(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && !["self", "super"].contains(&name)
}

/// Whether a path ends in `name`, as `use std::io` does: then `io::…` goes on from there.
fn imported(paths: &[Vec<String>], name: &str) -> bool {
    paths.iter().any(|path| path.len() > 1 && path.last().is_some_and(|last| last == name))
}

fn impurity(path: &[&str]) -> Option<&'static str> {
    match path {
        [first, ..] if IMPURE_CRATES.contains(first) => Some("`domain` does no input and output"),
        ["std", "fs" | "env" | "io" | "process" | "thread" | "os", ..] => Some("`domain` does not touch the system"),
        ["std", "net", what, ..] if !ADDRESSES.contains(what) => Some("`domain` has no sockets"),
        ["std", "*" | "self", ..] | ["std"] => Some("`domain` says what it takes from std"),
        [.., "SystemTime" | "Instant"] | [.., "SystemTime" | "Instant", _] => Some("in `domain` time is an input"),
        [.., "now" | "now_utc" | "now_local"] => Some("in `domain` time is an input"),
        _ => None,
    }
}

// ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// The files below `folder`, without what is built or not ours.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let name = entry.file_name().into_string().unwrap();
        if kind.is_dir() && !["target", ".git", "corpus", "artifacts", "__pycache__"].contains(&name.as_str()) {
            found.extend(files(&path));
        } else if kind.is_file() && name != ".git" {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn below<'a>(file: &'a Path, folder: &Path) -> &'a str {
    file.strip_prefix(folder).unwrap().to_str().unwrap()
}

#[test]
fn dependencies_point_inwards() {
    let src = Path::new(ROOT).join("src");
    let mut sources = files(&src);
    // Golden files are no source.
    sources.retain(|file| file.extension().is_some_and(|ending| ending == "rs"));
    assert!(sources.len() > 50, "these are all files: {sources:?}");
    let wrong: Vec<String> =
        sources.iter().flat_map(|file| violations(below(file, &src), &fs::read_to_string(file).unwrap())).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // The reader of paths sees what is there: the root that joins the adapters joins all of them.
    let read = |file: &str| fs::read_to_string(src.join(file)).unwrap();
    let mut known = paths(&["server"], &read("server.rs"));
    known.extend(paths(&["server", "host"], &read("server/host.rs")));
    for adapter in ADAPTERS {
        assert!(known.iter().any(|path| path[0] == "crate" && path[1] == adapter), "the server uses {adapter}");
    }
    // Every module has its place in the order above.
    let lib = tokens(&fs::read_to_string(src.join("lib.rs")).unwrap());
    let modules = lib.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1].as_str());
    for module in modules {
        let known = ADAPTERS.contains(&module) || LEAVES.contains(&module) || ROOTS.contains(&module);
        assert!(known || ["domain", "state"].contains(&module), "give the module `{module}` its layer here");
    }
}

#[test]
fn every_way_around_the_layers_is_found() {
    for (file, text) in [
        ("domain/x.rs", "use crate::config::Loader;"),
        ("domain/x.rs", "use crate::{domain::names, vault as v};"),
        ("domain/x.rs", "fn f() { crate::pki::Ca::load(); }"),
        ("domain/x.rs", "use super::super::xds::snapshot;"),
        ("domain/x.rs", "mod tests { use super::super::super::xds; }"),
        ("domain/x.rs", "use self::super::super::xds::snapshot;"),
        ("domain/x/mod.rs", "use super::super::xds;"),
        ("domain/x.rs", "use crate::*;"),
        ("domain/x.rs", "use {crate::metrics::ServerMetrics, std::fmt};"),
        ("domain/x.rs", "use tokio::sync::watch;"),
        ("domain/x.rs", "use tonic;"),
        ("domain/x.rs", "fn f() -> tonic::Status { todo!() }"),
        ("domain/x.rs", "let a = ::tokio::spawn(b);"),
        ("domain/x.rs", "use std::{fmt, fs};"),
        ("domain/x.rs", "use std::{collections::{BTreeMap, HashMap}, env::{self, var}};"),
        ("domain/x.rs", "use std::net::{IpAddr, TcpStream};"),
        ("domain/x.rs", "let t = std::time::SystemTime::now();"),
        ("domain/x.rs", "use std::time::SystemTime as Clock;"),
        ("domain/x.rs", "let t = time::OffsetDateTime::now_utc();"),
        ("domain/x.rs", "let c = '\"'; use crate::server::serve; let d = '\"';"),
        ("config/x.rs", "use crate::vault::Vault;"),
        ("xds/x/y.rs", "use super::super::super::pki::Ca;"),
        ("vault/service.rs", "fn f<'a>(x: &'a crate::xds::Fleet) {}"),
        ("pki/ca.rs", "use crate::state::StateDir;"),
        ("envoy/process.rs", "use crate::server;"),
        ("state.rs", "use crate::config::Loader;"),
        ("metrics.rs", "use super::vault::Vault;"),
        ("server/apply.rs", "use crate::cli::server::Cli;"),
        ("server.rs", "use crate::launch::connect;"),
        ("launch/start.rs", "use crate::server::serve;"),
        ("launch.rs", "use crate::cli::adev::main;"),
        ("lib.rs", "use crate::config::Loader;"),
        ("newcomer.rs", "use crate::config::Loader;"),
        ("bin/mint.rs", "use agent_creds::vault::Vault;"),
        ("bin/mint.rs", "tokio::runtime::Runtime::new();"),
    ] {
        assert!(!violations(file, text).is_empty(), "{file}: {text}");
    }
}

#[test]
fn what_only_looks_like_a_way_around_is_not_found() {
    for (file, text) in [
        ("domain/x.rs", "//! As [`crate::config`] says.\n/* use crate::xds; /* nested */ use tokio::x; */"),
        ("domain/x.rs", "let s = \"use crate::xds; \\\" crate::pki::x\"; let r = r#\"crate::vault::\"y\" \"#;"),
        ("domain/x.rs", "use std::net::{IpAddr, SocketAddr}; use std::collections::{self, HashMap};"),
        ("domain/x.rs", "use super::names::Host; mod tests { use super::*; use super::super::policy::Policy; }"),
        ("domain/x.rs", "pub(crate) fn now(now: u64) -> u64 { request.now + self.env }"),
        ("domain/x.rs", "let tokio = a.tonic::<u8>(); let fs = b'\\'';"),
        ("config/x.rs", "use crate::domain::policy::Policy; use crate::shutdown::Shutdown; use super::load;"),
        ("xds/x/y.rs", "use super::super::snapshot; use crate::{domain::names::Host, metrics};"),
        ("server/apply.rs", "use crate::{config::Loader, vault::Vault, xds::snapshot::Fleet};"),
        ("cli/server.rs", "use crate::server::{self, Options};"),
        ("launch/console.rs", "use crate::{control::v1, sandbox::docker::Docker};"),
        ("cli/adev/mod.rs", "use crate::{config::Loader, launch};"),
        ("bin/mint.rs", "use agent_creds::cli::mint::run; use std::io; fn main() { io::stdin(); ExitCode::from(1); }"),
    ] {
        assert_eq!(violations(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

#[test]
fn no_source_file_is_longer_than_600_lines() {
    let root = Path::new(ROOT);
    let folders = ["src", "integration", "benches", "fuzz"];
    let all: Vec<PathBuf> = folders.iter().flat_map(|folder| files(&root.join(folder))).collect();
    let source =
        |file: &&PathBuf| file.extension().is_some_and(|ending| ["rs", "py", "sh"].iter().any(|e| ending == *e));
    let lengths = all.iter().filter(source).map(|file| (fs::read_to_string(file).unwrap().lines().count(), file));
    let long: Vec<_> = lengths.filter(|(lines, _)| *lines > 600).collect();
    assert!(long.is_empty(), "look for a seam in {long:?}");
}

/// Where in `text` something is named that is of one machine, or a package registry's host.
fn foreign_names(text: &str) -> Vec<String> {
    // In pieces, so that this file does not hold what it looks for.
    let machine = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home/", "user/"), ROOT];
    let hosts = [
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("registry.", "npmjs"),
        concat!("proxy.go", "lang"),
        concat!("index", "-url"),
        concat!("index", "_url"),
        concat!("arti", "factory"),
        concat!("replace", "-with"),
        concat!("deb.de", "bian.org"),
    ];
    let starts_path = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.{}$".contains(c));
    let machine = machine.iter().flat_map(|name| text.match_indices(name).filter(|(at, _)| starts_path(*at)));
    let hosts = hosts.iter().flat_map(|name| text.match_indices(name));
    let line = |at: usize| text[..at].lines().count();
    machine.chain(hosts).map(|(at, name)| format!("line {}: {name}", line(at))).collect()
}

#[test]
fn nothing_names_a_registry_or_a_path_of_the_build_machine() {
    let root = Path::new(ROOT);
    let all = files(root);
    assert!(all.iter().any(|file| file.ends_with("Cargo.lock")) && all.iter().any(|file| file.ends_with("src/lib.rs")));
    let mut wrong = Vec::new();
    for file in &all {
        let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
        wrong.extend(foreign_names(&text).into_iter().map(|name| format!("{}: {name}", below(file, root))));
        if file.ends_with("Cargo.lock") {
            let elsewhere =
                text.lines().filter(|line| line.starts_with("source = ") && !line.contains("github.com/rust-lang/"));
            wrong.extend(elsewhere.map(|line| format!("{}: {line}", below(file, root))));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));

    let planted =
        [concat!("cp x /ro", "ot/y"), concat!("url = \"https://pypi", ".org/simple\""), &format!("{ROOT}/src")];
    for text in planted {
        assert!(!foreign_names(text).is_empty(), "{text}");
    }
    assert_eq!(foreign_names("sandbox/root/x, ${repo}/root/, framework/x"), Vec::<String>::new());
}
