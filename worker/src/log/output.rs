//! The two pipes of one instance, and whose output is in them.
//!
//! The runtime flushes before it answers, so whatever a request printed is in the pipes when its reply is
//! here: the pipes are emptied before a request begins and when it ends, and what is read in between is its
//! own. What threads and children of a handler print when no request runs is nobody's. An instance that
//! serves several requests at a time says by frames whose output it is; what still comes through its pipes
//! is nobody's unless only one request runs.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::net::unix::pipe;

use super::{Entry, Hidden, Logs, Stream};

/// What one request may have kept of it, both streams together.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// The longest line that is kept whole.
const LINE_BYTES_MAX: usize = 8 << 10;
/// What is read at once.
const READ_BYTES: usize = 4 << 10;
/// Reads of one pipe in one turn: no more than a pipe holds, so that whoever prints without end holds nobody up.
const READS_MAX: usize = (64 << 10) / READ_BYTES;
/// What is kept of an instance's output for the worker's own log.
const TAIL_BYTES_MAX: usize = 16 << 10;

/// Whose output it is.
#[derive(Debug, Clone)]
pub struct Source {
    /// The function.
    pub function: String,
    /// Its version.
    pub version: u32,
    /// The instance.
    pub instance: u64,
    /// What it knows and must not be kept.
    pub hidden: Hidden,
}

/// What one instance prints.
#[derive(Debug)]
pub struct Output {
    source: Source,
    pipes: [(Stream, pipe::Receiver); 2],
    state: Mutex<State>,
    logs: Arc<Logs>,
    total: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    running: Vec<Running>,
    /// What was printed while nobody, or nobody in particular, ran.
    nobody: Running,
    tail: Vec<u8>,
}

/// The output of one request.
#[derive(Debug, Default)]
struct Running {
    request: Option<u64>,
    kept_bytes: usize,
    cut_bytes: u64,
    /// Lines without an end, by stream.
    partial: [Vec<u8>; 2],
}

impl Output {
    /// Takes the pipes of an instance over.
    ///
    /// # Errors
    /// When they are no pipes.
    pub fn new(
        source: Source,
        [stdout, stderr]: [OwnedFd; 2],
        logs: Arc<Logs>,
        total: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        Ok(Self {
            source,
            pipes: [
                (Stream::Stdout, pipe::Receiver::from_owned_fd(stdout)?),
                (Stream::Stderr, pipe::Receiver::from_owned_fd(stderr)?),
            ],
            state: Mutex::default(),
            logs,
            total,
        })
    }

    /// A request begins.
    pub fn begin(&self, request: u64) {
        let mut state = self.state();
        self.take(&mut state);
        if state.running.is_empty() {
            self.flush(&mut state.nobody);
        }
        state.running.push(Running {
            request: Some(request),
            ..Running::default()
        });
    }

    /// A request has ended: what it printed is read to its end.
    pub fn end(&self, request: u64) {
        let mut state = self.state();
        self.take(&mut state);
        let at = state
            .running
            .iter()
            .position(|running| running.request == Some(request));
        if let Some(at) = at {
            let mut running = state.running.swap_remove(at);
            self.flush(&mut running);
        }
    }

    /// A request has printed `printed`, as the instance itself says.
    pub fn printed(&self, request: u64, stream: Stream, printed: &[u8]) {
        let mut state = self.state();
        self.total
            .fetch_add(printed.len() as u64, Ordering::Relaxed);
        state.keep_tail(printed);
        let running = state
            .running
            .iter_mut()
            .find(|running| running.request == Some(request));
        if let Some(running) = running {
            self.keep(running, stream, printed);
        }
    }

    /// The end of what it printed, as text.
    pub fn tail(&self) -> String {
        let tail = String::from_utf8_lossy(&self.state().tail).into_owned();
        self.source.hidden.hide(tail)
    }

    /// Reads both pipes to their ends: when all processes of the sandbox have ended or closed them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn drain(&self) -> io::Result<()> {
        let [stdout, stderr] = &self.pipes;
        let (out, err) = tokio::join!(self.drain_one(stdout), self.drain_one(stderr));
        let mut state = self.state();
        self.flush(&mut state.nobody);
        out.and(err)
    }

    async fn drain_one(&self, (stream, pipe): &(Stream, pipe::Receiver)) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        loop {
            pipe.readable().await?;
            if !self.read_once(*stream, pipe, &mut buffer)? {
                return Ok(());
            }
            // A handler that prints without end must not keep this thread to itself.
            tokio::task::consume_budget().await;
        }
    }

    /// Reads what is ready, under the lock: it belongs to whoever runs now, and to nobody who begins meanwhile. False at
    /// the end.
    fn read_once(
        &self,
        stream: Stream,
        pipe: &pipe::Receiver,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        let mut state = self.state();
        match pipe.try_read(buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.give(&mut state, stream, &buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes what is in the pipes now. By the system call itself: what the runtime's reactor knows may be a
    /// moment old.
    fn take(&self, state: &mut State) {
        let mut buffer = [0; READ_BYTES];
        for (stream, pipe) in &self.pipes {
            for _ in 0..READS_MAX {
                match rustix::io::read(pipe, &mut buffer) {
                    Ok(count) if count > 0 => self.give(state, *stream, &buffer[..count]),
                    // Empty or at its end; what else there is to say, the task that drains it hears.
                    _ => break,
                }
            }
        }
    }

    fn give(&self, state: &mut State, stream: Stream, printed: &[u8]) {
        self.total
            .fetch_add(printed.len() as u64, Ordering::Relaxed);
        state.keep_tail(printed);
        let State {
            running, nobody, ..
        } = state;
        let whose = match running.as_mut_slice() {
            [only] => only,
            _ => nobody,
        };
        self.keep(whose, stream, printed);
    }

    /// Keeps whole lines at once, and the beginning of the next until its end comes.
    fn keep(&self, running: &mut Running, stream: Stream, printed: &[u8]) {
        // What nobody printed is bounded by the ring alone.
        let room = match running.request {
            Some(_) => REQUEST_BYTES_MAX - running.kept_bytes,
            None => printed.len(),
        };
        let (kept, cut) = printed.split_at(room.min(printed.len()));
        running.kept_bytes += kept.len();
        running.cut_bytes += cut.len() as u64;
        let partial = &mut running.partial[stream as usize];
        partial.extend_from_slice(kept);
        let lines = match partial.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if partial.len() > LINE_BYTES_MAX => partial.len(),
            None => return,
        };
        let lines: Vec<u8> = partial.drain(..lines).collect();
        self.push(running.request, stream, &lines, 0);
    }

    /// Keeps what has no end of line, and says how much was cut.
    fn flush(&self, running: &mut Running) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut running.partial[stream as usize]);
            if !rest.is_empty() {
                self.push(running.request, stream, &rest, 0);
            }
        }
        let cut_bytes = std::mem::take(&mut running.cut_bytes);
        if cut_bytes > 0 {
            self.push(running.request, Stream::Stderr, b"", cut_bytes);
        }
    }

    fn push(&self, request: Option<u64>, stream: Stream, text: &[u8], cut_bytes: u64) {
        let Source {
            function,
            version,
            instance,
            hidden,
        } = &self.source;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.logs.push(Entry {
            seq: 0,
            at_ms: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
            function: function.clone(),
            version: *version,
            instance: *instance,
            request: request.map(|request| format!("{request:016x}")),
            stream,
            text: hidden.hide(String::from_utf8_lossy(text).into_owned()),
            cut_bytes,
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep_tail(&mut self, printed: &[u8]) {
        let printed = &printed[printed.len().saturating_sub(TAIL_BYTES_MAX)..];
        let too_many = (self.tail.len() + printed.len()).saturating_sub(TAIL_BYTES_MAX);
        self.tail.drain(..too_many);
        self.tail.extend_from_slice(printed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::log::Wanted;

    struct Bench {
        output: Output,
        logs: Arc<Logs>,
        stdout: io::PipeWriter,
        stderr: io::PipeWriter,
    }

    fn bench() -> Bench {
        let (out, stdout) = io::pipe().unwrap();
        let (err, stderr) = io::pipe().unwrap();
        let logs = Arc::<Logs>::default();
        let source = Source {
            function: "f".to_owned(),
            version: 3,
            instance: 9,
            hidden: Hidden::new(["hunter2"]),
        };
        let pipes = [out.into(), err.into()];
        let output = Output::new(source, pipes, Arc::clone(&logs), Arc::default()).unwrap();
        Bench {
            output,
            logs,
            stdout,
            stderr,
        }
    }

    impl Bench {
        /// Request, stream and text of all entries.
        fn entries(&self) -> Vec<(Option<u64>, Stream, String)> {
            let wanted = Wanted {
                function: "f".to_owned(),
                ..Wanted::default()
            };
            let number = |request: &String| u64::from_str_radix(request, 16).unwrap();
            self.logs
                .read(&wanted)
                .entries
                .iter()
                .map(|entry| {
                    (
                        entry.request.as_ref().map(number),
                        entry.stream,
                        entry.text.clone(),
                    )
                })
                .collect()
        }
    }

    #[tokio::test]
    async fn each_request_has_what_it_printed_and_nothing_else() {
        let mut bench = bench();
        bench.stdout.write_all(b"loading\n").unwrap();
        bench.output.begin(1);
        bench.stdout.write_all(b"one\nunfinished").unwrap();
        bench.stderr.write_all(b"oh\n").unwrap();
        bench.output.end(1);
        bench.stderr.write_all(b"a thread goes on\n").unwrap();
        bench.output.begin(2);
        bench.stdout.write_all(b"two\n").unwrap();
        bench.output.end(2);
        let text = |text: &str| text.to_owned();
        let expected = [
            (None, Stream::Stdout, text("loading\n")),
            (Some(1), Stream::Stdout, text("one\n")),
            (Some(1), Stream::Stderr, text("oh\n")),
            (Some(1), Stream::Stdout, text("unfinished")),
            (None, Stream::Stderr, text("a thread goes on\n")),
            (Some(2), Stream::Stdout, text("two\n")),
        ];
        assert_eq!(bench.entries(), expected);
        assert!(bench.output.tail().ends_with("two\n"));
    }

    #[tokio::test]
    async fn a_flood_is_cut_and_says_by_how_much() {
        let bench = bench();
        bench.output.begin(1);
        let mut stdout = bench.stdout.try_clone().unwrap();
        let printing = tokio::task::spawn_blocking(move || {
            for _ in 0..1_000 {
                stdout.write_all(&[b'x'; 999]).unwrap();
                stdout.write_all(b"\n").unwrap();
            }
        });
        tokio::select! {
            printed = printing => printed.unwrap(),
            drained = bench.output.drain() => drained.unwrap(),
        }
        bench.output.end(1);
        let wanted = Wanted {
            function: "f".to_owned(),
            ..Wanted::default()
        };
        let entries = bench.logs.read(&wanted).entries;
        let kept: usize = entries.iter().map(|entry| entry.text.len()).sum();
        assert_eq!(kept, REQUEST_BYTES_MAX);
        let cut: u64 = entries.iter().map(|entry| entry.cut_bytes).sum();
        assert_eq!(cut, 1_000_000 - REQUEST_BYTES_MAX as u64);
        assert!(entries.iter().all(|entry| entry.request.is_some()));
    }

    #[tokio::test]
    async fn an_instance_that_serves_several_says_whose_output_it_is() {
        let mut bench = bench();
        bench.output.begin(1);
        bench.output.begin(2);
        bench.output.printed(2, Stream::Stdout, b"two\n");
        bench.output.printed(1, Stream::Stderr, b"one\n");
        bench.output.printed(7, Stream::Stderr, b"not running\n");
        bench.stdout.write_all(b"from C\n").unwrap();
        bench.output.end(1);
        bench.stdout.write_all(b"alone now\n").unwrap();
        bench.output.end(2);
        let whose: Vec<_> = bench
            .entries()
            .into_iter()
            .map(|(request, _, text)| (request, text))
            .collect();
        let expected = [
            (Some(2), "two\n"),
            (Some(1), "one\n"),
            (Some(2), "alone now\n"),
        ]
        .map(|(request, text)| (request, text.to_owned()));
        assert!(
            expected.iter().all(|line| whose.contains(line)),
            "{whose:?}"
        );
        assert!(
            !whose
                .iter()
                .any(|(request, text)| request.is_some() && text == "from C\n")
        );
    }

    #[tokio::test]
    async fn the_tail_is_the_end_and_no_more() {
        let mut bench = bench();
        for byte in [b'a', b'b'] {
            bench.stdout.write_all(&[byte; TAIL_BYTES_MAX]).unwrap();
            bench.output.begin(1);
            bench.output.end(1);
        }
        assert_eq!(bench.output.tail(), "b".repeat(TAIL_BYTES_MAX));
    }

    #[tokio::test]
    async fn secrets_are_neither_kept_nor_in_the_tail() {
        let mut bench = bench();
        bench.output.begin(1);
        bench.stdout.write_all(b"hunter2\nhunt").unwrap();
        bench.output.begin(2);
        bench.output.end(2);
        bench.stdout.write_all(b"er2\n").unwrap();
        bench.output.end(1);
        let texts: Vec<_> = bench.entries().into_iter().map(|(.., text)| text).collect();
        assert_eq!(texts, ["[hidden]\n", "[hidden]\n"]);
        assert_eq!(bench.output.tail(), "[hidden]\n[hidden]\n");
    }

    #[tokio::test]
    async fn draining_ends_with_the_last_writer() {
        let Bench {
            output,
            stdout,
            stderr,
            ..
        } = bench();
        drop((stdout, stderr));
        output.drain().await.unwrap();
    }
}
