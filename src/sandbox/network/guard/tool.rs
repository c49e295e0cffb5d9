//! Runs `nft`, `ip` and `tc`: bounded in time and output, and never left behind.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A tool that takes longer is killed. They take milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// More output than this is an error.
const MAX_OUTPUT: u64 = 8 * 1024 * 1024;
/// More of an error's text is cut off.
const MAX_MESSAGE: usize = 300;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    #[error("cannot run {program}: it comes with the image agent-creds-envoy ({source})")]
    Start { program: &'static str, source: io::Error },
    #[error("{program} took longer than {} s", TIMEOUT.as_secs())]
    Slow { program: &'static str },
    #[error("{program} printed more than {MAX_OUTPUT} bytes")]
    Output { program: &'static str },
    #[error("{program}: {message}")]
    Refused { program: &'static str, message: String },
    #[error(
        "the lock on the routing rules (the abstract socket agent-creds-policy-rules) cannot be had: another program may hold it \
         ({source})"
    )]
    Lock { source: io::Error },
    #[error("{program} printed what cannot be read: {message}")]
    Unreadable { program: &'static str, message: String },
}

/// Runs `program` with `input` and returns what it prints.
pub(super) fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<Vec<u8>, ToolError> {
    let failed = |source| ToolError::Start { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (send, outputs) = mpsc::channel();
    // Whoever is slow, or fills a pipe, holds up its own thread; a kill ends them all.
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let pipes = [
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ];
    for (at, pipe) in pipes.into_iter().enumerate() {
        let send = send.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = pipe.map_or(Ok(0), |pipe| pipe.take(MAX_OUTPUT + 1).read_to_end(&mut bytes));
            // Nobody waits for it any more: the tool was killed.
            let _ = send.send((at, read.map(|_| bytes)));
        });
    }
    let mut texts = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        let Ok((at, read)) = outputs.recv_timeout(TIMEOUT) else {
            // It may have ended just now; then there is nothing to kill.
            let _ = child.kill();
            child.wait().map_err(failed)?;
            return Err(ToolError::Slow { program });
        };
        texts[at] = read.map_err(failed)?;
        if texts[at].len() as u64 > MAX_OUTPUT {
            let _ = child.kill();
        }
    }
    let status = child.wait().map_err(failed)?;
    let [stdout, stderr] = texts;
    if stdout.len() as u64 > MAX_OUTPUT || stderr.len() as u64 > MAX_OUTPUT {
        return Err(ToolError::Output { program });
    }
    if !status.success() {
        let message = format!("{status}: {}", printable(&stderr));
        return Err(ToolError::Refused { program, message });
    }
    Ok(stdout)
}

/// Text of others as one bounded line without control characters.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split_whitespace().take(MAX_MESSAGE).collect();
    let line: String = words.join(" ").chars().flat_map(char::escape_debug).take(MAX_MESSAGE + 1).collect();
    if line.chars().count() > MAX_MESSAGE { format!("{}…", &line[..floor(&line)]) } else { line }
}

fn floor(line: &str) -> usize {
    line.char_indices().nth(MAX_MESSAGE).map_or(line.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_prints_is_returned_and_its_errors_are_one_harmless_line() {
        assert_eq!(run("cat", &[], "text").unwrap(), b"text");
        let error = run("sh", &["-c", "printf 'a\\n\\033[31mb\\n' >&2; exit 3"], "").unwrap_err();
        assert_eq!(error.to_string(), "sh: exit status: 3: a \\u{1b}[31mb");
        assert!(matches!(run("no-such-tool", &[], ""), Err(ToolError::Start { .. })));
        let large = run("sh", &["-c", "yes"], "").unwrap_err();
        assert!(matches!(large, ToolError::Output { .. }), "{large}");
        assert_eq!(printable(&[b'x'; 1000]).chars().count(), MAX_MESSAGE + 1);
    }
}
