//! Handshake: connections that complete a handshake of TLS, and close.

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::Common;
use crate::churn::repeat;
use crate::connection::State;

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
        repeat(&self.common, self.connections, |client, ready| {
            let index = ready.connection;
            if client.state(index) == State::Open {
                client.serve(ready, |_| {});
                return None;
            }
            client.shake_tls(ready).then(|| {
                let took = client.age(index);
                client.end(index);
                took
            })
        })
    }
}
