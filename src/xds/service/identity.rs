//! Who a stream is of: on an authenticated connection what the certificate says, whatever the client says.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use tonic::Status;

use super::connections::escaped;
use crate::domain::node::NodeIdentity;
use crate::telemetry::Throttle;

/// Whoever claims to be another does so again and again.
static SAID: Throttle = Throttle::new(Duration::from_secs(10));
/// The longest text of a client in a log line, in bytes.
const MAX_TEXT: usize = 80;

/// Holds a client to its certificate: it may only say the same of itself. Without one it is believed, for only this user
/// reaches the socket.
///
/// # Errors
/// With what to answer, when it claims to be another node, or to serve another gateway.
pub(super) fn check(identity: Option<&NodeIdentity>, node: &Node) -> Result<(), Status> {
    let Some(NodeIdentity { id, gateway, .. }) = identity else { return Ok(()) };
    if node.id == id.as_str() && node.cluster == gateway.as_str() {
        return Ok(());
    }
    if let Some(left_out) = SAID.pass() {
        let (says, says_gateway) = (escaped(&node.id, MAX_TEXT), escaped(&node.cluster, MAX_TEXT));
        tracing::warn!(
            node = %id, %gateway, says, says_gateway, left_out,
            "refused a node that says it is another than its certificate has"
        );
    }
    Err(Status::permission_denied(format!(
        "the certificate is of node.id {id:?} and node.cluster {:?}, and the request says otherwise",
        gateway.as_str()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_who_its_certificate_says() {
        let identity: NodeIdentity =
            "agent-creds://node/edge-1?gateway=ci&enrolment=000102030405060708090a0b0c0d0e0f".parse().unwrap();
        let node = |id: &str, cluster: &str| Node { id: id.into(), cluster: cluster.into(), ..Default::default() };
        assert!(check(Some(&identity), &node("edge-1", "ci")).is_ok());
        for (id, cluster) in [
            ("edge-2", "ci"),
            ("edge-1", "prod"),
            ("edge-1", "*"),
            ("local", "*"),
            ("", "ci"),
            ("edge-1", ""),
            ("", ""),
        ] {
            let status = check(Some(&identity), &node(id, cluster)).unwrap_err();
            assert_eq!(status.code(), tonic::Code::PermissionDenied);
            assert!(check(None, &node(id, cluster)).is_ok());
        }
    }
}
