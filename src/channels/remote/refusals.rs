//! Refusals: commands that Redis refuses, logged once per interval with their key or channel,
//! whatever task meets them.

use std::time::Instant;

use parking_lot::Mutex;
use redis::{Arg, Cmd, RedisError};

use super::Remote;
use super::queued_command::CommandKind;
use crate::channels::append::Retention;
use crate::telemetry::LOG_INTERVAL;

/// What follows from a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Consequence {
    /// The connection goes on without the command.
    None,
    /// The connection is lost, or could not be made.
    Loss,
}

/// Decides which refusals are logged: one per interval.
///
/// A user without the rights is refused many commands with each connection. While one of them costs
/// the connection, the others are not logged: they would always come first.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<RefusalState>);

#[derive(Debug, Default)]
struct RefusalState {
    logged_at: Option<Instant>,
    /// The refusals since the last line.
    times: u64,
    cost_connection: bool,
}

impl Refusals {
    /// Counts a refusal. If a line is due, returns the number of refusals since the last one,
    /// including this one.
    pub(super) fn count(&self, now: Instant, consequence: Consequence) -> Option<u64> {
        let mut state = self.0.lock();
        state.times += 1;
        match consequence {
            Consequence::Loss => state.cost_connection = true,
            Consequence::None if state.cost_connection => return None,
            Consequence::None => {}
        }
        let is_recent = |at| now.saturating_duration_since(at) < LOG_INTERVAL;
        if state.logged_at.is_some_and(is_recent) {
            return None;
        }
        state.logged_at = Some(now);
        Some(std::mem::take(&mut state.times))
    }

    /// Called when a connection has lasted.
    pub(super) fn settled(&self) {
        self.0.lock().cost_connection = false;
    }
}

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

    /// Returns the label of a queued command.
    pub(super) fn label_of(&self, kind: &CommandKind) -> CommandLabel {
        match kind {
            CommandKind::Publish { channel, .. } | CommandKind::NodeMessage { channel, .. } => {
                CommandLabel::new("PUBLISH", channel)
            }
            CommandKind::Presence(presence) => {
                let key = self.0.names.presence_key(presence.group.as_str());
                CommandLabel::new("HSET", &key)
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
    fn one_refusal_per_interval_is_logged() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.count(start, Consequence::None), Some(1));
        assert_eq!(refusals.count(start, Consequence::Loss), None);
        let now = start + LOG_INTERVAL;
        // Those that come before the one that costs the connection do not hide it.
        assert_eq!(refusals.count(now, Consequence::None), None);
        assert_eq!(refusals.count(now, Consequence::Loss), Some(3));
        refusals.settled();
        assert_eq!(refusals.count(now, Consequence::None), None);
        let now = now + LOG_INTERVAL;
        assert_eq!(refusals.count(now, Consequence::None), Some(2));
    }

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
