//! The wire form of responses, put together from parts that are encoded once and shared by every client.
//!
//! Only the few fields that differ from client to client (nonce, removed names) are written per response; each resource is
//! a chunk of bytes copied as it is. Field numbers are those of `envoy/service/discovery/v3/discovery.proto`.

use std::collections::VecDeque;

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

    /// The same, sharing its bytes.
    fn shared(&self, protocol: Protocol) -> Bytes {
        match protocol {
            Protocol::Delta => self.delta.clone(),
            Protocol::Sotw => self.delta.slice(self.any_at..),
        }
    }
}

/// Entries of this many bytes or more are not copied into a response: it shares them with all other responses.
const SHARED_FROM: usize = 4 << 10;
/// What comes before a message of gRPC: a byte that says it is not compressed, and its length in four.
const PREFIX_LEN: usize = 5;

/// `response` as a gRPC message with its prefix, in the pieces in which it is to be sent. The large ones are shared by all
/// clients that get the same resources.
pub fn message(response: &Response, identifier: &str) -> VecDeque<Bytes> {
    let len = encoded_len(response, identifier);
    let entries = || response.resources.iter().filter_map(|resource| resource.encoded());
    let is_shared = |encoded: &&Encoded| encoded.entry(response.protocol).len() >= SHARED_FROM;
    let shared: usize = entries().filter(is_shared).map(|encoded| encoded.entry(response.protocol).len()).sum();
    let mut pieces = VecDeque::with_capacity(1);
    let mut own = BytesMut::with_capacity(PREFIX_LEN + len - shared);
    own.put_u8(0);
    // A response is bounded by what clients take, which is far below 4 GiB.
    own.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    put_head(response, &mut own);
    for encoded in entries() {
        if is_shared(&encoded) {
            if !own.is_empty() {
                pieces.push_back(own.split().freeze());
            }
            pieces.push_back(encoded.shared(response.protocol));
        } else {
            own.put_slice(encoded.entry(response.protocol));
        }
    }
    put_tail(response, identifier, &mut own);
    pieces.push_back(own.freeze());
    pieces
}

/// The length of `response` on the wire, in bytes, without the prefix of gRPC.
pub fn encoded_len(response: &Response, identifier: &str) -> usize {
    let mut len = field_len(1, Version::LEN)
        + field_len(4, response.ty.type_url().len())
        + field_len(5, decimal_len(response.nonce))
        + field_len(7, field_len(1, identifier.len()));
    len += response.resources.iter().map(|resource| resource.entry(response.protocol).len()).sum::<usize>();
    len + response.removed.iter().map(|name| field_len(6, name.len())).sum::<usize>()
}

/// What a `DiscoveryResponse` or `DeltaDiscoveryResponse` has before its resources.
fn put_head(response: &Response, out: &mut impl BufMut) {
    put_field(out, 1, response.version.as_str().as_bytes());
}

/// What it has after them, with `control_plane.identifier` set.
fn put_tail(response: &Response, identifier: &str, out: &mut impl BufMut) {
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
        let out = message(response, "agent-creds/1").into_iter().flatten().collect::<Vec<_>>();
        let len = encoded_len(response, "agent-creds/1");
        assert_eq!(out[..PREFIX_LEN], [&[0][..], &u32::try_from(len).unwrap().to_be_bytes()].concat());
        assert_eq!(out.len(), PREFIX_LEN + len);
        out[PREFIX_LEN..].to_vec()
    }

    #[test]
    fn large_resources_are_shared_and_small_ones_copied() {
        let names = ["a".repeat(10), "b".repeat(10_000), "c".repeat(10_000), "d".repeat(10)];
        for protocol in [Protocol::Delta, Protocol::Sotw] {
            let response = response(protocol, 7, &names, &[]);
            let (first, second) = (message(&response, "x"), message(&response, "x"));
            // The head with a; b; c; d with the tail.
            assert_eq!(first.len(), 4, "{protocol:?}");
            for (index, (first, second)) in first.iter().zip(&second).enumerate() {
                assert_eq!(first.as_ptr() == second.as_ptr(), [1, 2].contains(&index), "{protocol:?} {index}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_prost_reads_is_what_was_meant(
            names in prop::collection::vec("[a-z]{0,300}|[a-z]{4000,5000}", 0..4),
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
