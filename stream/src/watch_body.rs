//! The body of a watch's answer: its messages as they are, without a copy.
//!
//! tonic would encode each message into a buffer of the stream's own, 8 KiB that stay.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use tonic::{Response, Status};

use crate::{answer::trailers, watch::Watch};

/// Messages that are ready together are sent together, up to about so many bytes.
const JOINED_BYTES: usize = 32 * 1024;

/// The body of a watch's answer.
pub(crate) struct WatchBody {
    watch: Watch,
    /// The status to end with, once what was ready before it has been sent.
    end: Option<Status>,
    is_over: bool,
}

impl WatchBody {
    /// An answer for tonic to begin, whose body is this watch's.
    pub(crate) fn answer<T>(watch: Watch, instead: T) -> Response<T> {
        let mut answer = Response::new(instead);
        let body = Self { watch, end: None, is_over: false };
        answer.extensions_mut().insert(Handover(Arc::new(Mutex::new(Some(body)))));
        answer
    }

    /// The answer that tonic has begun, with the body of its watch, if it is of one.
    pub(crate) fn of(mut answer: http::Response<tonic::body::Body>) -> http::Response<tonic::body::Body> {
        let handover: Option<Handover> = answer.extensions_mut().remove();
        let body = handover.and_then(|handover| handover.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        match body {
            Some(body) => answer.map(|_| tonic::body::Body::new(body)),
            None => answer,
        }
    }

    fn over(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_over = true;
        Poll::Ready(Some(trailers(status)))
    }
}

impl Body for WatchBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(status) = self.end.take() {
            return self.over(&status);
        }
        let mut next = match ready!(self.watch.poll_message(context)) {
            Ok(next) => next,
            Err(status) => return self.over(&status),
        };
        let mut joined = BytesMut::new();
        while next.is_followed && joined.len() + next.frame.len() < JOINED_BYTES {
            match self.watch.poll_message(context) {
                Poll::Pending => break,
                Poll::Ready(Ok(then)) => {
                    joined.extend_from_slice(&next.frame);
                    next = then;
                }
                Poll::Ready(Err(status)) => {
                    self.end = Some(status);
                    break;
                }
            }
        }
        if joined.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(next.frame))));
        }
        joined.extend_from_slice(&next.frame);
        Poll::Ready(Some(Ok(Frame::data(joined.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// Carries the body past tonic.
#[derive(Clone)]
struct Handover(Arc<Mutex<Option<WatchBody>>>);
