//! hyper and tokio-tungstenite, combined as in their examples: `/echo` and `/room`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

type Socket = WebSocketStream<TokioIo<Upgraded>>;

#[derive(Clone, Default)]
struct Room {
    members: Arc<Mutex<HashMap<u64, UnboundedSender<Message>>>>,
}

impl Room {
    fn members(&self) -> MutexGuard<'_, HashMap<u64, UnboundedSender<Message>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    peers::runtime()?.block_on(async {
        let listener = peers::listen()?;
        let tls = peers::tls()?;
        let room = Room::default();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let room = room.clone();
            let service = service_fn(move |request| handshake(request, room.clone()));
            let tls = tls.clone();
            tokio::spawn(async move {
                let builder = http1::Builder::new();
                // A client that breaks off is its own affair.
                match tls {
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            let connection =
                                builder.serve_connection(TokioIo::new(stream), service);
                            let _ = connection.with_upgrades().await;
                        }
                    }
                    None => {
                        let connection = builder.serve_connection(TokioIo::new(stream), service);
                        let _ = connection.with_upgrades().await;
                    }
                }
            });
        }
    })
}

async fn handshake(
    mut request: Request<Incoming>,
    room: Room,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let key = request.headers().get(SEC_WEBSOCKET_KEY);
    let accept = key.and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok());
    let Some(accept) = accept else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let is_room = request.uri().path() == "/room";
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
            let socket =
                WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            if is_room {
                join(socket, &room).await;
            } else {
                echo(socket).await;
            }
        }
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

async fn echo(mut socket: Socket) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
}

async fn join(socket: Socket, room: &Room) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let member = NEXT.fetch_add(1, Ordering::Relaxed);
    let (mut sink, mut messages) = socket.split();
    let (sender, mut queue) = unbounded_channel();
    room.members().insert(member, sender);
    let writer = tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                break;
            }
        }
    });
    while let Some(Ok(message)) = messages.next().await {
        if message.is_text() || message.is_binary() {
            for member in room.members().values() {
                let _ = member.send(message.clone()); // one that is gone leaves by itself
            }
        }
    }
    room.members().remove(&member);
    writer.abort();
}
