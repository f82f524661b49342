//! TLS stream: a [`Session`] over a stream.
//!
//! ```text
//!   read   ── stream ──► thread's input buffer ── decrypted in place ──► reader's buffer
//!   write  ── slices ──► thread's output buffer, up to 4 records ── one write ──► stream
//!                                                                     │ not taken
//!                                                     Session.outgoing ◄┘ before any further write
//! ```
//!
//! A WebSocket shares it as it shares a bare one (see [`Stream`]): a sender encrypts and writes in
//! its own call, on any thread, behind the lock of the session. Records must reach the peer in the
//! order of their numbers, so the lock is held until the kernel has the bytes. Ciphertext that it
//! does not take stays in the session, one write's worth at most. Until the stream's owner has
//! flushed it, nothing more is encrypted.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::ReadBuf;

use super::buffers::{self, Buffers, WRITE_BYTES};
use super::handshake_facts::HandshakeFacts;
use super::session::{RECORD_BYTES, Session, WIRE_BYTES_MAX};
use crate::net::Stream;

/// The least room for one read.
const READ_BYTES_MIN: usize = 4 * 1024;

/// A connection over TLS, after its handshake.
pub struct TlsStream {
    stream: Stream,
    session: Mutex<Session>,
    /// Whether ciphertext waits in the session. Separate from it, so that a sender can check it
    /// without the lock.
    is_unflushed: AtomicBool,
    /// How much ciphertext the stream has taken. Written under the lock, read without it.
    taken: AtomicU64,
}

/// The session of a stream, locked or owned.
struct Locked<'a> {
    stream: &'a Stream,
    session: &'a mut Session,
    is_unflushed: &'a AtomicBool,
    taken: &'a AtomicU64,
}

impl TlsStream {
    /// Performs the handshake of a server. Returns the name that the client asked for, too.
    pub(super) async fn accept(
        stream: Stream,
        config: Arc<ServerConfig>,
    ) -> io::Result<(Self, Option<Box<str>>)> {
        let mut tls = Self::new(stream, Session::server(config).map_err(io::Error::other)?);
        let mut facts = HandshakeFacts::default();
        poll_fn(|cx| facts.lend(|| tls.owned().poll_handshake(cx))).await?;
        Ok((tls, facts.server_name))
    }

    /// Performs the handshake of a client with the server `name`. Cancel-safe.
    pub(super) async fn connect(
        stream: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = Session::client(config, name).map_err(io::Error::other)?;
        let mut tls = Self::new(stream, session);
        tls.owned().session.start()?;
        poll_fn(|cx| tls.owned().poll_handshake(cx)).await?;
        // A server that has ended at once reads no request: nothing has been sent yet.
        if tls.owned().session.has_ended() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(tls)
    }

    fn new(stream: Stream, session: Session) -> Self {
        Self {
            stream,
            session: Mutex::new(session),
            is_unflushed: AtomicBool::new(false),
            taken: AtomicU64::new(0),
        }
    }

    /// Returns what the handshake has agreed on.
    pub(super) fn agreed(&mut self) -> &CommonState {
        self.session.get_mut().agreed()
    }

    /// Returns the stream below.
    pub(in crate::net) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Returns whether ciphertext waits, which the owner must flush.
    pub(in crate::net) fn is_unflushed(&self) -> bool {
        self.is_unflushed.load(Ordering::Relaxed)
    }

    /// Returns how much ciphertext the stream has taken: the progress of a client that reads, while
    /// plaintext waits.
    pub(in crate::net) fn taken_ciphertext(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn owned(&mut self) -> Locked<'_> {
        Locked {
            stream: &self.stream,
            session: self.session.get_mut(),
            is_unflushed: &self.is_unflushed,
            taken: &self.taken,
        }
    }

    fn locked<R>(&self, action: impl FnOnce(Locked<'_>) -> R) -> R {
        action(Locked {
            stream: &self.stream,
            session: &mut self.session.lock(),
            is_unflushed: &self.is_unflushed,
            taken: &self.taken,
        })
    }

    pub(in crate::net) fn poll_read_shared(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(self.locked(|mut tls| tls.poll_read(cx, &mut buffer)))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(in crate::net) fn try_write_shared(
        &self,
        bytes: &[u8],
        owner: Option<&Waker>,
    ) -> io::Result<usize> {
        self.locked(|mut tls| tls.try_write(&[IoSlice::new(bytes)], owner))
    }

    pub(in crate::net) fn poll_write_shared(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.locked(|mut tls| tls.poll_write(cx, slices))
    }

    pub(in crate::net) fn poll_flush_shared(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.is_unflushed() || self.stream.is_boxed() {
            true => self.locked(|mut tls| tls.poll_flush(cx)),
            false => Poll::Ready(Ok(())),
        }
    }

    pub(in crate::net) fn poll_shutdown_shared(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.locked(|mut tls| tls.poll_shutdown(cx))
    }

    pub(in crate::net) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.owned().poll_read(cx, buffer)
    }

    pub(in crate::net) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.owned().poll_write(cx, slices)
    }

    pub(in crate::net) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.owned().poll_flush(cx)
    }

    pub(in crate::net) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.owned().poll_shutdown(cx)
    }
}

impl Locked<'_> {
    /// Completes once both sides have finished the handshake, and our part of it is written. If it
    /// fails, the alert is written as far as there is room.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let flushed = self.poll_flush(cx)?;
            // A client may have sent its `close_notify` right behind its part of the handshake.
            if !self.session.is_handshaking() && !self.session.has_failed() {
                return flushed.map(Ok);
            }
            if self.session.has_ended() {
                return Poll::Ready(
                    self.session
                        .end()
                        .and(Err(io::ErrorKind::UnexpectedEof.into())),
                );
            }
            let mut nothing = ReadBuf::new(&mut []);
            ready!(self.poll_receive(cx, &mut nothing))?;
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 || self.session.read_left(buffer) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        loop {
            if self.session.has_ended() {
                return Poll::Ready(self.session.end());
            }
            ready!(self.poll_receive(cx, buffer))?;
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads once and decrypts. Writes what rustls has to say to it, such as an alert.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(buffers::with(|buffers| {
            let kept = self.session.partial_bytes();
            // As much as the reader has room for, but at least a whole record.
            let end = buffer
                .remaining()
                .max(WIRE_BYTES_MAX)
                .max(kept + READ_BYTES_MIN);
            let end = end.min(buffers.input.len());
            let count = ready!(
                self.stream
                    .poll_read_shared(cx, &mut buffers.input[kept..end])
            )?;
            if count == 0 {
                // Without a `close_notify` the peer may have had more to say.
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            self.session
                .receive(&mut buffers.input[..kept + count], buffer);
            Poll::Ready(Ok(()))
        }))?;
        let _: Poll<()> = self.poll_send_outgoing(cx)?;
        Poll::Ready(Ok(()))
    }

    /// Encrypts and writes as much as the stream takes; `WouldBlock` if earlier ciphertext waits.
    /// Bytes count as written once they are encrypted.
    fn try_write(&mut self, slices: &[IoSlice<'_>], owner: Option<&Waker>) -> io::Result<usize> {
        if self.session.is_write_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !self.flush(owner)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buffers::with(|buffers| {
            let mut source = Source::new(slices);
            let mut taken = 0;
            loop {
                let (plain, sealed) = self.seal(&mut source, buffers)?;
                taken += plain;
                if plain == 0 || !self.send(&buffers.output[..sealed], owner)? {
                    return Ok(taken);
                }
            }
        })
    }

    /// Encrypts up to [`WRITE_BYTES`]. Returns how many, and the length of the ciphertext.
    fn seal(
        &mut self,
        source: &mut Source<'_>,
        buffers: &mut Buffers,
    ) -> io::Result<(usize, usize)> {
        let (mut plain, mut sealed) = (0, 0);
        while plain < WRITE_BYTES {
            let bytes = source.next(WRITE_BYTES - plain, &mut buffers.record);
            if bytes.is_empty() {
                break;
            }
            let count = self.session.encrypt(bytes, &mut buffers.output, sealed)?;
            plain += bytes.len();
            sealed += count;
        }
        Ok((plain, sealed))
    }

    /// Writes ciphertext once, and keeps what the stream does not take. Returns whether it took
    /// everything.
    fn send(&mut self, sealed: &[u8], owner: Option<&Waker>) -> io::Result<bool> {
        let count = match self.stream.try_write_shared(sealed, owner) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(self.fail(error)),
        };
        self.count_taken(count);
        let rest = &sealed[count..];
        if !rest.is_empty() {
            self.session.outgoing.extend_from_slice(rest);
            self.is_unflushed.store(true, Ordering::Relaxed);
        }
        Ok(rest.is_empty())
    }

    /// Writes the waiting ciphertext without waiting itself. Returns whether all is written.
    fn flush(&mut self, owner: Option<&Waker>) -> io::Result<bool> {
        while !self.session.outgoing.is_empty() {
            match self.stream.try_write_shared(&self.session.outgoing, owner) {
                Ok(0) => return Err(self.fail(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_unflushed.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(error) => return Err(self.fail(error)),
            }
        }
        Ok(true)
    }

    fn count_taken(&self, count: usize) {
        // No other thread writes it: the session is locked or owned.
        let taken = self.taken.load(Ordering::Relaxed);
        self.taken
            .store(taken.wrapping_add(count as u64), Ordering::Relaxed);
    }

    fn advance(&mut self, count: usize) {
        self.count_taken(count);
        self.session.outgoing.advance(count);
        if self.session.outgoing.is_empty() {
            self.session.outgoing = BytesMut::new();
            self.is_unflushed.store(false, Ordering::Relaxed);
        }
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.session.fail();
        self.is_unflushed.store(false, Ordering::Relaxed);
        error
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_send_outgoing(cx))?;
            match self.try_write(slices, Some(cx.waker())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes the waiting ciphertext. The owner is woken when there is room for more of it.
    fn poll_send_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.outgoing.is_empty() {
            let slices = [IoSlice::new(&self.session.outgoing)];
            match self.stream.poll_write_shared(cx, &slices) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.fail(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(count)) => self.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.fail(error))),
                Poll::Pending => {
                    self.is_unflushed.store(true, Ordering::Relaxed);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_outgoing(cx))?;
        self.stream.poll_flush_shared(cx)
    }

    /// Sends our `close_notify`, then closes our side of the stream.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.close()?;
        ready!(self.poll_flush(cx))?;
        self.stream.poll_shutdown_shared(cx)
    }
}

/// The plaintext of one write, cut into pieces that fill their records.
struct Source<'a> {
    slices: &'a [IoSlice<'a>],
    /// How many bytes of the first slice are taken.
    start: usize,
}

impl<'a> Source<'a> {
    fn new(slices: &'a [IoSlice<'a>]) -> Self {
        Self { slices, start: 0 }
    }

    /// Takes the next piece of at most `most` bytes; none if everything is taken. A slice that does
    /// not fill a record is copied to `record` with those that follow it.
    fn next<'r>(&mut self, most: usize, record: &'r mut Vec<u8>) -> &'r [u8]
    where
        'a: 'r,
    {
        self.skip_taken();
        let Some((first, following)) = self.slices.split_first() else {
            return &[];
        };
        let first = &first[self.start..];
        let is_last = following.iter().all(|slice| slice.is_empty());
        if is_last || first.len() >= RECORD_BYTES {
            let count = match is_last {
                true => first.len().min(most),
                false => first.len().min(most) / RECORD_BYTES * RECORD_BYTES,
            };
            if count > 0 {
                self.start += count;
                return &first[..count];
            }
        }
        record.clear();
        let most = most.min(RECORD_BYTES);
        while record.len() < most
            && let Some(first) = self.slices.first()
        {
            let bytes = &first[self.start..];
            let count = bytes.len().min(most - record.len());
            record.extend_from_slice(&bytes[..count]);
            self.start += count;
            self.skip_taken();
        }
        record
    }

    fn skip_taken(&mut self) {
        while let Some((first, following)) = self.slices.split_first()
            && self.start >= first.len()
        {
            self.slices = following;
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests;
