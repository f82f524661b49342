//! Churn: connections that open, send one message, get it back, and close.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::client::Client;
use crate::connection::State;
use crate::histogram::Histogram;
use crate::window::Phase;
use crate::{Common, frame, json_text};

#[derive(Args)]
pub struct Churn {
    #[command(flatten)]
    common: Common,
    /// Connections at the same time
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Bytes of the one message
    #[arg(long, default_value_t = 32)]
    size: usize,
}

impl Churn {
    pub fn run(&self) -> Result<Value> {
        let mut client = Client::new(self.common.target()?)?;
        let message = frame::encode(frame::TEXT, false, &json_text(self.size));
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
                    let mut answered = false;
                    client.serve(ready, |_| answered = true);
                    if answered {
                        client.leave(index);
                    }
                } else if client.shake(ready) {
                    client.send(index, &message);
                }
                if client.state(index) == State::Closed {
                    if client.is_leaving(index) {
                        count += 1;
                        latencies.add(client.age(index));
                    }
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
