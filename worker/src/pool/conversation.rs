//! One request's conversation with the instance that serves it: what it is told, what it asks, how it answers.
//!
//! A call without a stream is a loop over frames, and nothing else. A stream adds three things that may happen at any
//! time: room for a piece of the reply, a piece of the body, the caller's going. None of them waits for another, so
//! that a handler can read and write at once, and use the database beside.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use warmpath_sdk::http::ResponseHead;

use super::{
    connection::{Broken, answer_db},
    instance::Line,
    shared,
};
use crate::{
    bill::DbOps,
    park::Wait,
    profile::Tap,
    runtime::protocol::{
        BodyMeta, CallMeta, ErrorMeta, Frame, InvokeMeta, Kind, ResultMeta, WaitMeta,
    },
    stream::{Lost, Piece, Port, WINDOW},
};

/// How a handler answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// With a reply, or the last piece of it, and what a handler that speaks HTTP says before it.
    Result(Bytes, Option<ResponseHead>),
    /// With an exception.
    Exception(ErrorMeta),
    /// Not yet: it waits for something.
    Wait(Wait),
    /// With the first piece of a stream, and what stands before it.
    Opens(Option<ResponseHead>),
}

/// Why a stream is given up before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// Its caller hung up, or never came.
    HungUp,
    /// Its body is longer than the worker takes.
    BodyTooLong,
}

/// What the database does for a handler.
pub(super) struct Database<'a> {
    pub(super) router: &'a db::Router,
    pub(super) ops: &'a mut DbOps,
}

/// One call in an instance.
#[derive(Debug)]
pub(super) struct Conversation {
    over: Over,
    /// Whether the caller takes a stream, and whether it has begun.
    may_stream: bool,
    is_open: bool,
    /// Whether a body follows that the handler can ask for, and whether it waits for a piece.
    has_body: bool,
    is_asked: bool,
    /// Pieces that came and are not taken. Of each one the instance hears when it is.
    queue: VecDeque<Bytes>,
    /// Bytes of all that came.
    chunk_bytes: u64,
    given_up: Option<GivenUp>,
}

#[derive(Debug)]
enum Over {
    Alone(Option<Tap>),
    Shared(shared::Call),
}

/// What happens next in a stream.
enum Event {
    Gone,
    Taken,
    Body(Result<Option<Bytes>, Lost>),
    Frame(Frame),
}

impl Conversation {
    /// Has the instance run its function on `event`.
    pub(super) async fn begin(
        line: &mut Line,
        mut meta: InvokeMeta<'_>,
        event: &[u8],
        tap: Option<Tap>,
    ) -> Result<Self, Broken> {
        let over = match line {
            Line::Alone(_) => Over::Alone(tap),
            Line::Shared(shared) => Over::Shared(shared.begin(tap)?),
        };
        let conversation = Self {
            over,
            may_stream: meta.stream.is_some(),
            is_open: false,
            has_body: meta.body_follows,
            is_asked: false,
            queue: VecDeque::new(),
            chunk_bytes: 0,
            given_up: None,
        };
        meta.call = conversation.call().map(|it| it.call);
        let sent = conversation.send(line, Kind::Invoke, Some(&meta), event);
        sent.await?;
        Ok(conversation)
    }

    /// Goes on to the answer, or to the first piece of one.
    pub(super) async fn answer(
        &mut self,
        line: &mut Line,
        db: &mut Database<'_>,
    ) -> Result<Answer, Broken> {
        loop {
            let frame = self.next(line).await?;
            if let Some(answer) = self.take(line, frame, db).await? {
                return Ok(answer);
            }
        }
    }

    /// As [`Self::answer`], while body and reply go through `port`. What came last is left in the queue.
    pub(super) async fn stream(
        &mut self,
        line: &mut Line,
        port: &mut Port,
        db: &mut Database<'_>,
    ) -> Result<Answer, Broken> {
        loop {
            match self.event(line, port).await? {
                Event::Taken => {
                    let call = self.call();
                    self.send(line, Kind::GoOn, call.as_ref(), &[]).await?;
                }
                Event::Body(Ok(piece)) => {
                    if port.took(piece.as_ref()) > port.limits.body_bytes_max {
                        let grace = port.limits.hangup();
                        return self.give_up(line, GivenUp::BodyTooLong, grace, db).await;
                    }
                    self.pass_on(line, piece).await?;
                }
                Event::Gone | Event::Body(Err(Lost)) => {
                    let grace = port.limits.hangup();
                    return self.give_up(line, GivenUp::HungUp, grace, db).await;
                }
                Event::Frame(frame) => match self.take(line, frame, db).await? {
                    Some(Answer::Wait(_)) => return Err(Broken::OutOfTurn(Kind::Wait)),
                    Some(answer) => return Ok(answer),
                    None if self.chunk_bytes > port.limits.reply_bytes_max => {
                        return Err(Broken::StreamTooLong(port.limits.reply_bytes_max));
                    }
                    None => (),
                },
            }
        }
    }

    async fn event(&mut self, line: &mut Line, port: &mut Port) -> Result<Event, Broken> {
        let (has_pieces, is_asked) = (!self.queue.is_empty(), self.is_asked);
        let Port { body, pieces, .. } = port;
        tokio::select! {
            biased;
            () = pieces.closed() => Ok(Event::Gone),
            Ok(room) = pieces.reserve(), if has_pieces => {
                if let Some(piece) = self.queue.pop_front() {
                    port.carried.sent(piece.len());
                    room.send(Piece::Data(piece));
                }
                Ok(Event::Taken)
            }
            piece = body.piece(), if is_asked => Ok(Event::Body(piece)),
            frame = self.next(line) => frame.map(Event::Frame),
        }
    }

    /// Tells the handler that nothing of its call is wanted any more, and waits so long for its end.
    pub(super) async fn give_up(
        &mut self,
        line: &mut Line,
        why: GivenUp,
        grace: Duration,
        db: &mut Database<'_>,
    ) -> Result<Answer, Broken> {
        self.given_up = Some(why);
        self.queue.clear();
        let ending = async {
            let call = self.call();
            self.send(line, Kind::Gone, call.as_ref(), &[]).await?;
            self.answer(line, db).await
        };
        let ended = tokio::time::timeout(grace, ending).await;
        ended.unwrap_or(Err(Broken::Overstayed))
    }

    /// Why it was given up, if it was.
    pub(super) const fn given_up(&self) -> Option<GivenUp> {
        self.given_up
    }

    /// What came and was not taken.
    pub(super) fn rest(&mut self) -> VecDeque<Bytes> {
        std::mem::take(&mut self.queue)
    }

    /// Does what a frame asks for; the answer, if it is one.
    async fn take(
        &mut self,
        line: &mut Line,
        frame: Frame,
        db: &mut Database<'_>,
    ) -> Result<Option<Answer>, Broken> {
        match frame.kind {
            Kind::Result => {
                let head = ResultMeta::parse(&frame.meta)?;
                return Ok(Some(Answer::Result(frame.data, head)));
            }
            Kind::Error => return Ok(Some(Answer::Exception(ErrorMeta::parse(&frame.meta)?))),
            Kind::Wait if !self.is_open => {
                return Ok(Some(Answer::Wait(WaitMeta::parse(&frame.meta)?)));
            }
            Kind::DbRequest => {
                let call = self.call().map(|it| it.call);
                let (meta, reply) = answer_db(call, &frame.data, db.router, db.ops).await;
                self.send(line, Kind::DbReply, meta.as_ref(), &reply)
                    .await?;
            }
            Kind::Chunk if self.may_stream => return self.chunk(frame),
            Kind::Pull if self.has_body && !self.is_asked => self.is_asked = true,
            Kind::Profile => match &mut self.over {
                Over::Alone(Some(tap)) => tap.admit()?.add(&frame.data)?,
                Over::Alone(None) | Over::Shared(_) => {
                    return Err(Broken::OutOfTurn(Kind::Profile));
                }
            },
            other => return Err(Broken::OutOfTurn(other)),
        }
        Ok(None)
    }

    fn chunk(&mut self, frame: Frame) -> Result<Option<Answer>, Broken> {
        if self.given_up.is_some() {
            return Ok(None);
        }
        if self.queue.len() >= WINDOW as usize {
            return Err(Broken::OutOfTurn(Kind::Chunk));
        }
        self.chunk_bytes += frame.data.len() as u64;
        self.queue.push_back(frame.data);
        if self.is_open {
            return Ok(None);
        }
        self.is_open = true;
        Ok(Some(Answer::Opens(ResultMeta::parse(&frame.meta)?)))
    }

    /// Gives the handler the piece of the body that it asked for.
    async fn pass_on(&mut self, line: &mut Line, piece: Option<Bytes>) -> Result<(), Broken> {
        self.is_asked = false;
        let meta = BodyMeta {
            call: self.call().map(|it| it.call),
            end: piece.is_none(),
        };
        self.has_body = piece.is_some();
        let data = piece.unwrap_or_default();
        self.send(line, Kind::Body, Some(&meta), &data).await
    }

    /// Its number, in an instance that serves several requests at a time.
    const fn call(&self) -> Option<CallMeta> {
        match &self.over {
            Over::Alone(_) => None,
            Over::Shared(call) => Some(CallMeta {
                call: call.number(),
            }),
        }
    }

    async fn next(&mut self, line: &mut Line) -> Result<Frame, Broken> {
        match (&mut self.over, line) {
            (Over::Shared(call), _) => call.next().await,
            (Over::Alone(_), Line::Alone(connection)) => connection.receive().await,
            // An instance keeps its line.
            (Over::Alone(_), Line::Shared(_)) => Err(Broken::Closed),
        }
    }

    async fn send<M: Serialize>(
        &self,
        line: &mut Line,
        kind: Kind,
        meta: Option<&M>,
        data: &[u8],
    ) -> Result<(), Broken> {
        match (&self.over, line) {
            (Over::Shared(call), _) => call.send(kind, meta, data).await,
            (Over::Alone(_), Line::Alone(connection)) => connection.send(kind, meta, data).await,
            (Over::Alone(_), Line::Shared(_)) => Err(Broken::Closed),
        }
    }
}
