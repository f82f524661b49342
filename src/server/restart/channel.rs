//! Channel: what the old and the new process tell each other, a line of JSON for each message.

use std::io;
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
}

impl Channel {
    /// Needs a tokio runtime.
    pub(super) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            received: Vec::new(),
        })
    }

    /// Sends a message. After an error, which is also that of a reader that stands still, the other
    /// process can read nothing more.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let line = encode(message)?;
        let sending = self.stream.write_all(&line);
        let sent = tokio::time::timeout(SEND_DEADLINE, sending).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Receives a message; `None` if the other process has ended. Cancel-safe.
    pub(super) async fn receive<M: DeserializeOwned>(&mut self) -> io::Result<Option<M>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.received.len() > MESSAGE_BYTES_MAX {
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
                listeners: Vec::new()
            })
        );
        assert_eq!(next().await, Some(FromNew::Failed { problems }));
        drop(other);
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        for sent in [b"hello\n".to_vec(), vec![b'x'; MESSAGE_BYTES_MAX + 8192]] {
            let (mut channel, mut other) = pair();
            let sending = other.write_all(&sent);
            let (_, received) = tokio::join!(sending, channel.receive::<FromNew>());
            assert_eq!(received.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
