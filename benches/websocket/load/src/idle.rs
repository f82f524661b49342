//! Idle: the memory of connections that are open, each after one message and its answer.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::client::Client;
use crate::process::{self, Cpu, Memory};
use crate::{Common, frame, json_text};

/// Connections that send their message at the same time.
const AT_ONCE: usize = 256;
const ANSWERS_MAX: Duration = Duration::from_secs(20);
/// How long the load pauses before memory is read.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct Idle {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Bytes of the one message
    #[arg(long, default_value_t = 64)]
    size: usize,
}

impl Idle {
    pub fn run(&self) -> Result<Value> {
        let pids = &process::family(&self.common.pid);
        let mut client = Client::new(self.common.target()?)?;
        let before = Memory::of(pids);
        let began = Instant::now();
        client.open_all(self.connections)?;
        let opening = began.elapsed();
        drain(&mut client, SETTLE)?;
        let open = Memory::of(pids);
        self.talk(&mut client)?;
        drain(&mut client, SETTLE)?;
        let talked = Memory::of(pids);
        let cpu = Cpu::of(pids);
        drain(&mut client, Duration::from_secs_f64(self.common.seconds))?;
        let cpu = (Cpu::of(pids) - cpu).total() / self.common.seconds;

        let each = |bytes: f64| bytes / self.connections as f64;
        Ok(json!({
            "connections": client.open_count(),
            "opened_s": self.connections as f64 / opening.as_secs_f64(),
            "open_bytes": each(open.pss - before.pss),
            "talked_bytes": each(talked.pss - before.pss),
            "slab_bytes": each(talked.slab - before.slab),
            "idle_us": cpu,
            "failures": client.failures.count,
            "first_failure": client.failures.first,
        }))
    }

    /// One message to and from every connection.
    fn talk(&self, client: &mut Client) -> Result<()> {
        let message = frame::encode(frame::TEXT, false, &json_text(self.size));
        let mut events = vec![];
        let mut answers = 0;
        for first in (0..self.connections).step_by(AT_ONCE) {
            let behind = (first + AT_ONCE).min(self.connections);
            for index in first..behind {
                client.send(index, &message);
            }
            let deadline = Instant::now() + ANSWERS_MAX;
            while answers < behind {
                ensure!(
                    Instant::now() < deadline,
                    "only {answers} of {behind} connections were answered"
                );
                client.wait(&mut events, Duration::from_millis(100))?;
                for ready in events.drain(..) {
                    client.serve(ready, |_| answers += 1);
                }
            }
        }
        Ok(())
    }
}

/// Answers pings, and nothing else, for a while.
fn drain(client: &mut Client, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    let mut events = vec![];
    while Instant::now() < end {
        client.wait(&mut events, Duration::from_millis(20))?;
        for ready in events.drain(..) {
            client.serve(ready, |_| {});
        }
    }
    Ok(())
}
