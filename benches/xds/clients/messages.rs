//! Messages of the protocol, written and read by hand: the client must cost far less than the server it measures.

/// The two variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Proto {
    Delta,
    Sotw,
}

impl Proto {
    /// The aggregated method.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Delta => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            Self::Sotw => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        }
    }
}

/// The types a client asks for, in the order an Envoy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Cluster,
    Listener,
    Route,
    Secret,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Cluster, Self::Listener, Self::Route, Self::Secret];

    pub(crate) fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    fn from_url(url: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url().as_bytes() == url)
    }

    /// Whether an Envoy asks for all there are, not for names.
    pub(crate) fn is_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// A name and the version of what it stands for.
pub(crate) type Held = (String, String);

/// What is to be said in a request.
pub(crate) struct Ask<'a> {
    pub(crate) proto: Proto,
    pub(crate) kind: Kind,
    /// `node.id` and `node.cluster`, on the first request of a stream.
    pub(crate) node: Option<(&'a str, &'a str)>,
    /// Of the response that is answered.
    pub(crate) nonce: &'a [u8],
    /// State of the world: the version last accepted.
    pub(crate) version: &'a [u8],
    /// State of the world: all names; delta: those that are new.
    pub(crate) names: &'a [String],
    /// Delta: what an earlier stream brought.
    pub(crate) initial: &'a [Held],
}

impl Ask<'_> {
    /// Writes the request as a gRPC message.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 5]);
        let node = self.node.map(|(id, cluster)| {
            let mut node = Vec::new();
            field(&mut node, 1, id.as_bytes());
            field(&mut node, 2, cluster.as_bytes());
            field(&mut node, 6, b"envoy");
            node
        });
        match self.proto {
            Proto::Delta => {
                if let Some(node) = node {
                    field(out, 1, &node);
                }
                field(out, 2, self.kind.url().as_bytes());
                for name in self.names {
                    field(out, 3, name.as_bytes());
                }
                for (name, version) in self.initial {
                    let mut entry = Vec::new();
                    field(&mut entry, 1, name.as_bytes());
                    field(&mut entry, 2, version.as_bytes());
                    field(out, 5, &entry);
                }
                if !self.nonce.is_empty() {
                    field(out, 6, self.nonce);
                }
            }
            Proto::Sotw => {
                if !self.version.is_empty() {
                    field(out, 1, self.version);
                }
                if let Some(node) = node {
                    field(out, 2, &node);
                }
                for name in self.names {
                    field(out, 3, name.as_bytes());
                }
                field(out, 4, self.kind.url().as_bytes());
                if !self.nonce.is_empty() {
                    field(out, 5, self.nonce);
                }
            }
        }
        let len = u32::try_from(out.len() - start - 5).unwrap_or(u32::MAX);
        out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
    }
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, value.len());
    out.extend_from_slice(value);
}

/// What a client needs of a response.
#[derive(Debug, Default)]
pub(crate) struct Answer<'a> {
    pub(crate) kind: Option<Kind>,
    pub(crate) version: &'a [u8],
    pub(crate) nonce: &'a [u8],
    /// How many resources are in it, and their bytes.
    pub(crate) resources: usize,
    pub(crate) resource_bytes: usize,
}

impl<'a> Answer<'a> {
    /// Reads a response of either variant, which have the same field numbers; `None` when it is garbage.
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        let mut answer = Self::default();
        for (number, value) in Fields(message) {
            match (number, value?) {
                (1, version) => answer.version = version,
                (2, resource) => {
                    answer.resources += 1;
                    answer.resource_bytes += resource.len();
                }
                (4, url) => answer.kind = Kind::from_url(url),
                (5, nonce) => answer.nonce = nonce,
                _ => {}
            }
        }
        Some(answer)
    }

    /// Names and versions of the resources of a delta response.
    pub(crate) fn held(message: &[u8]) -> Vec<Held> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let resources = Fields(message).filter(|(number, _)| *number == 2).filter_map(|(_, value)| value);
        let held = resources.map(|resource| {
            let mut held = (String::new(), String::new());
            for (number, value) in Fields(resource) {
                match (number, value) {
                    (3, Some(name)) => held.0 = text(name),
                    (1, Some(version)) => held.1 = text(version),
                    _ => {}
                }
            }
            held
        });
        held.collect()
    }
}

/// The length-delimited fields of a message; the others are skipped. A `None` value is garbage, and the last.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<usize> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.varint()?;
        let (value, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(value)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (usize, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            let key = self.varint();
            match key.map(|key| (key >> 3, key & 7)) {
                Some((number, 2)) => {
                    let value = self.bytes();
                    if value.is_none() {
                        self.0 = &[];
                    }
                    return Some((number, value));
                }
                Some((_, 0)) if self.varint().is_some() => {}
                _ => {
                    self.0 = &[];
                    return Some((0, None));
                }
            }
        }
        None
    }
}
