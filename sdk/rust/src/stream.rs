//! Replies and bodies that no message has room for, or that come bit by bit: one HTTP/1.1 exchange with the worker, at
//! the place that its answer over UDP names (`docs/wire-format.md`, "Streams").
//!
//! Nothing is framed here: chunks, their end and their breaking off are HTTP's. What the exchange needs beside the
//! handler's own head is one header, [`STATUS`].

use std::{
    error::Error,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ebpf_common::wire::{Status, StreamPlace, flags};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
    header::{CONNECTION, HOST, TE},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Sleep};

use crate::{
    call::{Call, Response},
    client::Client,
    error::CallError,
    http::{self, ResponseHead},
};

/// What stands before the ticket in the path of an exchange.
pub const PATH: &str = "/stream/";
/// Header of an answer in an exchange: `ok`, or why there is no reply, as [`Status::name`] has it.
pub const STATUS: &str = "x-warmpath-status";
/// A worker ends a stream by its deadline. So long after it, the worker counts as gone.
const GRACE: Duration = Duration::from_secs(5);
/// How long a body that nobody wants is taken.
const LINGER: Duration = Duration::from_secs(5);
/// Longest message of a failure.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The body of a request that follows.
pub type RequestBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// What comes of a call whose caller takes streams.
#[derive(Debug)]
pub enum Reply {
    /// A reply of one message.
    Whole(Response),
    /// One that comes in pieces.
    Stream(Box<Streamed>),
}

/// A reply that comes in pieces. Dropped before its end, it ends the handler.
#[derive(Debug)]
pub struct Streamed {
    /// What stands before it.
    pub head: ResponseHead,
    /// The pieces, and behind them, as trailer, the [`http::BILL`].
    pub body: StreamBody,
}

/// The pieces of a reply. If the handler or its worker fails in the middle, so does the body.
#[derive(Debug)]
pub struct StreamBody {
    incoming: Incoming,
    patience: Pin<Box<Sleep>>,
}

/// Why a stream did not begin, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The worker's answer names no place.
    #[error("the worker's answer says that a stream follows, and does not say where")]
    NoPlace,
    /// Nobody there.
    #[error("cannot connect: is the worker's `[stream] listen` address reachable from here?")]
    Connect(#[source] io::Error),
    /// The connection was lost, or something else than HTTP came.
    #[error("the exchange broke off")]
    Broken(#[source] hyper::Error),
    /// The call's budget is over.
    #[error("the worker neither went on nor ended by the deadline")]
    TimedOut,
    /// The worker does not know the ticket, or not any more.
    #[error("the worker refused the ticket ({0})")]
    Refused(StatusCode),
}

impl Client {
    /// Calls a function as [`Client::call`] does, and takes a stream for its reply. With a `body`, that is the request's,
    /// and the call's payload is empty or, of HTTP, the head alone ([`Call::http`]).
    ///
    /// Body and reply may go on at the same time. The call's budget holds for the whole stream.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Stream`] when the place that the worker names cannot be spoken to.
    pub async fn stream(&self, call: Call, body: Option<RequestBody>) -> Result<Reply, CallError> {
        let stream_flags = match body {
            Some(_) => flags::STREAM | flags::BODY_FOLLOWS,
            None => flags::STREAM,
        };
        let (budget, deadline) = (call.budget, Instant::now() + call.budget);
        let (response, goes_on) = self.run_checked(call, stream_flags).await?;
        if !goes_on {
            return Ok(Reply::Whole(response));
        }
        let place = StreamPlace::parse(&response.payload).ok_or(CallError::Stream {
            address: None,
            source: StreamError::NoPlace,
        })?;
        let exchange = exchange(place, body, &response, deadline + GRACE);
        match tokio::time::timeout_at(deadline.into(), exchange).await {
            Ok(streamed) => streamed.map(|streamed| Reply::Stream(Box::new(streamed))),
            Err(_elapsed) => Err(CallError::Timeout {
                budget,
                attempts: response.attempts,
                retransmits: response.retransmits,
                acknowledged: true,
            }),
        }
    }
}

/// Takes what is left of a body that nobody wants, for a while: its sender has been answered, and would not hear of it if
/// the connection were closed with bytes unread (RFC 9112, 9.6).
pub fn linger<B>(mut body: B)
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Send,
{
    if !body.is_end_stream() {
        let draining = async move { while let Some(Ok(_)) = body.frame().await {} };
        tokio::spawn(tokio::time::timeout(LINGER, draining));
    }
}

/// From the connection to the head of the answer.
async fn exchange(
    place: StreamPlace,
    body: Option<RequestBody>,
    response: &Response,
    patience: Instant,
) -> Result<Streamed, CallError> {
    let failed = |source| CallError::Stream {
        address: Some(place.address),
        source,
    };
    let broken = |error| failed(StreamError::Broken(error));
    let io = connect(place.address).await;
    let io = io.map_err(|error| failed(StreamError::Connect(error)))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
    // It ends with the body, whether that is read to its end or dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a stream's connection ended early");
        }
    });
    let answer = sender
        .send_request(request(place, body))
        .await
        .map_err(broken)?;
    let status = status_of(answer.headers());
    let (parts, incoming) = answer.into_parts();
    match status {
        Some(Status::Ok) => Ok(Streamed {
            head: head_of(parts.status, &parts.headers),
            body: StreamBody {
                incoming,
                patience: Box::pin(tokio::time::sleep_until(patience.into())),
            },
        }),
        Some(status) => Err(CallError::Status {
            status,
            message: message_of(incoming).await,
            retry_after: None,
            attempts: response.attempts,
            http: parts.status == StatusCode::INTERNAL_SERVER_ERROR,
        }),
        None => Err(failed(StreamError::Refused(parts.status))),
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Small pieces leave at once.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request(place: StreamPlace, body: Option<RequestBody>) -> Request<RequestBody> {
    let nothing = || Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::post(format!("{PATH}{}", place.ticket))
        .header(HOST, place.address.to_string())
        .header(TE, "trailers")
        .header(CONNECTION, "close")
        .body(body.unwrap_or_else(nothing))
        .expect("a path of hexadecimal digits and an address as host")
}

fn status_of(headers: &HeaderMap) -> Option<Status> {
    let name = headers.get(STATUS)?.to_str().ok()?;
    Status::ALL
        .iter()
        .copied()
        .find(|status| status.name() == name)
}

/// The handler's head; what concerns the exchange is left out.
fn head_of(status: StatusCode, headers: &HeaderMap) -> ResponseHead {
    let is_handlers = |name: &str| name != STATUS && !http::is_of_one_hop(name);
    let headers = headers
        .iter()
        .filter(|(name, _)| is_handlers(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), http::text_of(value.as_bytes())))
        .collect();
    ResponseHead {
        status: status.as_u16(),
        headers,
    }
}

async fn message_of(incoming: Incoming) -> String {
    match Limited::new(incoming, MESSAGE_BYTES_MAX).collect().await {
        Ok(message) => String::from_utf8_lossy(&message.to_bytes()).into_owned(),
        Err(error) if error.is::<LengthLimitError>() => "(a message without end)".to_owned(),
        Err(_) => String::new(),
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(context);
        if let Poll::Ready(frame) = frame {
            return Poll::Ready(frame.map(|frame| frame.map_err(StreamError::Broken)));
        }
        let late = self.patience.as_mut().poll(context);
        late.map(|()| Some(Err(StreamError::TimedOut)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl StreamBody {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`StreamError`] when the stream broke off.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, StreamError> {
        while let Some(frame) = self.frame().await {
            if let Ok(piece) = frame?.into_data() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}
