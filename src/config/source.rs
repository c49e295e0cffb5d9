//! Reading configuration files from disk: bounded, never blocking on a pipe, and remembering what was read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::ca::ReadFile;
use super::diagnostic::{Diagnostic, Diagnostics};
use super::project::{ProjectConfig, parse_project};
use super::reader::MAX_FILE;
use super::vault::{VaultConfig, parse_vault};

/// The name of a project's file in its folder.
pub const PROJECT_FILE: &str = "agent-creds.toml";

/// Which files make up the configuration of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Projects: an `agent-creds.toml` each, or the folder that holds one.
    pub projects: Vec<PathBuf>,
    /// The vault's file; `None` is a vault without credentials.
    pub vault: Option<VaultSource>,
}

/// Where the vault's file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultSource {
    /// The user named it: it must exist.
    Given(PathBuf),
    /// The usual place: a file that is not there is an empty one.
    Default(PathBuf),
}

impl VaultSource {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Default(path) => path,
        }
    }
}

/// What a file held when it was read; equal bytes are equal inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Bytes(Arc<[u8]>),
    Unreadable(io::ErrorKind),
}

/// All files a source was made from, with their contents.
pub(crate) type Inputs = BTreeMap<PathBuf, Content>;

/// A source as it was just read.
#[derive(Debug)]
pub(crate) struct Candidate<T> {
    /// The file and what it refers to.
    pub(crate) inputs: Inputs,
    /// What it says.
    pub(crate) result: Result<Arc<T>, Diagnostics>,
    /// Whether the file itself was there but held nothing: as an edit, that is a write cut short.
    pub(crate) blank: bool,
    /// Which files those were.
    pub(crate) files: Vec<OnDisk>,
}

/// What tells a file from another of the same name: device, inode, and when it was made (nanoseconds of Unix time; 0 where the file
/// system does not say), because the inode of a removed file is soon another file's.
pub type FileId = (u64, u64, u64);

/// The identity of a file with this metadata.
pub fn file_id(metadata: &std::fs::Metadata) -> FileId {
    let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    (metadata.dev(), metadata.ino(), made.and_then(|made| u64::try_from(made.as_nanos()).ok()).unwrap_or_default())
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OnDisk {
    pub(crate) id: FileId,
    /// The folder that its name is in, free of symlinks.
    pub(crate) folder: PathBuf,
}

/// Reads and parses a project. `shown` is its name in messages, `path` the absolute path of the file.
pub(crate) fn read_project(shown: &Arc<str>, path: &Path) -> Candidate<ProjectConfig> {
    let recorder = Recorder::default();
    let content = recorder.content(path);
    let parsed = match text_of(shown, &content) {
        Ok(text) => parse_project(shown, &folder_of(path), text, &recorder).map(Arc::new),
        Err(problem) => Err(problem.into()),
    };
    Candidate {
        blank: is_blank(&content),
        inputs: recorder.inputs.into_inner(),
        result: parsed,
        files: recorder.files.into_inner(),
    }
}

/// Reads and parses the vault's file. `may_be_absent` makes a missing file an empty one.
pub(crate) fn read_vault(shown: &Arc<str>, path: &Path, may_be_absent: bool) -> Candidate<VaultConfig> {
    let recorder = Recorder::default();
    let content = recorder.content(path);
    let parsed = match text_of(shown, &content) {
        Ok(text) => parse_vault(shown, text).map(Arc::new),
        Err(_) if may_be_absent && content == Content::Unreadable(io::ErrorKind::NotFound) => Ok(Arc::default()),
        Err(problem) => Err(problem.into()),
    };
    Candidate {
        blank: is_blank(&content),
        inputs: recorder.inputs.into_inner(),
        result: parsed,
        files: recorder.files.into_inner(),
    }
}

/// The folder whose name names the project: as the user wrote it, symlinks not followed, unless it ends in `..`.
fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new("/"));
    match folder.file_name() {
        Some(_) => folder.to_owned(),
        None => std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned()),
    }
}

fn is_blank(content: &Content) -> bool {
    matches!(content, Content::Bytes(bytes) if bytes.trim_ascii().is_empty())
}

/// The text of a file, or what keeps it from being one.
fn text_of<'a>(shown: &Arc<str>, content: &'a Content) -> Result<&'a str, Diagnostic> {
    let bytes = match content {
        Content::Bytes(bytes) => bytes,
        Content::Unreadable(kind) => {
            let hint = match kind {
                io::ErrorKind::NotFound => "create it, or give another path",
                io::ErrorKind::PermissionDenied => "let the server's user read it",
                io::ErrorKind::FileTooLarge => "a configuration file has at most 1 MiB",
                _ => "a configuration file is a regular file",
            };
            return Err(Diagnostic::of_file(shown, format!("cannot be read: {kind}")).hint(hint));
        }
    };
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let lines = before.iter().filter(|&&b| b == b'\n').count();
        let columns = String::from_utf8_lossy(&before[line_start..]).chars().count();
        let number = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        let mut problem = Diagnostic::of_file(shown, "not UTF-8 text").hint("save the file in UTF-8");
        (problem.line, problem.column) = (number(lines), number(columns));
        problem
    })
}

/// Reads files from disk and keeps what it read.
#[derive(Default)]
struct Recorder {
    inputs: RefCell<Inputs>,
    files: RefCell<Vec<OnDisk>>,
}

impl Recorder {
    fn content(&self, path: &Path) -> Content {
        let content = match read_bounded(path) {
            Ok((bytes, id)) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
                self.files.borrow_mut().push(OnDisk { id, folder });
                Content::Bytes(bytes.into())
            }
            Err(error) => Content::Unreadable(error.kind()),
        };
        self.inputs.borrow_mut().insert(path.to_owned(), content.clone());
        content
    }
}

impl ReadFile for Recorder {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.content(path) {
            Content::Bytes(bytes) => Ok(bytes.to_vec()),
            Content::Unreadable(kind) => Err(kind.into()),
        }
    }
}

/// The whole of a regular file of at most 1 MiB, as configuration files and those that they name are read.
///
/// # Errors
/// When it cannot be read, is no regular file, or is longer.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_bounded(path).map(|(bytes, _)| bytes)
}

/// The whole of a regular file of at most 1 MiB.
fn read_bounded(path: &Path) -> io::Result<(Vec<u8>, FileId)> {
    // Without NONBLOCK, opening a named pipe would wait for its writer.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file: File = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok((bytes, file_id(&metadata))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(folder: &Path, name: &str) -> String {
        let candidate = read_project(&name.into(), &folder.join(name));
        candidate.result.unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_file_is_a_problem_and_not_a_hang() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("folder")).unwrap();
        std::fs::write(path("latin"), b"# ok\n# \xc3\xa9 \xe9").unwrap();
        std::fs::write(path("big"), "#".repeat(MAX_FILE + 1)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(problem(folder.path(), "absent").starts_with("absent:1:1: cannot be read: entity not found"));
        assert!(problem(folder.path(), "folder").starts_with("folder:1:1: cannot be read: is a directory"));
        assert!(problem(folder.path(), "pipe").starts_with("pipe:1:1: cannot be read: unsupported"));
        assert!(problem(folder.path(), "big").starts_with("big:1:1: cannot be read: file too large"));
        assert!(problem(folder.path(), "latin").starts_with("latin:2:5: not UTF-8 text"));
        assert!(std::fs::write(path("whole"), "#".repeat(MAX_FILE)).is_ok());
        assert!(read_project(&"whole".into(), &path("whole")).result.is_ok());
    }

    #[test]
    fn inputs_are_the_file_and_what_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(PROJECT_FILE);
        std::fs::write(&file, "[upstream.\"a.example\"]\nca = \"x.pem\"\n").unwrap();
        let candidate = read_project(&"p".into(), &file);
        assert!(candidate.result.is_err());
        let names: Vec<_> = candidate.inputs.keys().map(|path| path.strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!(names, [Path::new(PROJECT_FILE), Path::new("x.pem")]);
    }
}
