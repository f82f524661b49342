//! Pipeline writer: sends the commands of the outbox to Redis, one pipeline at a time.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use redis::{Cmd, RedisResult, Value};

use super::channels_redis_core::count_full;
use super::command_connections::is_transient;
use super::connection::{Connection, ConnectionEnd, closed};
use super::history_sync::{epoch_bytes, millis};
use super::queued_command::{Attempt, CommandKind, HistoryAppend, QueuedCommand};
use super::scripts::APPEND;
use super::wire;
use crate::channels::GroupName;
use crate::channels::append::Retention;
use crate::config::LayerFormat;

impl Connection {
    /// Writes pipelines for as long as the connection lives. Returns the commands of the last
    /// pipeline that have no reply.
    pub(super) async fn write_pipelines(self) -> ConnectionEnd {
        let outbox = &self.remote.0.outbox;
        loop {
            let mut batch = tokio::select! {
                batch = outbox.next() => batch,
                () = self.ending.cancelled() => return (closed(), Vec::new()),
            };
            let bytes: usize = batch.iter().map(|command| command.size).sum();
            for command in &mut batch {
                command.kind.begin_attempt();
            }
            let written = tokio::select! {
                written = self.write_pipeline(&mut batch) => written,
                () = self.ending.cancelled() => Err(closed()),
            };
            if let Err(error) = written {
                return (error, batch);
            }
            let left: usize = batch.iter().map(|command| command.size).sum();
            outbox.put_back(batch);
            outbox.done(bytes - left);
        }
    }

    /// Sends a batch in one pipeline. Leaves in `batch` the commands that Redis did not execute:
    /// all of them if the connection fails, otherwise those that it refused temporarily and those
    /// whose keys are moving.
    async fn write_pipeline(&self, batch: &mut Vec<QueuedCommand>) -> RedisResult<()> {
        self.write_core_presence(batch).await?;
        let members = self.members_of(batch).await?;
        let mut commands = Vec::new();
        let mut counts = Vec::with_capacity(batch.len());
        let mut last_seqs: HashMap<&GroupName, u64> = HashMap::new();
        for command in &*batch {
            if let Some((append, span)) = command.kind.traced() {
                let channel = self.remote.0.names.spans_channel();
                let payload = wire::span(&(&append.head).into(), append.group.as_str(), span);
                commands.push(publish(&channel, &payload));
            }
            let before = commands.len();
            let seq_before = match &command.kind {
                CommandKind::Append(append) if append.retention == Retention::History => {
                    last_seqs.insert(&append.group, append.head.id.seq)
                }
                _ => None,
            };
            self.add(&command.kind, seq_before, &members, &mut commands);
            counts.push(commands.len() - before);
        }
        let replies = self.within(self.commands.run(commands)).await?;
        let mut replies = replies.into_iter();
        let mut failed = None;
        for (mut command, count) in std::mem::take(batch).into_iter().zip(counts) {
            if command.kind.traced().is_some() {
                replies.next(); // the event counts, not its span
            }
            let mut taken = replies.by_ref().take(count);
            let own: RedisResult<Vec<Value>> = taken.by_ref().collect();
            taken.for_each(drop); // those after an error: the next replies are those of others
            match own {
                Ok(own) => self.on_executed(command, own),
                Err(error) if is_transient(&error) || command.kind.is_retried_after(&error) => {
                    if is_transient(&error) {
                        failed.get_or_insert(error);
                    }
                    command.kind.not_executed();
                    batch.push(command);
                }
                Err(error) => {
                    let remote = &self.remote;
                    remote.log_refused(&error, || remote.label_of(&command.kind, &error));
                    if let CommandKind::Presence(presence) = &command.kind {
                        remote.on_presence_refused(presence);
                    }
                    remote.0.outbox.give_up(command, "redis_refused");
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn on_executed(&self, mut command: QueuedCommand, reply: Vec<Value>) {
        match &command.kind {
            CommandKind::CoreGroupSend { .. } => count_full(&reply),
            CommandKind::Presence(presence) => self.remote.on_presence_sent(presence, &reply),
            _ => {}
        }
        let is_confirmed = has_offset(&reply);
        if let CommandKind::Append(append) = &command.kind {
            let expiry = append.bounds.map(|(_, expiry)| expiry);
            let registry = &self.remote.0.registry;
            registry.add(&append.group, append.event.size(), &reply, expiry);
        }
        if let Some(waiting) = command.reply.take() {
            let _ = waiting.send(reply);
        }
        if is_confirmed {
            self.remote.0.outbox.confirm(command);
        }
    }

    /// Adds the Redis commands of a queued command. `seq_before`: the number of the event before it
    /// in the same pipeline and group.
    fn add(
        &self,
        kind: &CommandKind,
        seq_before: Option<u64>,
        members: &HashMap<GroupName, Vec<String>>,
        out: &mut Vec<Cmd>,
    ) {
        let inner = &self.remote.0;
        match kind {
            CommandKind::Publish { channel, payload }
            | CommandKind::NodeMessage { channel, payload } => {
                out.push(publish(channel, payload));
            }
            CommandKind::Append(append) if append.retention == Retention::Transient => {
                let payload = wire::event(&append.head, &append.event);
                out.push(publish(&inner.names.channel_of(&append.group), &payload));
            }
            CommandKind::Append(append) => out.push(self.append_command(append, seq_before)),
            CommandKind::CoreGroupSend { group, event } => {
                let members = members.get(group).map(Vec::as_slice).unwrap_or_default();
                out.extend(inner.core.deliveries(&inner.codec, event, members));
            }
            CommandKind::Presence(presence) => {
                out.extend(presence.commands.iter().cloned());
                if let Some(event) = &presence.event {
                    self.add(event, None, members, out);
                }
            }
            CommandKind::Raw(commands) => out.extend(commands.iter().cloned()),
        }
    }

    fn append_command(&self, append: &HistoryAppend, seq_before: Option<u64>) -> Cmd {
        let inner = &self.remote.0;
        let [meta, stream] = inner.names.history_keys(&append.group);
        let mut call = APPEND.call(&[&meta, &stream]);
        call.arg(inner.names.channel_of(&append.group))
            .arg(wire::head(&append.head))
            .arg(wire::tail(&append.head, &append.event))
            .arg(append.head.id.node)
            .arg(append.head.id.seq);
        // A member may have asked for a history since the event was queued.
        let bounds = append.bounds.or_else(|| {
            let group = inner.local.find(append.group.as_str())?;
            group.with_history(|history| history.is_shared().then(|| history.bounds()))
        });
        match bounds {
            Some((max, expiry)) => call.arg(max).arg(millis(expiry)),
            None => call.arg("").arg(""),
        };
        call.arg(&epoch_bytes()[..])
            .arg(u8::from(append.attempt == Attempt::Repeated))
            .arg(seq_before.unwrap_or(0))
            .arg(inner.group_history_size.load(Ordering::Relaxed));
        call
    }

    /// Changes the members that Redis lists, before the groups of `channels_redis.core` are asked to
    /// whom the events of these changes go: a process that joins a group later finds the change in
    /// the list.
    async fn write_core_presence(&self, batch: &mut [QueuedCommand]) -> RedisResult<()> {
        if self.remote.0.format != LayerFormat::Core {
            return Ok(());
        }
        let mut commands = Vec::new();
        for command in batch {
            // All of them, so that they keep their order.
            if let CommandKind::Presence(presence) = &mut command.kind {
                commands.append(&mut presence.commands);
            }
        }
        self.query(commands).await.map(drop)
    }

    /// Asks for the members of the `channels_redis.core` groups that a batch sends to.
    async fn members_of(
        &self,
        batch: &[QueuedCommand],
    ) -> RedisResult<HashMap<GroupName, Vec<String>>> {
        let mut groups: Vec<&GroupName> = batch
            .iter()
            .filter_map(|command| command.kind.core_group())
            .collect();
        groups.sort_unstable();
        groups.dedup();
        if groups.is_empty() {
            return Ok(HashMap::new());
        }
        let inner = &self.remote.0;
        let asked = groups
            .iter()
            .flat_map(|group| inner.core.list_members(group));
        let answers = self.query(asked.collect()).await?;
        let members = answers.into_iter().skip(1).step_by(2);
        let members = members.map(|members| redis::from_redis_value(members).unwrap_or_default());
        Ok(groups.into_iter().cloned().zip(members).collect())
    }
}

fn publish(channel: &str, payload: &[u8]) -> Cmd {
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(channel).arg(payload);
    publish
}

/// Returns whether a reply of `APPEND` shows that the event has an offset.
fn has_offset(reply: &[Value]) -> bool {
    matches!(reply, [Value::Array(parts)] if !matches!(parts.get(1), None | Some(Value::Int(0))))
}
