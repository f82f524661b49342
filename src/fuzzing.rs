//! Fuzzing: the private parsers, for the targets in `fuzz/`. Not a part of the public interface.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use ipnet::IpNet;
use serde_json::{Map, Value};
use tokio::net::UnixStream;

use crate::channels::Event;
use crate::channels::remote::channels_redis_codec::{ChannelsRedisCodec, Recipients};
use crate::channels::remote::fernet::Fernet;
use crate::channels::remote::wire;
use crate::config::Serializer;
use crate::http::encoding::{Encoding, accepted};
use crate::http::forwarded::{self, ForwardedFamily};
use crate::net::{AgreedProtocol, Announced, ServerTls, Stream, TlsPaths};
use crate::scope::Headers;
use crate::server::head_scanner::{Found, HeadScanner};
use crate::session::signing::unsign_object;
use crate::session::store::django::pickle;
use crate::websocket::consumers::backend::protocol::BackendResponse;
use crate::websocket::consumers::proxy::frame_boundaries::FrameBoundaries;
use crate::websocket::deflate::{Deflater, encode_standalone};
use crate::websocket::extension::{Deflate, DeflateSettings};
use crate::websocket::frame::Opcode;

/// The finding of the head scanner in one read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeadFound {
    /// Nothing.
    Nothing,
    /// A fragment in the target.
    Fragment,
    /// Another protocol.
    NotHttp,
}

/// Scans the reads that begin a connection, and changes them as the server does.
pub fn scan_head(reads: &mut [Vec<u8>]) -> Vec<HeadFound> {
    let mut scanner = HeadScanner::new(AgreedProtocol::Any);
    let scanned = reads.iter_mut().map(|read| match scanner.scan(read) {
        Found::Nothing => HeadFound::Nothing,
        Found::Fragment => HeadFound::Fragment,
        Found::NotHttp => HeadFound::NotHttp,
    });
    scanned.collect()
}

/// Returns the addresses that an upstream would get.
#[must_use]
pub fn forwarded_chain(
    headers: &HeaderMap,
    family: ForwardedFamily,
    trusted: &[IpNet],
    peer: Option<IpAddr>,
) -> Box<[IpAddr]> {
    forwarded::chain(headers, family, trusted, peer).0
}

/// Takes the header of the PROXY protocol: `None` if there is none, `Some(None)` if it names no
/// client. Returns the stream behind it.
pub async fn proxy_header(
    stream: UnixStream,
) -> (Result<Option<Option<SocketAddr>>, String>, Stream) {
    let mut stream = Stream::from(stream);
    let announced = match stream.read_proxy_header().await {
        Ok(Announced::Nothing) => Ok(None),
        Ok(Announced::Local) => Ok(Some(None)),
        Ok(Announced::Client(address)) => Ok(Some(Some(address))),
        Err(error) => Err(error.to_string()),
    };
    (announced, stream)
}

/// The TLS of a listener.
pub struct TlsServer(ServerTls);

impl TlsServer {
    /// Reads one certificate with its key; `None` if they cannot be read.
    #[must_use]
    pub fn new(certificate: &Path, key: &Path) -> Option<Self> {
        let paths = TlsPaths {
            certificates: vec![(certificate.to_owned(), key.to_owned())],
            client_ca: None,
        };
        let files = paths.read().ok()?;
        ServerTls::new(Arc::default(), &files).ok().map(Self)
    }

    /// Waits for the handshake of a client.
    pub async fn accept(&self, stream: UnixStream) -> io::Result<Stream> {
        let handshake = self.0.accept(Stream::from(stream)).await?;
        Ok(handshake.stream)
    }
}

/// Reads Django's pickled session.
pub fn pickle(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    pickle::read(bytes).map_err(|error| error.to_string())
}

/// Reads a value that Django has signed.
pub fn unsign(
    signed: &str,
    salt: &str,
    secret: &str,
    now: u64,
    max_age: Option<Duration>,
) -> Result<Map<String, Value>, String> {
    unsign_object(signed, salt, &[secret], now, max_age).map_err(|error| error.to_string())
}

/// The format of `channels_redis`.
pub struct ChannelsRedis(ChannelsRedisCodec);

impl ChannelsRedis {
    /// Returns the format with this serializer, encrypted if there is a secret.
    #[must_use]
    pub fn new(serializer: Serializer, secret: Option<&str>) -> Self {
        let keys = secret.map(Fernet::new).into_iter().collect();
        Self(ChannelsRedisCodec::new(serializer, keys, None))
    }

    /// Reads a message and its recipients.
    pub fn read(&self, bytes: &[u8]) -> Result<(Event, Vec<String>), String> {
        self.0.read(bytes).map_err(|error| error.to_string())
    }

    /// Writes a message for these recipients.
    pub fn write(&self, event: &Event, channels: &[&str]) -> Result<Vec<u8>, String> {
        let encoded = self.0.encode(event).map_err(|error| error.to_string())?;
        let recipients = (!channels.is_empty()).then_some(Recipients::Several(channels));
        Ok(self.0.seal(&encoded, recipients.as_ref()))
    }
}

/// Reads a message between processes, and writes it again; `None` if it is malformed.
#[must_use]
pub fn layer_message(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(match wire::read(bytes)? {
        wire::Message::Event {
            head,
            position,
            event,
        } => {
            let mut out = wire::head(&head);
            out.extend(position.epoch.to_be_bytes());
            out.extend(position.offset.to_be_bytes());
            out.extend(wire::tail(&head, &event));
            out
        }
        wire::Message::Channel { name, event } => wire::channel(name, &event),
        wire::Message::Request { caller, id, json } => wire::request(caller, id, json),
        wire::Message::Reply { id, json } => wire::reply(id, json),
        wire::Message::Counted {
            id,
            queued,
            dropped,
        } => wire::counted(id, queued, dropped),
        wire::Message::Registered { node } => wire::registered(node),
        wire::Message::Newest { node, number } => wire::newest(node, &number),
        wire::Message::Span {
            numbers,
            group,
            span,
        } => wire::span(&numbers, group, &span),
    })
}

/// Reads an event as a shared history stores it.
#[must_use]
pub fn stored_event(head: &[u8], tail: &[u8]) -> Option<Event> {
    wire::read_stored(head, tail).map(|(_, event)| event)
}

/// Parses a backend's response.
pub fn backend_response(body: &[u8]) -> Result<(), String> {
    BackendResponse::parse(body).map(drop)
}

/// Returns the names of the content codings that a request accepts, the best first.
#[must_use]
pub fn accepted_encodings(headers: &Headers) -> Vec<&'static str> {
    accepted(headers).iter().map(Encoding::name).collect()
}

/// The frames that a tunnel has found in one direction.
#[derive(Debug, Eq, PartialEq)]
pub struct Boundaries {
    /// The bytes that belong to frames.
    pub passed: usize,
    /// The messages whose last frame has begun.
    pub messages: u32,
    /// The code and the reason of the close frame, once it has passed.
    pub close: Option<(Option<u16>, String)>,
}

/// Follows the frames of one direction of a tunnel.
#[must_use]
pub fn frame_boundaries(reads: &[&[u8]]) -> Boundaries {
    let mut boundaries = FrameBoundaries::default();
    let passed = reads.iter().map(|read| boundaries.pass(read)).sum();
    Boundaries {
        passed,
        messages: boundaries.take_messages(),
        close: boundaries.close(),
    }
}

/// The compressor of a socket with context takeover.
pub struct Compressor(Deflater);

impl Compressor {
    /// Starts with an empty window.
    #[must_use]
    pub fn new(agreed: Deflate, settings: &DeflateSettings) -> Self {
        Self(Deflater::new(agreed, settings))
    }

    /// Empties the window.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// Appends a compressed binary frame.
    pub fn encode(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.0.encode(Opcode::Binary, payload, out);
    }
}

/// Appends a binary frame that refers to no earlier one, compressed if that makes it smaller.
pub fn standalone_frame(
    agreed: Deflate,
    settings: &DeflateSettings,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    encode_standalone(agreed, settings, Opcode::Binary, payload, out);
}
