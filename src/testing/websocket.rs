//! WebsocketCommunicator: one WebSocket, without a network socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tungstenite::protocol::frame::coding::CloseCode as WireCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketContext};

use super::http::info;
use super::{Application, DEADLINE};
use crate::auth::User;
use crate::gateway::Reply;
use crate::http::Body;
use crate::net::Stream;
use crate::websocket::{CloseCode, Message};

/// The capacity of the pipe between client and server.
const PIPE_BYTES: usize = 64 * 1024;

/// A WebSocket handshake without a network socket (Channels' `WebsocketCommunicator`).
#[derive(Debug)]
pub struct WebsocketCommunicator {
    path: String,
    headers: HeaderMap,
    user: Option<Arc<User>>,
}

/// Output of the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// A message.
    Message(Message),
    /// A close frame, with its code (1005 for none) and reason.
    Close {
        /// The code.
        code: u16,
        /// The reason.
        reason: String,
    },
    /// The end of the stream, without a close frame.
    End,
}

impl WebsocketCommunicator {
    /// Returns a handshake for a path, with `Host: localhost` and that host as its origin.
    #[must_use]
    pub fn new(path: &str) -> Self {
        let headers = [
            ("host", "localhost"),
            ("origin", "http://localhost"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let headers = headers.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        Self {
            path: path.to_owned(),
            headers: headers.collect(),
            user: None,
        }
    }

    /// Sets a header field, replacing one of the same name; an empty value removes it.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
        else {
            panic!("expected a header field, found {name:?}: {value:?}");
        };
        if value.is_empty() {
            self.headers.remove(name);
        } else {
            self.headers.insert(name, value);
        }
        self
    }

    /// Offers subprotocols, in this order.
    #[must_use]
    pub fn subprotocols(self, offered: &[&str]) -> Self {
        self.header("sec-websocket-protocol", &offered.join(", "))
    }

    /// Logs a user in.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(Arc::new(user));
        self
    }

    /// Sends the handshake. The error is the response of a server that denies it.
    pub async fn connect(self, app: &Application) -> Result<Connected, Response<Bytes>> {
        match tokio::time::timeout(DEADLINE * 2, self.open(app)).await {
            Ok(answer) => answer,
            Err(_) => panic!("expected a response to the handshake, found none"),
        }
    }

    /// Sends the handshake, and waits for the response without a deadline.
    pub(super) async fn open(self, app: &Application) -> Result<Connected, Response<Bytes>> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = match self.path.parse() {
            Ok(uri) => uri,
            Err(error) => panic!("expected a path, found {:?}: {error}", self.path),
        };
        *request.headers_mut() = self.headers;
        match app.gateway().serve(request, &info(self.user)).await {
            Reply::Upgrade(response, upgrade) => {
                let (client, server) = tokio::io::duplex(PIPE_BYTES);
                upgrade.start(Some(Stream::boxed(server)), Bytes::new(), Box::new(()));
                let (parts, _) = response.into_parts();
                Ok(Connected {
                    response: Response::from_parts(parts, ()),
                    client: Client::new(client),
                })
            }
            Reply::Response(response) => {
                let (parts, body) = response.into_parts();
                match body.collect().await {
                    Ok(body) => Err(Response::from_parts(parts, body.to_bytes())),
                    Err(error) => panic!("the response's body broke off: {error}"),
                }
            }
        }
    }
}

/// The client's end of an open WebSocket.
#[derive(Debug)]
pub struct Connected {
    /// The 101 response.
    pub response: Response<()>,
    pub(super) client: Client,
}

impl Connected {
    /// Returns the selected subprotocol.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.response
            .headers()
            .get("sec-websocket-protocol")
            .and_then(|value| value.to_str().ok())
    }

    /// Sends a message.
    pub async fn send(&mut self, message: impl Into<Message>) {
        let message = match message.into() {
            Message::Text(text) => tungstenite::Message::Text(text),
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes),
        };
        if let Err(error) = self.client.write(message).await {
            panic!("expected an open WebSocket to send to, found {error}");
        }
    }

    /// Sends a value as JSON.
    pub async fn send_json(&mut self, value: &serde_json::Value) {
        self.send(value.to_string()).await;
    }

    /// Waits for the next output of the server.
    pub async fn receive_output(&mut self) -> Output {
        match tokio::time::timeout(DEADLINE, self.client.read()).await {
            Ok(output) => output,
            Err(_) => {
                panic!("expected output of the server within {DEADLINE:?}, found none")
            }
        }
    }

    /// Waits for a message.
    pub async fn receive(&mut self) -> Message {
        match self.receive_output().await {
            Output::Message(message) => message,
            other => panic!("expected a message, found {other:?}"),
        }
    }

    /// Waits for a message and parses its JSON.
    pub async fn receive_json<T: DeserializeOwned>(&mut self) -> T {
        let message = self.receive().await;
        match serde_json::from_slice(message.as_bytes()) {
            Ok(value) => value,
            Err(error) => panic!("expected JSON, found {message:?}: {error}"),
        }
    }

    /// Returns whether the server sends nothing for this time.
    pub async fn receive_nothing(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.client.read())
            .await
            .is_err()
    }

    /// Waits for the server's close frame.
    pub async fn receive_close(&mut self) -> (u16, String) {
        match self.receive_output().await {
            Output::Close { code, reason } => (code, reason),
            other => panic!("expected a close frame, found {other:?}"),
        }
    }

    /// Closes with a code and a reason, and waits for the server's close frame.
    pub async fn close(mut self, code: CloseCode, reason: &str) -> u16 {
        let frame = CloseFrame {
            code: WireCode::from(code.get()),
            reason: reason.to_owned().into(),
        };
        self.finish(Some(frame)).await
    }

    /// Closes with 1000 and waits for the server's close frame.
    pub async fn disconnect(self) -> u16 {
        self.close(CloseCode::NORMAL, "").await
    }

    async fn finish(&mut self, frame: Option<CloseFrame>) -> u16 {
        if let Err(error) = self.client.write(tungstenite::Message::Close(frame)).await {
            panic!("expected an open WebSocket to close, found {error}");
        }
        loop {
            match self.receive_output().await {
                Output::Message(_) => {}
                Output::Close { code, .. } => return code,
                Output::End => return CloseCode::ABNORMAL.get(),
            }
        }
    }
}

/// The client's side of the protocol, over a pipe in memory.
#[derive(Debug)]
pub(super) struct Client {
    pipe: DuplexStream,
    context: WebSocketContext,
    memory: Memory,
}

/// The buffers that the context reads from and writes to.
#[derive(Debug, Default)]
struct Memory {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    has_ended: bool,
}

impl Client {
    fn new(pipe: DuplexStream) -> Self {
        Self {
            pipe,
            context: WebSocketContext::new(Role::Client, None),
            memory: Memory::default(),
        }
    }

    async fn write(&mut self, message: tungstenite::Message) -> Result<(), tungstenite::Error> {
        self.context.write(&mut self.memory, message)?;
        self.context.flush(&mut self.memory)?;
        self.flush().await?;
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let outgoing = std::mem::take(&mut self.memory.outgoing);
        self.pipe.write_all(&outgoing).await
    }

    /// Cancel-safe, except for pongs that are being written.
    pub(super) async fn read(&mut self) -> Output {
        loop {
            match self.context.read(&mut self.memory) {
                Ok(tungstenite::Message::Text(text)) => {
                    return Output::Message(Message::Text(text));
                }
                Ok(tungstenite::Message::Binary(bytes)) => {
                    return Output::Message(Message::Binary(bytes));
                }
                Ok(tungstenite::Message::Close(frame)) => {
                    let _ = self.context.flush(&mut self.memory);
                    let _ = self.flush().await;
                    let (code, reason) = frame
                        .map_or((CloseCode::NO_STATUS.get(), String::new()), |frame| {
                            (frame.code.into(), frame.reason.to_string())
                        });
                    return Output::Close { code, reason };
                }
                Ok(_) => {
                    let _ = self.flush().await;
                }
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut buffer = vec![0; PIPE_BYTES];
                    match self.pipe.read(&mut buffer).await {
                        Ok(count @ 1..) => self.memory.incoming.extend_from_slice(&buffer[..count]),
                        _ => self.memory.has_ended = true,
                    }
                }
                Err(_) => return Output::End,
            }
        }
    }
}

impl io::Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return if self.has_ended {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        }
        let count = buffer.len().min(self.incoming.len());
        buffer[..count].copy_from_slice(&self.incoming[..count]);
        self.incoming.drain(..count);
        Ok(count)
    }
}

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
