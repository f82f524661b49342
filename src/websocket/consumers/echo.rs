//! Echo: sends every message back as it came.

use crate::websocket::{Close, Consumer, Context, Message};

/// `consumer = "echo"`: sends every message back as it came. No options.
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
