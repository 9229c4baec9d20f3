//! The socket to an instance that serves several requests at a time: frames carry the number of their call.
//!
//! One task reads, and gives each frame to the task of its call; whoever writes holds the writing end for
//! one frame. What the handler's process sends for a call that does not run, or out of turn, breaks the
//! connection: the call it names is to blame if there is one, else every call that runs, because nobody can
//! know whose reply it was. When one request ends the instance, the others learn that it was not they.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::BytesMut;
use serde::Serialize;
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
};
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Broken, Connection, receive, send};
use crate::{
    profile::Tap,
    runtime::protocol::{CallMeta, Frame, Kind},
    sandbox::Sandbox,
    stream::WINDOW,
};

/// Frames that wait for the task of their call: chunks of its reply, a question after its body, a database request, and
/// the result of a handler that left a thread behind. A call that sends more breaks the rules of one such question at a
/// time and of the window.
const FRAMES_WAITING_MAX: usize = WINDOW as usize + 3;

/// The worker's end of the socket of an instance that serves several requests at a time.
#[derive(Debug)]
pub(super) struct SharedConnection {
    writer: tokio::sync::Mutex<Writer>,
    calls: Arc<Calls>,
    /// As in the connection that it took over.
    streams: bool,
    _reader: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Writer {
    stream: OwnedWriteHalf,
    output: BytesMut,
}

/// The calls that run in one instance.
#[derive(Debug, Default)]
struct Calls(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: HashMap<u32, Running>,
    last: u32,
    /// Why it is of no use any more, and which call is to blame; `None`: all that ran.
    broken: Option<(Broken, Option<u32>)>,
}

/// What is known of a call that runs, for whoever reads.
#[derive(Debug)]
struct Running {
    frames: mpsc::Sender<Frame>,
    tap: Option<Tap>,
}

impl SharedConnection {
    /// Takes over the connection of a loaded instance. When that breaks, `sandbox` is killed.
    pub(super) fn over(connection: Connection, sandbox: Weak<Sandbox>) -> Arc<Self> {
        let streams = connection.streams();
        let (reader, stream, ahead) = connection.into_halves();
        let calls = Arc::<Calls>::default();
        let reading = read(reader, ahead, Arc::clone(&calls), move || {
            if let Some(sandbox) = sandbox.upgrade() {
                sandbox.kill();
            }
        });
        Arc::new(Self {
            writer: tokio::sync::Mutex::new(Writer {
                stream,
                output: BytesMut::new(),
            }),
            calls,
            streams,
            _reader: AbortOnDropHandle::new(tokio::spawn(reading)),
        })
    }

    /// Whether its instance asks for bodies that follow.
    pub(super) const fn streams(&self) -> bool {
        self.streams
    }

    /// Whether it is of no use any more.
    pub(super) fn is_broken(&self) -> bool {
        self.calls.state().broken.is_some()
    }

    /// One of its requests ends the instance: the others fail, through no fault of theirs.
    pub(super) fn abandon(&self) {
        self.calls.end(Broken::Neighbour, None);
    }

    /// A call more.
    pub(super) fn begin(self: &Arc<Self>, tap: Option<Tap>) -> Result<Call, Broken> {
        let (number, frames) = self.calls.begin(tap)?;
        Ok(Call {
            number,
            frames,
            shared: Arc::clone(self),
        })
    }

    async fn send<M: Serialize>(
        &self,
        kind: Kind,
        meta: Option<&M>,
        data: &[u8],
    ) -> Result<(), Broken> {
        let mut writer = self.writer.lock().await;
        let Writer { stream, output } = &mut *writer;
        send(stream, output, kind, meta, data).await
    }
}

/// One call that runs; dropped, its number is unknown.
#[derive(Debug)]
pub(super) struct Call {
    number: u32,
    frames: mpsc::Receiver<Frame>,
    shared: Arc<SharedConnection>,
}

impl Call {
    /// What its frames are known by.
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// The next frame. May be given up and asked again.
    pub(super) async fn next(&mut self) -> Result<Frame, Broken> {
        let frame = self.frames.recv().await;
        // Whoever reads knows why.
        frame.ok_or_else(|| self.shared.calls.why(self.number))
    }

    /// Writes a frame.
    pub(super) async fn send<M: Serialize>(
        &self,
        kind: Kind,
        meta: Option<&M>,
        data: &[u8],
    ) -> Result<(), Broken> {
        let sent = self.shared.send(kind, meta, data).await;
        sent.map_err(|_closed| self.shared.calls.why(self.number))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.shared.calls.state().running.remove(&self.number);
    }
}

impl Calls {
    fn begin(&self, tap: Option<Tap>) -> Result<(u32, mpsc::Receiver<Frame>), Broken> {
        let (sender, received) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut state = self.state();
        if let Some((broken, _)) = state.broken {
            return Err(broken);
        }
        let mut number = state.last.wrapping_add(1);
        while state.running.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        state.last = number;
        let frames = sender;
        state.running.insert(number, Running { frames, tap });
        Ok((number, received))
    }

    /// Gives a frame to its call; else who is to blame, and for what.
    fn deliver(&self, frame: Frame) -> Result<(), (Broken, Option<u32>)> {
        let CallMeta { call } =
            CallMeta::parse(&frame.meta).map_err(|error| (error.into(), None))?;
        if frame.kind == Kind::Profile {
            return self.sampled(call, &frame);
        }
        let mut state = self.state();
        let is_last = matches!(frame.kind, Kind::Result | Kind::Error | Kind::Wait);
        let sender = if is_last {
            state.running.remove(&call).map(|call| call.frames)
        } else {
            state.running.get(&call).map(|call| call.frames.clone())
        };
        drop(state);
        let sender = sender.ok_or((Broken::UnknownCall(call), None))?;
        let kind = frame.kind;
        sender
            .try_send(frame)
            .or(Err((Broken::OutOfTurn(kind), Some(call))))
    }

    /// Takes samples, for whose sake no call has to stop what it does.
    fn sampled(&self, call: u32, frame: &Frame) -> Result<(), (Broken, Option<u32>)> {
        let mut state = self.state();
        let running = state.running.get_mut(&call);
        let tap = &mut running.ok_or((Broken::UnknownCall(call), None))?.tap;
        let admitted = match tap {
            Some(tap) => tap.admit().map_err(Broken::from),
            None => Err(Broken::OutOfTurn(Kind::Profile)),
        };
        drop(state);
        let added = admitted.and_then(|recording| Ok(recording.add(&frame.data)?));
        added.map_err(|broken| (broken, Some(call)))
    }

    /// Ends all calls; the first reason given is the one that counts.
    fn end(&self, broken: Broken, to_blame: Option<u32>) {
        let mut state = self.state();
        state.broken.get_or_insert((broken, to_blame));
        state.running.clear();
    }

    /// Why `call` ended.
    fn why(&self, call: u32) -> Broken {
        // Copied out, so that the lock is not held on the way.
        let broken = self.state().broken;
        match broken {
            Some((_, Some(to_blame))) if to_blame != call => Broken::Neighbour,
            Some((broken, _)) => broken,
            None => Broken::Closed,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until the connection breaks, and `kill`s the instance then.
async fn read(mut stream: OwnedReadHalf, mut ahead: BytesMut, calls: Arc<Calls>, kill: impl Fn()) {
    let (broken, to_blame) = loop {
        match receive(&mut stream, &mut ahead).await {
            Ok(frame) => {
                if let Err(broken) = calls.deliver(frame) {
                    break broken;
                }
            }
            Err(broken) => break (broken, None),
        }
    };
    calls.end(broken, to_blame);
    kill();
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream};

    use bytes::Bytes;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::{
        bill::DbOps,
        pool::{
            conversation::{Answer, Conversation, Database},
            instance::Line,
        },
        runtime::protocol::{FrameError, InvokeMeta, encode},
    };

    type Asked = JoinHandle<Result<Answer, Broken>>;

    /// A connection with calls 1 to N running, and the handler's end of it.
    async fn bench<const N: usize>() -> (Arc<SharedConnection>, UnixStream, [Asked; N]) {
        let (here, handler) = UnixStream::pair().unwrap();
        let shared = SharedConnection::over(Connection::new(here).unwrap(), Weak::new());
        let calls = std::array::from_fn(|_| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let meta = InvokeMeta {
                    call: None,
                    request_id: 1,
                    session: None,
                    deadline_ms: 1_000,
                    function: "f@1",
                    wake: None,
                    http: None,
                    stream: None,
                    body_follows: false,
                    profile: None,
                };
                let router = db::Router::new(None, db::Metrics::unregistered());
                let mut db = Database {
                    router: &router,
                    ops: &mut DbOps::default(),
                };
                let mut line = Line::Shared(shared);
                let mut conversation = Conversation::begin(&mut line, meta, b"", None).await?;
                conversation.answer(&mut line, &mut db).await
            })
        });
        while shared.calls.state().running.len() < N {
            tokio::task::yield_now().await;
        }
        (shared, handler, calls)
    }

    fn frame(kind: Kind, call: Option<u32>, data: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        let meta = call.map(|call| serde_json::json!({ "call": call }));
        encode(&mut frame, kind, meta.as_ref(), data);
        frame
    }

    async fn result(call: Asked) -> Bytes {
        match call.await.unwrap() {
            Ok(Answer::Result(data, _)) => data,
            other => panic!("{other:?}"),
        }
    }

    async fn broken(call: Asked) -> Broken {
        call.await.unwrap().unwrap_err()
    }

    #[tokio::test]
    async fn replies_reach_their_calls_in_any_order() {
        let (shared, mut handler, [one, two, three]) = bench().await;
        for (call, data) in [(2, b"two"), (3, b"thr"), (1, b"one")] {
            let frame = frame(Kind::Result, Some(call), data);
            handler.write_all(&frame).unwrap();
        }
        assert_eq!(result(one).await, "one");
        assert_eq!(result(two).await, "two");
        assert_eq!(result(three).await, "thr");
        assert!(!shared.is_broken());
    }

    #[tokio::test]
    async fn a_reply_that_is_nobodys_may_be_anybodys_so_all_fail() {
        for (call, expected) in [
            (Some(9), "call that does not run: 9"),
            (None, "meta is malformed"),
        ] {
            let (shared, mut handler, [one, two]) = bench().await;
            let frame = frame(Kind::Result, call, b"");
            handler.write_all(&frame).unwrap();
            for call in [one, two] {
                let broken = broken(call).await;
                assert!(broken.to_string().contains(expected), "{broken}");
            }
            assert!(shared.is_broken());
        }
    }

    #[tokio::test]
    async fn a_second_reply_to_one_call_is_nobodys() {
        let (_shared, mut handler, [one, two]) = bench().await;
        for _ in 0..2 {
            handler
                .write_all(&frame(Kind::Result, Some(1), b""))
                .unwrap();
        }
        assert_eq!(result(one).await, "");
        assert!(matches!(broken(two).await, Broken::UnknownCall(1)));
    }

    #[tokio::test]
    async fn a_call_that_floods_is_to_blame_and_the_others_are_not() {
        let (_shared, mut handler, [one, two]) = bench().await;
        let request = frame(Kind::DbRequest, Some(2), b"");
        let flood: Vec<u8> = request.repeat(FRAMES_WAITING_MAX + 1);
        handler.write_all(&flood).unwrap();
        assert!(matches!(broken(one).await, Broken::Neighbour));
        let flooding = broken(two).await;
        assert!(matches!(flooding, Broken::OutOfTurn(Kind::DbRequest)));
    }

    #[tokio::test]
    async fn who_is_left_behind_learns_that_another_ended_the_instance() {
        let (shared, handler, [one, two]) = bench().await;
        shared.abandon();
        drop(handler);
        for call in [one, two] {
            assert!(matches!(broken(call).await, Broken::Neighbour));
        }
        assert!(shared.is_broken());
    }

    #[tokio::test]
    async fn all_learn_of_an_end_and_of_garbage() {
        let (_shared, handler, [one]) = bench().await;
        drop(handler);
        assert!(matches!(broken(one).await, Broken::Closed));
        let (_shared, mut handler, [one]) = bench().await;
        handler.write_all(b"GET /").unwrap();
        let garbage = broken(one).await;
        assert!(matches!(
            garbage,
            Broken::Frame(FrameError::UnknownKind(b'G'))
        ));
    }
}
