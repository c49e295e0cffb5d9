//! The body of an answer: responses as pieces of shared bytes, and how the stream ended as trailers.
//!
//! There is no buffer per client: a response is put together when HTTP/2 has room for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::xds::encode;
use crate::xds::stream::Response;

/// The responses of one stream, as it is sent.
pub(super) struct ResponseBody<S> {
    responses: Pin<Box<S>>,
    identifier: Arc<str>,
    /// What of the current response has not been sent.
    pieces: VecDeque<Bytes>,
    is_over: bool,
}

impl<S: Stream<Item = Result<Response, Status>> + Send + 'static> ResponseBody<S> {
    /// An HTTP answer that sends `responses` until they end or one is an error.
    pub(super) fn answer(responses: S, identifier: Arc<str>) -> http::Response<Body> {
        let body = Self { responses: Box::pin(responses), identifier, pieces: VecDeque::new(), is_over: false };
        let mut answer = http::Response::new(Body::new(body));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        answer
    }
}

impl<S: Stream<Item = Result<Response, Status>>> http_body::Body for ResponseBody<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        let status = match ready!(self.responses.as_mut().poll_next(cx)) {
            Some(Ok(response)) => {
                self.pieces = encode::message(&response, &self.identifier);
                let first = self.pieces.pop_front().unwrap_or_default();
                return Poll::Ready(Some(Ok(Frame::data(first))));
            }
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            // Metadata that is no header; there is none in ours.
            trailers.insert("grpc-status", HeaderValue::from_static("13"));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}
