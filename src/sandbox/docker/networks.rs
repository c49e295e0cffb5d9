//! Docker networks: one for each sandbox.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::models::{Ipam, NetworkInspect};
use http::Method;
use zeroize::Zeroizing;

use super::{Docker, DockerError, QUICK, SLOW, within};
use crate::sandbox::spec::body::NetworkSpec;
use crate::sandbox::spec::{Labels, ServerId};

/// A sandbox's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Docker's id.
    pub id: String,
    /// The bridge's address on the host.
    pub gateway: Ipv4Addr,
    /// The network's address and the length of its prefix.
    pub subnet: (Ipv4Addr, u8),
}

/// A network of ours that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundNetwork {
    /// Its name.
    pub name: String,
    /// What it tells of itself.
    pub labels: Labels,
    /// Id and addresses.
    pub info: NetworkInfo,
}

impl Docker {
    /// Creates a sandbox's network.
    ///
    /// # Errors
    /// When the name is taken, or Docker has no addresses left.
    pub async fn create_network(&self, spec: &NetworkSpec) -> Result<NetworkInfo, DockerError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let action = "create the sandbox's network";
        let request = spec.create()?;
        let name = request.name.clone();
        let lost = |source| DockerError::Connection { action, source: std::io::Error::other(source) };
        let mut body = serde_json::to_value(request).map_err(lost)?;
        // Without it, engines before API 1.44 make a second network of the same name. The library no longer knows it.
        if let Some(fields) = body.as_object_mut() {
            fields.insert("CheckDuplicate".to_owned(), true.into());
        }
        let body = Zeroizing::new(serde_json::to_vec(&body).map_err(lost)?);
        let created = self.wire.ask(SLOW, action, Method::POST, "/networks/create", Some(body)).await;
        let id = match created {
            Ok(Created { id }) => id,
            Err(DockerError::Refused { message, .. }) if message.contains("already exists") => {
                return Err(self.network_name_taken(name, &spec.server).await);
            }
            Err(error) => return Err(error),
        };
        let info = within(QUICK, action, self.api.inspect_network(&id, None)).await;
        match info.map(|network| addresses(network.ipam.as_ref())) {
            Ok(Some((gateway, subnet))) => Ok(NetworkInfo { id, gateway, subnet }),
            other => {
                self.remove_network(&id).await?;
                other.and(Err(DockerError::Refused { action, message: "it has no IPv4 gateway".to_owned() }))
            }
        }
    }

    /// Removes a network; one that is gone is fine.
    ///
    /// # Errors
    /// When a container is still connected.
    pub async fn remove_network(&self, id: &str) -> Result<(), DockerError> {
        match within(SLOW, "remove the sandbox's network", self.api.remove_network(id)).await {
            Err(DockerError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// The networks of a server.
    pub(super) async fn find_networks(&self, server: &ServerId) -> Result<Vec<FoundNetwork>, DockerError> {
        let options = bollard::query_parameters::ListNetworksOptionsBuilder::default().filters(&of(server)).build();
        let networks = within(QUICK, "list networks", self.api.list_networks(Some(options))).await?;
        let found = networks.into_iter().filter_map(|network| {
            let labels =
                Labels::from_map(&network.labels.unwrap_or_default()).filter(|labels| labels.server == *server)?;
            let (gateway, subnet) = addresses(network.ipam.as_ref())?;
            Some(FoundNetwork { name: network.name?, labels, info: NetworkInfo { id: network.id?, gateway, subnet } })
        });
        Ok(found.collect())
    }

    async fn network_name_taken(&self, name: String, server: &ServerId) -> DockerError {
        let by = match within(QUICK, "look at a network", self.api.inspect_network(&name, None)).await {
            Ok(NetworkInspect { id, labels, driver, .. }) => {
                let labels = labels.unwrap_or_default();
                let id = short(id.as_deref());
                let what = format!("the {} network {id}", driver.as_deref().unwrap_or("docker"));
                owner(&what, &labels, server)
            }
            Err(_) => "another network".to_owned(),
        };
        DockerError::NameTaken { kind: "network", name, by }
    }
}

/// `what`, and whose it is.
pub(super) fn owner(what: &str, labels: &HashMap<String, String>, server: &ServerId) -> String {
    match Labels::from_map(labels) {
        None => format!("{what}, which agent-creds did not make"),
        Some(labels) if labels.server == *server => format!("{what} of this server"),
        Some(labels) => format!("{what} of another agent-creds server ({})", labels.server),
    }
}

/// An id as people see it.
pub(super) fn short(id: Option<&str>) -> String {
    id.unwrap_or("?").chars().take(12).collect()
}

/// Only what carries this server's id.
pub(super) fn of(server: &ServerId) -> HashMap<&'static str, Vec<String>> {
    HashMap::from([("label", vec![format!("{}={server}", crate::sandbox::spec::LABEL_SERVER)])])
}

/// Gateway and subnet of the first IPv4 range.
fn addresses(ipam: Option<&Ipam>) -> Option<(Ipv4Addr, (Ipv4Addr, u8))> {
    ipam?.config.as_ref()?.iter().find_map(|range| {
        let (network, prefix) = range.subnet.as_deref()?.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        // Some versions give the gateway with a prefix.
        let gateway = range.gateway.as_deref()?.split('/').next()?;
        Some((gateway.parse().ok()?, (network.parse().ok()?, prefix)))
    })
}
