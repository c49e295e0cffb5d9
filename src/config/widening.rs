//! Whether a version of a sandbox's file allows more than another.
//!
//! A file that was replaced (most editors save by renaming a new file over the old one) is no longer the one that is mounted
//! read-only in the sandbox: the agent may have written it. Such a version is taken over by itself only if it allows nothing
//! new; what is more waits for a person.

use std::collections::BTreeSet;

use super::project::{ProjectConfig, ProjectKind, SandboxConfig};
use super::targets::CdpTarget;
use crate::domain::policy::{Limits, Upstream};

/// The first thing that `new` allows and `old` does not, in words; `None` when it allows nothing more.
pub(super) fn widening(old: &ProjectConfig, new: &ProjectConfig) -> Option<String> {
    for (host, upstream) in &new.upstreams {
        match old.upstreams.get(host) {
            None => return Some(format!("it would let the sandbox reach {host}")),
            Some(before) => {
                if let Some(what) = upstream_widening(before, upstream) {
                    return Some(format!("it would change {what} of {host}"));
                }
            }
        }
    }
    // What a host had of its own is replaced by what a wildcard has.
    for (host, before) in old.upstreams.iter().filter(|(host, _)| !new.upstreams.contains_key(*host)) {
        for (_, upstream) in new.upstreams.iter().filter(|(other, _)| other.overlaps(host)) {
            if let Some(what) = upstream_widening(before, upstream) {
                return Some(format!("it would change {what} of {host}"));
            }
        }
    }
    if new.browser_targets.iter().any(|target| old.browser_targets.iter().all(|old| old.url != target.url)) {
        return Some("it would open other pages in the host's browser".to_owned());
    }
    let driven = |target: &CdpTarget| (target.kind.clone(), target.title.clone(), target.url.clone(), target.port);
    if new.cdp_targets.iter().any(|target| old.cdp_targets.iter().all(|old| driven(old) != driven(target))) {
        return Some("it would let the sandbox drive other tabs of the host's browser".to_owned());
    }
    let asked = |project: &ProjectConfig| project.vault.as_ref().map(|vault| vault.address.clone());
    if asked(old) != asked(new) {
        return Some("it would have another vault".to_owned());
    }
    match (&old.kind, &new.kind) {
        (ProjectKind::Sandbox(old), ProjectKind::Sandbox(new)) => sandbox_widening(old, new),
        _ => Some("it would be another kind of project".to_owned()),
    }
}

fn upstream_widening(old: &Upstream, new: &Upstream) -> Option<&'static str> {
    let Limits { methods, paths } = &new.limits;
    if !is_within(methods.as_ref(), old.limits.methods.as_ref(), |new, old| new.is_subset(old)) {
        return Some("the methods");
    }
    let paths_within = is_within(paths.as_ref(), old.limits.paths.as_ref(), |new, old| {
        let old: BTreeSet<&str> = old.iter().map(|path| path.as_str()).collect();
        new.iter().all(|path| old.contains(path.as_str()))
    });
    if !paths_within {
        return Some("the paths");
    }
    if old.address != new.address {
        return Some("the address");
    }
    if new.private && !old.private {
        return Some("where the name may lead");
    }
    if old.ca != new.ca { Some("the CA") } else { None }
}

/// No list is no limit.
fn is_within<T>(new: Option<&T>, old: Option<&T>, subset: impl Fn(&T, &T) -> bool) -> bool {
    match (new, old) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(new), Some(old)) => subset(new, old),
    }
}

fn sandbox_widening(old: &SandboxConfig, new: &SandboxConfig) -> Option<String> {
    if let Some((name, _)) = new.env.iter().find(|(name, value)| old.env.get(*name) != Some(*value)) {
        return Some(format!("it would change the variable {}", name.as_str()));
    }
    let limits = |config: &SandboxConfig| (config.memory, config.cpus, config.runtime, config.image.clone());
    if limits(old) != limits(new) {
        return Some("it would change [sandbox]".to_owned());
    }
    let more =
        (new.use_host_browser && !old.use_host_browser) || (new.use_host_browser_cdp && !old.use_host_browser_cdp);
    more.then(|| "it would give the sandbox the host's browser".to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse_project;

    fn project(text: &str) -> ProjectConfig {
        parse_project("f", Path::new("/p"), text, &|_: &Path| Err(std::io::ErrorKind::NotFound.into())).unwrap()
    }

    const OLD: &str = "[sandbox]\nmemory = \"1g\"\n[sandbox.env]\nA = \"1\"\n[upstream.\"a.example\"]\nmethods = [\"GET\", \"POST\"]\n\
                       paths = [\"/v1/**\", \"/v2\"]\n[upstream.\"b.example\"]\n[[browser_target]]\nurl = \"https://a.example/*\"\n";

    #[test]
    fn less_is_no_widening() {
        let old = project(OLD);
        for new in [
            OLD.to_owned(),
            format!("# a comment\n{OLD}"),
            OLD.replace("\"GET\", \"POST\"", "\"GET\""),
            OLD.replace("\"/v1/**\", \"/v2\"", "\"/v2\""),
            OLD.replace("A = \"1\"\n", ""),
            OLD.replace("[upstream.\"b.example\"]\n", "[upstream.\"b.example\"]\nmethods = [\"GET\"]\n"),
            OLD.replace("[[browser_target]]\nurl = \"https://a.example/*\"\n", ""),
            "[sandbox]\nmemory = \"1g\"\nuse_host_browser = false\n".to_owned(),
        ] {
            assert_eq!(widening(&old, &project(&new)), None, "{new}");
        }
    }

    #[test]
    fn whatever_allows_more_is_found() {
        let old = project(OLD);
        for (new, what) in [
            (format!("{OLD}[upstream.\"c.example\"]\n"), "reach c.example"),
            (format!("{OLD}[upstream.\"*.a.example\"]\n"), "reach *.a.example"),
            (OLD.replace("\"GET\", \"POST\"", "\"GET\", \"PUT\""), "the methods of a.example"),
            (OLD.replace("methods = [\"GET\", \"POST\"]\n", ""), "the methods of a.example"),
            (OLD.replace("\"/v2\"", "\"/v2/*\""), "the paths of a.example"),
            (OLD.replace("[upstream.\"b", "address = \"127.0.0.1:22\"\n[upstream.\"b"), "the address of a.example"),
            (OLD.replace("A = \"1\"", "A = { from = \"HOME\" }"), "the variable A"),
            (OLD.replace("A = \"1\"", "A = \"1\"\nB = { from = \"HOME\" }"), "the variable B"),
            (OLD.replace("memory = \"1g\"", "memory = \"2g\""), "[sandbox]"),
            (OLD.replace("memory = \"1g\"", "memory = \"1g\"\nruntime = \"runc\""), "[sandbox]"),
            (OLD.replace("a.example/*", "*"), "other pages"),
            (format!("{OLD}[vault]\nhost = \"a.example\"\n"), "another vault"),
            (format!("{OLD}[[cdp_target]]\ntype = \"page\"\n"), "other tabs"),
        ] {
            let found = widening(&old, &project(&new)).unwrap_or_else(|| panic!("{new}"));
            assert!(found.contains(what), "{found}: {new}");
        }
    }
}
