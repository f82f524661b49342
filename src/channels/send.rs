//! Send: an event on its way to the members of a group in this process.

use std::sync::Arc;
use std::time::Duration;

use super::append::{AppendOutcome, NewEvent, Retention};
use super::batch::Tally;
use super::group::Group;
use super::options::ROOM_DEADLINE;
use super::{ChannelLayer, Event, GroupName, LayerError, PresenceEvent, Sent};
use crate::telemetry;
use crate::timestamp::Timestamp;

/// How long one waits for others to have told the group who came and went.
const PRESENCE_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Up to this many members are served by the sender itself, at once; more by a task that shares the worker.
const INLINE_MEMBERS_MAX: usize = 16;

impl ChannelLayer {
    /// Sends an event to every member, except the one named; in order for each sender, at most once for each member.
    ///
    /// Never waits for a slow member. When events come faster than the members can be served, or faster than Redis takes them,
    /// it waits for room, at most five seconds; then the event is dropped and counted.
    pub fn group_send<'a>(
        &'a self,
        group: &'a GroupName,
        event: Event,
        except: Option<u64>,
    ) -> impl Future<Output = Result<Sent, LayerError>> + Send + use<'a> {
        self.deliver(group, event, except, Retention::History)
    }

    /// Sends an event to every member, but does not keep it for those who join later.
    pub fn group_send_transient<'a>(
        &'a self,
        group: &'a GroupName,
        event: Event,
    ) -> impl Future<Output = Result<Sent, LayerError>> + Send + use<'a> {
        self.deliver(group, event, None, Retention::Transient)
    }

    /// Tells a group that somebody came or went, and how many are there now: a [`PresenceEvent`].
    ///
    /// One after the other in each group, so that the newest number of this process is also the last that is heard.
    pub async fn group_send_presence(
        &self,
        group: &GroupName,
        event_type: &str,
        user: Option<&str>,
    ) -> Result<Sent, LayerError> {
        let found = self.find(group.as_str());
        let _turn = match &found {
            Some(found) => tokio::time::timeout(PRESENCE_LOCK_TIMEOUT, found.lock_presence())
                .await
                .ok(),
            None => None,
        };
        let presence = PresenceEvent {
            user,
            members: self.group_present_len(group).await,
            at: Timestamp::now(),
        };
        match presence.event(event_type) {
            Ok(event) => self.group_send_transient(group, event).await,
            Err(_) => Ok(Sent::default()), // a number and a name are always JSON
        }
    }

    /// Tells a group that members of a process that died are gone: they are counted no more.
    pub(super) async fn group_send_left(&self, group: &GroupName, users: &[Option<String>]) {
        let found = self.find(group.as_str());
        let _turn = match &found {
            Some(found) => tokio::time::timeout(PRESENCE_LOCK_TIMEOUT, found.lock_presence())
                .await
                .ok(),
            None => None,
        };
        let members = self.group_present_len(group).await;
        for user in users {
            let presence = PresenceEvent {
                user: user.as_deref(),
                members,
                at: Timestamp::now(),
            };
            if let Ok(event) = presence.event(PresenceEvent::LEAVE) {
                let _ = self.group_send_transient(group, event).await; // what was dropped is counted
            }
        }
    }

    /// Sends an event to every member and waits until each was served, but for other processes not longer than `wait`: returns
    /// how many have it, in all processes.
    pub async fn group_send_counted(
        &self,
        group: &GroupName,
        event: Event,
        wait: Duration,
    ) -> Result<Sent, LayerError> {
        if let Some(remote) = self.remote() {
            return remote.send_counted(self, group, event, wait).await;
        }
        self.deliver_counted(group, &event, Retention::History)
            .await
    }

    /// Sends an event to the members in this process and waits until each was served.
    pub(super) async fn deliver_counted(
        &self,
        group: &GroupName,
        event: &Event,
        keep: Retention,
    ) -> Result<Sent, LayerError> {
        let tally = Arc::new(Tally::default());
        let new = NewEvent {
            event,
            except: None,
            tally: Some(tally.clone()),
        };
        if self.deliver_local(group, new, keep).await?.is_none() {
            return Ok(Sent::default());
        }
        Ok(counted(&tally).await)
    }

    /// The wait for room is rare and stands on the heap: what every sender's task has room for is small.
    async fn deliver(
        &self,
        group: &GroupName,
        event: Event,
        except: Option<u64>,
        keep: Retention,
    ) -> Result<Sent, LayerError> {
        if let Some(remote) = self.remote() {
            return Box::pin(remote.send(self, group, event, except, keep)).await;
        }
        let full = match self.deliver_now(group, &new_event(&event, except), keep) {
            Ok(sent) => {
                let matched = sent.unwrap_or(0);
                return Ok(Sent {
                    matched,
                    ..Sent::default()
                });
            }
            Err(full) => full,
        };
        let later = Box::pin(self.deliver_later(full, group, new_event(&event, except), keep));
        let matched = later.await?.unwrap_or(0);
        Ok(Sent {
            matched,
            ..Sent::default()
        })
    }

    /// Sends an event to the members in this process; waits for room. Returns how many there are, `None` when there is no group.
    pub(super) async fn deliver_local(
        &self,
        group: &GroupName,
        new: NewEvent<'_>,
        keep: Retention,
    ) -> Result<Option<usize>, LayerError> {
        match self.deliver_now(group, &new, keep) {
            Ok(sent) => Ok(sent),
            Err(full) => Box::pin(self.deliver_later(full, group, new, keep)).await,
        }
    }

    async fn deliver_later(
        &self,
        full: Arc<Group>,
        group: &GroupName,
        new: NewEvent<'_>,
        keep: Retention,
    ) -> Result<Option<usize>, LayerError> {
        let mut full = full;
        loop {
            let space = tokio::time::timeout(ROOM_DEADLINE, full.space());
            if space.await.is_err() {
                telemetry::event_dropped("group_full");
                return Err(LayerError::GroupFull {
                    group: group.clone(),
                });
            }
            match self.deliver_now(group, &new, keep) {
                Ok(sent) => return Ok(sent),
                Err(still) => full = still,
            }
        }
    }

    /// Appends an event and sees that it is delivered. The error is the group that has no room.
    fn deliver_now(
        &self,
        group: &GroupName,
        new: &NewEvent<'_>,
        keep: Retention,
    ) -> Result<Option<usize>, Arc<Group>> {
        let Some(found) = self.find(group.as_str()) else {
            return Ok(None);
        };
        match found.append(new, keep) {
            AppendOutcome::Full => Err(found),
            outcome => {
                let matched = found.len();
                self.deliver_appended(&found, outcome);
                Ok(Some(matched))
            }
        }
    }

    /// Takes its turn to deliver what was appended to a group.
    pub(super) fn deliver_appended(&self, found: &Arc<Group>, outcome: AppendOutcome) {
        self.keep_in_bounds();
        if outcome != AppendOutcome::Deliver {
            return;
        }
        if found.len() <= INLINE_MEMBERS_MAX {
            found.deliver_now();
        } else {
            let delivery = found.clone().deliver();
            self.tasks().spawn("group delivery", delivery);
        }
    }
}

/// An event without further wishes.
pub(super) fn new_event(event: &Event, except: Option<u64>) -> NewEvent<'_> {
    NewEvent {
        event,
        except,
        tally: None,
    }
}

/// Waits until all members were served.
pub(super) async fn counted(tally: &Tally) -> Sent {
    let (queued, dropped) = tally.counted().await;
    Sent {
        matched: queued + dropped,
        queued,
        dropped,
        unanswered: 0,
    }
}
