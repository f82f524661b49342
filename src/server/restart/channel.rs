//! Channel: what the old and the new process tell each other, a line of JSON for each message.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::auth::PassedTicket;

/// The most bytes of one message: the problems of a configuration.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// A message of the new process.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromNew {
    /// It accepts connections.
    Ready {
        /// Its number, which a wrapper around the program would hide.
        pid: u32,
        /// The addresses of the listeners that it has taken.
        listeners: Vec<String>,
        /// Its pid file.
        pid_file: Option<PathBuf>,
    },
    /// It cannot start, and exits.
    Failed {
        /// For the log.
        problems: Vec<String>,
    },
}

/// A message of the old process.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromOld {
    /// It accepts no more connections: the new process is the server.
    Go {
        /// Whether the configuration may have changed since the new process has read it.
        reload: bool,
    },
    /// It stops, and so does the new process.
    Stop,
    /// It was asked to reload after `Go`.
    Reload,
    /// Tickets that it has issued and that are not used yet: before `Go`, and for as long as it
    /// drains.
    Tickets(Vec<PassedTicket>),
}

/// How long the other process may take to make room for a message.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// One end of the socket pair.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
    /// Messages, the first of which may be sent in part.
    unsent: Vec<u8>,
    /// Why the other process can read nothing more: it has left, or stood still (`TimedOut`).
    broken: Option<io::ErrorKind>,
}

impl Channel {
    /// Needs a tokio runtime.
    pub(super) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            received: Vec::new(),
            unsent: Vec::new(),
            broken: None,
        })
    }

    /// The same, for bytes that were read before.
    pub(super) fn behind(
        received: Vec<u8>,
        stream: std::os::unix::net::UnixStream,
    ) -> io::Result<Self> {
        Ok(Self {
            received,
            ..Self::new(stream)?
        })
    }

    /// Sends a message, which is queued at once. After an error, which is also that of a reader
    /// that stands still, the other process can read nothing more.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.queue(&encode(message)?);
        self.flush().await
    }

    /// Sends a message without waiting for room. It is the last one.
    pub(super) fn send_at_once(&mut self, message: &impl Serialize) {
        if let Ok(line) = encode(message) {
            self.queue(&line);
            // Not by `try_write`, which knows of no room before the runtime has looked.
            if let Ok(stream) = self.stream.as_fd().try_clone_to_owned() {
                let mut stream = std::os::unix::net::UnixStream::from(stream);
                let _ = io::Write::write(&mut stream, &self.unsent);
            }
            self.unsent.clear();
        }
    }

    /// Queues an encoded message for the next [`Channel::flush`].
    pub(super) fn queue(&mut self, line: &[u8]) {
        if self.broken.is_none() {
            self.unsent.extend_from_slice(line);
        }
    }

    /// Sends what is queued. Cancel-safe: the next call continues where this one has stopped. After
    /// an error each call returns the same one.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        let sending = async {
            while !self.unsent.is_empty() {
                let sent = self.stream.write(&self.unsent).await?;
                self.unsent.drain(..sent);
            }
            Ok(())
        };
        let sent = tokio::time::timeout(SEND_DEADLINE, sending).await;
        let sent: io::Result<()> = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = &sent {
            self.broken = Some(error.kind());
            self.unsent = Vec::new();
        }
        sent
    }

    /// Receives a message; `None` if the other process has ended. After `InvalidData` the next call
    /// continues behind it. Cancel-safe.
    pub(super) async fn receive<M: DeserializeOwned>(&mut self) -> io::Result<Option<M>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let message = serde_json::from_slice(&line);
                return message
                    .map(Some)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if self.received.len() > MESSAGE_BYTES_MAX {
                self.received.clear();
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("expected a line of at most {MESSAGE_BYTES_MAX} bytes"),
                ));
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // The other process has left bytes of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns a message as its line.
pub(super) fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Channel, UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (
            Channel::new(ours).unwrap(),
            UnixStream::from_std(theirs).unwrap(),
        )
    }

    #[tokio::test]
    async fn messages_arrive_in_pieces_and_in_one() {
        let (mut channel, mut other) = pair();
        let mut lines = encode(&FromNew::Ready {
            pid: 7,
            listeners: Vec::new(),
            pid_file: None,
        })
        .unwrap();
        let problems = vec!["a\nb".to_owned()];
        lines.extend(
            encode(&FromNew::Failed {
                problems: problems.clone(),
            })
            .unwrap(),
        );
        let (first, rest) = lines.split_at(5);
        other.write_all(first).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), channel.receive::<FromNew>());
        assert!(early.await.is_err(), "a part is no message");
        other.write_all(rest).await.unwrap();
        let mut next = async || channel.receive::<FromNew>().await.unwrap();
        assert_eq!(
            next().await,
            Some(FromNew::Ready {
                pid: 7,
                listeners: Vec::new(),
                pid_file: None,
            })
        );
        assert_eq!(next().await, Some(FromNew::Failed { problems }));
        drop(other);
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn message_whose_sending_is_cancelled_arrives_whole_with_the_next_one() {
        let (mut channel, other) = pair();
        let long = vec!["x".repeat(1000); 200];
        let send = |problems: &Vec<String>| FromNew::Failed {
            problems: problems.clone(),
        };
        let first = send(&long);
        for _ in 0..8 {
            let sending = tokio::time::timeout(Duration::from_millis(5), channel.send(&first));
            let _ = sending.await; // no reader yet
        }
        assert!(!channel.unsent.is_empty(), "the socket takes everything");
        let mut reader = Channel {
            stream: other,
            received: Vec::new(),
            unsent: Vec::new(),
            broken: None,
        };
        let last = send(&vec!["last".to_owned()]);
        let reading = async {
            for _ in 0..8 {
                assert_eq!(
                    reader.receive::<FromNew>().await.unwrap().as_ref(),
                    Some(&first)
                );
            }
            reader.receive::<FromNew>().await.unwrap()
        };
        let (sent, received) = tokio::join!(channel.send(&last), reading);
        sent.unwrap();
        assert_eq!(received, Some(last));
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error_and_the_next_one_is_read() {
        for sent in [b"hello\n".to_vec(), vec![b'x'; MESSAGE_BYTES_MAX + 8192]] {
            let (mut channel, mut other) = pair();
            let sending = other.write_all(&sent);
            let (_, received) = tokio::join!(sending, channel.receive::<FromNew>());
            assert_eq!(received.unwrap_err().kind(), io::ErrorKind::InvalidData);
            let next = encode(&FromOld::Stop).unwrap();
            other.write_all(b"\n").await.unwrap();
            other.write_all(&next).await.unwrap();
            let found = loop {
                if let Ok(found) = channel.receive::<FromOld>().await {
                    break found;
                }
            };
            assert_eq!(found, Some(FromOld::Stop));
        }
    }
}
