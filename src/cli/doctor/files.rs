//! Files and folders: who may read and write them, and the certificates among them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Finding, Places};
use crate::cli::adev::list::span;
use crate::domain::quoting::shell_word;
use crate::pki::{Ca, CaError};
use crate::server::surroundings::system_ca;

/// A certificate authority that ends within this is to be rotated.
const ENDS_SOON: i64 = 30 * 86400;

pub(super) fn look(places: &Places) -> Vec<Finding> {
    let mut findings = vec![
        folder("state", &places.state_dir),
        folder("runtime", &places.runtime_dir),
        authority("CA", &places.state_dir.join("ca"), places.now, "`agent-creds ca rotate` makes a new one"),
    ];
    let nodes = places.state_dir.join("node-ca");
    if nodes.exists() {
        let how = "end the server, remove the folder, and enrol all Envoys of other machines again";
        findings.push(authority("node CA", &nodes, places.now, how));
    }
    findings.push(match system_ca(places.ca_file.as_deref()) {
        Ok(_) => Finding::ok("CA trust", "there are certificate authorities to check upstreams with"),
        Err(error) => {
            let how = "install ca-certificates, or name a file in SSL_CERT_FILE";
            Finding::problem("CA trust", format!("{error:#}"), how)
        }
    });
    findings.extend(places.vault.as_deref().map(vault));
    findings
}

/// Who may do what with it, and whose it is; of a link, with what it leads to.
fn mode(path: &Path) -> Option<(u32, u32)> {
    path.metadata().ok().map(|metadata| (metadata.mode() & 0o7777, metadata.uid()))
}

/// A path as a shell takes it.
fn word(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

/// A folder of ours, and what is in it: nobody else's business.
fn folder(check: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    let Some((bits, owner)) = mode(path) else {
        return match path.try_exists() {
            Ok(_) => Finding::ok(check, format!("{shown} is made when a server first starts")),
            Err(error) => Finding::unseen(check, format!("{shown} cannot be read: {error}"), "look as its owner"),
        };
    };
    if !path.is_dir() {
        return Finding::problem(check, format!("{shown} is not a folder"), "remove it, or name another folder");
    }
    let own = rustix::process::geteuid().as_raw();
    if owner != own {
        let how = format!("give it to the server's user (`chown`), or run this as user {owner}");
        return Finding::problem(check, format!("{shown} belongs to user {owner}, and this is user {own}"), how);
    }
    if bits & 0o077 != 0 {
        let what = format!("{shown} is open to others (mode {bits:04o})");
        return Finding::problem(check, what, format!("chmod 700 {}", word(path)));
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => return Finding::unseen(check, format!("{shown} cannot be read: {error}"), "look as its owner"),
    };
    let keys = std::fs::read_dir(path.join("keys")).into_iter().flatten();
    let mut open: Vec<PathBuf> = entries
        .chain(keys)
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_secret(path) && mode(path).is_some_and(|(bits, _)| bits & 0o077 != 0))
        .collect();
    open.sort();
    if open.is_empty() {
        return Finding::ok(check, format!("{shown} is for its user alone"));
    }
    let names: Vec<String> = open.iter().map(|path| path.display().to_string()).collect();
    let words: Vec<String> = open.iter().map(|path| word(path)).collect();
    Finding::problem(check, format!("others may use {}", names.join(", ")), format!("chmod 600 {}", words.join(" ")))
}

/// Keys and databases; addresses and logs are no secret, and in a folder that is closed anyway.
fn is_secret(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "db" || kind == "key")
}

fn authority(check: &'static str, dir: &Path, now: i64, mend: &str) -> Finding {
    match dir.try_exists() {
        Ok(true) => {}
        Ok(false) => return Finding::ok(check, format!("{} is made when a server first starts", dir.display())),
        Err(error) => {
            let what = format!("{} cannot be read: {error}", dir.display());
            return Finding::unseen(check, what, "look as its owner");
        }
    }
    match Ca::load(dir) {
        Ok(ca) => {
            let end = ca.summary(dir).not_after;
            match end - now {
                ..=0 => Finding::problem(check, "its certificate has ended", mend),
                left @ 1..ENDS_SOON => Finding::warning(check, format!("its certificate ends in {}", span(left)), mend),
                left => Finding::ok(check, format!("its certificate is good for {}", span(left))),
            }
        }
        Err(error @ CaError::Exposed { .. }) => {
            let text = error.to_string();
            let (what, how) = text.split_once("; ").unwrap_or((&text, mend));
            Finding::problem(check, what, how)
        }
        Err(error) => {
            let how = "see that the folder is whole, and its files are the server's user's";
            Finding::problem(check, format!("{:#}", anyhow::Error::new(error)), how)
        }
    }
}

fn vault(path: &Path) -> Finding {
    let shown = path.display();
    match mode(path) {
        None => Finding::ok("vault", format!("there is no {shown}: without one, no token is swapped for a key")),
        Some((bits, _)) if bits & 0o022 != 0 => {
            let what = format!("others may write {shown} (mode {bits:04o}), and say which keys go where");
            Finding::problem("vault", what, format!("chmod go-w {}", word(path)))
        }
        Some((bits, owner)) if owner != 0 && owner != rustix::process::geteuid().as_raw() => {
            let what = format!("{shown} belongs to user {owner} (mode {bits:04o}), who may say which keys go where");
            Finding::warning("vault", what, "let it be the server's user's, or root's")
        }
        Some((bits, _)) => Finding::ok("vault", format!("{shown}, mode {bits:04o}")),
    }
}

/// For the tests.
#[cfg(test)]
pub(super) fn verdicts(places: &Places) -> Vec<(&'static str, super::Verdict)> {
    look(places).into_iter().map(|finding| (finding.check, finding.verdict)).collect()
}
