//! What an edit changed, for people; and what of it needs a new container.

use std::collections::BTreeSet;

use crate::config::{ProjectConfig, ProjectKind, Runtime, SandboxConfig};

/// What differs between two versions of a project, a line each.
pub(super) fn lines(old: &ProjectConfig, new: &ProjectConfig) -> Vec<String> {
    let mut lines = Vec::new();
    for (host, upstream) in &new.upstreams {
        match old.upstreams.get(host) {
            None => lines.push(format!("{host} can be reached now")),
            Some(before) if before.limits != upstream.limits => lines.push(format!("the limits of {host} changed")),
            Some(before) if before.address != upstream.address || before.ca != upstream.ca => {
                lines.push(format!("{host} is reached in another way"));
            }
            Some(_) => {}
        }
    }
    let gone = old.upstreams.keys().filter(|host| !new.upstreams.contains_key(*host));
    lines.extend(gone.map(|host| format!("{host} cannot be reached any more")));
    if driven(old) != driven(new) {
        lines.push("the tabs of the host's browser that it may drive changed".to_owned());
    }
    if let (ProjectKind::Sandbox(old), ProjectKind::Sandbox(new)) = (&old.kind, &new.kind) {
        if old.memory != new.memory {
            lines.push("the memory limit changed".to_owned());
        }
        if old.cpus != new.cpus {
            lines.push("the processor limit changed".to_owned());
        }
        let names: BTreeSet<_> = old.env.keys().chain(new.env.keys()).collect();
        let changed = names.into_iter().filter(|name| old.env.get(*name) != new.env.get(*name));
        lines.extend(changed.map(|name| format!("{} is another in new consoles", name.as_str())));
    }
    lines
}

/// What may be driven of the host's browser, without the lines it is on.
fn driven(project: &ProjectConfig) -> Vec<impl PartialEq + use<'_>> {
    let is_on = matches!(&project.kind, ProjectKind::Sandbox(sandbox) if sandbox.use_host_browser_cdp);
    let targets = project.cdp_targets.iter().filter(|_| is_on);
    targets.map(|target| (&target.kind, &target.title, &target.url, target.port)).collect()
}

/// What of `now` takes effect only in a new container; `runtime` and `image` are what the container was made with.
pub(super) fn need_restart(runtime: &str, image: &str, now: &SandboxConfig) -> Vec<String> {
    let mut need = Vec::new();
    if runtime_name(now.runtime) != runtime {
        need.push(format!("runtime = \"{}\"", runtime_name(now.runtime)));
    }
    if now.image.as_str() != image {
        need.push(format!("image = \"{}\"", now.image.as_str()));
    }
    need
}

/// What Docker calls it.
pub(super) fn runtime_name(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Runsc => "runsc",
        Runtime::Runc => "runc",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse_project;

    fn project(text: &str) -> ProjectConfig {
        parse_project("agent-creds.toml", Path::new("/p"), text, &|_: &Path| Err(std::io::ErrorKind::NotFound.into()))
            .unwrap()
    }

    #[test]
    fn an_edit_is_told_line_by_line() {
        let old = project(
            "[sandbox]\nmemory = \"1g\"\n[sandbox.env]\nA = \"1\"\nB = \"1\"\n[upstream.\"a.example\"]\n[upstream.\"b.example\"]\n\
             [upstream.\"d.example\"]\n",
        );
        let new = project(
            "[sandbox]\nimage = \"other\"\nruntime = \"runc\"\n[sandbox.env]\nA = \"2\"\nB = \"1\"\n[upstream.\"a.example\"]\n\
             [upstream.\"b.example\"]\nmethods = [\"GET\"]\n[upstream.\"c.example\"]\n[upstream.\"d.example\"]\naddress = \"127.0.0.1:1\"\n",
        );
        assert_eq!(
            lines(&old, &new),
            [
                "the limits of b.example changed",
                "c.example can be reached now",
                "d.example is reached in another way",
                "the memory limit changed",
                "A is another in new consoles",
            ]
        );
        assert_eq!(lines(&new, &old).iter().filter(|line| line.ends_with("cannot be reached any more")).count(), 1);
        assert!(lines(&new, &new).is_empty());
        let target = "[[cdp_target]]\ntype = \"page\"\n";
        let driving = project(target);
        assert_eq!(lines(&driving, &project(&format!("# another line\n{target}"))), [""; 0]);
        let off = project(&format!("[sandbox]\nuse_host_browser_cdp = false\n{target}"));
        for other in [project(""), off, project(&format!("{target}port = 9333\n"))] {
            assert_eq!(lines(&driving, &other), ["the tabs of the host's browser that it may drive changed"]);
        }
        let ProjectKind::Sandbox(sandbox) = &new.kind else { panic!() };
        assert_eq!(need_restart("runsc", "agent-creds-sandbox", sandbox), ["runtime = \"runc\"", "image = \"other\""]);
        assert!(need_restart("runc", "other", sandbox).is_empty());
    }
}
