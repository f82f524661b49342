//! Say: brings what waits in the outbox to Redis, a pipeline at a time.

use std::collections::HashMap;

use redis::{RedisResult, Value};

use super::connection::{Ended, Live, closed};
use super::core::count_full;
use super::history::new_epoch;
use super::outbox::{Act, Order};
use super::scripts::PLACE;
use super::wire;
use crate::channels::GroupName;

impl Live {
    pub(super) async fn say(self) -> Ended {
        let outbox = &self.remote.0.outbox;
        loop {
            let mut orders = tokio::select! {
                orders = outbox.next() => orders,
                () = self.ending.cancelled() => return (closed(), Vec::new()),
            };
            let bytes = orders.iter().map(|order| order.size).sum();
            let said = tokio::select! {
                said = self.say_all(&mut orders) => said,
                () = self.ending.cancelled() => Err(closed()),
            };
            if let Err(error) = said {
                return (error, orders);
            }
            outbox.done(bytes);
        }
    }

    /// Says a batch of orders in one pipeline. When it fails, all of them are left.
    async fn say_all(&self, orders: &mut Vec<Order>) -> RedisResult<()> {
        let members = self.members_of(orders).await?;
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let mut counts = Vec::with_capacity(orders.len());
        for order in &*orders {
            let before = pipeline.len();
            self.add(&order.act, &members, &mut pipeline);
            counts.push(pipeline.len() - before);
        }
        let answers: Vec<RedisResult<Value>> = if pipeline.is_empty() {
            Vec::new()
        } else {
            let mut commands = self.commands.clone();
            self.within(pipeline.query_async(&mut commands)).await?
        };
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            if error.code() == Some("NOSCRIPT") {
                return Err(error.clone()); // the next connection loads them again
            }
            tracing::warn!(%error, "Redis refused what the channel layer said");
        }
        let mut answers = answers.into_iter();
        for (order, count) in std::mem::take(orders).into_iter().zip(counts) {
            let own: RedisResult<Vec<Value>> = answers.by_ref().take(count).collect();
            let Ok(own) = own else {
                if !matches!(order.act, Act::Commands(_)) {
                    let outbox = &self.remote.0.outbox;
                    outbox.give_up(order, &self.layer, "redis_refused");
                }
                continue;
            };
            if matches!(order.act, Act::Core { .. }) {
                count_full(&own);
            }
            let mut order = order;
            if let Some(reply) = order.reply.take() {
                let _ = reply.send(own);
            }
            self.remote.0.outbox.confirmed(order);
        }
        Ok(())
    }

    fn add(
        &self,
        act: &Act,
        members: &HashMap<GroupName, Vec<String>>,
        pipeline: &mut redis::Pipeline,
    ) {
        let inner = &self.remote.0;
        match act {
            Act::Publish { channel, payload } => {
                pipeline.cmd("PUBLISH").arg(channel).arg(payload);
            }
            Act::Place(placing) => {
                let [meta, stream] = self.remote.history_keys(&placing.group);
                let mut call = PLACE.call(&[&meta, &stream]);
                call.arg(self.remote.channel_of(&placing.group))
                    .arg(wire::head(&placing.head))
                    .arg(wire::tail(&placing.head, &placing.event))
                    .arg(placing.head.node)
                    .arg(placing.head.seq);
                match placing.bounds {
                    Some((max, expiry)) => {
                        let expiry = u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX);
                        call.arg(max).arg(expiry);
                    }
                    None => {
                        call.arg("").arg("");
                    }
                }
                call.arg(&new_epoch()[..]);
                pipeline.add_command(call);
            }
            Act::Core { group, event } => {
                let members = members.get(group).map(Vec::as_slice).unwrap_or_default();
                let calls =
                    inner
                        .core
                        .deliveries(&self.remote, &inner.dictionaries, event, members);
                for call in calls {
                    pipeline.add_command(call);
                }
            }
            Act::Commands(commands) => {
                for command in commands {
                    pipeline.add_command(command.clone());
                }
            }
        }
    }

    /// Asks who is in the groups of `channels_redis.core` that are sent to.
    async fn members_of(&self, orders: &[Order]) -> RedisResult<HashMap<GroupName, Vec<String>>> {
        let mut groups: Vec<&GroupName> = orders
            .iter()
            .filter_map(|order| match &order.act {
                Act::Core { group, .. } => Some(group),
                _ => None,
            })
            .collect();
        groups.sort_unstable();
        groups.dedup();
        if groups.is_empty() {
            return Ok(HashMap::new());
        }
        let mut pipeline = redis::pipe();
        for group in &groups {
            pipeline
                .cmd("ZRANGE")
                .arg(self.remote.0.core.group_key(group))
                .arg(0)
                .arg(-1);
        }
        let mut commands = self.commands.clone();
        let members: Vec<Vec<String>> = self.within(pipeline.query_async(&mut commands)).await?;
        Ok(groups.into_iter().cloned().zip(members).collect())
    }
}
