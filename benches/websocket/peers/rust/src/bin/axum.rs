//! axum, with a room made of tokio's broadcast channel, as in its chat example: `/echo` and
//! `/room`.

use std::error::Error;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::any;
use axum::serve::ListenerExt;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

type Room = broadcast::Sender<Message>;

fn main() -> Result<(), Box<dyn Error>> {
    peers::runtime()?.block_on(async {
        let room = Room::new(1024);
        let app = Router::new()
            .route(
                "/echo",
                any(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo)),
            )
            .route(
                "/room",
                any(
                    async |upgrade: WebSocketUpgrade, State(room): State<Room>| {
                        upgrade.on_upgrade(|socket| join(socket, room))
                    },
                ),
            )
            .with_state(room);
        let listener = peers::listen()?.tap_io(|stream| {
            let _ = stream.set_nodelay(true); // fails only when the client is gone
        });
        axum::serve(listener, app).await?;
        Ok(())
    })
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if is_data(&message) && socket.send(message).await.is_err() {
            break;
        }
    }
}

async fn join(socket: WebSocket, room: Room) {
    let (mut sink, mut messages) = socket.split();
    let mut queue = room.subscribe();
    let mut writer = tokio::spawn(async move {
        loop {
            match queue.recv().await {
                Ok(message) => {
                    if sink.send(message).await.is_err() {
                        break;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            }
        }
    });
    let mut reader = tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            if is_data(&message) {
                let _ = room.send(message); // a room without members hears nothing
            }
        }
    });
    tokio::select! {
        _ = &mut writer => reader.abort(),
        _ = &mut reader => writer.abort(),
    }
}

fn is_data(message: &Message) -> bool {
    matches!(message, Message::Text(_) | Message::Binary(_))
}
