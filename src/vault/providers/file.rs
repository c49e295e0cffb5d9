//! `provider = "file"`: a file that holds one secret.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Freshness;
use crate::domain::secret::SecretBytes;
use crate::vault::live::{Fetch, FetchError, Source};

/// A file that holds one secret, with a line break at the end or without.
#[derive(Debug, Clone)]
pub struct FileSecret {
    /// The file.
    pub path: PathBuf,
    /// For how long it is used.
    pub freshness: Freshness,
}

impl Source<SecretBytes> for FileSecret {
    fn fetch(&self) -> Fetch<'_, SecretBytes> {
        let (path, freshness) = (self.path.clone(), self.freshness);
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || read_secret(&path)).await;
            let bytes = read.map_err(|_| FetchError::new("reading the file failed"))??;
            freshness.lasting(bytes)
        })
    }
}

/// The whole file, without the line breaks at its end.
fn read_secret(path: &Path) -> Result<Vec<u8>, FetchError> {
    let mut bytes = read_bounded(path, SecretBytes::MOST)
        .map_err(|error| FetchError::new(format_args!("cannot read {}: {error}", path.display())))?;
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(FetchError::new(format_args!("{} is empty", path.display())));
    }
    Ok(std::mem::take(&mut bytes))
}

/// A regular file's content, at most `most` bytes of it and never a part.
pub(super) fn read_bounded(path: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Without blocking: opening a pipe would wait for somebody who writes into it.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file: File = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // As much as can be, so that it is never copied while it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// What tells one version of a file from the next: its device, inode, size, and when its content and its name changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen(Option<([u64; 3], [i64; 4])>);

impl Seen {
    /// The file as it is now; a missing one is a version, too.
    pub fn of(path: &Path) -> Self {
        let version =
            |m: Metadata| ([m.dev(), m.ino(), m.len()], [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]);
        Self(path.metadata().ok().map(version))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn fetch(path: &Path) -> Result<Vec<u8>, String> {
        let freshness = Freshness { ttl: None, grace: Duration::ZERO };
        let fetched = FileSecret { path: path.to_owned(), freshness }.fetch().await;
        fetched.map(|fetched| fetched.value.expose().to_vec()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_content_is_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(fetch(&path).await.unwrap_err().contains("No such file"));
        std::fs::write(&path, "sk_1\r\n\n").unwrap();
        assert_eq!(fetch(&path).await.unwrap(), b"sk_1");
        let before = Seen::of(&path);
        assert_eq!(before, Seen::of(&path));
        std::fs::write(&path, "\n").unwrap();
        assert!(fetch(&path).await.unwrap_err().ends_with("is empty"));
        assert_ne!(before, Seen::of(&path));
        std::fs::write(&path, vec![b'x'; SecretBytes::MOST + 1]).unwrap();
        assert!(fetch(&path).await.unwrap_err().contains("longer than"));
        assert!(fetch(folder.path()).await.unwrap_err().contains("not a regular file"));
    }

    #[tokio::test]
    async fn a_pipe_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(fetch(&pipe).await.unwrap_err().contains("not a regular file"));
    }
}
