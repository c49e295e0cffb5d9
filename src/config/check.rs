//! `agent-creds check`: what is wrong with the files, and what is valid but hardly meant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::diagnostic::Diagnostic;
use super::load::{Loaded, Loader};
use super::project::{EnvValue, ProjectConfig, ProjectKind};
use super::source::Sources;
use super::vault::CredentialConfig;
use crate::domain::names::{HostPattern, Method};
use crate::domain::policy::{Limits, Origin, Upstream};

/// What [`check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// With these, no server starts.
    pub errors: Vec<Diagnostic>,
    /// What is valid but hardly meant: a credential that no project reaches, an upstream without a credential, a token in the
    /// environment that can do nothing.
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
    // What the vault of another server has is not known here.
    let own = || loaded.projects.iter().filter(|project| project.vault.is_none());
    let upstreams = || own().flat_map(|project| &project.upstreams);
    let unreached = credentials
        .iter()
        .filter(|(host, _)| !upstreams().any(|(upstream, _)| host.overlaps(upstream)))
        .map(|(host, credential)| {
            let message = format!("no project reaches `{host}`: the credential is never used");
            warning(&credential.origin, message, format!("add [upstream.\"{host}\"] to a project"))
        });
    let without = upstreams().filter(|(upstream, _)| !credentials.keys().any(|host| host.overlaps(upstream))).map(
        |(host, upstream)| {
            let message = format!("`{host}` has no credential: requests to it are passed on as they are");
            warning(&upstream.origin, message, format!("add [credentials.\"{host}\"] to the vault's file"))
        },
    );
    let useless = loaded.projects.iter().flat_map(|project| {
        let ProjectKind::Sandbox(sandbox) = &project.kind else { return Vec::new() };
        let tokens = sandbox.env.iter().filter_map(|(name, value)| {
            let EnvValue::Token { hosts, limits } = value else { return None };
            let (why, hint) = useless(hosts, limits, project, credentials)?;
            let message = format!("the token in {name} can do nothing: {why}");
            Some(warning(sandbox.env_origins.get(name)?, message, hint))
        });
        tokens.collect()
    });
    unreached.chain(without).chain(useless).collect()
}

/// Why a token with these caveats can do nothing in its sandbox, and what would change that; `None` when it can do something.
fn useless(
    hosts: &BTreeSet<HostPattern>,
    limits: &Limits,
    project: &ProjectConfig,
    credentials: &BTreeMap<HostPattern, CredentialConfig>,
) -> Option<(String, String)> {
    let shown = || hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let reached: Vec<(&HostPattern, &Upstream)> =
        project.upstreams.iter().filter(|(upstream, _)| hosts.iter().any(|host| host.overlaps(upstream))).collect();
    if reached.is_empty() {
        return Some((format!("no upstream is {}", shown()), format!("add [upstream.\"{}\"]", hosts.first()?)));
    }
    let has_credential =
        |upstream: &HostPattern| project.vault.is_some() || credentials.keys().any(|host| host.overlaps(upstream));
    let swapped: Vec<_> = reached.into_iter().filter(|(upstream, _)| has_credential(upstream)).collect();
    if swapped.is_empty() {
        let hint = format!("add [credentials.\"{}\"] to the vault's file", hosts.first()?);
        return Some((format!("there is no credential for {}", shown()), hint));
    }
    let methods = limits.methods.as_ref()?;
    let method = |upstream: &Upstream| methods.iter().any(|method| upstream.limits.allow_method(method.as_str()));
    if swapped.iter().any(|(_, upstream)| method(upstream)) {
        return None;
    }
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let (host, _) = swapped.first()?;
    let why = format!("its methods ({}) are not among those of {}", methods.join(", "), shown());
    Some((why, format!("add them to `methods` under [upstream.\"{host}\"], or give the token others")))
}

fn warning(origin: &Origin, message: String, hint: String) -> Diagnostic {
    Diagnostic { file: Arc::clone(&origin.file), line: origin.line, column: 1, message, hint: Some(hint) }
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
    fn what_a_shared_vault_has_is_not_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (project, vault) = (folder.path().join("agent-creds.toml"), folder.path().join("v"));
        let token = |host: &str| format!("{{ token = {{ hosts = [\"{host}\"] }} }}");
        let text = format!(
            "[vault]\nhost = \"vault.example.com\"\n[sandbox.env]\nA = {}\nB = {}\n[upstream.\"a.example\"]\n",
            token("a.example"),
            token("b.example")
        );
        std::fs::write(&project, text).unwrap();
        std::fs::write(&vault, "").unwrap();
        let checked = check(&Sources { projects: vec![project], vault: Some(VaultSource::Given(vault)) });
        let found: Vec<_> = checked.warnings.iter().map(|d| (d.line, d.message.as_str())).collect();
        assert_eq!(found, [(5, "the token in B can do nothing: no upstream is b.example")]);
    }

    #[test]
    fn warns_of_tokens_that_can_do_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (project, vault) = (folder.path().join("agent-creds.toml"), folder.path().join("v"));
        let text = r#"[sandbox.env]
GOOD = { token = { hosts = ["a.example", "z.example"], methods = ["GET"] } }
NOWHERE = { token = { hosts = ["z.example"] } }
NOTHING = { token = { hosts = ["c.example"] } }
METHODS = { token = { hosts = ["a.example"], methods = ["PUT"] } }
PLAIN = "text"
[upstream."a.example"]
methods = ["GET", "POST"]
[upstream."c.example"]
"#;
        std::fs::write(&project, text).unwrap();
        std::fs::write(
            &vault,
            "[credentials.\"a.example\"]\ntype = \"bearer\"\ntoken = { provider = \"env\", name = \"A\" }\n",
        )
        .unwrap();
        let checked = check(&Sources { projects: vec![project], vault: Some(VaultSource::Given(vault)) });
        assert_eq!(checked.errors, []);
        let mut found: Vec<_> = checked.warnings.iter().map(|d| (d.line, d.message.as_str())).collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                (3, "the token in NOWHERE can do nothing: no upstream is z.example"),
                (4, "the token in NOTHING can do nothing: there is no credential for c.example"),
                (5, "the token in METHODS can do nothing: its methods (PUT) are not among those of a.example"),
                (9, "`c.example` has no credential: requests to it are passed on as they are"),
            ]
        );
    }

    #[test]
    fn patterns_overlap_when_a_host_fits_both() {
        let overlap = |a: &str, b: &str| a.parse::<HostPattern>().unwrap().overlaps(&b.parse().unwrap());
        assert!(overlap("a.example", "A.example"));
        assert!(overlap("*.s3.example.com", "b.s3.example.com"));
        assert!(overlap("x.b.s3.example.com", "*.example.com"));
        assert!(overlap("*.s3.example.com", "*.example.com"));
        assert!(!overlap("*.s3.example.com", "s3.example.com"));
        assert!(!overlap("*.a.example", "*.b.example"));
    }
}
