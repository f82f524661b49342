//! Session: one end of a TLS connection without its stream. Turns records into plaintext and
//! plaintext into records.
//!
//! ```text
//!   Handshaking ──► Open ──┬── close_notify of the peer ──► nothing more to read ──┐
//!        │           │     └── our close_notify ──────────► nothing more to write ─┴─► Closed
//!        │           │
//!        └───────────┴── a record that is wrong ──► Failed: an alert goes out, then nothing
//! ```
//!
//! rustls is used without its buffers: an idle session holds its keys and no bytes. Records are
//! decrypted in the buffer that they were read into. Of what was read, only an incomplete record is
//! kept; of what is written, only the ciphertext that the stream has not taken.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, InvalidMessage, ServerConfig};
use tokio::io::ReadBuf;

/// The plaintext of a full record (RFC 8446 §5.1).
pub(super) const RECORD_BYTES: usize = 16 * 1024;

/// The header of a record, and the most that a whole one may have (RFC 5246 §6.2.3).
const HEADER_BYTES: usize = 5;
pub(super) const WIRE_BYTES_MAX: usize = HEADER_BYTES + RECORD_BYTES + 2048;

/// What encryption adds to a record at most, rounded up.
pub(super) const OVERHEAD_BYTES: usize = 64;

/// The most bytes that are kept because a handshake message is incomplete: before the end of the
/// handshake, when a client may send a chain of certificates, and after it.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// One end of a TLS connection.
pub(super) struct Session {
    connection: Connection,
    state: State,
    /// The peer has sent its `close_notify`: nothing follows.
    is_peer_closed: bool,
    /// Bytes of an incomplete record, or of records with an incomplete handshake message.
    partial: Vec<u8>,
    /// Decrypted bytes for which the reader had no room.
    plaintext: BytesMut,
    /// Ciphertext that the stream has not taken.
    pub(super) outgoing: BytesMut,
    /// What failed, until the reader has had everything before it.
    error: Option<Box<rustls::Error>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Open,
    /// Our `close_notify` was encrypted.
    CloseSent,
    /// The peer broke the protocol, or the stream failed.
    Failed,
}

enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What rustls is asked for once all input is processed.
enum Write<'a> {
    Nothing,
    Plaintext { bytes: &'a [u8], out: &'a mut [u8] },
    CloseNotify { out: &'a mut [u8] },
}

/// What became of one call of rustls.
enum Step {
    /// There may be more.
    Continue,
    /// Plaintext was read. There may be more.
    Read,
    /// The input is processed; so many bytes were written as asked for.
    Done(usize),
    /// The output buffer must have this size.
    OutputTooSmall(usize),
}

impl Session {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Connection::Server(connection)))
    }

    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(Connection::Client(connection)))
    }

    fn new(connection: Connection) -> Self {
        Self {
            connection,
            state: State::Open,
            is_peer_closed: false,
            partial: Vec::new(),
            plaintext: BytesMut::new(),
            outgoing: BytesMut::new(),
            error: None,
        }
    }

    /// Returns what the handshake has agreed on.
    pub(super) fn agreed(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(connection) => connection,
            Connection::Client(connection) => connection,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.agreed().is_handshaking()
    }

    /// Returns whether nothing more can be written.
    pub(super) fn is_write_closed(&self) -> bool {
        self.state != State::Open
    }

    /// Returns whether nothing more can be read: the peer has said so, or the session has failed.
    pub(super) fn has_ended(&self) -> bool {
        self.is_peer_closed || self.has_failed()
    }

    /// Returns whether the peer broke the protocol, or the stream failed.
    pub(super) fn has_failed(&self) -> bool {
        self.state == State::Failed
    }

    /// Returns how the session has ended, for a reader that has read everything.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self.error.take() {
            Some(error) => Err(io::Error::new(io::ErrorKind::InvalidData, *error)),
            None if self.is_peer_closed => Ok(()),
            None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Ends the session after an error of the stream.
    pub(super) fn fail(&mut self) {
        self.state = State::Failed;
        self.outgoing = BytesMut::new();
    }

    /// Moves plaintext that is left from the last read. Returns whether there was any.
    pub(super) fn read_left(&mut self, out: &mut ReadBuf<'_>) -> bool {
        if self.plaintext.is_empty() {
            return false;
        }
        let count = self.plaintext.len().min(out.remaining());
        out.put_slice(&self.plaintext.split_to(count));
        if self.plaintext.is_empty() {
            self.plaintext = BytesMut::new();
        }
        true
    }

    /// Returns how many bytes were read for an incomplete record. The next read goes behind them.
    pub(super) fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Takes `input[partial_bytes()..]`, which was read from the stream; the bytes before are
    /// overwritten. Plaintext goes to `out`, or is left for [`Session::read_left`].
    pub(super) fn receive(&mut self, input: &mut [u8], out: &mut ReadBuf<'_>) {
        let kept = self.partial.len();
        if self.has_ended() || input.len() == kept {
            return; // later bytes are ignored (RFC 8446 §6.1)
        }
        if let Some(whole) = self.whole_record()
            && input.len() < whole
        {
            self.partial.reserve_exact(whole - kept);
            self.partial.extend_from_slice(&input[kept..]);
            return;
        }
        input[..kept].copy_from_slice(&self.partial);
        self.partial = Vec::new();
        let mut at = 0;
        let outcome = loop {
            match self.step(&mut input[at..], &mut at, out, Write::Nothing) {
                // A further call would find nothing. It is half of the cost of a small record. Only
                // behind plaintext: what else is processed may hide a `close_notify`.
                Ok(Step::Read) if at == input.len() && self.is_quiet() => break Ok(()),
                Ok(Step::Continue | Step::Read) => {}
                Ok(Step::Done(_) | Step::OutputTooSmall(_)) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let rest = &mut input[at..];
        match outcome {
            Ok(()) if self.is_peer_closed => {}
            Ok(()) if rest.len() > self.partial_bytes_max() => {
                self.error = Some(Box::new(InvalidMessage::HandshakePayloadTooLarge.into()));
                self.state = State::Failed;
            }
            Ok(()) => self.partial = rest.to_vec(),
            Err(error) => {
                self.take_alert(rest);
                self.error = Some(Box::new(error));
                self.state = State::Failed;
            }
        }
    }

    /// Returns the size of the record that `partial` begins with, if it has a header and is not
    /// whole.
    fn whole_record(&self) -> Option<usize> {
        let length = self.partial.get(3..HEADER_BYTES)?;
        let whole = HEADER_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]]));
        (whole > self.partial.len() && whole <= WIRE_BYTES_MAX).then_some(whole)
    }

    /// Returns whether rustls would do nothing without further input.
    fn is_quiet(&self) -> bool {
        !self.is_peer_closed && !self.is_handshaking() && !self.agreed().wants_write()
    }

    fn partial_bytes_max(&self) -> usize {
        match self.is_handshaking() {
            true => HANDSHAKE_BYTES_MAX,
            false => WIRE_BYTES_MAX,
        }
    }

    /// Queues the alert that tells the peer about an error.
    fn take_alert(&mut self, rest: &mut [u8]) {
        let left = self.plaintext.len();
        let mut nothing = ReadBuf::new(&mut []);
        let _ = self.step(rest, &mut 0, &mut nothing, Write::Nothing);
        self.plaintext.truncate(left);
    }

    /// Processes what the handshake has to say before the first input of the peer.
    pub(super) fn start(&mut self) -> io::Result<()> {
        let mut nothing = ReadBuf::new(&mut []);
        while let Step::Continue | Step::Read = self
            .step(&mut [], &mut 0, &mut nothing, Write::Nothing)
            .map_err(io::Error::other)?
        {}
        Ok(())
    }

    /// Encrypts `bytes` into `out` from `at` on, and returns the length of the ciphertext. The
    /// buffer grows if it has no room for them and [`OVERHEAD_BYTES`] a record. No ciphertext may
    /// wait in `outgoing`: it would be overtaken.
    pub(super) fn encrypt(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        at: usize,
    ) -> io::Result<usize> {
        debug_assert!(self.outgoing.is_empty(), "ciphertext is overtaken");
        let mut end = at;
        loop {
            if self.agreed().wants_write() {
                // A key update was encrypted with the keys that it ends.
                let _: Result<usize, usize> = self.write(Write::Nothing)?;
                let own = std::mem::take(&mut self.outgoing);
                out.resize(out.len().max(end + own.len()), 0);
                out[end..end + own.len()].copy_from_slice(&own);
                end += own.len();
            }
            let write = Write::Plaintext {
                bytes,
                out: &mut out[end..],
            };
            match self.write(write)? {
                Ok(count) => return Ok(end + count - at),
                Err(needed) => out.resize(end + needed, 0),
            }
        }
    }

    /// Queues our `close_notify`, once.
    pub(super) fn close(&mut self) -> io::Result<()> {
        if self.state != State::Open {
            return Ok(());
        }
        let mut out = vec![0; OVERHEAD_BYTES];
        loop {
            match self.write(Write::CloseNotify { out: &mut out })? {
                Ok(count) => {
                    self.outgoing.extend_from_slice(&out[..count]);
                    self.state = State::CloseSent;
                    return Ok(());
                }
                Err(needed) => out.resize(needed, 0),
            }
        }
    }

    /// Writes as asked for, after everything that rustls has to say itself. `Ok(Err)` is the size
    /// that the output buffer must have.
    fn write(&mut self, mut write: Write<'_>) -> io::Result<Result<usize, usize>> {
        // A handshake message that is incomplete stays where rustls has seen it.
        let mut partial = std::mem::take(&mut self.partial);
        let mut nothing = ReadBuf::new(&mut []);
        let mut at = 0;
        let outcome = loop {
            let again = match &mut write {
                Write::Nothing => Write::Nothing,
                Write::Plaintext { bytes, out } => Write::Plaintext { bytes, out },
                Write::CloseNotify { out } => Write::CloseNotify { out },
            };
            match self.step(&mut partial[at..], &mut at, &mut nothing, again) {
                Ok(Step::Continue | Step::Read) => {}
                Ok(Step::Done(count)) => break Ok(Ok(count)),
                Ok(Step::OutputTooSmall(needed)) => break Ok(Err(needed)),
                Err(error) => {
                    self.state = State::Failed;
                    break Err(io::Error::other(error));
                }
            }
        };
        partial.drain(..at);
        self.partial = partial;
        outcome
    }

    /// Calls rustls once with `input`, whose processed bytes are added to `at`.
    fn step(
        &mut self,
        input: &mut [u8],
        at: &mut usize,
        out: &mut ReadBuf<'_>,
        write: Write<'_>,
    ) -> Result<Step, rustls::Error> {
        let mut effects = Effects {
            is_peer_closed: &mut self.is_peer_closed,
            plaintext: &mut self.plaintext,
            outgoing: &mut self.outgoing,
            out,
        };
        match &mut self.connection {
            Connection::Server(connection) => {
                effects.apply(connection.process_tls_records(input), at, write)
            }
            Connection::Client(connection) => {
                effects.apply(connection.process_tls_records(input), at, write)
            }
        }
    }
}

/// What a step of rustls may change.
struct Effects<'a, 'b, 'c> {
    is_peer_closed: &'a mut bool,
    plaintext: &'a mut BytesMut,
    outgoing: &'a mut BytesMut,
    out: &'b mut ReadBuf<'c>,
}

impl Effects<'_, '_, '_> {
    fn apply<Data>(
        &mut self,
        status: UnbufferedStatus<'_, '_, Data>,
        at: &mut usize,
        write: Write<'_>,
    ) -> Result<Step, rustls::Error> {
        *at += status.discard;
        match status.state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    *at += record.discard;
                    self.read(record.payload);
                }
                Ok(Step::Read)
            }
            ConnectionState::EncodeTlsData(mut message) => {
                let start = self.outgoing.len();
                while let Err(EncodeError::InsufficientSize(InsufficientSizeError {
                    required_size,
                })) = message.encode(&mut self.outgoing[start..])
                {
                    self.outgoing.resize(start + required_size, 0);
                }
                Ok(Step::Continue)
            }
            ConnectionState::TransmitTlsData(transmit) => {
                transmit.done(); // `outgoing` goes out before anything else
                Ok(Step::Continue)
            }
            ConnectionState::PeerClosed => {
                *self.is_peer_closed = true;
                Ok(Step::Continue)
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                let written = match write {
                    Write::Nothing => Ok(0),
                    Write::Plaintext { bytes, out } => traffic.encrypt(bytes, out),
                    Write::CloseNotify { out } => traffic.queue_close_notify(out),
                };
                match written {
                    Ok(count) => Ok(Step::Done(count)),
                    Err(EncryptError::InsufficientSize(error)) => {
                        Ok(Step::OutputTooSmall(error.required_size))
                    }
                    Err(EncryptError::EncryptExhausted) => Err(rustls::Error::EncryptError),
                }
            }
            // The peer's part of the handshake is missing, or both sides have closed.
            ConnectionState::BlockedHandshake | ConnectionState::Closed => match write {
                Write::Nothing => Ok(Step::Done(0)),
                _ => Err(rustls::Error::HandshakeNotComplete),
            },
            // Early data is never offered.
            _ => Err(rustls::Error::General("unexpected state".to_owned())),
        }
    }

    fn read(&mut self, payload: &[u8]) {
        let count = match self.plaintext.is_empty() {
            true => payload.len().min(self.out.remaining()),
            false => 0,
        };
        let (fits, rest) = payload.split_at(count);
        self.out.put_slice(fits);
        self.plaintext.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests;
