//! Outbox: what waits to be said to Redis, in order and bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use redis::{Cmd, RedisError, Value};
use tokio::sync::{Notify, oneshot};

use super::commands::is_elsewhere;
use super::wire::Head;
use crate::channels::append::{Keep, Turn};
use crate::channels::group::Group;
use crate::channels::send::news;
use crate::channels::{ChannelLayer, Event, GroupName};
use crate::telemetry;

/// What one pipeline takes: less after each loss, for it may have been more than Redis can do in the time that it has, and more
/// again with each answer.
const ORDERS_AT_ONCE_MIN: usize = 16;
const ORDERS_AT_ONCE: usize = 512;
const BYTES_AT_ONCE: usize = 1 << 20;

/// What a command beside events is counted as.
pub(super) const COMMAND_BYTES: usize = 256;

/// Events that Redis confirmed are said again after a loss: a Redis that died may have published them to nobody, or have kept
/// them nowhere. So long, and so many, and a share of the queue's bytes.
const SAID_AGE_MAX: Duration = Duration::from_secs(30);
const SAID_MAX: usize = 4096;
const SAID_SHARE: usize = 4;

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
    /// An event for whoever subscribed.
    Publish { channel: String, payload: Vec<u8> },
    /// A message between Oneports that is no event.
    Tell { channel: String, payload: Vec<u8> },
    /// An event for a group that may keep a history.
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
    pub(super) keep: Keep,
    /// How much the group keeps, where that is known here.
    pub(super) bounds: Option<(usize, Duration)>,
    /// The members of this process have it.
    pub(super) is_early: bool,
    /// It may have been said in an earlier try: then it is said again only into a history.
    pub(super) was_said: bool,
    /// The same, the try that is under way included.
    pub(super) is_again: bool,
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
    /// What Redis confirmed lately, and when.
    said: VecDeque<(Instant, Order)>,
    said_bytes: usize,
    way: Way,
    orders_at_once: usize,
    seq: u64,
    lost: u64,
}

/// Is Redis there?
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Way {
    #[default]
    Away,
    /// It is being told what there is: what changes meanwhile is said after that.
    Coming,
    There,
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
        self.state().way == Way::There
    }

    /// Takes an order. Events that are held wait while Redis is away, others are lost then.
    pub(super) fn push(&self, mut order: Order, layer: &ChannelLayer) -> Result<(), Refused> {
        let mut state = self.state();
        let is_event = order.act.is_event();
        let is_held = order.act.is_held();
        if state.way != Way::There && !is_held {
            drop(state);
            self.give_up(order, layer, "redis_away");
            return Err(Refused::Away);
        }
        let is_full = !state.orders.is_empty() && state.bytes + order.size > self.bytes_max;
        if is_event && is_full {
            return Err(Refused::Full(order));
        }
        let mut turn = None;
        if let Act::Place(placing) = &mut order.act {
            if placing.keep == Keep::History {
                state.seq += 1;
                placing.head.seq = state.seq;
            }
            if state.way != Way::There {
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

    /// Gives up an event that Redis will not have: the members of this process get it all the same, before those that are
    /// still on their way.
    pub(super) fn give_up(&self, order: Order, layer: &ChannelLayer, reason: &'static str) {
        if order.act.is_event() {
            self.state().lost += 1;
            telemetry::event_dropped(reason);
        }
        if let Act::Place(placing) = order.act
            && let Some((found, turn)) = placing.append_unplaced(layer)
        {
            layer.serve(&found, turn);
        }
    }

    /// Redis has an event, and a place for it; it is remembered for a while.
    pub(super) fn placed(&self, order: Order) {
        let Act::Place(mut placing) = order.act else {
            return;
        };
        placing.head.count = None; // who counted has the counts, or waits no more
        let now = Instant::now();
        let mut state = self.state();
        state.said_bytes += order.size;
        let order = Order {
            act: Act::Place(placing),
            size: order.size,
            reply: None,
        };
        state.said.push_back((now, order));
        while let Some((at, first)) = state.said.front()
            && (now.duration_since(*at) > SAID_AGE_MAX
                || state.said.len() > SAID_MAX
                || state.said_bytes > self.bytes_max / SAID_SHARE)
        {
            state.said_bytes -= first.size;
            state.said.pop_front();
        }
    }

    /// Takes an order that is no group's event, if Redis is there; tells whether it is.
    pub(super) fn push_plain(&self, order: Order) -> bool {
        let state = self.state();
        state.way == Way::There && self.take_plain(state, order)
    }

    /// Takes commands that change what Redis was told when the connection began. Returns whether they are said, or need not be:
    /// while Redis is away it is told all later.
    pub(super) fn push_change(&self, order: Order) -> bool {
        let state = self.state();
        state.way == Way::Away || self.take_plain(state, order)
    }

    /// Takes an order that is no group's event, as far as there is room; for these there is twice as much.
    fn take_plain(&self, mut state: MutexGuard<'_, State>, order: Order) -> bool {
        if state.bytes + order.size > 2 * self.bytes_max {
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
                let at_once = state.orders_at_once.max(ORDERS_AT_ONCE_MIN);
                while taken.len() < at_once
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

    /// Some of what was taken has to be said once more, before what waits.
    pub(super) fn put_back(&self, orders: Vec<Order>) {
        let mut state = self.state();
        for order in orders.into_iter().rev() {
            state.orders.push_front(order);
        }
        drop(state);
        self.work.notify_one();
    }

    /// What was taken is done: it counts no more.
    pub(super) fn done(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.orders_at_once = (2 * state.orders_at_once).clamp(ORDERS_AT_ONCE_MIN, ORDERS_AT_ONCE);
        drop(state);
        self.room.notify_waiters();
    }

    /// Drops the events that Redis has a place for already: those of each group up to a number.
    pub(super) fn forget_placed(&self, placed: &HashMap<GroupName, u64>) {
        let mut state = self.state();
        let state = &mut *state;
        state.orders.retain(|order| {
            let is_placed = match &order.act {
                Act::Place(placing) => placed
                    .get(&placing.group)
                    .is_some_and(|last| placing.head.seq <= *last),
                _ => false,
            };
            if is_placed {
                state.bytes = state.bytes.saturating_sub(order.size);
            }
            !is_placed
        });
        self.room.notify_waiters();
    }

    /// Redis is about to be told what there is.
    pub(super) fn coming(&self) {
        self.state().way = Way::Coming;
    }

    /// Redis is there.
    pub(super) fn connected(&self) {
        self.state().way = Way::There;
        self.work.notify_one();
    }

    /// Redis was coming, and did not come: what changed meanwhile it is told another time.
    pub(super) fn still_away(&self) {
        let mut state = self.state();
        let state = &mut *state;
        state.way = Way::Away;
        state.orders.retain(|order| {
            let is_change = matches!(order.act, Act::Commands(_));
            if is_change {
                state.bytes = state.bytes.saturating_sub(order.size);
            }
            !is_change
        });
    }

    /// Redis is gone, and nobody knows what of the taken orders arrived: held events are said again, and so are those that it gave
    /// a place lately; the members of this process get now what they have not heard. The others are lost.
    pub(super) fn disconnected(&self, taken: Vec<Order>, layer: &ChannelLayer) {
        let mut turns = Vec::new();
        {
            let mut state = self.state();
            state.way = Way::Away;
            state.orders_at_once /= 4;
            state.said_bytes = 0;
            let said = std::mem::take(&mut state.said);
            let said = said
                .into_iter()
                .filter(|(at, _)| at.elapsed() <= SAID_AGE_MAX)
                .map(|(_, order)| order);
            let said = said.map(|mut order| {
                if let Act::Place(placing) = &mut order.act {
                    placing.is_again = true;
                }
                (order, true)
            });
            let others = taken.into_iter().chain(std::mem::take(&mut state.orders));
            let all = said.chain(others.map(|order| (order, false)));
            let mut held = VecDeque::new();
            let mut bytes = 0;
            for (mut order, was_placed) in all {
                let (is_event, is_held) = (order.act.is_event(), order.act.is_held());
                match &mut order.act {
                    Act::Place(placing) if is_held || was_placed => {
                        turns.extend(placing.append_early(layer));
                        bytes += order.size;
                        held.push_back(order);
                        continue;
                    }
                    Act::Place(placing) if !placing.is_again => {
                        turns.extend(placing.append_unplaced(layer));
                    }
                    _ => {}
                }
                if is_event {
                    state.lost += 1;
                    telemetry::event_dropped("redis_away");
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
        self.state.lock()
    }
}

impl Act {
    /// It is about to be said.
    pub(super) fn may_be_said(&mut self) {
        if let Self::Place(placing) = self {
            placing.was_said = placing.is_again;
            placing.is_again = true;
        }
    }

    /// Redis answered that it did not do it.
    pub(super) fn was_not_said(&mut self) {
        if let Self::Place(placing) = self {
            placing.is_again = placing.was_said;
        }
    }

    /// Tells whether it is to be said again when its keys have come to where they are going: a question is not, who asked asks again.
    pub(super) fn waits_for(&self, error: &RedisError) -> bool {
        is_elsewhere(error) && matches!(self, Self::Place(_))
    }

    fn is_event(&self) -> bool {
        !matches!(self, Self::Tell { .. } | Self::Commands(_))
    }

    /// Tells whether it waits while Redis is away: an event of a history, or of a group that is not here and may keep one.
    fn is_held(&self) -> bool {
        matches!(self, Self::Place(placing) if placing.keep == Keep::History && !placing.head.is_served)
    }
}

impl Placing {
    /// Gives the event to the members of this process, who will not hear it from Redis.
    fn append_unplaced(&self, layer: &ChannelLayer) -> Option<(Arc<Group>, Turn)> {
        if self.is_early || self.head.is_served {
            return None;
        }
        let found = layer.find(self.group.as_str())?;
        if !found.with_past(|past| past.is_shared()) {
            return None;
        }
        let turn = found.append_unplaced(&news(&self.event, self.head.except));
        Some((found, turn))
    }

    /// Gives the event to the members of this process, which will not wait for Redis.
    fn append_early(&mut self, layer: &ChannelLayer) -> Option<(Arc<Group>, Turn)> {
        if std::mem::replace(&mut self.is_early, true) || self.head.is_served {
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
