//! Oneport inside another program, with its own runtime and shutdown, and without a command line.
//!
//! `cargo run --example embedded` serves <http://127.0.0.1:8000/> for ten seconds, and sends the
//! time to every WebSocket at `/ws/clock/`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example prints for its user"
)]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use oneport::channels::{Event, GroupName};
use oneport::config::Config;
use oneport::gateway::{Registry, compile};
use oneport::server::Server;
use oneport::telemetry;
use oneport::timestamp::Timestamp;

const FILE: &str = r#"
    [[http.route]]
    path    = "/"
    view    = "respond"
    options = { body = "open a WebSocket at /ws/clock/\n" }

    [[websocket.route]]
    path     = "/ws/clock/"
    consumer = "feed"
    options  = { groups = ["clock"] }
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let _log = telemetry::start_log(telemetry::Format::Text, "info", true);
    telemetry::start_metrics();
    let (config, _) = Config::parse("embedded.toml", FILE, Path::new("."), &|_| None)?;
    let (table, _) = compile(&config, &Registry::builtin())?;
    let server = Server::start(config, table).await?;
    let services = server.gateway().services().clone();
    let tell_the_time = async move {
        let group = GroupName::new("clock")?;
        for _ in 0..10 {
            let event = Event::new("clock.tick", &serde_json::json!({"at": Timestamp::now()}))?;
            services.layer.group_send(&group, event, None).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let drained = server
        .run_until(async {
            if let Err(error) = tell_the_time.await {
                eprintln!("the clock stopped: {error}");
            }
        })
        .await;
    println!("{} sockets closed", drained.sockets);
    Ok(())
}
