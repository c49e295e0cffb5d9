//! Reads the requests of a gRPC stream (gRPC over HTTP/2, "Length-Prefixed-Message").
//!
//! Between two requests nothing is kept: a request that comes in one piece is decoded where it is, one that comes in several is
//! gathered, and its buffer goes with it. Most clients are idle most of the time, and there are thousands.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::Body as _;
use tonic::body::Body;
use tonic::{Code, Status};

use super::session::Request;

/// What comes before a message: a byte that says whether it is compressed, and its length in four.
const PREFIX_LEN: usize = 5;

/// The requests of type `R` in a body.
pub(super) struct Requests<R> {
    body: Body,
    /// The longest request, in bytes.
    limit: usize,
    /// What has come and has not been read, in one piece.
    rest: Bytes,
    /// The beginning of a request whose end has not come; `rest` is empty then.
    begun: Vec<u8>,
    of: PhantomData<fn() -> R>,
}

impl<R: Request> Requests<R> {
    pub(super) fn new(body: Body, limit: usize) -> Self {
        Self { body, limit, rest: Bytes::new(), begun: Vec::new(), of: PhantomData }
    }

    /// The next request; `None` when the client has ended its side or the whole stream. Nothing is lost when this is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<R>, Status> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<R>, Status>> {
        loop {
            if let Some(request) = self.take()? {
                return Poll::Ready(Ok(Some(request)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Whatever else there is, such as trailers, means nothing here.
                    let Ok(data) = frame.into_data() else { continue };
                    if self.begun.is_empty() {
                        self.rest = data;
                    } else {
                        self.begun.extend_from_slice(&data);
                    }
                }
                Some(Err(status)) if status.code() == Code::Cancelled => return Poll::Ready(Ok(None)),
                Some(Err(status)) => return Poll::Ready(Err(status)),
                None if self.begun.is_empty() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Status::internal("the stream ended within a request"))),
            }
        }
    }

    /// The next request of what has come, if all of it has.
    fn take(&mut self) -> Result<Option<R>, Status> {
        if !self.begun.is_empty() {
            match self.length(&self.begun)? {
                // Once it is whole, what is read is read from where it is, like all else.
                Some(_) => self.rest = std::mem::take(&mut self.begun).into(),
                None => return Ok(None),
            }
        }
        let Some(length) = self.length(&self.rest)? else {
            self.begun = std::mem::take(&mut self.rest).into();
            return Ok(None);
        };
        self.rest.advance(PREFIX_LEN);
        let request = R::decode(self.rest.split_to(length))
            .map_err(|error| Status::invalid_argument(format!("not a discovery request: {error}")))?;
        Ok(Some(request))
    }

    /// The length of the message at the beginning of `bytes`, if all of it is there.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX_LEN>() else { return Ok(None) };
        let [is_compressed, length @ ..] = *prefix;
        if is_compressed != 0 {
            return Err(Status::internal("the request is compressed, and no grpc-encoding was agreed upon"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            let text = format!("a request of {length} bytes is too long: {} are the limit", self.limit);
            return Err(Status::out_of_range(text));
        }
        Ok((message.len() >= length).then_some(length))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use http_body::Frame;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// A body of these pieces, each after having been waited for once.
    struct Pieces(VecDeque<Bytes>, bool);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.1 = !self.1;
            if self.1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn requests(pieces: impl IntoIterator<Item = Vec<u8>>) -> Requests<DeltaDiscoveryRequest> {
        Requests::new(Body::new(Pieces(pieces.into_iter().map(Bytes::from).collect(), false)), 1000)
    }

    fn framed(request: &DeltaDiscoveryRequest) -> Vec<u8> {
        let body = request.encode_to_vec();
        let mut out = vec![0];
        out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend(body);
        out
    }

    fn named(names: &[String]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest { resource_names_subscribe: names.to_vec(), ..Default::default() }
    }

    proptest! {
        #[test]
        fn requests_are_read_wherever_they_are_cut(
            names in prop::collection::vec(prop::collection::vec("[a-z]{0,20}", 0..4), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let sent: Vec<_> = names.iter().map(|names| named(names)).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(framed).collect();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let mut requests = requests(at.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let mut read = Vec::new();
                while let Some(request) = requests.next().await.unwrap() {
                    read.push(request);
                }
                read
            });
            prop_assert_eq!(read, sent);
            prop_assert_eq!((requests.rest.len(), requests.begun.capacity()), (0, 0), "nothing is kept");
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let refused = async |pieces: Vec<Vec<u8>>| requests(pieces).next().await.unwrap_err().code();
        assert_eq!(refused(vec![vec![1, 0, 0, 0, 0]]).await, Code::Internal, "compressed");
        assert_eq!(refused(vec![vec![0, 0, 0]]).await, Code::Internal, "it ends in the prefix");
        assert_eq!(refused(vec![vec![0, 0, 0, 0, 2], vec![0]]).await, Code::Internal, "it ends in the message");
        assert_eq!(refused(vec![vec![0, 0, 0, 0, 2, 0xff, 0xff]]).await, Code::InvalidArgument);
        // Before a byte of it has come.
        assert_eq!(refused(vec![vec![0, 0xff, 0xff], vec![0xff, 0xff]]).await, Code::OutOfRange);
        assert!(requests(vec![]).next().await.unwrap().is_none());
    }
}
