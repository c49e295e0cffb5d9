//! The gRPC codec: requests are decoded by prost, responses copied from shared bytes.

use std::marker::PhantomData;
use std::sync::Arc;

use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::session::Request;
use crate::xds::encode;
use crate::xds::stream::Response;

/// Buffers start small and grow with what travels: most clients are idle most of the time, and there are thousands.
const BUFFER_BYTES: usize = 256;
/// Responses that are ready together leave together up to this size.
const YIELD_BYTES: usize = 32 << 10;

/// A codec of requests of type `R`.
pub(super) struct XdsCodec<R> {
    identifier: Arc<str>,
    request: PhantomData<fn() -> R>,
}

impl<R> XdsCodec<R> {
    pub(super) fn new(identifier: Arc<str>) -> Self {
        Self { identifier, request: PhantomData }
    }
}

impl<R: Request> Codec for XdsCodec<R> {
    type Encode = Response;
    type Decode = R;
    type Encoder = ResponseEncoder;
    type Decoder = RequestDecoder<R>;

    fn encoder(&mut self) -> ResponseEncoder {
        ResponseEncoder { identifier: self.identifier.clone() }
    }

    fn decoder(&mut self) -> RequestDecoder<R> {
        RequestDecoder { request: PhantomData }
    }
}

/// Writes responses.
pub(super) struct ResponseEncoder {
    identifier: Arc<str>,
}

impl Encoder for ResponseEncoder {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(encode::encoded_len(&response, &self.identifier));
        encode::encode(&response, &self.identifier, out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

/// Reads requests.
pub(super) struct RequestDecoder<R> {
    request: PhantomData<fn() -> R>,
}

impl<R: Request> Decoder for RequestDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(bytes)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("not a discovery request: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}
