//! The server's folders and sockets: private, and held by one server at a time.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::control::LOCK_FILE;

/// The longest path that a unix socket address holds (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Connections that may wait to be accepted: all Envoys of a fleet come back at once. With the usual 128, each of those for which
/// there is no room tries again after a second. The kernel takes its own limit (`net.core.somaxconn`) where that is lower.
const BACKLOG: u32 = 4096;

/// How long a lock is tried for.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Makes `dir`, or checks that nobody else can get at what is in it.
pub(super) fn private_dir(dir: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create the folder {}", dir.display()))?;
    let mode = fs::metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!(
            "{} is open to others (mode {:03o}), and keys and sockets are kept in it; run `chmod 700 {0}`",
            dir.display(),
            mode & 0o777
        );
    }
    Ok(())
}

/// Holds a folder for this process until it ends, however it ends.
pub(super) async fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join(LOCK_FILE);
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let begun = tokio::time::Instant::now();
    let locked = loop {
        match file.try_lock() {
            // Whoever looks whether a server runs holds it for a moment.
            Err(fs::TryLockError::WouldBlock) if begun.elapsed() < LOCK_PATIENCE => {
                tokio::time::sleep(LOCK_PATIENCE / 10).await;
            }
            outcome => break outcome,
        }
    };
    if let Err(error) = locked {
        let mut owner = String::new();
        let _ = file.read_to_string(&mut owner);
        match error {
            fs::TryLockError::WouldBlock => bail!(
                "another agent-creds server{} uses {}; stop it, or give this one folders of its own with --state-dir and \
                 --runtime-dir",
                owner.trim().parse::<u32>().map(|pid| format!(" (process {pid})")).unwrap_or_default(),
                dir.display()
            ),
            fs::TryLockError::Error(error) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

/// Listens where a whole fleet may connect at once.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Listens on a unix socket for this user alone. The folder is locked, so a socket that is there already is a stale one.
pub(super) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        bail!(
            "the socket path {} has more than {MAX_SOCKET_PATH} characters, which unix sockets do not allow; choose a shorter \
             --runtime-dir",
            path.display()
        );
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the stale socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_has_one_server() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).await.unwrap();
        let error = lock(dir.path()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        drop(held);
        lock(dir.path()).await.unwrap();
    }

    #[test]
    fn folders_open_to_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private_dir(&path).unwrap_err().to_string().contains("chmod 700"));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_long_path_explained() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xds.sock");
        drop(bind(&path).unwrap());
        let _listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let long = dir.path().join("x".repeat(120));
        assert!(bind(&long).unwrap_err().to_string().contains("shorter --runtime-dir"));
    }
}
