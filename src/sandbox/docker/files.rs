//! Files in a container, by archive: before its first process starts, too.

use std::io::{Cursor, Read};
use std::path::Path;

use bollard::query_parameters::{DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::{Docker, DockerError, SLOW, within};

/// Room for the archive's own records around one file.
const ARCHIVE_OVERHEAD: usize = 64 * 1024;

/// A file to put into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsideFile {
    /// Absolute path; folders on the way that are missing are made, root's.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u64,
    /// Its group.
    pub gid: u64,
    /// What it is.
    pub content: Content,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file with these bytes.
    File(Bytes),
    /// A symlink with this target.
    Symlink(String),
    /// A folder.
    Dir,
}

impl Docker {
    /// Puts files into a container, as one archive. What is there is replaced, except folders.
    ///
    /// # Errors
    /// When there is no such container, or the disk is full.
    pub async fn upload(&self, id: &str, files: &[InsideFile]) -> Result<(), DockerError> {
        let action = "write files into the container";
        let tar = archive(files).map_err(|source| DockerError::Connection { action, source })?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        within(SLOW, action, self.api.upload_to_container(id, Some(options), bollard::body_full(tar.into()))).await
    }

    /// The bytes of a file in a container; `None` when there is none, or it is no plain file.
    ///
    /// # Errors
    /// When it has more than `max` bytes, or Docker does not answer.
    pub async fn read_file(&self, id: &str, path: &str, max: usize) -> Result<Option<Vec<u8>>, DockerError> {
        let action = "read a file from the container";
        let too_large = || DockerError::TooLarge { path: path.to_owned(), max };
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let limit = max.saturating_add(ARCHIVE_OVERHEAD);
        let collect = async {
            let mut parts = self.api.download_from_container(id, Some(options));
            let mut tar = Vec::new();
            while let Some(part) = parts.try_next().await? {
                tar.extend_from_slice(&part);
                if tar.len() > limit {
                    return Ok(None);
                }
            }
            Ok(Some(tar))
        };
        let tar = match within(SLOW, action, collect).await {
            Ok(tar) => tar.ok_or_else(too_large)?,
            Err(DockerError::NotFound { message, .. }) if !message.contains("No such container") => return Ok(None),
            Err(error) => return Err(error),
        };
        let file = first_file(&tar, max).map_err(|source| DockerError::Connection { action, source })?;
        match file {
            Some(bytes) if bytes.len() > max => Err(too_large()),
            file => Ok(file),
        }
    }
}

fn archive(files: &[InsideFile]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(file.mode);
        header.set_uid(file.uid);
        header.set_gid(file.gid);
        header.set_mtime(0);
        header.set_size(0);
        let path = file.path.trim_start_matches('/');
        match &file.content {
            Content::File(bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                tar.append_data(&mut header, path, bytes.as_ref())?;
            }
            Content::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, path, target)?;
            }
            Content::Dir => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, Path::new(path), std::io::empty())?;
            }
        }
    }
    tar.into_inner()
}

/// The bytes of an archive's one file, at most one more than `max`; `None` when its entry is something else.
fn first_file(archive: &[u8], max: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut archive = tar::Archive::new(Cursor::new(archive));
    let Some(entry) = archive.entries()?.next().transpose()? else { return Ok(None) };
    if entry.header().entry_type() != tar::EntryType::Regular {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    entry.take(u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_hold_what_they_are_given() {
        let long = format!("/etc/{}/file", "x".repeat(150));
        let file = |path: &str, content| InsideFile { path: path.to_owned(), mode: 0o640, uid: 7, gid: 8, content };
        let tar = archive(&[
            file(&long, Content::File(Bytes::from_static(b"hello"))),
            file("/etc/link", Content::Symlink("/opt/x".to_owned())),
            file("/home/agent", Content::Dir),
        ])
        .unwrap();
        assert_eq!(first_file(&tar, 10).unwrap().unwrap(), b"hello");
        assert_eq!(first_file(&tar, 3).unwrap().unwrap().len(), 4);
        let mut read = tar::Archive::new(Cursor::new(tar));
        let seen: Vec<_> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0o640, 7, 8));
                let link = entry.link_name().unwrap().map(|link| link.display().to_string());
                (entry.path().unwrap().display().to_string(), link)
            })
            .collect();
        assert_eq!(seen[0].0, long[1..]);
        assert_eq!(seen[1], ("etc/link".to_owned(), Some("/opt/x".to_owned())));
        assert_eq!(seen[2].0.trim_end_matches('/'), "home/agent");
        let link = archive(&[file("/a", Content::Symlink("b".to_owned()))]).unwrap();
        assert_eq!(first_file(&link, 10).unwrap(), None);
    }
}
