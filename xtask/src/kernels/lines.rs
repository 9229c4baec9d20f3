//! A child process read line by line, with one deadline for all of it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Lines that may wait to be read.
const QUEUE: usize = 256;

/// The child; it is killed when this is dropped before its end.
#[derive(Debug)]
pub(crate) struct Lines {
    child: Child,
    name: String,
    receiver: Receiver<String>,
    timeout: Duration,
    deadline: Instant,
}

impl Lines {
    /// Starts `command` and reads its standard output.
    pub(crate) fn spawn(mut command: Command, timeout: Duration) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let out = child.stdout.take().context("the child has no output")?;
        let (sender, receiver) = sync_channel(QUEUE);
        thread::spawn(move || {
            for line in BufReader::new(out).split(b'\n') {
                // An error is the end: the pipe is gone, or whoever read it.
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line);
                if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            name,
            receiver,
            timeout,
            deadline: Instant::now() + timeout,
        })
    }

    /// The next line, or none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<String>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.receiver.recv_timeout(left) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!(
                "{} did not end within {} s; --timeout allows it more",
                self.name,
                self.timeout.as_secs()
            ),
        }
    }

    /// Waits for the child, whose output has ended.
    pub(crate) fn finish(mut self) -> Result<ExitStatus> {
        self.child
            .wait()
            .with_context(|| format!("waiting for {}", self.name))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Lines {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Lines::spawn(command, timeout).unwrap()
    }

    #[test]
    fn lines_come_one_by_one_and_then_the_status() {
        let mut lines = shell("printf 'a\\r\\nb\\n'; exit 3", Duration::from_secs(60));
        assert_eq!(lines.next().unwrap().as_deref(), Some("a"));
        assert_eq!(lines.next().unwrap().as_deref(), Some("b"));
        assert_eq!(lines.next().unwrap(), None);
        assert_eq!(lines.finish().unwrap().code(), Some(3));
    }

    #[test]
    fn a_child_that_does_not_end_is_given_up_and_killed() {
        let mut lines = shell("exec sleep 600", Duration::from_millis(50));
        let error = lines.next().unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
    }
}
