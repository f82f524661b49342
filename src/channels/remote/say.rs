//! Say: brings what waits in the outbox to Redis, a pipeline at a time.

use std::collections::HashMap;

use redis::{Cmd, RedisResult, Value};

use super::commands::is_passing;
use super::connection::{Ended, Live, closed};
use super::core::count_full;
use super::history::epoch_bytes;
use super::outbox::{Act, Order};
use super::scripts::PLACE;
use super::wire;
use crate::channels::GroupName;
use crate::channels::append::Keep;

impl Live {
    pub(super) async fn say(self) -> Ended {
        let outbox = &self.remote.0.outbox;
        loop {
            let mut orders = tokio::select! {
                orders = outbox.next() => orders,
                () = self.ending.cancelled() => return (closed(), Vec::new()),
            };
            let bytes: usize = orders.iter().map(|order| order.size).sum();
            for order in &mut orders {
                order.act.may_be_said();
            }
            let said = tokio::select! {
                said = self.say_all(&mut orders) => said,
                () = self.ending.cancelled() => Err(closed()),
            };
            if let Err(error) = said {
                return (error, orders);
            }
            let left: usize = orders.iter().map(|order| order.size).sum();
            outbox.put_back(orders);
            outbox.done(bytes - left);
        }
    }

    /// Says a batch of orders in one pipeline. Those that Redis did not do are left: when it fails, or their keys are on their way.
    async fn say_all(&self, orders: &mut Vec<Order>) -> RedisResult<()> {
        let members = self.members_of(orders).await?;
        let mut commands = Vec::new();
        let mut counts = Vec::with_capacity(orders.len());
        let mut before_it: HashMap<&GroupName, u64> = HashMap::new();
        for order in &*orders {
            let before = commands.len();
            let seq_before = match &order.act {
                Act::Place(placing) if placing.keep == Keep::History => {
                    before_it.insert(&placing.group, placing.head.seq)
                }
                _ => None,
            };
            self.add(&order.act, seq_before, &members, &mut commands);
            counts.push(commands.len() - before);
        }
        let answers = self.within(self.commands.run(commands)).await?;
        let mut answers = answers.into_iter();
        let mut failed = None;
        for (order, count) in std::mem::take(orders).into_iter().zip(counts) {
            let own: RedisResult<Vec<Value>> = answers.by_ref().take(count).collect();
            match own {
                Ok(own) => self.said(order, own),
                Err(error) if is_passing(&error) || order.act.waits_for(&error) => {
                    if is_passing(&error) {
                        failed.get_or_insert(error);
                    }
                    let mut order = order;
                    order.act.was_not_said();
                    orders.push(order);
                }
                Err(error) => {
                    let remote = &self.remote;
                    remote.tell_refused(&error, || remote.asked_by(&order.act));
                    let outbox = &self.remote.0.outbox;
                    outbox.give_up(order, &self.layer, "redis_refused");
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Redis did what an order says.
    fn said(&self, mut order: Order, answer: Vec<Value>) {
        if matches!(order.act, Act::Core { .. }) {
            count_full(&answer);
        }
        let is_placed = is_placed(&answer);
        if let Act::Place(placing) = &order.act {
            let expiry = placing.bounds.map(|(_, expiry)| expiry);
            let notes = &self.remote.0.notes;
            notes.placed(&placing.group, placing.event.size(), &answer, expiry);
        }
        if let Some(reply) = order.reply.take() {
            let _ = reply.send(answer);
        }
        if is_placed {
            self.remote.0.outbox.placed(order);
        }
    }

    /// `seq_before`: the number of the event before it in the same pipeline and group.
    fn add(
        &self,
        act: &Act,
        seq_before: Option<u64>,
        members: &HashMap<GroupName, Vec<String>>,
        out: &mut Vec<Cmd>,
    ) {
        let inner = &self.remote.0;
        match act {
            Act::Publish { channel, payload } | Act::Tell { channel, payload } => {
                out.push(publish(channel, payload));
            }
            Act::Place(placing) if placing.keep == Keep::Nothing => {
                let payload = wire::event(&placing.head, &placing.event);
                out.push(publish(&self.remote.channel_of(&placing.group), &payload));
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
                call.arg(&epoch_bytes()[..])
                    .arg(u8::from(placing.was_said))
                    .arg(seq_before.unwrap_or(0))
                    .arg(inner.group_history_size);
                out.push(call);
            }
            Act::Core { group, event } => {
                let members = members.get(group).map(Vec::as_slice).unwrap_or_default();
                out.extend(inner.core.deliveries(
                    &self.remote,
                    &inner.dictionaries,
                    event,
                    members,
                ));
            }
            Act::Commands(commands) => out.extend(commands.iter().cloned()),
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
        let inner = &self.remote.0;
        let expiry = inner.group_expiry.as_secs();
        let asked = groups
            .iter()
            .flat_map(|group| inner.core.ask_members(group, expiry));
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

/// Tells whether an answer of `PLACE` is that there is a place.
fn is_placed(answer: &[Value]) -> bool {
    matches!(answer, [Value::Array(both)] if !matches!(both.get(1), None | Some(Value::Int(0))))
}
