//! Refusals: the log line of a command that Redis refuses, with its key or channel.

use std::time::Instant;

use redis::{Arg, Cmd, RedisError};

use super::Remote;
use super::queued_command::CommandKind;
use super::refusal_log::Consequence;
use crate::channels::append::Retention;

/// Returns whether the user has no right to a command, a key or a channel.
pub(super) fn is_denied(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// A command, and its key or channel, for the log.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct CommandLabel {
    command: &'static str,
    name: String,
}

/// The commands that the layer sends.
const COMMANDS: [&str; 19] = [
    "DEL",
    "EVALSHA",
    "EXPIRE",
    "HDEL",
    "HGETALL",
    "HLEN",
    "HSET",
    "HVALS",
    "PUBLISH",
    "SADD",
    "SMEMBERS",
    "SREM",
    "ZADD",
    "ZPOPMIN",
    "ZRANGE",
    "ZREM",
    "ZREMRANGEBYSCORE",
    "ZSCORE",
    "BZPOPMIN",
];

impl CommandLabel {
    pub(super) fn new(command: &'static str, name: &str) -> Self {
        let name = name.to_owned();
        Self { command, name }
    }

    pub(super) fn of(command: &Cmd) -> Self {
        let text = |at: usize| match command.args_iter().nth(at) {
            Some(Arg::Simple(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        let found = text(0);
        let known = COMMANDS.into_iter().find(|known| *known == found);
        let name = match known {
            // EVALSHA script key-count key...
            Some("EVALSHA") => text(3),
            _ => text(1),
        };
        Self {
            command: known.unwrap_or("a command"),
            name,
        }
    }
}

impl Remote {
    /// Logs that Redis refused a command, once per interval.
    pub(super) fn log_refused(&self, error: &RedisError, asked: impl FnOnce() -> CommandLabel) {
        let counted = self.0.refusals.count(Instant::now(), Consequence::None);
        let Some(times) = counted else {
            return;
        };
        let asked = self.shown(&asked());
        tracing::warn!(
            unsaid = times - 1,
            "Redis refuses {asked} for the channel layer: {error}; members of this process still receive its events"
        );
    }

    /// Adds the command and the pattern of its names to an error of a Redis whose ACL does not
    /// allow it.
    pub(super) fn named(&self, error: RedisError, asked: &CommandLabel) -> RedisError {
        if !is_denied(&error) {
            return error;
        }
        let detail = format!("{}: {error}", self.shown(asked));
        RedisError::from((error.kind(), "no right to", detail))
    }

    /// Returns the command with the pattern of its names, as an ACL would contain it.
    fn shown(&self, asked: &CommandLabel) -> String {
        let (prefix, own) = (self.0.names.prefix(), self.0.names.own_prefix());
        let CommandLabel { command, name } = asked;
        if name.starts_with(own) {
            format!("{command} on {own}:*")
        } else if name.starts_with(prefix) {
            format!("{command} on {prefix}*")
        } else {
            (*command).to_owned()
        }
    }

    /// Returns the label of a queued command that Redis refused.
    pub(super) fn label_of(&self, kind: &CommandKind, error: &RedisError) -> CommandLabel {
        match kind {
            CommandKind::Publish { channel, .. } | CommandKind::NodeMessage { channel, .. } => {
                CommandLabel::new("PUBLISH", channel)
            }
            CommandKind::Presence(presence) => {
                let is_publish = error
                    .detail()
                    .is_some_and(|text| text.contains("'publish'"));
                match presence.event.as_ref().filter(|_| is_publish) {
                    Some(event) => self.label_of(event, error),
                    None => {
                        let key = self.0.names.presence_key(presence.group.as_str());
                        CommandLabel::new("HSET", &key)
                    }
                }
            }
            CommandKind::Append(append) if append.retention == Retention::Transient => {
                CommandLabel::new("PUBLISH", &self.0.names.channel_of(&append.group))
            }
            CommandKind::Append(append) => {
                CommandLabel::new("EVALSHA", &self.0.names.history_keys(&append.group)[0])
            }
            CommandKind::CoreGroupSend { group, .. } => {
                CommandLabel::new("EVALSHA", &self.0.core.group_key(group.as_str()))
            }
            CommandKind::Raw(commands) => commands
                .first()
                .map_or_else(|| CommandLabel::new("a command", ""), CommandLabel::of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_known_by_its_name_and_first_key() {
        let check = |words: &[&str], command: &'static str, name: &str| {
            let mut cmd = redis::cmd(words[0]);
            cmd.arg(&words[1..]);
            assert_eq!(
                CommandLabel::of(&cmd),
                CommandLabel::new(command, name),
                "{words:?}"
            );
        };
        check(&["HSET", "oneport:a", "b", "c"], "HSET", "oneport:a");
        check(
            &["EVALSHA", "0123", "2", "oneport:a", "oneport:b"],
            "EVALSHA",
            "oneport:a",
        );
        check(&["EVALSHA", "0123"], "EVALSHA", "");
        check(&["FLUSHALL"], "a command", "");
    }
}
