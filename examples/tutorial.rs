//! The chat of the Channels tutorial: a consumer of twenty lines, a page
//! (`templates/tutorial/room.html`) and its script.
//!
//! `cargo run --example tutorial -- serve --config examples/tutorial.toml`, then
//! <http://127.0.0.1:8000/chat/lobby/>.

use std::process::ExitCode;

use oneport::channels::{Event, GroupName, GroupOptions};
use oneport::gateway::Registry;
use oneport::websocket::{Close, Consumer, Context, Message};
use serde_json::{Value, json};

struct Chat(Option<GroupName>);

impl Consumer for Chat {
    type Options = ();

    fn new(_: &()) -> Self {
        Self(None)
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        let room = GroupName::new(&format!("chat_{}", cx.scope().param("room")))?;
        cx.group_add_frames(&room, GroupOptions::default()).await?;
        self.0 = Some(room);
        Ok(())
    }

    async fn receive(&mut self, cx: &mut Context<'_>, said: Message) -> Result<(), Close> {
        let said: Value = serde_json::from_slice(said.as_bytes())?;
        let event = Event::text(json!({ "message": said["message"] }).to_string());
        cx.group_send(self.0.as_ref().ok_or("not in a room")?, event)
            .await?;
        Ok(())
    }
}

fn main() -> ExitCode {
    oneport::cli::run(Registry::builtin().consumer::<Chat>("tutorial"))
}
