//! Keeps what this process knows out of core files, and away from other processes of the same user.

use anyhow::Context;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core file, no ptrace and no `/proc/PID/environ` for other processes of the same user. Children inherit the limit.
pub(super) fn harden() -> anyhow::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).context("cannot forbid core files")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot protect this process's memory")?;
    Ok(())
}
