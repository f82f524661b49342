//! The consumer of README.md: it compiles and does what the page says.

use std::process::ExitCode;

use oneport::gateway::Registry;
use oneport::websocket::{Close, Consumer, Context, Message};

struct Shout;

impl Consumer for Shout {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        cx.send(message.as_text().unwrap_or_default().to_uppercase());
        Ok(())
    }
}

fn main() -> ExitCode {
    oneport::cli::run(Registry::builtin().consumer::<Shout>("shout"))
}

// --- End of what README.md shows ---

#[tokio::test]
async fn consumer_of_the_readme_shouts() {
    use oneport::testing::{Application, WebsocketCommunicator};

    let _: fn() -> ExitCode = main;
    let registry = Registry::builtin().consumer::<Shout>("shout");
    let file = "[[websocket.route]]\npath = \"/ws/shout/\"\nconsumer = \"shout\"\n";
    let app = Application::with(&registry, file).unwrap();
    let mut socket = WebsocketCommunicator::new("/ws/shout/")
        .connect(&app)
        .await
        .unwrap();
    socket.send("hi").await;
    assert_eq!(socket.receive().await.as_text(), Some("HI"));
    socket.disconnect().await;
}
