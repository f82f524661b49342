//! Delivery probe: measures how long an event takes through Redis, from its queueing in this
//! process to its return.
//!
//! One event at a time is followed: a clock reading and a name are kept for it alone, and both ends
//! are read from the same clock. Only an event of a group that this process subscribes to returns.

use std::time::{Duration, Instant};

use metrics::histogram;
use parking_lot::Mutex;

use super::wire::Head;
use crate::channels::GroupName;
use crate::telemetry;

/// How long an event is followed. One that returns later, or never, is given up.
const FOLLOWED_MAX: Duration = Duration::from_secs(10);

/// Follows one event.
#[derive(Debug, Default)]
pub(super) struct DeliveryProbe(Mutex<Option<Followed>>);

#[derive(Debug)]
struct Followed {
    group: GroupName,
    head: Head,
    since: Instant,
}

impl DeliveryProbe {
    /// Follows an event that is being queued, unless another is followed.
    pub(super) fn queued(&self, group: &GroupName, head: &Head) {
        if !telemetry::measures_time() {
            return;
        }
        let now = Instant::now();
        let mut followed = self.0.lock();
        let is_free = followed
            .as_ref()
            .is_none_or(|followed| now.saturating_duration_since(followed.since) > FOLLOWED_MAX);
        if is_free {
            *followed = Some(Followed {
                group: group.clone(),
                head: *head,
                since: now,
            });
        }
    }

    /// Records the time of the followed event, if it is this one. `head` has the number that this
    /// process gave it.
    pub(super) fn returned(&self, group: &str, head: &Head) {
        let mut followed = self.0.lock();
        let is_it = |followed: &&mut Followed| {
            let (sent, found) = (&followed.head, head);
            followed.group.as_str() == group
                && sent.id == found.id
                && sent.number == found.number
                && sent.count == found.count
        };
        let Some(found) = followed.as_mut().filter(is_it) else {
            return;
        };
        let took = found.since.elapsed();
        *followed = None;
        if took <= FOLLOWED_MAX {
            histogram!("oneport_layer_delivery_duration_seconds").record(took.as_secs_f64());
        }
    }
}
