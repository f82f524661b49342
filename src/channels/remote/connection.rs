//! Connection: what the tasks of one connection to Redis share.

use redis::{RedisError, RedisResult, Value};
use tokio_util::sync::CancellationToken;

use super::Remote;
use super::command_connections::{CommandConnections, is_transient};
use super::outbox::QueuedCommand;
use super::refusals::CommandLabel;
use crate::channels::ChannelLayer;

/// How many commands one pipeline has.
const COMMANDS_AT_ONCE: usize = 1000;

/// What one connection's tasks need.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) remote: Remote,
    pub(super) layer: ChannelLayer,
    pub(super) commands: CommandConnections,
    /// Something has ended, so all shall end.
    pub(super) ending: CancellationToken,
}

/// What ended a connection.
pub(super) type ConnectionEnd = (RedisError, Vec<QueuedCommand>);

impl Connection {
    /// Waits for an answer no longer than the layer's timeout.
    pub(super) async fn within<T>(
        &self,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        self.remote.with_timeout(answer).await
    }

    /// Says commands to Redis; one that it refuses, which concerns its own key, has nil for an answer.
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

pub(super) fn closed() -> RedisError {
    RedisError::from(std::io::Error::new(
        std::io::ErrorKind::ConnectionReset,
        "the connection ended",
    ))
}
