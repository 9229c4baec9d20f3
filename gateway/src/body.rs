//! Bodies: of answers, whole or passing through as streams; and of requests that follow their calls.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use warmpath_sdk::stream::{StreamBody, StreamError, linger};

use crate::metrics::{Metrics, StreamEnd};

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// As it comes from the worker. When that breaks off, so does the answer.
    Stream(Passing),
}

/// A stream on its way through, counted.
#[derive(Debug)]
pub(crate) struct Passing {
    body: StreamBody,
    metrics: Metrics,
    end: StreamEnd,
}

impl Passing {
    pub(crate) fn new(body: StreamBody, metrics: Metrics) -> Self {
        metrics.stream_begins();
        Self {
            body,
            metrics,
            // Unless it is read to its end.
            end: StreamEnd::HungUp,
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.metrics.stream_ends(self.end);
    }
}

/// The body of a request that follows its call. Whoever sends it is answered even if nobody wants the rest.
#[derive(Debug)]
pub(crate) struct Following(Option<Incoming>);

impl Following {
    pub(crate) const fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(rest) = self.0.take() {
            linger(rest);
        }
    }
}

impl Body for Following {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.0.as_mut();
        body.map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let passing = match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Self::Whole(bytes) => {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
            }
            Self::Stream(passing) => passing,
        };
        let frame = std::task::ready!(Pin::new(&mut passing.body).poll_frame(context));
        match &frame {
            None => passing.end = StreamEnd::Whole,
            Some(Err(error)) => {
                tracing::debug!(%error, "a stream broke off");
                passing.end = StreamEnd::Broken;
            }
            // The bill comes behind the last piece; whoever asked for no trailers does not read on.
            Some(Ok(frame)) if frame.is_trailers() => passing.end = StreamEnd::Whole,
            Some(Ok(_)) => (),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(passing) => passing.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(passing) => passing.body.size_hint(),
        }
    }
}
