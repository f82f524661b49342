//! Connection: the state that the tasks of one connection to Redis share.

use std::time::Instant;

use metrics::histogram;
use redis::{RedisError, RedisResult, Value};
use tokio_util::sync::CancellationToken;

use super::Remote;
use super::command_connections::{CommandConnections, is_transient};
use super::queued_command::QueuedCommand;
use super::refusals::CommandLabel;

/// The most commands in one pipeline.
const COMMANDS_AT_ONCE: usize = 1000;

/// The state that the tasks of one connection share.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) remote: Remote,
    pub(super) commands: CommandConnections,
    /// Cancelled when one task has ended, so that all of them end.
    pub(super) ending: CancellationToken,
}

/// The reason why a connection ended, and the commands it has sent without a reply.
pub(super) type ConnectionEnd = (RedisError, Vec<QueuedCommand>);

impl Connection {
    /// Waits for a reply, at most for the layer's timeout.
    pub(super) async fn within<T>(
        &self,
        reply: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let started = Instant::now();
        let replied = self.remote.with_timeout(reply).await;
        let seconds = started.elapsed().as_secs_f64();
        histogram!("oneport_layer_round_trip_duration_seconds").record(seconds);
        replied
    }

    /// Sends commands. A command that Redis refuses is logged, and its reply is nil: only its own
    /// key is affected.
    pub(super) async fn query(&self, commands: Vec<redis::Cmd>) -> RedisResult<Vec<Value>> {
        let mut answers = Vec::with_capacity(commands.len());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let some: Vec<_> = commands.by_ref().take(COMMANDS_AT_ONCE).collect();
            let asked: Vec<_> = some.iter().map(CommandLabel::of).collect();
            let answered = self.within(self.commands.run(some)).await?;
            for (answer, asked) in answered.into_iter().zip(asked) {
                answers.push(match answer {
                    Err(error) if is_transient(&error) => return Err(error),
                    Err(error) => {
                        self.remote.log_refused(&error, || asked);
                        Value::Nil
                    }
                    Ok(answer) => answer,
                });
            }
        }
        Ok(answers)
    }
}

/// The error of a connection that was closed.
pub(super) fn closed() -> RedisError {
    RedisError::from(std::io::Error::new(
        std::io::ErrorKind::ConnectionReset,
        "the connection ended",
    ))
}
