//! A server as a process of its own, its control socket, and what the kernel knows about it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::fleet::Address;

/// A server of our own.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: Address,
    pub(crate) control: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it in `folder`, on a unix socket or on a free port of loopback. `command` makes the command of these arguments.
    pub(crate) fn start(
        command: &dyn Fn(&[OsString]) -> Command,
        folder: &Path,
        unix: bool,
        upstreams: usize,
    ) -> anyhow::Result<Self> {
        let (socket, control) = (folder.join("xds.sock"), folder.join("control.sock"));
        for path in [&socket, &control] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        let mut args: Vec<OsString> = vec!["--control".into(), (&control).into()];
        args.extend(["--upstreams".into(), upstreams.to_string().into()]);
        if unix {
            args.extend(["--socket".into(), (&socket).into()]);
        } else {
            args.extend(["--listen".into(), "127.0.0.1:0".into()]);
        }
        let mut child = command(&args).spawn().context("the server cannot start")?;
        let begun = Instant::now();
        while UnixStream::connect(&control).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("the server ended: {status}");
            }
            if begun.elapsed() > Duration::from_secs(30) {
                let _ = child.kill();
                bail!("the server does not start");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut server = Self { child, address: Address::Unix(socket), control };
        if !unix {
            let place = Control::open(&server.control)?.ask(&json!({ "op": "where" }))?;
            let address = place["address"].as_str().context("no address")?;
            server.address = Address::Tcp(address.parse()?);
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// A connection to a control socket.
pub(crate) struct Control(BufReader<UnixStream>);

impl Control {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Says it; the answer is to be fetched.
    pub(crate) fn say(&mut self, operation: &Value) -> anyhow::Result<()> {
        self.0.get_mut().write_all(format!("{operation}\n").as_bytes()).context("the control socket is closed")
    }

    pub(crate) fn answer(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let mut answer: Value = serde_json::from_str(&line).context("not an answer")?;
        if answer["ok"].is_null() {
            bail!("the control socket says {}", answer["error"]);
        }
        Ok(answer["ok"].take())
    }

    pub(crate) fn ask(&mut self, operation: &Value) -> anyhow::Result<Value> {
        self.say(operation)?;
        self.answer()
    }
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Processor time of a process, all threads that live: nanoseconds as the scheduler counts them.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).context("no schedstat")?;
    }
    Ok(Duration::from_nanos(nanos))
}
