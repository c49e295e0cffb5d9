//! Several files → one configuration, and what becomes of it when one of them is edited.
//!
//! Each source keeps its last good version: a broken edit of one holds back neither the others nor itself. The pure part is
//! [`Loader::apply`], which knows nothing of how the candidates were read.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{Diagnostic, Diagnostics};
use super::project::{ProjectConfig, ProjectKind};
use super::source::{
    Candidate, Content, FileId, Inputs, OnDisk, PROJECT_FILE, Sources, VaultSource, read_project, read_vault,
};
use super::vault::VaultConfig;
use super::widening::widening;
use crate::domain::names::SandboxId;
use crate::domain::policy::Origin;

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The last good version of each project, in the order of the sources.
    pub projects: Vec<Arc<ProjectConfig>>,
    /// The last good version of the vault's file.
    pub vault: Arc<VaultConfig>,
    /// What is wrong with the files as they are now.
    pub problems: Vec<Diagnostic>,
    /// Counts the changes that were applied; 1 at the start.
    pub generation: u64,
    /// Whether a file is broken now, so that its last good version serves.
    pub broken: bool,
    /// The sandboxes whose file asks for more than is in force, and may have been written by the agent.
    pub unconfirmed: BTreeSet<SandboxId>,
}

/// The files of a server, each with its last good version.
#[derive(Debug)]
pub struct Loader {
    projects: Vec<Slot<ProjectConfig>>,
    vault: Option<VaultSlot>,
    loaded: Arc<Loaded>,
}

/// One file.
#[derive(Debug)]
struct Slot<T> {
    /// Its name in messages.
    shown: Arc<str>,
    /// Its absolute path.
    path: PathBuf,
    /// The sandbox that it was added for at run time.
    sandbox: Option<SandboxFile>,
    /// What was read last, good or not.
    inputs: Inputs,
    /// The last good version, and what it was read from.
    good: Good<T>,
}

/// The file of a sandbox, which is in the agent's own workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFile {
    /// What the sandbox is called, whatever name the file says.
    pub id: SandboxId,
    /// Its `agent-creds.toml`.
    pub path: PathBuf,
    /// What the agent can write, free of symlinks.
    pub workspace: PathBuf,
    /// The files that the agent cannot write although they are there: they were mounted read-only when the sandbox started.
    /// `None` is those that are there now.
    pub mounted: Option<BTreeSet<FileId>>,
}

#[derive(Debug, Clone)]
struct Good<T> {
    inputs: Inputs,
    value: Arc<T>,
    blank: bool,
}

#[derive(Debug)]
struct VaultSlot {
    slot: Slot<VaultConfig>,
    /// Whether the file may still be missing: true until it was seen.
    may_be_absent: bool,
}

/// All sources as they were just read.
#[derive(Debug)]
pub(crate) struct Candidates {
    projects: Vec<Candidate<ProjectConfig>>,
    vault: Option<Candidate<VaultConfig>>,
}

impl Candidates {
    /// Every file that was read, or looked for.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let projects = self.projects.iter().map(|candidate| &candidate.inputs);
        let vault = self.vault.iter().map(|candidate| &candidate.inputs);
        projects.chain(vault).flat_map(|inputs| inputs.keys().map(PathBuf::as_path))
    }
}

impl Loader {
    /// Reads all files for the first time.
    ///
    /// # Errors
    /// Any problem in any file: a server does not start on half of its configuration.
    pub fn load(sources: &Sources) -> Result<Self, Diagnostics> {
        let mut problems = Vec::new();
        let mut projects = Vec::new();
        for path in &sources.projects {
            let (shown, path) = locate(path)?;
            let candidate = read_project(&shown, &path);
            projects.extend(first(shown, path, candidate, &mut problems));
        }
        let vault = match &sources.vault {
            None => None,
            Some(source) => {
                let may_be_absent = matches!(source, VaultSource::Default(_));
                let (shown, path) = (shown(source.path()), absolute(source.path())?);
                let candidate = read_vault(&shown, &path, may_be_absent);
                let absent = candidate.inputs.values().any(|c| matches!(c, Content::Unreadable(_)));
                first(shown, path, candidate, &mut problems)
                    .map(|slot| VaultSlot { slot, may_be_absent: may_be_absent && absent })
            }
        };
        let values: Vec<_> = projects.iter().map(|slot| Arc::clone(&slot.good.value)).collect();
        for later in 1..values.len() {
            problems.extend((0..later).find_map(|earlier| conflict(&values[earlier], &values[later])));
        }
        if !problems.is_empty() {
            return Err(Diagnostics(problems));
        }
        let vault_value = vault.as_ref().map(|vault| Arc::clone(&vault.slot.good.value)).unwrap_or_default();
        let loaded = Loaded {
            projects: values,
            vault: vault_value,
            problems: Vec::new(),
            generation: 1,
            broken: false,
            unconfirmed: BTreeSet::new(),
        };
        Ok(Self { projects, vault, loaded: Arc::new(loaded) })
    }

    /// Adds the file of a sandbox, which is called `id` whatever the file says.
    ///
    /// # Errors
    /// Any problem in the file, and a name that is taken; then nothing is added.
    pub fn add_sandbox(&mut self, file: SandboxFile) -> Result<Arc<Loaded>, Diagnostics> {
        let slot = self.read_sandbox_slot(file)?;
        match slot {
            Ok(slot) => Ok(self.add(slot, Vec::new())),
            Err((_, problems)) => Err(problems),
        }
    }

    /// Adds the file of a sandbox that runs already. When the file is broken now, nothing can be reached until it is mended.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn adopt_sandbox(&mut self, file: SandboxFile) -> Result<Arc<Loaded>, Diagnostics> {
        let (slot, problems) = match self.read_sandbox_slot(file)? {
            Ok(slot) => (slot, Vec::new()),
            Err((file, problems)) => {
                let shown = shown(&file.path);
                let value = Arc::new(ProjectConfig::nothing(file.id.clone(), &shown));
                let good = Good { inputs: Inputs::new(), value, blank: true };
                let path = file.path.clone();
                (Slot { shown, path, sandbox: Some(file), inputs: Inputs::new(), good }, problems.0)
            }
        };
        Ok(self.add(slot, problems))
    }

    /// Takes over the file of a sandbox as it is now, whoever wrote it: a person has looked at it.
    ///
    /// # Errors
    /// Any problem in the file; `None` when there is no such sandbox.
    pub fn accept_sandbox(&mut self, id: &SandboxId) -> Option<Result<Arc<Loaded>, Diagnostics>> {
        let slot = self.projects.iter_mut().find(|slot| slot.sandbox.as_ref().is_some_and(|file| file.id == *id))?;
        let candidate = as_sandbox(read_project(&slot.shown, &slot.path), Some(id), &slot.shown);
        let value = match candidate.result {
            Ok(value) => value,
            Err(problems) => return Some(Err(problems)),
        };
        slot.inputs.clone_from(&candidate.inputs);
        slot.good = Good { inputs: candidate.inputs, value, blank: candidate.blank };
        let mut problems = self.loaded.problems.clone();
        let slot = self.projects.iter().find(|slot| slot.sandbox.as_ref().is_some_and(|file| file.id == *id))?;
        problems.retain(|problem| !slot.concerns(problem));
        let mut unconfirmed = self.loaded.unconfirmed.clone();
        unconfirmed.remove(id);
        Some(Ok(self.changed(problems, unconfirmed)))
    }

    /// Forgets the file of a sandbox; whether there was one.
    pub fn remove_sandbox(&mut self, id: &SandboxId) -> Option<Arc<Loaded>> {
        let index = self.projects.iter().position(|slot| slot.sandbox.as_ref().is_some_and(|file| file.id == *id))?;
        let slot = self.projects.remove(index);
        let mut problems = self.loaded.problems.clone();
        problems.retain(|problem| !slot.concerns(problem) || self.projects.iter().any(|slot| slot.concerns(problem)));
        let mut unconfirmed = self.loaded.unconfirmed.clone();
        unconfirmed.remove(id);
        Some(self.changed(problems, unconfirmed))
    }

    /// The slot of a sandbox's file; the file back, and what is wrong with it.
    fn read_sandbox_slot(
        &self,
        file: SandboxFile,
    ) -> Result<Result<Slot<ProjectConfig>, (SandboxFile, Diagnostics)>, Diagnostics> {
        let id = &file.id;
        let (shown, path) = locate(&file.path)?;
        if let Some(taken) = self.projects.iter().find(|slot| slot.good.value.id == *id) {
            let message = format!("the name `{id}` is taken by {}", taken.good.value.origin);
            return Err(Diagnostic::of_file(&shown, message).hint("give one of them another name").into());
        }
        let mut file = SandboxFile { path: path.clone(), ..file };
        let mut candidate = as_sandbox(read_project(&shown, &path), Some(&file.id), &shown);
        if file.mounted.is_none() {
            file.mounted = Some(candidate.files.iter().map(|file| file.id).collect());
        }
        let nothing = ProjectConfig::nothing(file.id.clone(), &shown);
        candidate = unless_replaced(candidate, &file, &nothing, &shown).0;
        let mut problems = Vec::new();
        Ok(match first(shown, path, candidate, &mut problems) {
            Some(slot) => Ok(Slot { sandbox: Some(file), ..slot }),
            None => Err((file, Diagnostics(problems))),
        })
    }

    fn add(&mut self, slot: Slot<ProjectConfig>, new: Vec<Diagnostic>) -> Arc<Loaded> {
        self.projects.push(slot);
        let mut problems = self.loaded.problems.clone();
        problems.extend(new);
        self.changed(problems, self.loaded.unconfirmed.clone())
    }

    fn changed(&mut self, problems: Vec<Diagnostic>, unconfirmed: BTreeSet<SandboxId>) -> Arc<Loaded> {
        self.loaded = Arc::new(Loaded {
            projects: self.projects.iter().map(|slot| Arc::clone(&slot.good.value)).collect(),
            vault: Arc::clone(&self.loaded.vault),
            broken: !problems.is_empty(),
            problems,
            generation: self.loaded.generation + 1,
            unconfirmed,
        });
        self.loaded()
    }

    /// The configuration in force.
    pub fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded)
    }

    /// Reads all files again, and takes over what is good. `None` when no byte of any of them differs from the last time.
    pub fn reload(&mut self) -> Option<Arc<Loaded>> {
        let candidates = self.read();
        self.apply(candidates)
    }

    /// Every file that was read, or looked for, the last time.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let projects = self.projects.iter().map(|slot| &slot.inputs);
        let vault = self.vault.iter().map(|vault| &vault.slot.inputs);
        projects.chain(vault).flat_map(|inputs| inputs.keys().map(PathBuf::as_path))
    }

    /// Reads all files, and changes nothing.
    pub(crate) fn read(&self) -> Candidates {
        let projects = self.projects.iter().map(|slot| read_project(&slot.shown, &slot.path)).collect();
        let vault =
            self.vault.as_ref().map(|vault| read_vault(&vault.slot.shown, &vault.slot.path, vault.may_be_absent));
        Candidates { projects, vault }
    }

    /// Takes over what is good; `None` when nothing differs from what was read before.
    pub(crate) fn apply(&mut self, candidates: Candidates) -> Option<Arc<Loaded>> {
        let same = self.projects.iter().zip(&candidates.projects).all(|(slot, new)| slot.inputs == new.inputs)
            && match (&self.vault, &candidates.vault) {
                (Some(old), Some(new)) => old.slot.inputs == new.inputs,
                _ => true,
            };
        if same {
            return None;
        }
        let mut problems = Vec::new();
        let mut changed = false;
        let mut unconfirmed = BTreeSet::new();

        let mut offers: Vec<Option<Good<ProjectConfig>>> = Vec::new();
        for (slot, candidate) in self.projects.iter_mut().zip(candidates.projects) {
            let mut candidate = as_sandbox(candidate, slot.sandbox.as_ref().map(|file| &file.id), &slot.shown);
            if let Some(file) = &slot.sandbox {
                let replaced;
                (candidate, replaced) = unless_replaced(candidate, file, &slot.good.value, &slot.shown);
                if replaced {
                    unconfirmed.insert(file.id.clone());
                }
            }
            offers.push(slot.offer(candidate, &mut problems));
        }
        self.settle_conflicts(&mut offers, &mut problems);
        for (slot, offer) in self.projects.iter_mut().zip(offers) {
            if let Some(offer) = offer {
                slot.good = offer;
                changed = true;
            }
        }
        if let (Some(vault), Some(candidate)) = (&mut self.vault, candidates.vault) {
            vault.may_be_absent &= candidate.inputs.values().any(|c| matches!(c, Content::Unreadable(_)));
            if let Some(offer) = vault.slot.offer(candidate, &mut problems) {
                vault.slot.good = offer;
                changed = true;
            }
        }

        let loaded = Loaded {
            projects: self.projects.iter().map(|slot| Arc::clone(&slot.good.value)).collect(),
            vault: self.vault.as_ref().map(|vault| Arc::clone(&vault.slot.good.value)).unwrap_or_default(),
            broken: !problems.is_empty(),
            problems,
            generation: self.loaded.generation + u64::from(changed),
            unconfirmed,
        };
        if loaded == *self.loaded {
            return None;
        }
        self.loaded = Arc::new(loaded);
        Some(self.loaded())
    }

    /// Withdraws offers until no two projects in force clash. What is in force now does not clash, so this ends.
    fn settle_conflicts(&self, offers: &mut [Option<Good<ProjectConfig>>], problems: &mut Vec<Diagnostic>) {
        loop {
            let current: Vec<&Arc<ProjectConfig>> = self
                .projects
                .iter()
                .zip(offers.iter())
                .map(|(slot, offer)| &offer.as_ref().unwrap_or(&slot.good).value)
                .collect();
            let Some((earlier, later)) = first_conflict(&current) else { return };
            // The later file gives way, unless only the earlier one was edited.
            let (loser, other) = if offers[later].is_some() { (later, earlier) } else { (earlier, later) };
            let problem = conflict(current[other], current[loser]);
            if offers[loser].take().is_none() {
                return;
            }
            problems.extend(problem);
        }
    }
}

impl<T> Slot<T> {
    /// Whether the problem is one of this file, or of a file that it names.
    fn concerns(&self, problem: &Diagnostic) -> bool {
        problem.file == self.shown || self.inputs.keys().any(|path| path.to_str() == Some(&*problem.file))
    }

    /// The candidate's value when it is good and new; its problems otherwise.
    fn offer(&mut self, candidate: Candidate<T>, problems: &mut Vec<Diagnostic>) -> Option<Good<T>> {
        let Candidate { inputs, result, blank, .. } = candidate;
        self.inputs.clone_from(&inputs);
        if blank && !self.good.blank {
            let hint = "if it is to be empty, leave a comment in it";
            let message = "the file is empty, which it was not before: taken for a write cut short";
            problems.push(Diagnostic::of_file(&self.shown, message).hint(hint));
            return None;
        }
        match result {
            Ok(_) if inputs == self.good.inputs => None,
            Ok(value) => Some(Good { inputs, value, blank }),
            Err(new) => {
                problems.extend(new.0);
                None
            }
        }
    }
}

/// Reads the file of a sandbox, without serving it. `path` is the file, or its folder.
///
/// # Errors
/// Any problem in it; a gateway's file is one.
pub fn read_sandbox(path: &Path) -> Result<Arc<ProjectConfig>, Diagnostics> {
    let (shown, path) = locate(path)?;
    let project = read_project(&shown, &path).result?;
    let id = project.id.clone();
    let candidate = Candidate { inputs: Inputs::new(), result: Ok(project), blank: false, files: Vec::new() };
    as_sandbox(candidate, Some(&id), &shown).result
}

/// The candidate as the sandbox that the file was added for: it has that name, and is no gateway.
fn as_sandbox(
    candidate: Candidate<ProjectConfig>,
    sandbox: Option<&SandboxId>,
    shown: &Arc<str>,
) -> Candidate<ProjectConfig> {
    let Some(id) = sandbox else { return candidate };
    let result = candidate.result.and_then(|project| match project.kind {
        ProjectKind::Sandbox(_) if project.id == *id => Ok(project),
        ProjectKind::Sandbox(_) => Ok(Arc::new(ProjectConfig { id: id.clone(), ..(*project).clone() })),
        ProjectKind::Gateway(_) => {
            let problem = Diagnostic {
                line: project.origin.line,
                ..Diagnostic::of_file(shown, "this is a gateway's file, which no sandbox can be made of")
            };
            Err(problem.hint("write [sandbox] instead of [gateway], or serve it: agent-creds serve --config …").into())
        }
    });
    Candidate { result, ..candidate }
}

/// The candidate, if it comes from the files that are mounted read-only in the sandbox, or allows nothing that is not in force:
/// any other may be the agent's own. Whether it is held back.
fn unless_replaced(
    candidate: Candidate<ProjectConfig>,
    file: &SandboxFile,
    in_force: &ProjectConfig,
    shown: &Arc<str>,
) -> (Candidate<ProjectConfig>, bool) {
    let is_safe = |read: &OnDisk| {
        !read.folder.starts_with(&file.workspace) || file.mounted.as_ref().is_some_and(|ids| ids.contains(&read.id))
    };
    let (false, Ok(new)) = (candidate.files.iter().all(is_safe), &candidate.result) else { return (candidate, false) };
    let Some(more) = widening(in_force, new) else { return (candidate, false) };
    let id = &file.id;
    let message = format!("replaced while the sandbox could write it, and {more}: what was in force stays");
    let hint = format!(
        "look at the file, then run `adev accept {id}`. Editors that write into the file, instead of renaming a new one over it, \
         need no such step"
    );
    let problem = Diagnostic::of_file(shown, message).hint(hint);
    (Candidate { result: Err(problem.into()), ..candidate }, true)
}

/// The slot of a file read for the first time.
fn first<T>(
    shown: Arc<str>,
    path: PathBuf,
    candidate: Candidate<T>,
    problems: &mut Vec<Diagnostic>,
) -> Option<Slot<T>> {
    let Candidate { inputs, result, blank, .. } = candidate;
    match result {
        Ok(value) => {
            Some(Slot { shown, path, sandbox: None, inputs: inputs.clone(), good: Good { inputs, value, blank } })
        }
        Err(new) => {
            problems.extend(new.0);
            None
        }
    }
}

/// The file a project is in, by its name for messages and its absolute path.
fn locate(path: &Path) -> Result<(Arc<str>, PathBuf), Diagnostics> {
    let file = if path.is_dir() { path.join(PROJECT_FILE) } else { path.to_owned() };
    Ok((shown(&file), absolute(&file)?))
}

fn shown(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

fn absolute(path: &Path) -> Result<PathBuf, Diagnostics> {
    std::path::absolute(path)
        .map_err(|error| Diagnostic::of_file(&shown(path), format!("is no path: {}", error.kind())).into())
}

/// The first two projects that clash, by position: the earlier, the later. Linear in the number of projects.
fn first_conflict(projects: &[&Arc<ProjectConfig>]) -> Option<(usize, usize)> {
    let mut ids = HashMap::new();
    let mut ports: HashMap<u16, Vec<usize>> = HashMap::new();
    for (later, project) in projects.iter().enumerate() {
        if let Some(earlier) = ids.insert(&project.id, later) {
            return Some((earlier, later));
        }
        if let Some(listen) = listen(project) {
            let same_port = ports.entry(listen.port()).or_default();
            if let Some(&earlier) = same_port.iter().find(|&&other| conflict(projects[other], project).is_some()) {
                return Some((earlier, later));
            }
            same_port.push(later);
        }
    }
    None
}

/// Why `project` cannot be served beside `other`.
fn conflict(other: &ProjectConfig, project: &ProjectConfig) -> Option<Diagnostic> {
    let at = |origin: &Origin, message: String| Diagnostic {
        file: Arc::clone(&origin.file),
        line: origin.line,
        column: 1,
        message,
        hint: None,
    };
    if other.id == project.id {
        let message = format!("the name `{}` is taken by {}", project.id, other.origin);
        return Some(at(&project.origin, message).hint("give one of them another name"));
    }
    let (ours, theirs) = (listen(project)?, listen(other)?);
    let any = ours.ip().is_unspecified() || theirs.ip().is_unspecified();
    if ours.port() == theirs.port() && (ours.ip() == theirs.ip() || (any && ours.is_ipv4() == theirs.is_ipv4())) {
        let message = format!("the address {ours} is taken by {} ({theirs})", other.origin);
        return Some(at(&project.origin, message).hint("let one of them listen elsewhere"));
    }
    None
}

fn listen(project: &ProjectConfig) -> Option<SocketAddr> {
    match &project.kind {
        ProjectKind::Gateway(gateway) => Some(gateway.listen),
        ProjectKind::Sandbox(_) => None,
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
