//! `agent-creds check`: what is wrong with the files, and what is valid but hardly meant.

use std::sync::Arc;

use serde::Serialize;

use super::diagnostic::Diagnostic;
use super::load::{Loaded, Loader};
use super::source::Sources;
use crate::domain::names::HostPattern;
use crate::domain::policy::Origin;

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// With these, no server starts.
    pub errors: Vec<Diagnostic>,
    /// What is valid but hardly meant: a credential that no project reaches, an upstream without a credential.
    pub warnings: Vec<Diagnostic>,
}

/// Reads all files as a server would. Warnings are looked for only when there are no errors, and when both projects and a
/// vault are given.
pub fn check(sources: &Sources) -> Checked {
    match Loader::load(sources) {
        Err(errors) => Checked { errors: errors.0, warnings: Vec::new() },
        Ok(_) if sources.vault.is_none() || sources.projects.is_empty() => Checked::default(),
        Ok(loader) => Checked { errors: Vec::new(), warnings: warnings(&loader.loaded()) },
    }
}

fn warnings(loaded: &Loaded) -> Vec<Diagnostic> {
    let credentials = &loaded.vault.credentials;
    let upstreams = || loaded.projects.iter().flat_map(|project| &project.upstreams);
    let unreached = credentials
        .iter()
        .filter(|(host, _)| !upstreams().any(|(upstream, _)| overlap(host, upstream)))
        .map(|(host, credential)| {
            let message = format!("no project reaches `{host}`: the credential is never used");
            warning(&credential.origin, message, format!("add [upstream.\"{host}\"] to a project"))
        });
    let without = upstreams().filter(|(upstream, _)| !credentials.keys().any(|host| overlap(host, upstream))).map(
        |(host, upstream)| {
            let message = format!("`{host}` has no credential: requests to it are passed on as they are");
            warning(&upstream.origin, message, format!("add [credentials.\"{host}\"] to the vault's file"))
        },
    );
    unreached.chain(without).collect()
}

fn warning(origin: &Origin, message: String, hint: String) -> Diagnostic {
    Diagnostic { file: Arc::clone(&origin.file), line: origin.line, column: 1, message, hint: Some(hint) }
}

/// Whether a host exists that both stand for.
fn overlap(a: &HostPattern, b: &HostPattern) -> bool {
    match (a, b) {
        (HostPattern::Exact(host), other) | (other, HostPattern::Exact(host)) => other.matches(host),
        (HostPattern::Below(x), HostPattern::Below(y)) => x == y || a.matches(y) || b.matches(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VaultSource;

    #[test]
    fn warns_of_what_is_not_used_and_of_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(
            path("agent-creds.toml"),
            "[upstream.\"a.example\"]\n[upstream.\"*.s3.example\"]\n[upstream.\"c.example\"]\n",
        )
        .unwrap();
        let credential = |host: &str| {
            format!("[credentials.\"{host}\"]\ntype = \"bearer\"\ntoken = {{ provider = \"env\", name = \"A\" }}\n")
        };
        std::fs::write(path("v"), ["a.example", "b.s3.example", "d.example"].map(credential).concat()).unwrap();
        let projects = vec![folder.path().to_owned()];
        let checked = check(&Sources { projects: projects.clone(), vault: Some(VaultSource::Given(path("v"))) });
        assert_eq!(checked.errors, []);
        let place = |d: &Diagnostic| (d.file.rsplit('/').next().unwrap_or_default().to_owned(), d.line);
        assert_eq!(
            checked.warnings.iter().map(place).collect::<Vec<_>>(),
            [("v".to_owned(), 7), ("agent-creds.toml".to_owned(), 3)]
        );
        assert_eq!(check(&Sources { projects, vault: None }), Checked::default());
        std::fs::write(path("agent-creds.toml"), "[x]").unwrap();
        let broken = check(&Sources { projects: vec![path("agent-creds.toml")], vault: None });
        assert_eq!((broken.errors.len(), broken.warnings.len()), (1, 0));
    }

    #[test]
    fn patterns_overlap_when_a_host_fits_both() {
        let overlap = |a: &str, b: &str| overlap(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(overlap("a.example", "A.example"));
        assert!(overlap("*.s3.example.com", "b.s3.example.com"));
        assert!(overlap("x.b.s3.example.com", "*.example.com"));
        assert!(overlap("*.s3.example.com", "*.example.com"));
        assert!(!overlap("*.s3.example.com", "s3.example.com"));
        assert!(!overlap("*.a.example", "*.b.example"));
    }
}
