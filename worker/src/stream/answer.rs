//! What a client is told in its exchange: the handler's head and pieces, or why there are none.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use ebpf_common::wire::Status;
use hyper::{
    HeaderMap, Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{HeaderName, HeaderValue, TRAILER},
};
use tokio::sync::mpsc;
use warmpath_sdk::{
    http::{self, Head, HeadError, ResponseHead},
    stream::{STATUS, linger},
};

use super::{Piece, Port};
use crate::pool::Outcome;

/// Statuses whose responses have no body (RFC 9110, 6.4.1), so that there is nothing to stream.
const WITHOUT_BODY: [u16; 2] = [204, 304];
const BILL: HeaderName = HeaderName::from_static(http::BILL);

/// How an answer begins, and all of one that is no stream.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) head: Response<()>,
    /// Absent: pieces follow.
    pub(super) whole: Option<Bytes>,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AnswerBody {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Piece>),
    /// What there was has to leave before the connection is closed.
    Breaking,
    /// After the last piece.
    Over,
}

/// A reply that is not whole: its connection is closed in the middle.
#[derive(Debug, thiserror::Error)]
#[error("the handler's stream broke off")]
pub(super) struct BrokeOff;

/// A head that no stream can have.
#[derive(Debug, thiserror::Error)]
pub enum BadHead {
    /// It cannot be written as HTTP.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Its status says that there is no body.
    #[error("a response of status {0} has no body, and comes in one piece")]
    WithoutBody(u16),
}

impl Port {
    /// Begins the answer with what the handler says before its first piece; of one that says nothing of HTTP, with 200.
    ///
    /// # Errors
    /// [`BadHead`]; the client has been told nothing then.
    pub fn begin(&mut self, head: Option<ResponseHead>) -> Result<(), BadHead> {
        let head = head.unwrap_or_else(|| ResponseHead {
            status: StatusCode::OK.as_u16(),
            headers: vec![(
                "content-type".to_owned(),
                "application/octet-stream".to_owned(),
            )],
        });
        head.check()?;
        if WITHOUT_BODY.contains(&head.status) {
            return Err(BadHead::WithoutBody(head.status));
        }
        let mut head = response(&head, Status::Ok);
        head.headers_mut()
            .insert(TRAILER, HeaderValue::from_static(http::BILL));
        self.say(Said { head, whole: None });
        Ok(())
    }

    /// Answers with an outcome that is no stream.
    pub fn answer(mut self, outcome: &Outcome) {
        let said = match outcome.status {
            Status::Ok => replied(outcome).unwrap_or_else(|error| {
                failed(&Outcome::failed(Status::BadReply, error.to_string()))
            }),
            _ => failed(outcome),
        };
        self.say(said);
        linger(self.body.incoming);
    }

    fn say(&mut self, said: Said) {
        if let Some(sender) = self.said.take() {
            // Whoever is gone hears nothing.
            drop(sender.send(said));
        }
    }
}

fn replied(outcome: &Outcome) -> Result<Said, HeadError> {
    let head = outcome.http.clone();
    let head = head.unwrap_or_else(|| ResponseHead::of_reply(&outcome.payload));
    head.check()?;
    let mut head = response(&head, Status::Ok);
    if let Ok(bill) = HeaderValue::try_from(outcome.usage.to_string()) {
        head.headers_mut().insert(BILL, bill);
    }
    Ok(Said {
        head,
        whole: Some(outcome.payload.clone()),
    })
}

fn failed(outcome: &Outcome) -> Said {
    // What an HTTP server says of a handler that raised, and a gateway of one that did anything else.
    let code = if outcome.http.is_some() { 500 } else { 502 };
    let head = ResponseHead {
        status: code,
        headers: Vec::new(),
    };
    Said {
        head: response(&head, outcome.status),
        whole: Some(outcome.payload.clone()),
    }
}

/// The head of an answer. `head` has been checked.
fn response(head: &ResponseHead, status: Status) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    for (name, value) in &head.headers {
        let is_ours = http::is_of_one_hop(name)
            || [http::BILL, STATUS, "content-length"].contains(&name.as_str());
        let value = http::bytes_of(value).map(|bytes| HeaderValue::from_bytes(&bytes));
        if let (false, Ok(name), Some(Ok(value))) =
            (is_ours, HeaderName::from_bytes(name.as_bytes()), value)
        {
            headers.append(name, value);
        }
    }
    headers.insert(STATUS, HeaderValue::from_static(status.name()));
    response
}

impl AnswerBody {
    pub(super) const fn text(text: &'static str) -> Self {
        Self::Whole(Some(Bytes::from_static(text.as_bytes())))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let piece = match &mut *self {
            Self::Over => return Poll::Ready(None),
            Self::Breaking => {
                *self = Self::Over;
                return Poll::Ready(Some(Err(BrokeOff)));
            }
            Self::Whole(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Pieces(pieces) => match pieces.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => piece,
            },
        };
        Poll::Ready(match piece {
            Some(Piece::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End(bill)) => {
                *self = Self::Over;
                Some(Ok(Frame::trailers(trailers(bill))))
            }
            None => {
                // An error now would have hyper drop what it has not flushed, the head perhaps.
                *self = Self::Breaking;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Over | Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Pieces(_) | Self::Breaking => SizeHint::default(),
            Self::Over => SizeHint::with_exact(0),
        }
    }
}

fn trailers(bill: String) -> HeaderMap {
    let bill = HeaderValue::try_from(bill);
    bill.map(|bill| HeaderMap::from_iter([(BILL, bill)]))
        .unwrap_or_default()
}
