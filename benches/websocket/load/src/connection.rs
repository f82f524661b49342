//! One connection: its state, and the messages in what is read from it.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::frame::{self, CLOSE, PING, PONG};
use crate::tls::Stream;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    Connecting,
    /// The request is sent, the response is incomplete.
    Shaking,
    Open,
    Closed,
}

pub struct Connection {
    pub stream: Stream,
    pub state: State,
    pub began: Instant,
    /// Bytes that were read and do not form a whole frame or head yet.
    pub input: Vec<u8>,
    /// Bytes that wait until the socket is writable.
    pub output: VecDeque<u8>,
    fragments: Option<Fragments>,
    /// A close frame is sent, so that the connection may end.
    pub leaving: bool,
}

#[derive(Default)]
struct Fragments {
    compressed: bool,
    payload: Vec<u8>,
}

/// A whole message from the server.
pub struct Message<'a> {
    pub compressed: bool,
    pub payload: &'a [u8],
}

impl Connection {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            state: State::Connecting,
            began: Instant::now(),
            input: vec![],
            output: VecDeque::new(),
            fragments: None,
            leaving: false,
        }
    }

    /// Whether output waits until the socket is writable.
    pub fn is_waiting(&self) -> bool {
        !self.output.is_empty() || self.stream.is_unflushed()
    }

    /// Takes in what was read; returns the pongs that have to be sent.
    pub fn receive(
        &mut self,
        read: &[u8],
        mut take_message: impl FnMut(&Message<'_>),
    ) -> Result<Vec<u8>> {
        let mut pongs = vec![];
        let mut closed = false;
        let fragments = &mut self.fragments;
        let take_frame = |frame: &frame::Frame<'_>| match frame.opcode {
            PING => pongs.extend(frame::encode(PONG, false, frame.payload)),
            PONG => {}
            CLOSE => closed = true,
            _ if frame.last && fragments.is_none() => take_message(&Message {
                compressed: frame.compressed,
                payload: frame.payload,
            }),
            _ => {
                let message = fragments.get_or_insert_default();
                message.compressed |= frame.compressed;
                message.payload.extend_from_slice(frame.payload);
                if frame.last {
                    take_message(&Message {
                        compressed: message.compressed,
                        payload: &message.payload,
                    });
                    *fragments = None;
                }
            }
        };
        if self.input.is_empty() {
            let used = frame::decode(read, take_frame)?;
            self.input.extend_from_slice(&read[used..]);
        } else {
            self.input.extend_from_slice(read);
            let used = frame::decode(&self.input, take_frame)?;
            self.input.drain(..used);
        }
        ensure!(!closed, "the server closed the connection");
        Ok(pongs)
    }
}
