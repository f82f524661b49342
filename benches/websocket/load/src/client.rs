//! Many connections to one server, driven by epoll in one thread.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::connection::{Connection, Message, State};
use crate::deflate;
use crate::frame::{self, CLOSE};
use crate::tls::{self, Stream};

/// The key of RFC 6455, section 1.3, and its `Sec-WebSocket-Accept`.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const HEAD_BYTES_MAX: usize = 16 * 1024;
const READ_BYTES: usize = 512 * 1024;
const HANDSHAKES_AT_ONCE: usize = 64;
const OPENING_MAX: Duration = Duration::from_secs(20);
const EVENTS_AT_ONCE: usize = 1024;

/// The address of the connections, and their request.
pub struct Target {
    address: SocketAddrV4,
    request: Vec<u8>,
    deflate: bool,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Target {
    /// With `deflate`, a server that declines permessage-deflate is a failure.
    /// `certificate` is the server's, if it speaks TLS.
    pub fn new(port: u16, path: &str, deflate: bool, certificate: Option<&Path>) -> Result<Self> {
        let address = SocketAddrV4::new([127, 0, 0, 1].into(), port);
        let scheme = certificate.map_or("http", |_| "https");
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nOrigin: {scheme}://{address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
        );
        if deflate {
            request += &format!("Sec-WebSocket-Extensions: {}\r\n", deflate::OFFER);
        }
        request += "\r\n";
        Ok(Self {
            address,
            request: request.into_bytes(),
            deflate,
            tls: certificate.map(tls::config).transpose()?,
        })
    }
}

/// A connection that can proceed.
#[derive(Clone, Copy)]
pub struct Ready {
    pub connection: usize,
    pub readable: bool,
    pub writable: bool,
}

/// The number of failures, and the first one.
#[derive(Default)]
pub struct Failures {
    pub count: u64,
    pub first: Option<String>,
}

impl Failures {
    pub fn add(&mut self, failure: impl Into<String>) {
        self.count += 1;
        self.first.get_or_insert_with(|| failure.into());
    }
}

pub struct Client {
    epoll: OwnedFd,
    target: Target,
    connections: Vec<Connection>,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    pub failures: Failures,
}

impl Client {
    pub fn new(target: Target) -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            target,
            connections: vec![],
            events: Vec::with_capacity(EVENTS_AT_ONCE),
            buffer: vec![0; READ_BYTES],
            failures: Failures::default(),
        })
    }

    /// A client with `count` open connections.
    pub fn open(target: Target, count: usize) -> Result<Self> {
        let mut client = Self::new(target)?;
        client.open_all(count)?;
        Ok(client)
    }

    /// Opens `count` connections, some of them at once. Messages from the server are dropped until
    /// then.
    pub fn open_all(&mut self, count: usize) -> Result<()> {
        let mut events = vec![];
        let mut open = 0;
        let mut progress = Instant::now();
        while open < count {
            while self.connections.len() < count.min(open + HANDSHAKES_AT_ONCE) {
                self.dial(self.connections.len())?;
            }
            self.wait(&mut events, Duration::from_millis(100))?;
            for ready in events.drain(..) {
                match self.state(ready.connection) {
                    State::Connecting | State::Shaking => {
                        if self.shake(ready) {
                            open += 1;
                            progress = Instant::now();
                        }
                    }
                    State::Open => self.read(ready.connection, |_| {}),
                    State::Closed => {}
                }
            }
            match &self.failures.first {
                Some(failure) if open == 0 => bail!("{failure}"),
                Some(failure) => bail!("{failure} (with {open} of {count} connections open)"),
                None => {}
            }
            ensure!(
                progress.elapsed() < OPENING_MAX,
                "the server stopped answering handshakes at {open} of {count}"
            );
        }
        Ok(())
    }

    /// Starts connection `index`, which replaces an earlier one or comes after the last.
    pub fn dial(&mut self, index: usize) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("no more sockets")?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&SockAddr::from(self.target.address)) {
            // EINPROGRESS has no kind of its own.
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error).context("the server cannot be reached");
            }
            _ => {}
        }
        let stream = Stream::new(socket.into(), self.target.tls.as_ref())?;
        let connection = Connection::new(stream);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &connection.stream.socket, data, flags)?;
        if index == self.connections.len() {
            self.connections.push(connection);
        } else {
            self.connections[index] = connection;
        }
        Ok(())
    }

    pub fn state(&self, index: usize) -> State {
        self.connections[index].state
    }

    /// Whether a close frame was sent.
    pub fn is_leaving(&self, index: usize) -> bool {
        self.connections[index].leaving
    }

    /// The age of the connection.
    pub fn age(&self, index: usize) -> Duration {
        self.connections[index].began.elapsed()
    }

    pub fn open_count(&self) -> usize {
        let open = |connection: &&Connection| connection.state == State::Open;
        self.connections.iter().filter(open).count()
    }

    /// Puts the connections that can proceed into `ready`, after at most `timeout`.
    pub fn wait(&mut self, ready: &mut Vec<Ready>, timeout: Duration) -> Result<()> {
        self.events.clear();
        let events = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, events, Some(&Timespec::try_from(timeout)?)) {
            Err(Errno::INTR) => {}
            result => _ = result?,
        }
        ready.clear();
        ready.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            Ready {
                connection: event.data.u64() as usize,
                readable: flags.intersects(!epoll::EventFlags::OUT),
                writable: flags.contains(epoll::EventFlags::OUT),
            }
        }));
        Ok(())
    }

    /// Takes a connection one step through its handshake; true once it is open.
    pub fn shake(&mut self, ready: Ready) -> bool {
        let index = ready.connection;
        let result = match self.state(index) {
            State::Connecting if ready.writable => self.request(index).map(|()| false),
            State::Shaking => self.answer(index),
            _ => Ok(false),
        };
        result.unwrap_or_else(|error| {
            self.failures.add(format!("{error:#}"));
            self.abort(index);
            false
        })
    }

    fn request(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        if let Some(error) = connection.stream.socket.take_error()? {
            return Err(error).context("the server cannot be reached");
        }
        connection.stream.write_all(&self.target.request)?;
        connection.state = State::Shaking;
        self.watch(index, epoll::EventFlags::IN)
    }

    fn answer(&mut self, index: usize) -> Result<bool> {
        let connection = &mut self.connections[index];
        let read = match connection.stream.read(&mut self.buffer) {
            Ok(0) => bail!("the server closed the connection in the handshake"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            result => result?,
        };
        connection.input.extend_from_slice(&self.buffer[..read]);
        let Some(end) = connection
            .input
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        else {
            ensure!(
                connection.input.len() < HEAD_BYTES_MAX,
                "the answer to the handshake is too long"
            );
            return Ok(false);
        };
        let rest = connection.input.split_off(end + 4);
        let head = std::mem::replace(&mut connection.input, rest);
        let head = String::from_utf8_lossy(&head).into_owned();
        if !head.starts_with("HTTP/1.1 101") || !head.contains(ACCEPT) {
            bail!(
                "the server answered the handshake with {:?}",
                head.lines().next().unwrap_or_default()
            );
        }
        ensure!(
            !self.target.deflate || head.contains("permessage-deflate"),
            "the server does not take permessage-deflate"
        );
        connection.state = State::Open;
        Ok(true)
    }

    /// Sends frames, now or as soon as the socket is writable.
    pub fn send(&mut self, index: usize, frames: &[u8]) {
        let connection = &mut self.connections[index];
        if connection.state != State::Open {
            return;
        }
        let was_waiting = connection.is_waiting();
        connection.output.extend(if was_waiting {
            frames
        } else {
            match connection.stream.write(frames) {
                Ok(written) => &frames[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => frames,
                Err(error) => {
                    self.failures.add(format!("cannot send: {error}"));
                    return self.abort(index);
                }
            }
        });
        if !was_waiting && connection.is_waiting() {
            self.watch_or_fail(index, epoll::EventFlags::IN | epoll::EventFlags::OUT);
        }
    }

    /// Writes pending output and reads available input: the step of a ready open connection.
    pub fn serve(&mut self, ready: Ready, take: impl FnMut(&Message<'_>)) {
        if ready.writable {
            self.flush(ready.connection);
        }
        if ready.readable {
            self.read(ready.connection, take);
        }
    }

    fn flush(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        while connection.state == State::Open && !connection.output.is_empty() {
            match connection.stream.write(connection.output.as_slices().0) {
                Ok(written) => drop(connection.output.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.failures.add(format!("cannot send: {error}"));
                    return self.abort(index);
                }
            }
        }
        if connection.stream.flush().is_err() || connection.stream.is_unflushed() {
            return;
        }
        if connection.state == State::Open {
            self.watch_or_fail(index, epoll::EventFlags::IN);
        }
    }

    /// Takes a connection one step through its handshake of TLS; true once that is complete.
    pub fn shake_tls(&mut self, ready: Ready) -> bool {
        let index = ready.connection;
        let result = self.step_tls(index);
        result.unwrap_or_else(|error| {
            self.failures.add(format!("{error:#}"));
            self.abort(index);
            false
        })
    }

    fn step_tls(&mut self, index: usize) -> Result<bool> {
        let connection = &mut self.connections[index];
        if connection.state == State::Connecting {
            if let Some(error) = connection.stream.socket.take_error()? {
                return Err(error).context("the server cannot be reached");
            }
            connection.stream.flush()?;
            connection.state = State::Shaking;
            self.watch(index, epoll::EventFlags::IN)?;
            return Ok(false);
        }
        match connection.stream.read(&mut self.buffer) {
            Ok(0) => bail!("the server closed the connection in the handshake"),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
            _ => {}
        }
        if connection.stream.is_handshaking() {
            return Ok(false);
        }
        connection.state = State::Open;
        Ok(true)
    }

    /// Closes our side of a connection, after which its end is not a failure.
    pub fn end(&mut self, index: usize) {
        self.connections[index].leaving = true;
        if self.connections[index].stream.close().is_err() {
            self.abort(index);
        }
    }

    /// Reads once and hands over every whole message; answers pings; the end of the connection is a
    /// failure.
    fn read(&mut self, index: usize, take: impl FnMut(&Message<'_>)) {
        let connection = &mut self.connections[index];
        if connection.state != State::Open {
            return;
        }
        let read = match connection.stream.read(&mut self.buffer) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(read) => connection
                .receive(&self.buffer[..read], take)
                .map_err(|error| format!("{error:#}")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => Err(format!("cannot read: {error}")),
        };
        match read {
            Ok(pongs) if pongs.is_empty() => {}
            Ok(pongs) => self.send(index, &pongs),
            Err(failure) => {
                if !self.connections[index].leaving {
                    self.failures.add(failure);
                }
                self.abort(index);
            }
        }
    }

    /// Sends a close frame, after which the end of the connection is not a failure.
    pub fn leave(&mut self, index: usize) {
        self.connections[index].leaving = true;
        self.send(index, &frame::encode(CLOSE, false, &1000_u16.to_be_bytes()));
    }

    /// Ends the connection. It is reset once it is replaced or dropped, so that the kernel keeps
    /// nothing of it.
    pub fn abort(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.state == State::Closed {
            return;
        }
        connection.state = State::Closed;
        connection.input = vec![];
        connection.output = VecDeque::new();
        // An error here means that the connection has ended already.
        let _ = epoll::delete(&self.epoll, &connection.stream.socket);
        let _ = SockRef::from(&connection.stream.socket).set_linger(Some(Duration::ZERO));
    }

    fn watch(&self, index: usize, flags: epoll::EventFlags) -> Result<()> {
        let data = epoll::EventData::new_u64(index as u64);
        Ok(epoll::modify(
            &self.epoll,
            &self.connections[index].stream.socket,
            data,
            flags,
        )?)
    }

    fn watch_or_fail(&mut self, index: usize, flags: epoll::EventFlags) {
        if let Err(error) = self.watch(index, flags) {
            self.failures.add(format!("{error:#}"));
            self.abort(index);
        }
    }
}
