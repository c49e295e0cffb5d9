//! `provider = "exec"`: a program that prints one secret, as `op read`, `vault kv get` or `pass` do. No shell is involved.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::Freshness;
use crate::domain::secret::SecretBytes;
use crate::vault::live::{Fetch, FetchError, Source};

/// A program that prints one secret on standard output, and ends with status 0.
#[derive(Debug, Clone)]
pub struct Exec {
    /// The program and its arguments; never empty.
    pub argv: Arc<[String]>,
    /// How long it may take.
    pub timeout: Duration,
    /// For how long its answer is used.
    pub freshness: Freshness,
    /// Variables of the server that are not for it.
    pub without: &'static [&'static str],
}

impl Source<SecretBytes> for Exec {
    fn fetch(&self) -> Fetch<'_, SecretBytes> {
        Box::pin(async { self.freshness.lasting(self.run().await?) })
    }
}

impl Exec {
    async fn run(&self) -> Result<Vec<u8>, FetchError> {
        let [program, arguments @ ..] = &*self.argv else { return Err(FetchError::new("no command")) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A group of its own: what it starts ends with it.
        command.process_group(0).kill_on_drop(true);
        for name in self.without {
            command.env_remove(name);
        }
        let mut child =
            command.spawn().map_err(|error| FetchError::new(format_args!("cannot run `{program}`: {error}")))?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        let stdout = child.stdout.take();
        let outcome = tokio::time::timeout(self.timeout, async {
            let output = read_all(stdout).await;
            (output, child.wait().await)
        })
        .await;
        drop(group);
        let hint = "run it by hand to see what it says";
        let Ok((output, status)) = outcome else {
            return Err(FetchError::new(format_args!("`{program}` gave no answer within {:?}", self.timeout)));
        };
        let status = status.map_err(|error| FetchError::new(format_args!("cannot wait for `{program}`: {error}")))?;
        if !status.success() {
            return Err(FetchError::new(format_args!("`{program}` failed ({status}); {hint}")));
        }
        let mut output = output.map_err(|error| FetchError::new(format_args!("`{program}`: {error}; {hint}")))?;
        while matches!(output.last(), Some(b'\n' | b'\r')) {
            output.pop();
        }
        if output.is_empty() {
            return Err(FetchError::new(format_args!("`{program}` printed nothing; {hint}")));
        }
        Ok(std::mem::take(&mut output))
    }
}

/// What is printed, when it is not more than a secret can be.
async fn read_all(stdout: Option<impl AsyncRead + Unpin>) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SecretBytes::MOST + 1));
    if let Some(stdout) = stdout {
        stdout.take(SecretBytes::MOST as u64 + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() > SecretBytes::MOST {
        return Err(std::io::Error::other("it printed more than a secret can be"));
    }
    Ok(bytes)
}

/// The processes of one run, which end when it does: also when nobody waits any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Usually there is nobody left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn run(argv: &[&str], timeout: Duration) -> Result<Vec<u8>, String> {
        let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
        let freshness = Freshness { ttl: Some(Duration::from_secs(60)), grace: Duration::ZERO };
        let exec = Exec { argv, timeout, freshness, without: &["CARGO_MANIFEST_DIR"] };
        exec.fetch().await.map(|fetched| fetched.value.expose().to_vec()).map_err(|error| error.to_string())
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_it_prints_is_the_secret() {
        assert_eq!(run(&["printf", "sk_1\\n\\n"], MINUTE).await.unwrap(), b"sk_1");
        // No shell: nothing is expanded.
        assert_eq!(run(&["echo", "$HOME;*"], MINUTE).await.unwrap(), b"$HOME;*");
        assert_eq!(run(&["sh", "-c", "echo ${CARGO_MANIFEST_DIR-unset}"], MINUTE).await.unwrap(), b"unset");
        assert_eq!(run(&["sh", "-c", "cat; echo end"], MINUTE).await.unwrap(), b"end");
    }

    #[tokio::test]
    async fn a_failure_says_which_and_nothing_of_what_was_printed() {
        for (argv, expected) in [
            (&["/no/such/program", "sk_1"][..], "cannot run `/no/such/program`: No such file"),
            (&["sh", "-c", "echo sk_1; echo sk_2 >&2; exit 3"], "`sh` failed (exit status: 3); run it by hand"),
            (&["true"], "`true` printed nothing"),
            (&["head", "-c", "70000", "/dev/zero"], "more than a secret can be"),
        ] {
            let error = run(argv, MINUTE).await.unwrap_err();
            assert!(error.contains(expected) && !error.contains("sk_"), "{error}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let started = Instant::now();
        let error = run(&["sh", "-c", &script], Duration::from_millis(500)).await.unwrap_err();
        assert!(error.contains("gave no answer within 500ms"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
        let pid = std::fs::read_to_string(&file).unwrap();
        let gone = || {
            // Gone, or dead and not waited for by its new parent yet.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
        };
        while !gone() {
            assert!(started.elapsed() < Duration::from_secs(20), "it lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
