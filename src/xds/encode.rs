//! The wire form of responses, put together from parts that are encoded once and shared by every client.
//!
//! Only the few fields that differ from client to client (nonce, removed names) are written per response; each resource is
//! a chunk of bytes copied as it is. Field numbers are those of `envoy/service/discovery/v3/discovery.proto`.

use bytes::{BufMut, Bytes, BytesMut};

use super::snapshot::{ResourceType, Version};
use super::stream::{Protocol, Response};

/// One resource, encoded for both protocols in one buffer.
///
/// A delta entry is `Resource { name, version, resource: Any }`, a state-of-the-world entry is the `Any` alone. Both
/// `Resource.resource` and `DiscoveryResponse.resources` are field 2, and protobuf lets us write `resource` last: so the
/// second is the tail of the first, and no body is kept twice.
#[derive(Clone)]
pub(super) struct Encoded {
    delta: Bytes,
    /// Where the state-of-the-world entry begins in `delta`.
    any_at: usize,
}

impl Encoded {
    /// Encodes the entries of a resource whose message is `body`.
    pub(super) fn new(ty: ResourceType, name: &str, version: Version, body: &[u8]) -> Self {
        let any_len = field_len(1, ty.type_url().len()) + field_len(2, body.len());
        let head_len = field_len(3, name.len()) + field_len(1, Version::LEN);
        let entry_len = head_len + field_len(2, any_len);
        let mut out = BytesMut::with_capacity(field_len(2, entry_len));
        put_key(&mut out, 2, entry_len);
        put_field(&mut out, 3, name.as_bytes());
        put_field(&mut out, 1, version.as_str().as_bytes());
        let any_at = out.len();
        put_key(&mut out, 2, any_len);
        put_field(&mut out, 1, ty.type_url().as_bytes());
        put_field(&mut out, 2, body);
        Self { delta: out.freeze(), any_at }
    }

    /// The entry, field key included, as `protocol` has it.
    pub(super) fn entry(&self, protocol: Protocol) -> &[u8] {
        match protocol {
            Protocol::Delta => &self.delta,
            Protocol::Sotw => &self.delta[self.any_at..],
        }
    }
}

/// The length of `response` as [`encode`] writes it, in bytes.
pub fn encoded_len(response: &Response, identifier: &str) -> usize {
    let mut len = field_len(1, Version::LEN)
        + field_len(4, response.ty.type_url().len())
        + field_len(5, decimal_len(response.nonce))
        + field_len(7, field_len(1, identifier.len()));
    len += response.resources.iter().map(|resource| resource.entry(response.protocol).len()).sum::<usize>();
    len + response.removed.iter().map(|name| field_len(6, name.len())).sum::<usize>()
}

/// Writes `response` as a `DiscoveryResponse` or `DeltaDiscoveryResponse`, with `control_plane.identifier` set.
pub fn encode(response: &Response, identifier: &str, out: &mut impl BufMut) {
    put_field(out, 1, response.version.as_str().as_bytes());
    for resource in &response.resources {
        out.put_slice(resource.entry(response.protocol));
    }
    put_field(out, 4, response.ty.type_url().as_bytes());
    put_key(out, 5, decimal_len(response.nonce));
    put_decimal(out, response.nonce);
    let control_plane = match response.protocol {
        Protocol::Delta => {
            for name in &response.removed {
                put_field(out, 6, name.as_bytes());
            }
            7
        }
        Protocol::Sotw => 6,
    };
    put_key(out, control_plane, field_len(1, identifier.len()));
    put_field(out, 1, identifier.as_bytes());
}

/// The length of a length-delimited field with a number below 16.
fn field_len(_number: u32, len: usize) -> usize {
    1 + prost::encoding::encoded_len_varint(len as u64) + len
}

fn put_key(out: &mut impl BufMut, number: u32, len: usize) {
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(len as u64, out);
}

fn put_field(out: &mut impl BufMut, number: u32, value: &[u8]) {
    put_key(out, number, value.len());
    out.put_slice(value);
}

fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

fn put_decimal(out: &mut impl BufMut, number: u64) {
    if number >= 10 {
        put_decimal(out, number / 10);
    }
    out.put_u8(b'0' + (number % 10) as u8);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use proptest::prelude::*;
    use prost::Message;

    use super::super::snapshot::Resource;
    use super::*;

    fn response(protocol: Protocol, nonce: u64, names: &[String], removed: &[String]) -> Response {
        let resources = names
            .iter()
            .map(|name| {
                let message = Cluster { name: name.clone(), ..Default::default() };
                Arc::new(Resource::new(ResourceType::Cluster, name.as_str(), Version::of(name), &message))
            })
            .collect();
        Response {
            protocol,
            ty: ResourceType::Cluster,
            version: Version::of(&names),
            nonce,
            resources,
            removed: removed.iter().map(|name| name.as_str().into()).collect(),
        }
    }

    fn bytes_of(response: &Response) -> Vec<u8> {
        let mut out = Vec::new();
        encode(response, "agent-creds/1", &mut out);
        assert_eq!(out.len(), encoded_len(response, "agent-creds/1"));
        out
    }

    proptest! {
        #[test]
        fn what_prost_reads_is_what_was_meant(
            names in prop::collection::vec("[a-z]{0,300}", 0..4),
            removed in prop::collection::vec("[a-z]{0,20}", 0..4),
            nonce: u64,
        ) {
            let sent = response(Protocol::Delta, nonce, &names, &removed);
            let read = DeltaDiscoveryResponse::decode(bytes_of(&sent).as_slice()).unwrap();
            prop_assert_eq!(&read.nonce, &nonce.to_string());
            prop_assert_eq!(&read.system_version_info, &sent.version.to_string());
            prop_assert_eq!(&read.type_url, ResourceType::Cluster.type_url());
            prop_assert_eq!(&read.control_plane.unwrap().identifier, "agent-creds/1");
            prop_assert_eq!(&read.removed_resources, &removed);
            prop_assert_eq!(read.resources.len(), names.len());
            for (entry, name) in read.resources.iter().zip(&names) {
                prop_assert_eq!(&entry.name, name);
                prop_assert_eq!(&entry.version, &Version::of(name).to_string());
                let any = entry.resource.as_ref().unwrap();
                prop_assert_eq!(&any.type_url, ResourceType::Cluster.type_url());
                prop_assert_eq!(&Cluster::decode(any.value.as_slice()).unwrap().name, name);
            }

            let sent = response(Protocol::Sotw, nonce, &names, &[]);
            let read = DiscoveryResponse::decode(bytes_of(&sent).as_slice()).unwrap();
            prop_assert_eq!(&read.nonce, &nonce.to_string());
            prop_assert_eq!(&read.version_info, &sent.version.to_string());
            prop_assert_eq!(&read.type_url, ResourceType::Cluster.type_url());
            prop_assert_eq!(&read.control_plane.unwrap().identifier, "agent-creds/1");
            prop_assert_eq!(read.resources.len(), names.len());
            for (any, name) in read.resources.iter().zip(&names) {
                prop_assert_eq!(&any.type_url, ResourceType::Cluster.type_url());
                prop_assert_eq!(&Cluster::decode(any.value.as_slice()).unwrap().name, name);
            }
        }
    }
}
