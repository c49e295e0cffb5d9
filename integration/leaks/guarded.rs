//! The server's memory and environment are its own: no core file, and no look into it from the same user.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::core_is_forbidden;
use crate::bad_input::place::{Place, REAL_KEY, healthy, tree};
use crate::support::server::{DEADLINE, install, run};

/// Not root, which may look into everything: the user `nobody` then.
fn user() -> u32 {
    let own = geteuid();
    if own.is_root() { 65534 } else { own.as_raw() }
}

/// A command of that user.
fn as_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    if geteuid().is_root() {
        command.uid(user()).gid(user());
    }
    command
}

/// A process that does not outlive the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_same_user_can_neither_look_into_the_server_nor_have_its_core() {
    let place = Place::new();
    // Nobody may not be able to get at the folder of the build.
    install(Path::new(env!("CARGO_BIN_EXE_agent-creds")), &place.path("agent-creds"));
    for path in tree(&place.path("")).into_keys().chain([place.path("")]) {
        if geteuid().is_root() {
            chown(path, Some(user()), Some(user())).unwrap();
        }
    }
    let mut serve = as_user("sh");
    serve.args(["-c", "ulimit -S -c unlimited 2>/dev/null || ulimit -S -c $(ulimit -H -c); exec \"$@\"", "sh"]);
    serve.arg(place.path("agent-creds")).args(["serve", "--config", "config", "--vault-config", "vault.toml"]);
    serve.args(["--state-dir", "state", "--runtime-dir", "run", "--http", "127.0.0.1:0", "--envoy", "none"]);
    serve.current_dir(place.path("")).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    serve.env("SSL_CERT_FILE", place.path("system-ca.pem")).env("STRIPE_API_KEY", REAL_KEY);
    let mut child = Killed(serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let child = &mut child.0;
    let start = Instant::now();
    while !healthy(&fs::read_to_string(place.path("run/http.addr")).unwrap_or_default()) {
        assert!(start.elapsed() < DEADLINE && child.try_wait().unwrap().is_none(), "the server starts");
        std::thread::sleep(Duration::from_millis(10));
    }

    let proc = format!("/proc/{}", child.id());
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap_or_else(|_| {
        // Of another user's process, or of one that is not dumpable, not everybody may read them.
        run(Command::new("prlimit").args(["--core", "--pid", &child.id().to_string()])).stdout
    });
    assert!(
        limits.lines().any(|line| core_is_forbidden(line) || line.starts_with("CORE") && line.contains(" 0 ")),
        "{limits}"
    );
    // proc(5): the files of a process that is not dumpable are root's.
    assert_eq!(fs::metadata(format!("{proc}/environ")).unwrap().uid(), 0, "the process is not dumpable");
    for file in ["environ", "mem", "maps"] {
        let look = run(as_user("cat").arg(format!("{proc}/{file}")));
        assert!(!look.status.success() && look.stdout.is_empty(), "{file} can be read by the same user");
    }
    // The same look at a process that is not protected succeeds: it is the protection that stops it.
    let mut open = as_user("sleep").arg("60").env("STRIPE_API_KEY", REAL_KEY).stdin(Stdio::null()).spawn().unwrap();
    let look = run(as_user("cat").arg(format!("/proc/{}/environ", open.id())));
    open.kill().unwrap();
    open.wait().unwrap();
    assert!(look.stdout.contains(REAL_KEY), "{look:?}");

    let before = tree(&place.path(""));
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::ABORT).unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < DEADLINE, "SIGABRT ends the server");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped(), "a core was written: {status:?}");
    let new: Vec<_> = tree(&place.path("")).into_keys().filter(|path| !before.contains_key(path)).collect();
    assert_eq!(new, Vec::<std::path::PathBuf>::new());
}
