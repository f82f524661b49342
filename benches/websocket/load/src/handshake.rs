//! Handshake: connections that complete a handshake of TLS, and close.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::Common;
use crate::client::Client;
use crate::connection::State;
use crate::histogram::Histogram;
use crate::window::Phase;

#[derive(Args)]
pub struct Handshake {
    #[command(flatten)]
    common: Common,
    /// Connections at the same time
    #[arg(long, default_value_t = 32)]
    connections: usize,
}

impl Handshake {
    pub fn run(&self) -> Result<Value> {
        ensure!(self.common.tls.is_some(), "expected --tls");
        let mut client = Client::new(self.common.target()?)?;
        for index in 0..self.connections {
            client.dial(index)?;
        }
        let mut latencies = Histogram::new();
        let mut count = 0;
        let mut window = self.common.window();
        let mut events = vec![];
        loop {
            match window.phase(Instant::now()) {
                Phase::Begins => {
                    count = 0;
                    latencies.clear();
                }
                Phase::Over => break,
                Phase::Running => {}
            }
            client.wait(&mut events, Duration::from_millis(50))?;
            for ready in events.drain(..) {
                let index = ready.connection;
                if client.state(index) == State::Open {
                    client.serve(ready, |_| {});
                } else if client.shake_tls(ready) {
                    latencies.add(client.age(index));
                    client.end(index);
                }
                if client.state(index) == State::Closed {
                    count += u64::from(client.is_leaving(index));
                    client.dial(index)?;
                }
            }
        }
        let mut result = json!({});
        window
            .usage()
            .report(count, &latencies, &client.failures, &mut result);
        Ok(result)
    }
}
