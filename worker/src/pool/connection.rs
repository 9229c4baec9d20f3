//! The socket to one instance. The task of the request that it serves does the reading and writing: no task, lock or channel lies between a request and its handler. An instance that
//! serves several requests at a time has a [`shared`](super::shared) connection instead, once it is loaded.

use std::io;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixStream, unix},
};

use crate::{
    bill::DbOps,
    runtime::protocol::{
        DbErrorMeta, DbReplyMeta, ErrorMeta, Frame, FrameError, Kind, LoadMeta, LoadedMeta, decode,
        encode,
    },
    stream::NoBody,
};

/// What is read at once.
const READ_BYTES: usize = 8 * 1024;
/// Buffers that a long message made longer than this are given back.
const KEEP_BYTES_MAX: usize = 128 * 1024;

/// Why an instance is of no use any more.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum Broken {
    /// Its end of the socket is closed: it ended, or closed it.
    #[error("the handler's process ended, or closed its socket")]
    Closed,
    /// It wrote what is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It sent a frame that is not due.
    #[error("the handler's process sent a frame out of turn: {0:?}")]
    OutOfTurn(Kind),
    /// It sent a frame for a request that it does not serve, or has answered.
    #[error("the handler's process sent a frame for a call that does not run: {0}")]
    UnknownCall(u32),
    /// It sent more of a stream than may be.
    #[error("the stream is longer than the {0} bytes of `[stream] reply_bytes_max`")]
    StreamTooLong(u64),
    /// What stands before its stream cannot stand before one.
    #[error("the head of the stream cannot be written as HTTP, or says that there is no body")]
    Head,
    /// There is nothing to give it: its body did not come, or is longer than a message to a runtime that takes no streams.
    #[error(transparent)]
    Body(NoBody),
    /// It was told that its caller is gone, and did not end.
    #[error("the handler went on after its caller had gone")]
    Overstayed,
    /// Another request ended it.
    #[error("another request in the same instance ended it")]
    Neighbour,
}

/// The worker's end of an instance's socket.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    input: BytesMut,
    output: BytesMut,
    /// As its instance said when it was loaded.
    streams: bool,
}

impl Connection {
    /// Takes over a socket that `Ready` has been read from.
    pub(super) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        Ok(Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            streams: false,
        })
    }

    /// Whether nothing came since the last answer: neither an end nor bytes that nobody asked for. Costs
    /// no system call when nothing did.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        self.input.is_empty()
            && matches!(
                self.stream.try_read(&mut byte),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock
            )
    }

    /// Has the instance load its function: what it says of that, or what the function raised.
    pub(super) async fn load(
        &mut self,
        meta: &LoadMeta<'_>,
    ) -> Result<Result<LoadedMeta, ErrorMeta>, Broken> {
        let begun = std::time::Instant::now();
        self.send(Kind::Load, Some(meta), &[]).await?;
        let frame = self.receive().await?;
        match frame.kind {
            Kind::Ready => {
                let loaded = LoadedMeta::parse(&frame.meta, begun.elapsed())?;
                self.streams = loaded.streams;
                Ok(Ok(loaded))
            }
            Kind::Error => Ok(Err(ErrorMeta::parse(&frame.meta)?)),
            other => Err(Broken::OutOfTurn(other)),
        }
    }

    /// Writes a frame.
    pub(super) async fn send<M: Serialize>(
        &mut self,
        kind: Kind,
        meta: Option<&M>,
        data: &[u8],
    ) -> Result<(), Broken> {
        send(&mut self.stream, &mut self.output, kind, meta, data).await
    }

    /// The next frame. May be given up and asked again.
    pub(super) async fn receive(&mut self) -> Result<Frame, Broken> {
        receive(&mut self.stream, &mut self.input).await
    }

    /// Whether its instance asks for bodies that follow.
    pub(super) const fn streams(&self) -> bool {
        self.streams
    }

    /// Its two directions, and what was read ahead.
    pub(super) fn into_halves(self) -> (unix::OwnedReadHalf, unix::OwnedWriteHalf, BytesMut) {
        let (reader, writer) = self.stream.into_split();
        (reader, writer, self.input)
    }
}

/// The next frame of `stream`, of which `input` was read ahead.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> Result<Frame, Broken> {
    loop {
        if let Some(frame) = decode(input)? {
            if input.is_empty() && input.capacity() > KEEP_BYTES_MAX {
                *input = BytesMut::new();
            }
            return Ok(frame);
        }
        input.reserve(READ_BYTES);
        match stream.read_buf(input).await {
            Ok(0) | Err(_) => return Err(Broken::Closed),
            Ok(_) => {}
        }
    }
}

/// Writes a frame, by way of `output`.
pub(super) async fn send<M: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    output: &mut BytesMut,
    kind: Kind,
    meta: Option<&M>,
    data: &[u8],
) -> Result<(), Broken> {
    output.clear();
    encode(output, kind, meta, data);
    let sent = stream.write_all(output).await;
    if output.capacity() > KEEP_BYTES_MAX {
        *output = BytesMut::new();
    }
    sent.or(Err(Broken::Closed))
}

/// Does what a handler asks of the database: meta and data of the reply.
pub(super) async fn answer_db(
    call: Option<u32>,
    request: &[u8],
    db: &db::Router,
    ops: &mut DbOps,
) -> (Option<DbReplyMeta>, Bytes) {
    let (kind, done) = match db::codec::decode_op(request) {
        // Feeds are how the platform triggers functions, not for handlers.
        Ok(db::Op::Feed { .. }) => (None, Err(malformed("handlers cannot read feeds"))),
        // What lies there makes calls, of any function.
        Ok(op) if op.is_of_platform() => (
            None,
            Err(malformed(
                "keys and tags that begin with `wp-` are the platform's",
            )),
        ),
        Ok(op) => (Some(op.kind()), db.execute(op).await),
        Err(error) => (None, Err(malformed(&error.to_string()))),
    };
    ops.count(kind, done.as_ref().ok().map(|(_, locality)| *locality));
    match done {
        Ok((reply, _)) => {
            let meta = call.map(DbReplyMeta::good);
            (meta, db::codec::encode_reply(&reply).into())
        }
        Err(error) => {
            let meta = DbReplyMeta {
                call,
                error: Some(DbErrorMeta {
                    error: error.to_string(),
                    kind: error.kind(),
                    retryable: error.is_retryable(),
                }),
            };
            (Some(meta), Bytes::new())
        }
    }
}

fn malformed(reason: &str) -> db::DbError {
    db::DbError::Malformed {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, std::os::unix::net::UnixStream) {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        (Connection::new(here).unwrap(), there)
    }

    #[tokio::test]
    async fn notices_an_instance_that_ended_while_idle() {
        let (connection, there) = pair();
        assert!(connection.is_quiet());
        drop(there);
        connection.stream.readable().await.unwrap();
        assert!(!connection.is_quiet());
    }

    #[tokio::test]
    async fn notices_bytes_that_nobody_asked_for() {
        let (connection, mut there) = pair();
        std::io::Write::write_all(&mut there, b"x").unwrap();
        connection.stream.readable().await.unwrap();
        assert!(!connection.is_quiet());
    }
}
