//! Delivery: an event's way to the members of a group in this process.

use std::sync::Arc;

use super::LocalGroups;
use crate::channels::append::{AppendOutcome, NewEvent, Retention};
use crate::channels::delivery::DeliveryTally;
use crate::channels::group::Group;
use crate::channels::options::SPACE_TIMEOUT;
use crate::channels::presence::PresenceChange;
use crate::channels::{Event, GroupName, LayerError, Sent};
use crate::telemetry;

/// The sender itself serves groups of up to this many members. Larger ones are served by a task
/// that yields the worker in between.
const INLINE_MEMBERS_MAX: usize = 16;

impl LocalGroups {
    /// Sends an event to the members in this process. If the group is full, waits for space, at
    /// most five seconds. Returns the number of members; `None` if there is no such group.
    pub(in crate::channels) async fn send(
        &self,
        name: &GroupName,
        new: NewEvent<'_>,
        retention: Retention,
    ) -> Result<Option<usize>, LayerError> {
        match self.try_send(name, &new, retention) {
            Ok(matched) => Ok(matched),
            // Boxed: the wait is rare, and otherwise the future of every sender would be as large
            // as this one.
            Err(full) => Box::pin(self.send_when_space(full, name, new, retention)).await,
        }
    }

    /// Sends an event to the members in this process and waits until all have been served.
    pub(in crate::channels) async fn send_counted(
        &self,
        name: &GroupName,
        event: &Event,
        retention: Retention,
    ) -> Result<Sent, LayerError> {
        let tally = Arc::new(DeliveryTally::default());
        let new = NewEvent {
            tally: Some(tally.clone()),
            ..NewEvent::new(event, None)
        };
        if self.send(name, new, retention).await?.is_none() {
            return Ok(Sent::default());
        }
        let (queued, dropped) = tally.finished().await;
        Ok(Sent {
            matched: queued + dropped,
            queued,
            dropped,
            unanswered: 0,
        })
    }

    /// Appends an event and has it delivered. Fails with the group if that is full.
    pub(in crate::channels) fn try_send(
        &self,
        name: &GroupName,
        new: &NewEvent<'_>,
        retention: Retention,
    ) -> Result<Option<usize>, Arc<Group>> {
        let Some(group) = self.find(name.as_str()) else {
            return Ok(None);
        };
        match group.append(new, retention) {
            AppendOutcome::Full => Err(group),
            outcome => {
                let matched = group.len();
                self.deliver(&group, outcome);
                Ok(Some(matched))
            }
        }
    }

    /// Waits for space in a full group, then sends.
    pub(in crate::channels) async fn send_when_space(
        &self,
        mut full: Arc<Group>,
        name: &GroupName,
        new: NewEvent<'_>,
        retention: Retention,
    ) -> Result<Option<usize>, LayerError> {
        loop {
            let space = tokio::time::timeout(SPACE_TIMEOUT, full.space());
            if space.await.is_err() {
                telemetry::event_dropped("group_full");
                return Err(LayerError::GroupFull {
                    group: name.clone(),
                });
            }
            match self.try_send(name, &new, retention) {
                Ok(matched) => return Ok(matched),
                Err(still_full) => full = still_full,
            }
        }
    }

    /// Delivers an event of another process that came alone. If the group is full, waits for space;
    /// an event that finds none in time is dropped and counted.
    pub(in crate::channels) async fn receive(&self, name: &GroupName, event: &Event) {
        let new = NewEvent::new(event, None);
        let deadline = tokio::time::Instant::now() + SPACE_TIMEOUT;
        while let Some(group) = self.find(name.as_str()) {
            match group.append(&new, Retention::History) {
                AppendOutcome::Full => {
                    let space = tokio::time::timeout_at(deadline, group.space());
                    if space.await.is_err() {
                        return telemetry::event_dropped("group_full");
                    }
                }
                outcome => return self.deliver_by(&group, outcome, Group::deliver_paced),
            }
        }
    }

    /// Tells the members of this process that one joined or left. `arrived`: the event, if another
    /// process sent it. Returns false if the group has no announced members in this process.
    pub(in crate::channels) fn change_presence(
        &self,
        name: &GroupName,
        change: &PresenceChange,
        arrived: Option<&Event>,
    ) -> bool {
        let Some(group) = self.find(name.as_str()) else {
            return false;
        };
        let Some(outcome) = group.change_presence(change, arrived) else {
            return false;
        };
        self.deliver(&group, outcome);
        true
    }

    /// Delivers the events appended to a group, if the caller has to.
    pub(in crate::channels) fn deliver(&self, group: &Arc<Group>, outcome: AppendOutcome) {
        self.deliver_by(group, outcome, Group::deliver);
    }

    /// The same; `task` serves a large group.
    fn deliver_by<F>(
        &self,
        group: &Arc<Group>,
        outcome: AppendOutcome,
        task: impl FnOnce(Arc<Group>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.evict_if_over();
        if outcome != AppendOutcome::Deliver {
            return;
        }
        if group.len() <= INLINE_MEMBERS_MAX {
            group.deliver_now();
        } else {
            self.tasks.spawn("group delivery", task(group.clone()));
        }
    }
}
