//! Configuration files: text → validated types, and the types kept up to date while the files are edited.
//!
//! ```text
//! agent-creds.toml ─┐                                  ┌▶ project, upstream, targets ─▶ ProjectConfig ─▶ Policy
//!                   ├▶ source: read ─▶ reader: walk ───┤
//! vault.toml ───────┘  (bounded)       (all problems)  └▶ vault ──────────────────────▶ VaultConfig
//!
//! watch: events ─▶ settle (when) ─▶ paths (where) ─▶ source ─▶ load (last good of each) ─▶ watch::Sender<Arc<Loaded>>
//! ```
//!
//! Parsing ([`parse_project`], [`parse_vault`]) is pure: the files a text names come through [`ReadFile`].

mod amend;
mod ca;
mod check;
mod diagnostic;
mod load;
mod paths;
mod project;
mod reader;
mod settle;
mod shared_vault;
mod source;
mod targets;
mod units;
mod upstream;
mod vault;
mod watch;
mod widening;

#[cfg(test)]
mod examples_tests;

pub use amend::{AmendError, Refused, amend};
pub use ca::ReadFile;
pub(crate) use ca::certificates;
pub use check::{Checked, check};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use load::{Loaded, Loader, SandboxFile, read_sandbox};
pub use project::{EnvValue, GatewayConfig, ProjectConfig, ProjectKind, Runtime, SandboxConfig, parse_project};
pub(crate) use reader::MAX_FILE;
pub use shared_vault::{SHARED_VAULT_PORT, SharedVaultConfig};
pub(crate) use source::read_file;
pub use source::{FileId, PROJECT_FILE, Sources, VaultSource, file_id};
pub use targets::{BrowserTarget, CdpTarget};
pub use units::{Cpus, CpusError, EnvName, EnvNameError, ImageName, ImageNameError, Memory, MemoryError};
pub use vault::{
    CredentialConfig, CredentialHeader, CredentialHeaderError, CredentialKind, CredentialParameter,
    CredentialParameterError, GithubAppConfig, GoogleConfig, HeaderConfig, HttpsUrl, HttpsUrlError, Kept, OauthConfig,
    OauthGrant, ProviderRef, Scope, ScopeError, ScopeName, ScopeNameError, SecretName, SecretNameError, SigV4Config,
    VaultConfig, parse_vault,
};
pub use watch::{SourceChange, SourceChangeKind, WatchError, watch};
