//! Echo: sends every message back.

use crate::websocket::{Close, Consumer, Context, Message};

/// `consumer = "echo"`: sends every message back unchanged. No options.
#[derive(Debug)]
pub struct Echo;

impl Consumer for Echo {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        cx.send(message);
        Ok(())
    }
}
