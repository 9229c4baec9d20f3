//! The ends of one exchange: what its connection hands over, and what whoever runs the handler makes of that.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use ebpf_common::limits::MAX_MESSAGE;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use warmpath_sdk::stream::linger;

use super::{PIECE_BYTES_MAX, StreamLimits, answer::Said};
use crate::pool::Outcome;

/// A handler that runs, or is about to, and whose reply or body is a stream.
pub trait Streaming: fmt::Debug + Send {
    /// Goes on over `claim` to the end.
    fn drive(self: Box<Self>, claim: Claim)
    -> Pin<Box<dyn Future<Output = (End, Outcome)> + Send>>;

    /// Nobody came for it in time: what runs of it may take so long to end.
    fn dismiss(self: Box<Self>, grace: Duration) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Whole,
    /// The caller hung up.
    HungUp,
    /// In the middle, or before its first piece: the outcome says why.
    Failed,
    /// Nobody came for it.
    Unclaimed,
}

impl End {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Whole, Self::HungUp, Self::Failed, Self::Unclaimed];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::HungUp => "hung_up",
            Self::Failed => "failed",
            Self::Unclaimed => "unclaimed",
        }
    }
}

/// What goes to the connection.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Of the reply.
    Data(Bytes),
    /// It is whole; the bill.
    End(String),
}

/// Bytes that a stream has carried so far.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

impl Carried {
    /// A piece of the reply goes out.
    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A client that came with a good ticket.
#[derive(Debug)]
pub struct Claim {
    /// The body of its exchange.
    pub(super) body: Incoming,
    /// Told once: the head of the answer, or all of it.
    pub(super) said: oneshot::Sender<Said>,
    /// Closed when the client is gone.
    pub(super) pieces: mpsc::Sender<Piece>,
    pub(super) carried: Arc<Carried>,
    pub(super) limits: StreamLimits,
}

impl Claim {
    /// To go on with it.
    #[must_use]
    pub fn open(self) -> Port {
        Port {
            body: Body {
                incoming: self.body,
                rest: Bytes::new(),
            },
            said: Some(self.said),
            pieces: self.pieces,
            carried: self.carried,
            limits: self.limits,
        }
    }
}

/// The end of an exchange that faces the handler.
#[derive(Debug)]
pub struct Port {
    pub(crate) body: Body,
    pub(super) said: Option<oneshot::Sender<Said>>,
    pub(crate) pieces: mpsc::Sender<Piece>,
    pub(crate) carried: Arc<Carried>,
    pub(crate) limits: StreamLimits,
}

/// A body that breaks off: its sender is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

/// Why a body cannot be put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoBody {
    /// Its sender is gone.
    #[error("the caller hung up in the middle of the body")]
    Lost,
    /// No message has room for it.
    #[error(
        "the function's runtime takes no streams, and the body is longer than the {MAX_MESSAGE} bytes of a message"
    )]
    TooLong,
}

/// The body of a request, as it comes.
#[derive(Debug)]
pub(crate) struct Body {
    pub(super) incoming: Incoming,
    /// Of a frame that was longer than a piece.
    rest: Bytes,
}

impl Body {
    /// The next piece, of at most [`PIECE_BYTES_MAX`]; `None` at the end. May be given up and asked again.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Lost> {
        while self.rest.is_empty() {
            match self.incoming.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(Lost),
                // Trailers are nobody's.
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
            }
        }
        let len = self.rest.len().min(PIECE_BYTES_MAX);
        Ok(Some(self.rest.split_to(len)))
    }
}

impl Port {
    /// Whether the client has been told how the answer begins.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.said.is_none()
    }

    /// Sends a piece of the reply, as soon as there is room for it.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        self.carried.sent(piece.len());
        self.pieces.send(Piece::Data(piece)).await.or(Err(Gone))
    }

    /// As [`Self::send`], one after the other.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn send_all(&self, pieces: impl Iterator<Item = Bytes>) -> Result<(), Gone> {
        for piece in pieces {
            self.send(piece).await?;
        }
        Ok(())
    }

    /// All of the body, for a handler that takes no streams.
    pub(crate) async fn whole_body(&mut self) -> Result<Bytes, NoBody> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.body.piece().await.or(Err(NoBody::Lost))? {
            if whole.len() + piece.len() > MAX_MESSAGE {
                return Err(NoBody::TooLong);
            }
            self.took(Some(&piece));
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Counts a piece of the body: bytes of all so far.
    pub(crate) fn took(&self, piece: Option<&Bytes>) -> u64 {
        let len = piece.map_or(0, Bytes::len) as u64;
        self.carried.bytes_in.fetch_add(len, Ordering::Relaxed) + len
    }

    /// The reply is whole. What is dropped without this breaks off.
    pub async fn finish(self, bill: String) {
        // Whoever is gone needs no end.
        drop(self.pieces.send(Piece::End(bill)).await);
        linger(self.body.incoming);
    }

    /// Bytes of the body that were taken, and of the reply that were sent.
    #[must_use]
    pub fn carried(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.carried.bytes_in), of(&self.carried.bytes_out))
    }
}

/// The client has hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller has hung up")]
pub struct Gone;
