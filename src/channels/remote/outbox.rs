//! Outbox: what waits to be said to Redis, in order and bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::{Notify, oneshot};

use super::wire::Head;
use crate::channels::group::{Group, Turn};
use crate::channels::send::news;
use crate::channels::{ChannelLayer, Event, GroupName};
use crate::telemetry;

/// What one pipeline takes at most.
const ORDERS_AT_ONCE: usize = 512;
const BYTES_AT_ONCE: usize = 1 << 20;

/// What a command beside events is counted as.
pub(super) const COMMAND_BYTES: usize = 256;

/// Something to be said to Redis.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) act: Act,
    pub(super) size: usize,
    /// Who waits for the answer; it learns of a loss by the end of the channel.
    pub(super) reply: Option<oneshot::Sender<Vec<Value>>>,
}

#[derive(Debug)]
pub(super) enum Act {
    /// A message for whoever subscribed.
    Publish { channel: String, payload: Vec<u8> },
    /// An event for a group that may keep a history; it is held while Redis is away.
    Place(Box<Placing>),
    /// An event for a group of `channels_redis.core`.
    Core { group: GroupName, event: Event },
    /// Anything else; it is of no use once the connection is another.
    Commands(Vec<Cmd>),
}

#[derive(Debug)]
pub(super) struct Placing {
    pub(super) group: GroupName,
    pub(super) head: Head,
    pub(super) event: Event,
    /// How much the group keeps, where that is known here.
    pub(super) bounds: Option<(usize, Duration)>,
    /// The members of this process have it.
    pub(super) is_early: bool,
}

/// What waits to be said to Redis.
pub(super) struct Outbox {
    bytes_max: usize,
    state: Mutex<State>,
    work: Notify,
    room: Notify,
}

#[derive(Default)]
struct State {
    orders: VecDeque<Order>,
    bytes: usize,
    is_connected: bool,
    seq: u64,
    lost: u64,
}

/// Why an order was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    Away,
    Full(Order),
}

impl Outbox {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state().is_connected
    }

    /// Takes an order. Events that are held wait while Redis is away, others are lost then.
    pub(super) fn push(&self, mut order: Order, layer: &ChannelLayer) -> Result<(), Refused> {
        let mut state = self.state();
        let is_event = !matches!(order.act, Act::Commands(_));
        let is_held = matches!(order.act, Act::Place(_));
        if !state.is_connected && !is_held {
            state.lost += u64::from(is_event);
            drop(state);
            if is_event {
                telemetry::event_dropped("redis_away");
            }
            return Err(Refused::Away);
        }
        let is_full = !state.orders.is_empty() && state.bytes + order.size > self.bytes_max;
        if is_event && is_full {
            return Err(Refused::Full(order));
        }
        let mut turn = None;
        if let Act::Place(placing) = &mut order.act {
            state.seq += 1;
            placing.head.seq = state.seq;
            if !state.is_connected {
                turn = placing.append_early(layer);
            }
        }
        state.bytes += order.size;
        state.orders.push_back(order);
        drop(state);
        self.work.notify_one();
        if let Some((found, turn)) = turn {
            layer.serve(&found, turn);
        }
        Ok(())
    }

    /// Gives up an event that Redis will not have: the members of this process get it all the same.
    pub(super) fn give_up(&self, order: Order, layer: &ChannelLayer, reason: &'static str) {
        let mut turn = None;
        {
            let mut state = self.state();
            state.lost += 1;
            if let Act::Place(mut placing) = order.act {
                if placing.head.seq == 0 {
                    state.seq += 1;
                    placing.head.seq = state.seq;
                }
                turn = placing.append_early(layer);
            }
        }
        telemetry::event_dropped(reason);
        if let Some((found, turn)) = turn {
            layer.serve(&found, turn);
        }
    }

    /// Takes an order that is no group's event, if Redis is there; tells whether it is.
    pub(super) fn push_plain(&self, order: Order) -> bool {
        let mut state = self.state();
        let is_full = state.bytes + order.size > 2 * self.bytes_max;
        if !state.is_connected || is_full {
            return false;
        }
        state.bytes += order.size;
        state.orders.push_back(order);
        drop(state);
        self.work.notify_one();
        true
    }

    /// Tells whether an event would be taken.
    pub(super) fn has_room(&self, size: usize) -> bool {
        let state = self.state();
        state.orders.is_empty() || state.bytes + size <= self.bytes_max
    }

    /// Completes when there may be room again.
    pub(super) fn room(&self) -> impl Future<Output = ()> + '_ {
        self.room.notified()
    }

    /// Takes what the next pipeline says; waits until there is something.
    pub(super) async fn next(&self) -> Vec<Order> {
        loop {
            {
                let mut state = self.state();
                let mut taken = Vec::new();
                let mut bytes = 0;
                while taken.len() < ORDERS_AT_ONCE
                    && bytes < BYTES_AT_ONCE
                    && let Some(order) = state.orders.pop_front()
                {
                    bytes += order.size;
                    taken.push(order);
                }
                if !taken.is_empty() {
                    return taken;
                }
            }
            self.work.notified().await;
        }
    }

    /// What was taken is done: it counts no more.
    pub(super) fn done(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
        drop(state);
        self.room.notify_waiters();
    }

    /// Redis is there.
    pub(super) fn connected(&self) {
        self.state().is_connected = true;
        self.work.notify_one();
    }

    /// Redis is gone, and nobody knows what of these orders arrived: held events are said again, and the members of this process
    /// get them now; the others are lost.
    pub(super) fn disconnected(&self, taken: Vec<Order>, layer: &ChannelLayer) {
        let mut turns = Vec::new();
        {
            let mut state = self.state();
            state.is_connected = false;
            let all = taken.into_iter().chain(std::mem::take(&mut state.orders));
            let mut held = VecDeque::new();
            let mut bytes = 0;
            for mut order in all {
                match &mut order.act {
                    Act::Place(placing) => {
                        turns.extend(placing.append_early(layer));
                        bytes += order.size;
                        held.push_back(order);
                    }
                    Act::Publish { .. } | Act::Core { .. } => {
                        state.lost += 1;
                        telemetry::event_dropped("redis_away");
                    }
                    Act::Commands(_) => {}
                }
            }
            state.orders = held;
            state.bytes = bytes;
        }
        self.room.notify_waiters();
        for (found, turn) in turns {
            layer.serve(&found, turn);
        }
    }

    /// Returns how many events were lost since this was asked last.
    pub(super) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.state().lost)
    }

    /// Counts events that were lost elsewhere.
    pub(super) fn count_lost(&self, events: u64) {
        self.state().lost += events;
    }

    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.orders.is_empty() && state.bytes == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Placing {
    /// Gives the event to the members of this process, which will not wait for Redis.
    fn append_early(&mut self, layer: &ChannelLayer) -> Option<(Arc<Group>, Turn)> {
        if std::mem::replace(&mut self.is_early, true) {
            return None;
        }
        let found = layer.find(self.group.as_str())?;
        if !found.with_past(|past| past.is_shared()) {
            return None;
        }
        let Head {
            node, seq, except, ..
        } = self.head;
        let turn = found.append_early(&news(&self.event, except), node, seq);
        Some((found, turn))
    }
}
