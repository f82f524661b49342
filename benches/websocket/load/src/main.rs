//! wsload: puts WebSocket load on a local server and prints what the server used for it, as one
//! line of JSON.

mod churn;
mod client;
mod connection;
mod deflate;
mod echo;
mod fanout;
mod frame;
mod handshake;
mod histogram;
mod idle;
mod process;
mod schedule;
mod tls;
mod window;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::client::Target;

#[derive(Parser)]
#[command(about = "Makes WebSocket load on a server on this machine; prints one line of JSON")]
struct Arguments {
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Messages that the server sends back
    Echo(echo::Echo),
    /// Messages that the server sends to all connections
    Fanout(fanout::Fanout),
    /// Connections that send one message and close
    Churn(churn::Churn),
    /// Connections that complete a handshake of TLS and close
    Handshake(handshake::Handshake),
    /// Connections that do nothing
    Idle(idle::Idle),
}

/// The arguments of every load.
#[derive(Args)]
struct Common {
    /// The server's port on 127.0.0.1
    #[arg(long)]
    port: u16,
    #[arg(long)]
    path: String,
    /// The server's process; its descendants count too
    #[arg(long)]
    pid: Vec<u32>,
    /// What is measured
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// What goes before
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Offer permessage-deflate, and send compressed messages
    #[arg(long)]
    deflate: bool,
    /// Speak TLS to a server with the certificate in this file
    #[arg(long)]
    tls: Option<PathBuf>,
}

impl Common {
    fn target(&self) -> Result<Target> {
        Target::new(self.port, &self.path, self.deflate, self.tls.as_deref())
    }

    fn window(&self) -> window::Window {
        window::Window::new(
            process::family(&self.pid),
            Duration::from_secs_f64(self.warm_up),
            Duration::from_secs_f64(self.seconds),
        )
    }
}

fn main() -> Result<()> {
    // Otherwise waits may end 50 microseconds late, which an open loop would count as latency.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let result: Value = match Arguments::parse().load {
        Load::Echo(load) => load.run()?,
        Load::Fanout(load) => load.run()?,
        Load::Churn(load) => load.run()?,
        Load::Handshake(load) => load.run()?,
        Load::Idle(load) => load.run()?,
    };
    #[expect(clippy::print_stdout, reason = "it is what the program is for")]
    {
        println!("{result}");
    }
    Ok(())
}

/// `length` bytes of JSON as a chat would send it, which compress to about a third.
fn json_text(length: usize) -> Vec<u8> {
    let names = ["anna", "bob", "carla", "dave", "erin", "frank", "grace"];
    let words = [
        "hello", "there", "what", "about", "lunch", "today", "maybe", "later", "fine",
    ];
    let mut text = b"[".to_vec();
    let mut seed = 7_usize;
    while text.len() < length {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (name, first, second) = (seed >> 33, seed >> 41, seed >> 49);
        let item = format!(
            r#"{{"id":{},"user":"{}","text":"{} {}"}},"#,
            seed >> 40,
            names[name % names.len()],
            words[first % words.len()],
            words[second % words.len()],
        );
        text.extend_from_slice(item.as_bytes());
    }
    text.truncate(length);
    text
}
