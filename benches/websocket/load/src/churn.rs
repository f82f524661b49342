//! Churn: connections that open, send one message, get it back, and close.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::client::{Client, Ready};
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
        let message = frame::encode(frame::TEXT, false, &json_text(self.size));
        repeat(&self.common, self.connections, |client, ready| {
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
            let is_done = client.state(index) == State::Closed && client.is_leaving(index);
            is_done.then(|| client.age(index))
        })
    }
}

/// Opens a connection again and again in each of `connections` places. `step` serves one that can
/// proceed, and returns how long it took once it has done what is counted.
pub fn repeat(
    common: &Common,
    connections: usize,
    mut step: impl FnMut(&mut Client, Ready) -> Option<Duration>,
) -> Result<Value> {
    let mut client = Client::new(common.target()?)?;
    for index in 0..connections {
        client.dial(index)?;
    }
    let mut latencies = Histogram::new();
    let mut count = 0;
    let mut window = common.window();
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
            if let Some(took) = step(&mut client, ready) {
                count += 1;
                latencies.add(took);
            }
            if client.state(ready.connection) == State::Closed {
                client.dial(ready.connection)?;
            }
        }
    }
    let mut result = json!({});
    window
        .usage()
        .report(count, &latencies, &client.failures, &mut result);
    Ok(result)
}
