//! Reads requests off a gRPC stream. Responses need no codec: see [`super::body`].

use std::marker::PhantomData;

use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};

use super::session::Request;

/// The buffer starts small and grows with what travels: most clients are idle most of the time, and there are thousands.
const BUFFER_BYTES: usize = 256;
/// Not used in this direction.
const YIELD_BYTES: usize = 32 << 10;

/// Reads requests of type `R`.
pub(super) struct RequestDecoder<R>(PhantomData<fn() -> R>);

impl<R> RequestDecoder<R> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
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
