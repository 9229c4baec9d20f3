//! A socket between the worker and one of its trusted helpers (a sandbox's init, a zygote): JSON
//! messages, one a packet, each with the file descriptors it speaks of.
//!
//! Blocking, with a deadline on every receive: it is used off the request path only. What sits behind the
//! other end is our own code, never a handler.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socketpair,
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// Longest message.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Most file descriptors with one message.
const FDS_MAX: usize = 80;

/// Why a message did not go over a [`Channel`].
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// A system call failed.
    #[error("cannot {doing} a control socket")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: Errno,
    },
    /// The process at the other end is gone.
    #[error("the process at the other end of a control socket ended")]
    Closed,
    /// Nothing arrived in time.
    #[error("no answer on a control socket within {0:?}")]
    TimedOut(Duration),
    /// A message is not what the protocol says.
    #[error("a message on a control socket is malformed")]
    Malformed(#[source] serde_json::Error),
    /// A message is longer than [`MESSAGE_BYTES_MAX`], or has too many descriptors.
    #[error("a message on a control socket is too long")]
    TooLong,
}

/// One end of the socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Both ends; neither is inherited by a program unless made its stdin.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|source| ChannelError::Io {
            doing: "make",
            source,
        })?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// The end that this process got as its stdin.
    ///
    /// # Errors
    /// When there is no stdin.
    pub fn stdin() -> Result<Self, ChannelError> {
        let socket =
            rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3).map_err(|source| {
                ChannelError::Io {
                    doing: "duplicate",
                    source,
                }
            })?;
        Ok(Self { socket })
    }

    /// The bare socket, to make it a child's stdin.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// Sends `message` and copies of `fds`.
    ///
    /// # Errors
    /// When the other end is closed.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(ChannelError::Malformed)?;
        if bytes.len() > MESSAGE_BYTES_MAX || fds.len() > FDS_MAX {
            return Err(ChannelError::TooLong);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ChannelError::TooLong);
        }
        match sendmsg(
            &self.socket,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(ChannelError::Closed),
            Err(source) => Err(ChannelError::Io {
                doing: "write to",
                source,
            }),
        }
    }

    /// The next message and its file descriptors, which arrive close-on-exec.
    ///
    /// # Errors
    /// When none arrives before `timeout` (`None`: wait for ever), or the other end is closed.
    pub fn receive<T: DeserializeOwned>(
        &self,
        timeout: Option<Duration>,
    ) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        if let Some(timeout) = timeout {
            self.wait_readable(timeout, &[])?;
        }
        self.take()
    }

    /// As [`Self::receive`], from `processes` (pidfds) that share the other end: when one of them ends, nothing is waited
    /// for any more.
    ///
    /// # Errors
    /// Then, and when no message arrives before `timeout`.
    pub fn receive_from<T: DeserializeOwned>(
        &self,
        processes: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<T, ChannelError> {
        self.wait_readable(timeout, processes)?;
        self.take().map(|(message, _)| message)
    }

    fn take<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(source) => {
                    return Err(ChannelError::Io {
                        doing: "read from",
                        source,
                    });
                }
            }
        };
        let fds = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
                _ => Vec::new(),
            })
            .collect();
        if received.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(ChannelError::TooLong);
        }
        bytes.truncate(received.bytes);
        Ok((
            serde_json::from_slice(&bytes).map_err(ChannelError::Malformed)?,
            fds,
        ))
    }

    fn wait_readable(
        &self,
        timeout: Duration,
        processes: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let deadline = Instant::now() + timeout;
        let mut wanted = vec![PollFd::new(&self.socket, PollFlags::IN)];
        wanted.extend(processes.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: 3_600,
                tv_nsec: 0,
            });
            match poll(&mut wanted, Some(&wait)) {
                Ok(0) => return Err(ChannelError::TimedOut(timeout)),
                // A message first: it may be the last words of a process that has ended.
                Ok(_) if !wanted[0].revents().is_empty() => return Ok(()),
                Ok(_) => return Err(ChannelError::Closed),
                Err(Errno::INTR) => {}
                Err(source) => {
                    return Err(ChannelError::Io {
                        doing: "wait for",
                        source,
                    });
                }
            }
        }
    }
}

/// An end that came over another channel.
impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn carries_a_message_with_its_descriptors() {
        let (here, there) = Channel::pair().unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        here.send(&"take this", &[writer.as_fd()]).unwrap();
        writer.write_all(b"1").unwrap();
        drop(writer);
        let (text, mut fds) = there
            .receive::<String>(Some(Duration::from_secs(1)))
            .unwrap();
        assert_eq!(text, "take this");
        let mut sent = std::fs::File::from(fds.pop().unwrap());
        sent.write_all(b"2").unwrap();
        drop(sent);
        let mut all = String::new();
        std::io::Read::read_to_string(&mut reader, &mut all).unwrap();
        assert_eq!(all, "12");
        assert!(fds.is_empty());
    }

    #[test]
    fn does_not_wait_for_a_process_that_has_ended() {
        let (here, there) = Channel::pair().unwrap();
        // Its reader ends readable, as a pidfd does.
        let (ended, writer) = std::io::pipe().unwrap();
        drop(writer);
        let minute = Duration::from_secs(60);
        there.send(&"last words", &[]).unwrap();
        let heard = here.receive_from::<String>(&[ended.as_fd()], minute);
        assert_eq!(heard.unwrap(), "last words");
        let heard = here.receive_from::<String>(&[ended.as_fd()], minute);
        assert!(matches!(heard, Err(ChannelError::Closed)));
    }

    #[test]
    fn says_that_the_other_end_is_gone_or_silent() {
        let (here, there) = Channel::pair().unwrap();
        let silent = here.receive::<String>(Some(Duration::from_millis(1)));
        assert!(matches!(silent, Err(ChannelError::TimedOut(_))));
        drop(there);
        assert!(matches!(
            here.receive::<String>(None),
            Err(ChannelError::Closed)
        ));
        assert!(matches!(here.send(&1, &[]), Err(ChannelError::Closed)));
    }
}
