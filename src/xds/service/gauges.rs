//! How many nodes are connected, and how far they are: counted when the metrics are read, so that no push pays for it.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use super::connections::Connections;
use crate::xds::snapshot::ResourceType;

/// The gauges of a server's connections. The labels are states and types: their number is fixed.
pub struct NodeGauges {
    connections: Connections,
    nodes: IntGaugeVec,
    unanswered: IntGaugeVec,
}

/// What a node is counted as, the worse the later; a node with several streams is what the worst of them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Converged,
    Behind,
    Rejecting,
}

impl State {
    const ALL: [Self; 3] = [Self::Converged, Self::Behind, Self::Rejecting];

    const fn label(self) -> &'static str {
        match self {
            Self::Converged => "converged",
            Self::Behind => "behind",
            Self::Rejecting => "rejecting",
        }
    }
}

impl NodeGauges {
    /// Gauges of these connections, to be registered.
    ///
    /// # Errors
    /// None but defects of ours: a name that no metric may have.
    pub fn new(connections: Connections) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, label: &str| IntGaugeVec::new(Opts::new(name, help), &[label]);
        Ok(Self {
            connections,
            nodes: gauge(
                "agent_creds_xds_nodes",
                "Connected Envoys, by whether they have all of the configuration: converged, behind, rejecting.",
                "state",
            )?,
            unanswered: gauge(
                "agent_creds_xds_unanswered",
                "xDS responses that wait to be sent, or to be accepted or rejected.",
                "type",
            )?,
        })
    }

    fn count(&self) {
        let mut nodes: HashMap<(String, String), State> = HashMap::new();
        let mut unanswered = [0_usize; ResourceType::COUNT];
        self.connections.each(|entry| {
            let is_rejecting = ResourceType::ALL.into_iter().any(|ty| entry.machine.rejection_stands(ty));
            let state = match (is_rejecting, entry.is_converged()) {
                (true, _) => State::Rejecting,
                (false, true) => State::Converged,
                (false, false) => State::Behind,
            };
            let key = (entry.status.node_id.clone(), entry.status.node_cluster.clone());
            let known = nodes.entry(key).or_insert(state);
            *known = state.max(*known);
            for ty in ResourceType::ALL {
                unanswered[ty.index()] += entry.machine.unanswered(ty);
            }
        });
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for state in State::ALL {
            let count = nodes.values().filter(|known| **known == state).count();
            self.nodes.with_label_values(&[state.label()]).set(gauge(count));
        }
        for ty in ResourceType::ALL {
            self.unanswered.with_label_values(&[ty.label()]).set(gauge(unanswered[ty.index()]));
        }
    }
}

impl Collector for NodeGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.nodes.desc().into_iter().chain(self.unanswered.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.count();
        self.nodes.collect().into_iter().chain(self.unanswered.collect()).collect()
    }
}
