//! The server of the test `churn`: a consumer whose clients enter another room with each message.

use std::process::ExitCode;
use std::time::Duration;

use oneport::channels::{Event, GroupName, GroupOptions, Presence};
use oneport::gateway::Registry;
use oneport::net::ClientAddress;
use oneport::websocket::{Close, CloseCode, Consumer, Context, Message};
use serde::Deserialize;

/// The allocator of the command.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// `consumer = "rooms"`: a message is the name of a room. The client leaves the room it is in,
/// enters this one, and gets the message back. An empty message only leaves; the reply is the number
/// of groups in the process.
struct Rooms {
    options: Options,
    room: Option<GroupName>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    /// How many events each room keeps, for 10 s.
    history: usize,
    /// Whether the client sends an event to each room that it enters.
    event: bool,
    /// Whether each room announces its members.
    presence: bool,
}

impl Consumer for Rooms {
    type Options = Options;

    fn new(options: &Options) -> Self {
        Self {
            options: *options,
            room: None,
        }
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        self.leave(cx);
        let name = message.as_text().unwrap_or_default();
        if name.is_empty() {
            cx.send(cx.layer().groups().to_string());
            return Ok(());
        }
        self.enter(cx, GroupName::new(name)?).await?;
        cx.send(message);
        Ok(())
    }

    async fn disconnect(&mut self, cx: &mut Context<'_>, _code: CloseCode) {
        self.leave(cx);
    }
}

impl Rooms {
    async fn enter(&mut self, cx: &mut Context<'_>, room: GroupName) -> Result<(), Close> {
        let presence = match self.options.presence {
            true => Presence::Announced,
            false => Presence::Untracked,
        };
        let options = GroupOptions {
            history: self.options.history,
            history_expiry: Duration::from_secs(10),
            presence,
            ..GroupOptions::default()
        };
        // As the built-in consumers: a room with a history counts for the address of its client.
        let client = cx.scope().client.map(ClientAddress::ip);
        let layer = cx.layer().clone();
        let begun = Box::pin(layer.begin(&room, &options, cx.id(), client)).await?;
        cx.group_add_frames(&room, options).await?;
        drop(begun);
        self.room = Some(room.clone());
        if self.options.event {
            let event =
                Event::text(r#"{"type":"chat.message","message":"what about lunch today?"}"#);
            cx.group_send(&room, event).await?;
        }
        Ok(())
    }

    fn leave(&mut self, cx: &mut Context<'_>) {
        if let Some(room) = self.room.take() {
            cx.group_discard(&room);
        }
    }
}

fn main() -> ExitCode {
    oneport::cli::run(Registry::builtin().consumer::<Rooms>("rooms"))
}
