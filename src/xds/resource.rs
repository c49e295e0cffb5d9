//! One resource of Envoy's configuration: named, versioned, encoded once.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use prost::Message;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::encode::Encoded;
use super::stream::Protocol;
use crate::domain::policy::Origin;

/// A type of resource this server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// SDS.
    Secret,
}

impl ResourceType {
    /// Every type.
    pub const ALL: [Self; Self::COUNT] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route, Self::Secret];
    /// How many types there are.
    pub const COUNT: usize = 5;

    /// The type URL on the wire.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type with this URL; `None` when this server does not serve it.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.type_url() == url)
    }

    /// A short name for logs, metrics and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Secret => "secret",
        }
    }

    /// Whether a state-of-the-world response of this type is always the full set, and an empty first request asks for
    /// everything (xDS protocol, "Resource type instance version" and "How the client specifies what resources to return").
    pub const fn is_full_set(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// The position in [`Self::ALL`].
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// A `Version` is 16 lower-case hexadecimal digits: the first 8 bytes of the SHA-256 of what something was made from. It is
/// the same after a restart and on every replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u8; Self::LEN]);

impl Version {
    /// The length as text, in bytes.
    pub const LEN: usize = 16;

    /// Hashes the JSON of `inputs`. They must be ordered (structs, sequences, `BTreeMap`s with text keys), and never be an
    /// encoded protobuf, whose maps have no order.
    ///
    /// # Panics
    ///
    /// When JSON cannot express `inputs` (a map whose keys are not text): a mistake in the caller's types.
    pub fn of(inputs: &(impl Serialize + ?Sized)) -> Self {
        struct Hasher(Sha256);
        impl io::Write for Hasher {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut hasher = Hasher(Sha256::new());
        #[expect(clippy::expect_used, reason = "a version that silently is not one would hide changes from Envoy")]
        serde_json::to_writer(&mut hasher, inputs).expect("version inputs are structs, sequences and text-keyed maps");
        let digest = hasher.0.finalize();
        let mut digits = [0; Self::LEN];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(&digest[..]) {
            for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
                *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            }
        }
        Self(digits)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        // The digits are ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

type Produce = Box<dyn Fn() -> Result<Vec<u8>, String> + Send + Sync>;

/// The encoded form, made now or on first need.
struct Body {
    encoded: OnceLock<Result<Encoded, Arc<str>>>,
    produce: Option<Produce>,
}

/// One resource of a snapshot. Its `Debug` never shows the body: private keys are in there.
#[derive(Clone)]
pub struct Resource {
    ty: ResourceType,
    name: Arc<str>,
    version: Version,
    origin: Option<Origin>,
    refers_to: Vec<(ResourceType, Arc<str>)>,
    body: Arc<Body>,
}

impl Resource {
    /// A resource, encoded now.
    pub fn new(ty: ResourceType, name: impl Into<Arc<str>>, version: Version, message: &impl Message) -> Self {
        let name = name.into();
        let encoded = Encoded::new(ty, &name, version, &message.encode_to_vec());
        let body = Body { encoded: OnceLock::from(Ok(encoded)), produce: None };
        Self { ty, name, version, origin: None, refers_to: Vec::new(), body: Arc::new(body) }
    }

    /// A resource whose encoded message is produced once, when the first client subscribes to it. When that fails the
    /// resource counts as not existing until its version changes.
    pub fn lazy(
        ty: ResourceType,
        name: impl Into<Arc<str>>,
        version: Version,
        produce: impl Fn() -> Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Self {
        let body = Body { encoded: OnceLock::new(), produce: Some(Box::new(produce)) };
        Self { ty, name: name.into(), version, origin: None, refers_to: Vec::new(), body: Arc::new(body) }
    }

    /// Says which line of the configuration it came from.
    #[must_use]
    pub fn from_line(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Says that it needs another resource, which Envoy asks for over the same stream.
    #[must_use]
    pub fn referring_to(mut self, ty: ResourceType, name: impl Into<Arc<str>>) -> Self {
        self.refers_to.push((ty, name.into()));
        self
    }

    /// Its type.
    pub fn ty(&self) -> ResourceType {
        self.ty
    }

    /// Its name, unique within its type.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The line of the configuration it came from.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// What it needs.
    pub fn refers_to(&self) -> &[(ResourceType, Arc<str>)] {
        &self.refers_to
    }

    /// Makes sure it is encoded. A failure to produce it is told to the first caller only, so that it is logged once.
    pub(super) fn prepare(&self) -> Prepared<'_> {
        let mut first = false;
        let encoded = self.body.encoded.get_or_init(|| {
            first = true;
            let message = self.body.produce.as_ref().map_or_else(|| Ok(Vec::new()), |produce| produce());
            message.map(|message| Encoded::new(self.ty, &self.name, self.version, &message)).map_err(Arc::from)
        });
        match encoded {
            Ok(_) => Prepared::Ready,
            Err(reason) => Prepared::Failed { reason, first },
        }
    }

    /// Whether producing it was tried and failed.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.body.encoded.get(), Some(Err(_)))
    }

    /// `old` when it is the same; its body in a new resource when only the line moved. What failed to be produced is tried
    /// again.
    pub(super) fn shared_with(self, old: &Arc<Self>) -> Arc<Self> {
        if old.version != self.version || old.has_failed() {
            return Arc::new(self);
        }
        if old.origin == self.origin && old.refers_to == self.refers_to {
            return old.clone();
        }
        Arc::new(Self { name: old.name.clone(), body: old.body.clone(), ..self })
    }

    /// Whether its body is the very same as that of `other`.
    #[cfg(test)]
    pub(super) fn shares_body_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
    }

    /// Its encoded form; `None` unless [`Self::prepare`] said it is ready.
    pub(super) fn encoded(&self) -> Option<&Encoded> {
        self.body.encoded.get().and_then(|encoded| encoded.as_ref().ok())
    }

    /// Its entry in a response; empty unless [`Self::prepare`] said it is ready.
    pub(super) fn entry(&self, protocol: Protocol) -> &[u8] {
        self.encoded().map_or(&[], |encoded| encoded.entry(protocol))
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} @{}", self.ty.label(), self.name, self.version)
    }
}

/// What became of [`Resource::prepare`].
pub(super) enum Prepared<'a> {
    /// It can be sent.
    Ready,
    /// It cannot.
    Failed {
        /// Why.
        reason: &'a Arc<str>,
        /// Whether this call was the one that tried.
        first: bool,
    },
}
