//! Logging: to standard error, as text or JSON lines.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Libraries whose finer levels print frames and headers: keys and tokens are in those.
const WARNINGS_ONLY: [&str; 5] = ["aws_sigv4", "h2", "hyper", "hyper_util", "tonic"];

/// Takes a text as it is when it is a filter for [`init`].
///
/// # Errors
/// With what a filter is, when it is none.
pub fn parse_filter(text: &str) -> Result<String, String> {
    env_filter(text).map(|_| text.to_owned())
}

/// Starts logging for this process. `filter` is a level for our own modules, or a list of `module=level`. With a `limit` in
/// bytes, the file that standard error goes to stays below it: its oldest lines are dropped.
///
/// # Errors
/// When `filter` is not that, or logging was started before.
pub fn init(filter: &str, format: LogFormat, limit: Option<u64>) -> anyhow::Result<()> {
    let filter = env_filter(filter).map_err(anyhow::Error::msg)?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let started = match (format, limit) {
        (LogFormat::Text, None) => builder.with_writer(io::stderr).with_ansi(colour).try_init(),
        (LogFormat::Json, None) => builder.with_writer(io::stderr).json().try_init(),
        (LogFormat::Text, Some(limit)) => builder.with_writer(Limited::stderr(limit)?).with_ansi(colour).try_init(),
        (LogFormat::Json, Some(limit)) => builder.with_writer(Limited::stderr(limit)?).json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

/// Lets through one of many log lines that somebody else can cause.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    last: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    /// One line in this time.
    pub const fn new(every: Duration) -> Self {
        Self { every, last: Mutex::new((None, 0)) }
    }

    /// `Some` when a line may be written now, with how many were left out since the last one.
    pub fn pass(&self) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, left_out) = &mut *last;
        if at.is_some_and(|at| at.elapsed() < self.every) {
            *left_out += 1;
            return None;
        }
        *at = Some(Instant::now());
        Some(std::mem::take(left_out))
    }
}

/// A file that is appended to, and stays below a limit. What others append to it, such as a panic's message, counts.
struct Limited {
    file: File,
    limit: u64,
}

impl Limited {
    fn stderr(limit: u64) -> io::Result<Mutex<Self>> {
        Ok(Mutex::new(Self { file: io::stderr().as_fd().try_clone_to_owned()?.into(), limit }))
    }

    /// Keeps the newer half when the file has grown too long.
    fn cut(&mut self) -> io::Result<()> {
        let about = self.file.metadata()?;
        if !about.is_file() || about.len() < self.limit {
            return Ok(());
        }
        let mut kept = vec![0; usize::try_from(self.limit / 2).unwrap_or(0)];
        self.file.read_exact_at(&mut kept, about.len() - self.limit / 2)?;
        let begin = kept.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.file.set_len(0)?;
        self.file.write_all(&kept[begin..])
    }
}

impl Write for Limited {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.file.write(line)?;
        // A log that cannot be cut is still a log.
        let _ = self.cut();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn env_filter(filter: &str) -> Result<EnvFilter, String> {
    let own = if filter.contains(['=', ',']) { filter.to_owned() } else { format!("warn,agent_creds={filter}") };
    let silenced = WARNINGS_ONLY.map(|library| format!("{library}=warn")).join(",");
    EnvFilter::try_new(format!("{own},{silenced}")).map_err(|_| {
        "what is logged is one of error, warn, info, debug, trace, or a list of MODULE=LEVEL with commas".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;

    #[test]
    fn a_limited_log_keeps_its_newest_lines_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let open = || OpenOptions::new().read(true).append(true).create(true).open(&path).unwrap();
        let (mut log, mut other) = (Limited { file: open(), limit: 1000 }, open());
        for line in 0..1000 {
            writeln!(log, "line {line}").unwrap();
            assert!(fs::metadata(&path).unwrap().len() < 1000);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line ") && text.ends_with("line 999\n"), "{text}");
        // Another handle of it goes on where the file ends now.
        writeln!(other, "panicked").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("line 999\npanicked\n"));
    }
}
