//! What a foreign Envoy may ask about: requests to its own gateway, and nothing else.
//!
//! An Envoy of ours is trusted to say which sandbox a request comes from, because it goes by the routes that this server
//! made. One on another machine could say anything: what it may say is in its certificate.

use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;

use crate::domain::decision::{Rules, SANDBOX_EXTENSION};
use crate::domain::node::NodeIdentity;
use crate::telemetry::Throttle;

/// Whoever asks for what it may not does so often.
static SAID: Throttle = Throttle::new(Duration::from_secs(10));

/// Whether `node` may have this question answered. A gateway that has become a sandbox is none of its business any more.
pub(super) fn may_ask(node: &NodeIdentity, check: &CheckRequest, rules: &Rules) -> bool {
    let extensions = check.attributes.as_ref().map(|attributes| &attributes.context_extensions);
    let asked = extensions.and_then(|extensions| extensions.get(SANDBOX_EXTENSION)).map(String::as_str);
    let may = asked == Some(node.gateway.as_str()) && rules.has_gateway(&node.gateway);
    if !may && let Some(left_out) = SAID.pass() {
        let asked: String = asked.unwrap_or_default().chars().take(64).flat_map(char::escape_default).collect();
        tracing::warn!(
            node = %node.id, gateway = %node.gateway, asked, left_out,
            "refused a node that asked about what is not its gateway"
        );
    }
    may
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use envoy_types::pb::envoy::service::auth::v3::AttributeContext;

    use super::*;
    use crate::domain::macaroon::{Keyring, TokenPrefix};
    use crate::domain::names::Instance;
    use crate::domain::policy::{Origin, Policy};

    fn policy(id: &str, instance: Option<Instance>) -> Policy {
        Policy {
            id: id.parse().unwrap(),
            instance,
            listen: ([127, 0, 0, 1], 1).into(),
            origin: Origin { file: "a.toml".into(), line: 1 },
            upstreams: BTreeMap::new(),
            vault: None,
        }
    }

    fn asks(gateway: &str, about: Option<&str>) -> bool {
        let instance: Instance = "0011223344556677".parse().unwrap();
        let policies = [policy("ci", None), policy("prod", None), policy("box", Some(instance))];
        let rules = Rules::new(&policies, Keyring::default(), TokenPrefix::default(), false);
        let node = NodeIdentity {
            id: "edge-1".parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            enrolment: [1; 16].into(),
        };
        let about = about.map(|name| (SANDBOX_EXTENSION.to_owned(), name.to_owned()));
        let attributes = AttributeContext { context_extensions: HashMap::from_iter(about), ..Default::default() };
        may_ask(&node, &CheckRequest { attributes: Some(attributes) }, &rules)
    }

    #[test]
    fn a_node_asks_about_its_gateway_alone() {
        assert!(asks("ci", Some("ci")));
        assert!(!asks("ci", Some("prod")));
        assert!(!asks("ci", Some("box")));
        assert!(!asks("ci", Some("")));
        assert!(!asks("ci", Some("*")));
        assert!(!asks("ci", None));
        assert!(!asks("box", Some("box")), "a sandbox is not a gateway");
        assert!(!asks("gone", Some("gone")));
    }
}
