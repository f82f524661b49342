//! HTTP/2 frames: counts the frames of one connection as they pass, and ends a connection whose
//! client sends too many that carry nothing.
//!
//! h2 answers or ignores frames such as PING, SETTINGS, PRIORITY and WINDOW_UPDATE one by one, in
//! no memory but without any bound in number. A client that sends nothing else costs a CPU. Here
//! each is charged to a budget:
//!
//! ```text
//!  PING, SETTINGS, PRIORITY, GOAWAY, unknown, empty DATA: 1
//!  WINDOW_UPDATE that acknowledges nothing: 1                                   ──> spent
//!  RST_STREAM: 2                                                                      │
//!                                                                                     │
//!  1,000 a second; a request: 1; HEADERS or DATA with content sent: 2           <── repaid
//!
//!  more than 10,000 spent ──> GOAWAY, ENHANCE_YOUR_CALM
//! ```
//!
//! Content that was sent is acknowledged by WINDOW_UPDATE, for its stream and for the connection. How
//! often is up to the client, and it may do so long after, when its reader takes what it has stored.
//! So these are not charged, as long as there are no more than two for each KiB that was sent, and
//! for each frame.
//!
//! So a client that acknowledges all that it receives in small parts, measures its way with PING
//! while it downloads (one for each frame), or cancels requests that were answered is never ended,
//! however long its connection lasts.
//!
//! hyper has no call that ends a connection with a code. From the end of the frame that exceeds the
//! budget on, h2 reads a head that never ends instead of the client's bytes, which it answers with
//! this code ("too_many_continuations").

use std::io;

use metrics::counter;
use tokio::io::ReadBuf;

use crate::clock::{Clock, Millis};
use crate::telemetry::LogThrottle;

/// How many frames without content a client may have sent beyond those that are repaid, and how
/// many are repaid in a second.
const BUDGET: u64 = 10_000;
const REPAID_PER_SECOND: u64 = 1_000;

/// How many bytes allow two acknowledgements, one for the stream and one for the connection. Go's
/// client sends them for each 4 KiB that its reader takes, whatever the length of the frames.
const BYTES_PER_ACKNOWLEDGEMENT: u32 = 1024;

/// The most acknowledgements that may be outstanding: those of 128 MiB.
const ACKNOWLEDGEMENTS_MAX: u64 = 1 << 18;

/// The types of frames (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const FRAME_HEAD_BYTES: usize = 9;

/// The bytes of a frame that are looked at: its head, and the code of RST_STREAM.
const KEPT_BYTES: usize = FRAME_HEAD_BYTES + 4;

/// The code of a stream that is over the limit.
const REFUSED_STREAM: u32 = 7;

/// Empty CONTINUATION frames behind a head that has begun: the most that h2 may read. It ends the
/// connection after a few.
const ENDLESS_FRAMES_MAX: usize = 1 << 16;

/// The frames of a connection.
pub(super) struct Http2Frames {
    received: FrameReader,
    sent: FrameReader,
    budget: Budget,
    flood: Flood,
}

/// Whether the client has sent too many frames without content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flood {
    No,
    /// In the frame that exceeds the budget.
    InFrame,
    /// Behind it: so many bytes of the endless head were read.
    Ending(usize),
}

/// Finds the frames in one direction of a connection.
#[derive(Debug, Default)]
struct FrameReader {
    kept: [u8; KEPT_BYTES],
    has: usize,
    /// The bytes until the next frame.
    skipped: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Frame {
    kind: u8,
    length: u32,
    /// The code of RST_STREAM.
    code: Option<u32>,
}

/// What frames without content have cost.
#[derive(Debug)]
struct Budget {
    clock: Clock,
    spent: u64,
    repaid_at: Millis,
    /// How many WINDOW_UPDATE may acknowledge what was sent.
    acknowledgements: u64,
}

impl Http2Frames {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            budget: Budget {
                repaid_at: clock.now(),
                clock,
                spent: 0,
                acknowledgements: 0,
            },
            received: FrameReader::default(),
            sent: FrameReader::default(),
            flood: Flood::No,
        }
    }

    /// Looks at bytes that were received. Returns how many of them h2 may read; the rest comes from
    /// [`end`](Self::end).
    pub(super) fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while self.flood == Flood::No
            && let Some(frame) = self.received.next(&mut rest)
        {
            if let Some(code) = frame.code {
                count_reset("received", code);
            }
            if !self.budget.charge(frame) {
                self.flood = Flood::InFrame;
                count_flood(frame.kind);
            }
        }
        if self.flood == Flood::InFrame && self.received.skip(&mut rest) {
            self.flood = Flood::Ending(0);
            return bytes.len() - rest.len();
        }
        bytes.len()
    }

    /// Looks at bytes that were sent.
    pub(super) fn send(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            if let Some(code) = frame.code {
                count_reset("sent", code);
            }
            self.budget.record_sent(frame);
        }
    }

    /// Returns whether h2 reads no more of what the client sends.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.flood, Flood::Ending(_))
    }

    /// Returns whether the client has sent too many frames without content.
    pub(super) fn has_flooded(&self) -> bool {
        self.flood != Flood::No
    }

    /// Gives h2 what makes it end the connection.
    pub(super) fn end(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let Flood::Ending(read) = &mut self.flood else {
            return Ok(());
        };
        if *read > ENDLESS_FRAMES_MAX * FRAME_HEAD_BYTES {
            return Err(io::Error::other("HTTP/2 flood"));
        }
        while buffer.remaining() > 0 {
            let kind = match *read < FRAME_HEAD_BYTES {
                true => HEADERS,
                false => CONTINUATION,
            };
            // Without END_HEADERS and without content, on stream 1.
            let head = [0, 0, 0, kind, 0, 0, 0, 0, 1];
            let part = &head[*read % FRAME_HEAD_BYTES..];
            let part = &part[..part.len().min(buffer.remaining())];
            buffer.put_slice(part);
            *read += part.len();
        }
        Ok(())
    }
}

impl FrameReader {
    /// Takes bytes up to the next frame, and as much of that frame as is looked at; `None` if the
    /// bytes end before.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        if !self.skip(bytes) {
            return None;
        }
        self.keep(bytes, FRAME_HEAD_BYTES);
        if self.has < FRAME_HEAD_BYTES {
            return None;
        }
        let [a, b, c, kind, ..] = self.kept;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut code = None;
        if kind == RST_STREAM && length == 4 {
            self.keep(bytes, KEPT_BYTES);
            if self.has < KEPT_BYTES {
                return None;
            }
            code = self.kept.last_chunk().copied().map(u32::from_be_bytes);
        } else {
            self.skipped = length;
        }
        self.has = 0;
        Some(Frame { kind, length, code })
    }

    /// Takes the rest of a frame. Returns whether the bytes have it all.
    fn skip(&mut self, bytes: &mut &[u8]) -> bool {
        let skipped = usize::try_from(self.skipped).unwrap_or(usize::MAX);
        let count = skipped.min(bytes.len());
        *bytes = &bytes[count..];
        self.skipped -= u32::try_from(count).unwrap_or(self.skipped);
        self.skipped == 0
    }

    fn keep(&mut self, bytes: &mut &[u8], wanted: usize) {
        let count = wanted.saturating_sub(self.has).min(bytes.len());
        let (part, rest) = bytes.split_at(count);
        self.kept[self.has..self.has + count].copy_from_slice(part);
        self.has += count;
        *bytes = rest;
    }
}

impl Budget {
    /// Charges a frame that was received. Returns whether the budget allows it.
    fn charge(&mut self, frame: Frame) -> bool {
        let cost = match frame.kind {
            HEADERS => {
                self.repay(1);
                return true;
            }
            // h2 bounds both.
            CONTINUATION | PUSH_PROMISE => return true,
            DATA if frame.length > 0 => return true,
            WINDOW_UPDATE if self.acknowledgements > 0 => {
                self.acknowledgements -= 1;
                return true;
            }
            RST_STREAM => 2,
            _ => 1,
        };
        let now = self.clock.now();
        let repaid = now.saturating_sub(self.repaid_at) * REPAID_PER_SECOND / 1_000;
        self.repaid_at = now;
        self.repay(repaid);
        self.spent += cost;
        self.spent <= BUDGET
    }

    /// Records a frame that was sent: an answer, or its content, which the client acknowledges.
    fn record_sent(&mut self, frame: Frame) {
        match frame.kind {
            HEADERS => self.repay(2),
            DATA if frame.length > 0 => {
                self.repay(2);
                let parts = frame.length.div_ceil(BYTES_PER_ACKNOWLEDGEMENT);
                let expected = self.acknowledgements + 2 * u64::from(parts);
                self.acknowledgements = expected.min(ACKNOWLEDGEMENTS_MAX);
            }
            _ => {}
        }
    }

    fn repay(&mut self, count: u64) {
        self.spent = self.spent.saturating_sub(count);
    }
}

/// Counts and logs a client that has sent too many frames of a type.
#[cold]
fn count_flood(kind: u8) {
    static LOGGED: LogThrottle = LogThrottle::new();
    let frame = match kind {
        DATA => "data",
        PRIORITY => "priority",
        RST_STREAM => "rst_stream",
        SETTINGS => "settings",
        PING => "ping",
        WINDOW_UPDATE => "window_update",
        _ => "other",
    };
    counter!("oneport_http2_floods_total", "frame" => frame).increment(1);
    if let Some(times) = LOGGED.count() {
        tracing::warn!(
            times,
            frame,
            "HTTP/2 connection ended: the client sent too many frames without content"
        );
    }
}

/// Counts a stream that one side has reset, and logs one that was refused.
#[cold]
fn count_reset(direction: &'static str, code: u32) {
    static LOGGED: LogThrottle = LogThrottle::new();
    counter!("oneport_http2_resets_total", "direction" => direction, "reason" => reset_reason(code))
        .increment(1);
    if direction == "sent"
        && code == REFUSED_STREAM
        && let Some(times) = LOGGED.count()
    {
        tracing::warn!(
            times,
            "server.limits.http2_streams reached: the client's stream is refused"
        );
    }
}

/// Returns the word of a code (RFC 9113 §7).
fn reset_reason(code: u32) -> &'static str {
    match code {
        0 => "no_error",
        1 => "protocol_error",
        2 => "internal_error",
        3 => "flow_control_error",
        5 => "stream_closed",
        REFUSED_STREAM => "refused_stream",
        8 => "cancel",
        11 => "enhance_your_calm",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
