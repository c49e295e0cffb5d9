//! The folders that the programs of one user share: where they are when nobody says.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueHint};

use crate::state::StateDir;

#[derive(Debug, Args)]
pub(super) struct FolderArgs {
    /// Where CA and signing key are kept. Default: agent-creds in $XDG_STATE_HOME or ~/.local/state.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RuntimeArgs {
    /// Where the sockets are. Default: agent-creds in $XDG_RUNTIME_DIR, else `run` in the state folder.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) runtime_dir: Option<PathBuf>,
}

/// A folder of the XDG base directory specification, which has relative paths ignored.
pub(super) fn xdg(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The state folder: the one given, else the usual one.
pub(super) fn state_dir(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match given {
        Some(dir) => Ok(dir),
        None => {
            let (xdg, home) = (std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"));
            Ok(StateDir::default_path(xdg.as_deref(), home.as_deref())?)
        }
    }
}

/// The runtime folder: the one given, else the usual one, which may be in the state folder.
pub(super) fn runtime_dir(given: Option<PathBuf>, state: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match given.or_else(|| Some(xdg("XDG_RUNTIME_DIR")?.join("agent-creds"))) {
        Some(dir) => Ok(dir),
        None => Ok(state_dir(state)?.join("run")),
    }
}

/// A path that still holds in another program, started elsewhere.
pub(super) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is not a path", path.display()))
}
