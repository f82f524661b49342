//! RegistryBuffer: sizes of histories that the registry in Redis does not have yet.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;
use tokio::sync::Notify;

use crate::channels::GroupName;

/// The number of histories, and of bytes of new events, that are registered at once instead of
/// after a second.
const HISTORIES_URGENT: usize = 5000;
const BYTES_URGENT: usize = 4 << 20;

/// The most histories buffered again after an error, some 256 bytes each. The others are registered
/// with their next event.
const HISTORIES_MAX: usize = 50_000;

/// The most empty histories renewed, some 256 bytes each. Redis forgets the others after a lease,
/// until their first event.
const EMPTY_MAX: usize = 50_000;

/// Sizes of histories, as Redis returned them, that the registry does not have yet.
#[derive(Default)]
pub(super) struct RegistryBuffer {
    sizes: Mutex<BufferedSizes>,
    urgent: Notify,
    /// Groups of this process that keep a history and have no event yet, at most [`EMPTY_MAX`].
    empty: Mutex<HashSet<GroupName>>,
}

#[derive(Default)]
struct BufferedSizes {
    by_group: HashMap<GroupName, HistorySize>,
    /// The size of the events since the last `take`.
    event_bytes: usize,
}

#[derive(Clone, Copy)]
pub(super) struct HistorySize {
    pub(super) bytes: u64,
    /// `None` if this process does not know it.
    pub(super) expiry: Option<Duration>,
}

impl RegistryBuffer {
    /// Adds the size that Redis returned with an event's offset.
    pub(super) fn add(
        &self,
        group: &GroupName,
        event_bytes: usize,
        reply: &[Value],
        expiry: Option<Duration>,
    ) {
        let [Value::Array(parts)] = reply else {
            return;
        };
        let Some(Value::Int(bytes)) = parts.get(2) else {
            return; // the group keeps no history, or had the event already
        };
        let size = HistorySize {
            bytes: u64::try_from(*bytes).unwrap_or(0),
            expiry,
        };
        let mut sizes = self.sizes.lock();
        match sizes.by_group.get_mut(group) {
            Some(known) => *known = size,
            None => {
                sizes.by_group.insert(group.clone(), size);
            }
        }
        sizes.event_bytes += event_bytes;
        let is_urgent =
            sizes.event_bytes >= BYTES_URGENT || sizes.by_group.len() >= HISTORIES_URGENT;
        drop(sizes);
        if is_urgent {
            self.urgent.notify_one();
        }
    }

    /// Completes when enough is buffered to be registered now.
    pub(super) async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// Takes all sizes.
    pub(super) fn take(&self) -> UnregisteredHistories<'_> {
        let sizes = std::mem::take(&mut *self.sizes.lock());
        UnregisteredHistories {
            buffer: self,
            histories: sizes.by_group.into_iter().collect(),
        }
    }

    /// Puts sizes back, unless Redis has returned newer ones since.
    fn put_back(&self, histories: impl Iterator<Item = (GroupName, HistorySize)>) {
        let mut sizes = self.sizes.lock();
        for (group, size) in histories {
            if sizes.by_group.len() >= HISTORIES_MAX {
                break;
            }
            sizes.by_group.entry(group).or_insert(size);
        }
    }

    /// Adds a group whose history was read and has no event.
    pub(super) fn add_empty(&self, group: &GroupName) {
        let mut empty = self.empty.lock();
        if empty.len() < EMPTY_MAX {
            empty.insert(group.clone());
        }
    }

    /// Takes the groups whose history had no event when it was read.
    pub(super) fn take_empty(&self) -> HashSet<GroupName> {
        std::mem::take(&mut *self.empty.lock())
    }
}

/// Histories that the registry in Redis does not list: not yet, or no longer because it has chosen
/// them as victims.
///
/// Dropping it puts the histories back into the buffer. Otherwise an error, or a connection that
/// ends before the reply, would leave them out of the total until their next event.
pub(super) struct UnregisteredHistories<'b> {
    pub(super) buffer: &'b RegistryBuffer,
    pub(super) histories: Vec<(GroupName, HistorySize)>,
}

impl Drop for UnregisteredHistories<'_> {
    fn drop(&mut self) {
        self.buffer.put_back(self.histories.drain(..));
    }
}

impl<'b> UnregisteredHistories<'b> {
    pub(super) fn none(buffer: &'b RegistryBuffer) -> Self {
        let histories = Vec::new();
        Self { buffer, histories }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> GroupName {
        GroupName::new(&format!("room_{number}")).unwrap()
    }

    fn add(buffer: &RegistryBuffer, number: usize, bytes: i64) {
        let parts = vec![Value::Int(1), Value::Int(1), Value::Int(bytes)];
        buffer.add(&name(number), 10, &[Value::Array(parts)], None);
    }

    fn buffered(buffer: &RegistryBuffer) -> Vec<(GroupName, u64)> {
        let sizes = buffer.sizes.lock();
        let histories = sizes.by_group.iter();
        let mut found: Vec<_> = histories
            .map(|(group, size)| (group.clone(), size.bytes))
            .collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn histories_that_could_not_be_registered_are_registered_with_the_next() {
        let buffer = RegistryBuffer::default();
        for number in 0..4 {
            add(&buffer, number, 100);
        }
        let mut taken = buffer.take();
        assert_eq!(buffered(&buffer), []);
        // One is registered, another gets an event meanwhile, and the registry chooses a third as a
        // victim.
        taken.histories.retain(|(group, _)| *group != name(0));
        add(&buffer, 1, 200);
        let mut victims = UnregisteredHistories::none(&buffer);
        let expiry = None;
        victims
            .histories
            .push((name(4), HistorySize { bytes: 50, expiry }));
        drop((taken, victims));
        let expected = [(1, 200), (2, 100), (3, 100), (4, 50)];
        let expected: Vec<_> = expected.map(|(number, bytes)| (name(number), bytes)).into();
        assert_eq!(buffered(&buffer), expected);
    }

    #[test]
    fn groups_without_events_are_known_once_and_bounded() {
        let buffer = RegistryBuffer::default();
        for _ in 0..3 {
            buffer.add_empty(&name(0));
        }
        assert_eq!(buffer.empty.lock().len(), 1);
        for number in 0..EMPTY_MAX + 10 {
            buffer.add_empty(&name(number));
        }
        assert_eq!(buffer.empty.lock().len(), EMPTY_MAX);
    }
}
