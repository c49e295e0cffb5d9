//! The edit that allows what was refused: found, and written when a person has seen it.
//!
//! It is written into the file that is there. A new file renamed over it would take away the read-only mount of a sandbox
//! (ARCHITECTURE.md: `agent-creds.toml` is trusted by identity).

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::diff::{Line, diff};
use crate::config::{AmendError, FileId, MAX_FILE, Refused, amend, file_id, read_file};
use crate::control::v1::Project;

/// What is to be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The sandbox or gateway.
    pub(super) sandbox: String,
    pub(super) refused: Refused,
}

impl Wanted {
    /// In words.
    pub(super) fn what(&self) -> String {
        match &self.refused.request {
            Some((method, path)) => format!("{method} {}{path}", self.refused.host),
            None => self.refused.host.clone(),
        }
    }
}

/// An edit, and what the file was when it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) path: PathBuf,
    pub(super) what: String,
    pub(super) diff: Vec<Line>,
    id: FileId,
    before: String,
    after: String,
}

/// Finds the edit of the project's file.
///
/// # Errors
/// Why there is none, in words.
pub(super) fn propose(project: &Project, wanted: &Wanted) -> Result<Proposal, String> {
    let path = PathBuf::from(&project.config_path);
    if project.unconfirmed {
        return Err(format!(
            "{} was replaced, and the agent may have written it: look at it, and run `adev accept {}` first",
            path.display(),
            project.name
        ));
    }
    let (_, id, before) = open(&path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let after =
        amend(&project.config_path, folder, &before, &read_file, &wanted.refused).map_err(|error| match &error {
            AmendError::Broken(problems) => format!("{error}: {problems}"),
            _ => format!("{}: {error}", path.display()),
        })?;
    let diff = diff(&before, &after);
    Ok(Proposal { what: wanted.what(), path, diff, id, before, after })
}

/// Writes what was shown, if the file still is what it was.
///
/// # Errors
/// When it is not, or cannot be written; then it is as it was.
pub(super) fn write(proposal: &Proposal) -> Result<(), String> {
    let Proposal { path, id, before, after, .. } = proposal;
    let (file, now_id, now) = open(path)?;
    if now_id != *id || now != *before {
        return Err(format!("{} was changed meanwhile: press a again", path.display()));
    }
    let failed = |error: io::Error| format!("cannot write {}: {error}; it is as it was", path.display());
    // Before anything is written over: a full disk is to be found out here.
    match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, after.len() as u64) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(failed(error.into())),
    }
    put(&file, after.as_bytes()).map_err(|error| match put(&file, before.as_bytes()) {
        Ok(()) => failed(error),
        Err(again) => {
            format!("cannot write {}: {error}; nor put back what was there ({again}): look at it", path.display())
        }
    })
}

/// In one piece, so that whoever reads meanwhile most likely sees all of it.
fn put(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// The file itself, what tells it from others, and its text.
fn open(path: &Path) -> Result<(File, FileId, String), String> {
    let failed = |error: io::Error| format!("cannot edit {}: {error}", path.display());
    // A link may have been put there by the agent, and lead anywhere; and a pipe would wait for its writer.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).map_err(|e| failed(io::Error::other(e)))?;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map_err(|error| match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::LOOP) => format!("{} is a symbolic link: edit what it leads to", path.display()),
        Some(rustix::io::Errno::NOENT) => {
            format!("{} is not on this machine: the server may see other files than this program", path.display())
        }
        _ => failed(error),
    })?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{} is no regular file", path.display()));
    }
    let mut bytes = Vec::new();
    (&file).take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_FILE {
        return Err(format!("{} is longer than a configuration file may be", path.display()));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8 text", path.display()))?;
    Ok((file, file_id(&metadata), text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const TEXT: &str =
        "# mine\n[gateway]\nlisten = \"127.0.0.1:1\"\n\n[upstream.\"a.example\"]\nmethods = [\"GET\"] # for now\n";

    fn project(path: &Path) -> Project {
        Project { name: "box".into(), gateway: true, config_path: path.display().to_string(), ..Project::default() }
    }

    fn wanted() -> Wanted {
        let request = Some(("POST".to_owned(), "/v1".to_owned()));
        Wanted { sandbox: "box".into(), refused: Refused { host: "a.example".into(), request } }
    }

    #[test]
    fn what_is_written_is_what_was_shown_into_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent-creds.toml");
        std::fs::write(&path, TEXT).unwrap();
        let inode = path.metadata().unwrap().ino();
        let proposal = propose(&project(&path), &wanted()).unwrap();
        assert_eq!(proposal.diff.last(), Some(&Line::Added("methods = [\"GET\", \"POST\"] # for now".into())));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), TEXT, "nothing before it is asked for");
        write(&proposal).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), TEXT.replace("[\"GET\"]", "[\"GET\", \"POST\"]"));
        assert_eq!(path.metadata().unwrap().ino(), inode);
        assert!(propose(&project(&path), &wanted()).unwrap_err().contains("allows this already"));
    }

    #[test]
    fn a_file_that_is_another_by_now_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent-creds.toml");
        std::fs::write(&path, TEXT).unwrap();
        let proposal = propose(&project(&path), &wanted()).unwrap();
        // The same text in another file: who put it there?
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, TEXT).unwrap();
        assert!(write(&proposal).unwrap_err().contains("changed meanwhile"));
        let proposal = propose(&project(&path), &wanted()).unwrap();
        std::fs::write(&path, format!("{TEXT}# more\n")).unwrap();
        assert!(write(&proposal).unwrap_err().contains("changed meanwhile"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{TEXT}# more\n"));
    }

    #[test]
    fn what_cannot_be_edited_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent-creds.toml");
        let why = || propose(&project(&path), &wanted()).unwrap_err();
        assert!(why().contains("is not on this machine"), "{}", why());
        std::fs::write(dir.path().join("elsewhere"), TEXT).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(why().contains("symbolic link"), "{}", why());
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(why().contains("no regular file"), "{}", why());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "[gateway]\n").unwrap();
        assert!(why().contains("mend it first"), "{}", why());
        std::fs::write(&path, TEXT).unwrap();
        let replaced = Project { unconfirmed: true, ..project(&path) };
        assert!(propose(&replaced, &wanted()).unwrap_err().contains("adev accept box"));
    }
}
