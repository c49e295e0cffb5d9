//! The sandboxes this server has seen, with their projects: so that a stopped one can be listed, and started by its name.
//! One small file in the state folder, no secrets in it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::names::SandboxId;

/// Sandboxes beyond this many are forgotten, those that ran least recently first.
const MOST: usize = 200;

/// The project of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    /// Its `agent-creds.toml`.
    pub(super) config: PathBuf,
    /// The folder mounted at `/workspace`.
    pub(super) workspace: PathBuf,
    /// When it was last launched, Unix seconds.
    pub(super) launched: i64,
    /// Its file asks for more than a person has seen: it was replaced while the agent could write it.
    #[serde(default)]
    pub(super) unconfirmed: bool,
}

/// Reads the file; a missing or damaged one is an empty one, because nothing but a list is lost with it.
pub(super) fn read(file: &Path) -> BTreeMap<SandboxId, Known> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(error) => {
            tracing::warn!(%error, "cannot read {}", file.display());
            return BTreeMap::new();
        }
    };
    let parsed: Result<BTreeMap<String, Known>, _> = serde_json::from_slice(&text);
    match parsed {
        // A project whose file is gone is of no use to anybody.
        Ok(all) => all
            .into_iter()
            .filter(|(_, known)| known.config.exists())
            .filter_map(|(name, known)| Some((name.parse().ok()?, known)))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "{} is damaged: stopped sandboxes are not listed", file.display());
            BTreeMap::new()
        }
    }
}

/// Writes the file, as a whole or not at all.
pub(super) fn write(file: &Path, all: &BTreeMap<SandboxId, Known>) -> io::Result<()> {
    let mut newest: Vec<_> = all.iter().collect();
    newest.sort_by_key(|(_, known)| std::cmp::Reverse(known.launched));
    newest.truncate(MOST);
    let kept: BTreeMap<&str, &Known> = newest.into_iter().map(|(name, known)| (name.as_str(), known)).collect();
    let new = file.with_extension("json.new");
    std::fs::write(&new, serde_json::to_vec_pretty(&kept)?)?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sandboxes.json");
        assert!(read(&file).is_empty());
        let project = |name: &str| Known {
            config: folder.path().join(name),
            workspace: "/p".into(),
            launched: 7,
            unconfirmed: true,
        };
        std::fs::write(folder.path().join("here.toml"), "").unwrap();
        let all = BTreeMap::from([
            ("a".parse().unwrap(), project("here.toml")),
            ("b".parse().unwrap(), project("gone.toml")),
        ]);
        write(&file, &all).unwrap();
        assert_eq!(read(&file), BTreeMap::from([("a".parse().unwrap(), project("here.toml"))]));
        std::fs::write(&file, "{").unwrap();
        assert!(read(&file).is_empty());
    }
}
