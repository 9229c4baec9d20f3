//! What an instance prints: drained for ever, so that it never blocks on it; the end of it is kept.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::net::unix::pipe;

/// What is kept of an instance's output.
const TAIL_BYTES_MAX: usize = 16 * 1024;
/// What is read at once; not held while nothing is printed.
const READ_BYTES: usize = 64 * 1024;

/// The end of what one instance printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    fn push(&self, printed: &[u8]) {
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let printed = &printed[printed.len().saturating_sub(TAIL_BYTES_MAX)..];
        let too_many = (tail.len() + printed.len()).saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..too_many);
        tail.extend_from_slice(printed);
    }

    /// It, as text.
    pub(super) fn text(&self) -> String {
        let tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&tail).into_owned()
    }
}

/// Reads `log` to its end: when all processes of the sandbox have ended or closed it.
pub(super) async fn drain(log: OwnedFd, tail: Tail, total: &AtomicU64) -> io::Result<()> {
    let log = pipe::Receiver::from_owned_fd(log)?;
    loop {
        log.readable().await?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match log.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    total.fetch_add(count as u64, Ordering::Relaxed);
                    tail.push(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            // A handler that prints without end must not keep this thread to itself.
            tokio::task::consume_budget().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_end_and_no_more() {
        let tail = Tail::default();
        tail.push(b"the beginning");
        tail.push(&vec![b'x'; TAIL_BYTES_MAX - 3]);
        tail.push(b"end");
        let text = tail.text();
        assert_eq!(text.len(), TAIL_BYTES_MAX);
        assert!(text.starts_with('x') && text.ends_with("xend"));
        tail.push(&vec![b'y'; 3 * TAIL_BYTES_MAX]);
        assert_eq!(tail.text(), "y".repeat(TAIL_BYTES_MAX));
    }
}
