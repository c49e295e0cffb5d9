//! What one life of a sandbox may see of the host's Chrome: the rules of each of its ports, as the file has them now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::lock;
use crate::config::{ProjectConfig, ProjectKind};
use crate::host::cdp::{Access, Owned, Rule, Rules};

/// The views of a sandbox: none, until it follows its file.
#[derive(Default)]
pub(super) struct Views {
    /// The pages that it opened itself.
    owned: Owned,
    /// The sender of each port's rules: the sessions of a port end when it is dropped.
    ports: Mutex<BTreeMap<u16, watch::Sender<Arc<Rules>>>>,
}

impl Views {
    /// Takes over what the file says. Open sessions see it at once; those of ports that are no more end.
    pub(super) fn follow(&self, project: &ProjectConfig) {
        let mut wanted: BTreeMap<u16, Vec<Rule>> = BTreeMap::new();
        if matches!(&project.kind, ProjectKind::Sandbox(sandbox) if sandbox.use_host_browser_cdp) {
            for target in &project.cdp_targets {
                let rule = Rule::new(target.kind.as_deref(), target.title.as_deref(), target.url.clone());
                // A target without any part is none of a valid file, and allows nothing.
                wanted.entry(target.port).or_default().extend(rule.ok());
            }
        }
        let mut ports = lock(&self.ports);
        ports.retain(|port, _| wanted.contains_key(port));
        for (port, rules) in wanted {
            let rules = Arc::new(Rules::new(rules));
            let sender = ports.entry(port).or_insert_with(|| watch::Sender::new(Arc::default()));
            sender.send_if_modified(|current| {
                let is_changed = *current != rules;
                *current = rules;
                is_changed
            });
        }
    }

    /// The sandbox ended: so do its sessions.
    pub(super) fn end(&self) {
        lock(&self.ports).clear();
    }

    /// What is seen at `port`; or why nothing is.
    pub(super) fn access(&self, port: u16, chrome: &str) -> Result<Access, String> {
        match lock(&self.ports).get(&port) {
            Some(rules) => {
                Ok(Access { chrome: chrome.to_owned(), port, rules: rules.subscribe(), owned: self.owned.clone() })
            }
            None => Err(format!(
                "agent-creds: this sandbox may see nothing of the host's browser at port {port}: agent-creds.toml has no \
                 [[cdp_target]] with port = {port}, or says use_host_browser_cdp = false\n"
            )),
        }
    }
}
