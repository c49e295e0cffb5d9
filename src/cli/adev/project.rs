//! Which project is meant, and which sandbox.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::config::{Diagnostics, EnvValue, Loader, PROJECT_FILE, ProjectConfig, ProjectKind, Sources};
use crate::control::v1::{Sandbox, State};
use crate::domain::names::SandboxId;

/// A project's file, as far as it can be read.
#[derive(Debug)]
pub(super) struct Project {
    /// Its absolute path, free of links.
    pub(super) file: PathBuf,
    /// What it says, or what is wrong with it.
    pub(super) config: Result<Arc<ProjectConfig>, Diagnostics>,
}

impl Project {
    /// The project named by `given`, else the nearest one; `None` when there is none.
    pub(super) fn find(given: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let here = std::env::current_dir().context("the current folder is not there any more: go to another one")?;
        match given {
            Some(given) => {
                let file = if given.is_dir() { given.join(PROJECT_FILE) } else { given.to_owned() };
                if !file.exists() {
                    bail!("there is no {}: `adev init` writes one", file.display());
                }
                Self::read(&file).map(Some)
            }
            None => match nearest(&here)? {
                Some(file) => Self::read(&file).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Reads a project's file.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let sources = Sources { projects: vec![file.to_owned()], vault: None };
        let config = Loader::load(&sources).and_then(|loader| {
            let missing = || Diagnostics(Vec::new());
            loader.loaded().projects.first().cloned().ok_or_else(missing)
        });
        if let Ok(config) = &config
            && !matches!(config.kind, ProjectKind::Sandbox(_))
        {
            bail!("{} is of a gateway, which has no sandbox: `agent-creds serve` serves it", file.display());
        }
        // The folder's links are followed, not the file's own: another file would be another project.
        let absolute = || -> io::Result<PathBuf> {
            let file = std::path::absolute(file)?;
            let (folder, name) = (file.parent().unwrap_or(Path::new("/")), file.file_name().unwrap_or_default());
            Ok(folder.canonicalize()?.join(name))
        };
        let file = absolute().with_context(|| format!("cannot look at {}", file.display()))?;
        Ok(Self { file, config })
    }

    /// The folder that is mounted.
    pub(super) fn workspace(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    /// What the file says.
    pub(super) fn config(&self) -> anyhow::Result<&ProjectConfig> {
        match &self.config {
            Ok(config) => Ok(config),
            Err(problems) => bail!("{} is wrong, so nothing was started:\n{problems}", self.file.display()),
        }
    }

    /// The host's variables that the sandbox is to have. `variable` is the host's environment.
    pub(super) fn host_environment(
        &self,
        variable: &dyn Fn(&str) -> Option<std::ffi::OsString>,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let Ok(config) = &self.config else { return Ok(BTreeMap::new()) };
        let ProjectKind::Sandbox(sandbox) = &config.kind else { return Ok(BTreeMap::new()) };
        let mut found = BTreeMap::new();
        for value in sandbox.env.values() {
            let EnvValue::FromHost { name } = value else { continue };
            let name = name.to_string();
            if let Some(value) = variable(&name) {
                let Ok(value) = value.into_string() else {
                    bail!("the value of {name}, which {} hands to the sandbox, is not UTF-8", self.file.display());
                };
                found.insert(name, value);
            }
        }
        Ok(found)
    }
}

/// The file of `here` or of the nearest folder above.
fn nearest(here: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut files = here.ancestors().map(|folder| folder.join(PROJECT_FILE)).filter(|file| file.is_file());
    let Some(file) = files.next() else { return Ok(None) };
    if let Some(outer) = files.next() {
        bail!(
            "{} is in the workspace of {}, whose agent may have written it: say which one you mean with --config",
            file.display(),
            outer.display()
        );
    }
    let owner = file.metadata().with_context(|| format!("cannot look at {}", file.display()))?.uid();
    if file.parent() != Some(here) && owner != 0 && owner != rustix::process::getuid().as_raw() {
        bail!("{} belongs to another user ({owner}): use it with --config if you trust it", file.display());
    }
    Ok(Some(file))
}

/// What a person typed as a sandbox's name.
pub(super) fn typed(name: &str) -> SandboxId {
    SandboxId::from_typed(name)
}

/// Whether there is a container that can be attached to.
pub(super) fn runs(sandbox: &Sandbox) -> bool {
    matches!(sandbox.state(), State::Running | State::Partial)
}

/// The sandbox that is there for a project.
pub(super) fn sandbox_of<'a>(sandboxes: &'a [Sandbox], project: &Project) -> Option<&'a Sandbox> {
    let of_project: Vec<_> =
        sandboxes.iter().filter(|sandbox| Path::new(&sandbox.config_path) == project.file).collect();
    // Others may be there for it under names that were typed: its own name goes first.
    let own = project.config.as_ref().ok().map(|config| config.id.as_str());
    let named = of_project.iter().find(|sandbox| Some(sandbox.name.as_str()) == own);
    named.or(of_project.first()).copied()
}

/// The name of the sandbox that is meant: what was typed, else the project's. Also of a project whose file is broken now, when
/// its sandbox is known.
pub(super) fn name_of(
    typed_name: Option<&str>,
    config: Option<&Path>,
    sandboxes: &[Sandbox],
) -> anyhow::Result<String> {
    if let Some(name) = typed_name {
        return Ok(typed(name).to_string());
    }
    let Some(project) = Project::find(config)? else {
        bail!("there is no {PROJECT_FILE} here or in a folder above: give the sandbox's name (`adev list` shows all)");
    };
    match (&project.config, sandbox_of(sandboxes, &project)) {
        (Ok(config), _) => Ok(config.id.to_string()),
        (Err(_), Some(sandbox)) => Ok(sandbox.name.clone()),
        (Err(problems), None) => bail!("{} is wrong, so its name is not known:\n{problems}", project.file.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("shop/src/deep")).unwrap();
        (dir, path)
    }

    #[test]
    fn the_nearest_file_is_the_project() {
        let (_dir, path) = folder();
        assert_eq!(nearest(&path.join("shop/src/deep")).unwrap(), None);
        fs::write(path.join("shop").join(PROJECT_FILE), "").unwrap();
        for here in ["shop", "shop/src", "shop/src/deep"] {
            assert_eq!(nearest(&path.join(here)).unwrap(), Some(path.join("shop").join(PROJECT_FILE)), "{here}");
        }
        assert_eq!(nearest(&path).unwrap(), None);
        // The agent of `shop` can write one below.
        fs::write(path.join("shop/src").join(PROJECT_FILE), "").unwrap();
        let error = nearest(&path.join("shop/src/deep")).unwrap_err().to_string();
        assert!(error.contains("--config"), "{error}");
        assert!(nearest(&path.join("shop")).is_ok());
    }

    #[test]
    fn the_variables_that_the_file_names_are_handed_over_and_no_others() {
        let (_dir, path) = folder();
        let file = path.join("shop").join(PROJECT_FILE);
        fs::write(&file, "[sandbox.env]\nA = { from = \"HOST_A\" }\nB = { from = \"HOST_B\" }\nC = \"HOST_C\"\n")
            .unwrap();
        let project = Project::read(&file).unwrap();
        assert_eq!((project.workspace(), project.config().unwrap().id.as_str()), (path.join("shop").as_path(), "shop"));
        let set = |name: &str| (name != "HOST_B").then(|| format!("value of {name}").into());
        let expected = BTreeMap::from([("HOST_A".to_owned(), "value of HOST_A".to_owned())]);
        assert_eq!(project.host_environment(&set).unwrap(), expected);
        let odd = |_: &str| Some(std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]));
        assert!(project.host_environment(&odd).unwrap_err().to_string().contains("HOST_A"));
    }

    #[test]
    fn a_broken_file_still_names_its_sandbox() {
        let (_dir, path) = folder();
        let file = path.join("shop").join(PROJECT_FILE);
        fs::write(&file, "[sandbox\n").unwrap();
        let error = Project::read(&file).unwrap().config().unwrap_err().to_string();
        assert!(error.contains(&format!("{}:1:", file.display())), "{error}");
        let known = Sandbox { name: "mine".into(), config_path: file.to_str().unwrap().into(), ..Sandbox::default() };
        assert!(name_of(None, Some(&file), &[]).is_err());
        assert_eq!(name_of(None, Some(&path.join("shop")), std::slice::from_ref(&known)).unwrap(), "mine");
        fs::write(&file, "[sandbox]\nname = \"own\"\n").unwrap();
        assert_eq!(name_of(None, Some(&file), &[known]).unwrap(), "own");
        assert_eq!(name_of(Some("Other One"), None, &[]).unwrap(), "other-one");
        fs::write(&file, "[gateway]\nlisten = \"127.0.0.1:15443\"\n").unwrap();
        assert!(name_of(None, Some(&file), &[]).unwrap_err().to_string().contains("gateway"));
    }
}
