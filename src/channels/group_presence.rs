//! Group presence: tells the members of a group who joins and who leaves.
//!
//! The view is changed and the event is appended under one lock, so that the members see the
//! changes in the order in which their number changes. That lock is taken before those of the
//! members and of the waiting events.

use std::collections::HashMap;

use super::append::{AppendOutcome, NewEvent};
use super::group::Group;
use super::presence::PresenceChange;
use super::presence_view::PresenceView;
use super::{ConnectionId, Event, GroupMember, Presence};

impl Group {
    /// Called before a member joins that is announced: from now on the changes are compared with
    /// what the members have been told.
    pub(super) fn begin_presence(&self) {
        self.presence.lock().get_or_insert_default();
    }

    /// Returns whether the group has, or had, announced members in this process.
    pub(super) fn has_presence(&self) -> bool {
        self.presence.lock().is_some()
    }

    /// Returns whether Redis has not yet been asked for the announced members of other processes.
    pub(super) fn is_presence_unread(&self) -> bool {
        let presence = self.presence.lock();
        presence.as_ref().is_some_and(|view| !view.is_read())
    }

    /// Returns the number of members that those of this process have been told of.
    pub(super) fn presence_len(&self) -> Option<usize> {
        self.presence.lock().as_ref().map(|view| view.len())
    }

    /// Returns the users of the announced members of other processes.
    pub(super) fn foreign_users(&self, node: u64) -> Vec<Option<String>> {
        let presence = self.presence.lock();
        let view = presence.as_ref();
        view.map(|view| view.foreign_users(node))
            .unwrap_or_default()
    }

    /// Tells the members of a change, if they have not been told of it. `arrived`: its event, if
    /// another process sent it. Returns `None` if the group has no announced members in this
    /// process: then such an event is one like any other.
    pub(super) fn change_presence(
        &self,
        change: &PresenceChange,
        arrived: Option<&Event>,
    ) -> Option<AppendOutcome> {
        let mut presence = self.presence.lock();
        let view = presence.as_mut()?;
        Some(self.tell(view, std::slice::from_ref(change), arrived))
    }

    /// Tells the members of those of this process that joined or left without a change: their
    /// change was lost on its way through Redis.
    pub(super) fn tell_own_presence(&self, node: u64) -> AppendOutcome {
        let mut presence = self.presence.lock();
        let Some(view) = presence.as_mut() else {
            return AppendOutcome::AlreadyDelivering;
        };
        view.abort_reads();
        let changes = view.own_changes(node, &self.announced(node));
        self.tell(view, &changes, None)
    }

    /// Called before the members of other processes are read from Redis.
    pub(super) fn begin_presence_read(&self) {
        if let Some(view) = self.presence.lock().as_mut() {
            view.begin_read();
        }
    }

    /// Tells the members what the announced members in Redis show; `None` if they could not be
    /// read.
    pub(super) fn end_presence_read(
        &self,
        node: u64,
        listed: Option<HashMap<ConnectionId, Option<Box<str>>>>,
    ) -> AppendOutcome {
        let mut presence = self.presence.lock();
        let Some(view) = presence.as_mut() else {
            return AppendOutcome::AlreadyDelivering;
        };
        let mut changes = Vec::new();
        if !view.is_read() {
            // Their changes may have been published before the group was subscribed to.
            changes = view.own_changes(node, &self.announced(node));
        }
        changes.extend(view.end_read(node, listed));
        self.tell(view, &changes, None)
    }

    /// Applies changes to the view, and appends their events. The events may exceed the bound of
    /// those that wait: there are at most two for each member.
    fn tell(
        &self,
        view: &mut PresenceView,
        changes: &[PresenceChange],
        arrived: Option<&Event>,
    ) -> AppendOutcome {
        let mut outcome = AppendOutcome::AlreadyDelivering;
        for change in changes {
            if let Some(members) = view.apply(change)
                && let Some(event) = change.event(members, arrived)
                && self.append_without_offset(&NewEvent::new(&event, None))
                    == AppendOutcome::Deliver
            {
                outcome = AppendOutcome::Deliver;
            }
        }
        outcome
    }

    /// Returns the announced members of this process.
    fn announced(&self, node: u64) -> HashMap<ConnectionId, Option<Box<str>>> {
        let members = self.members().into_iter();
        let announced = members.filter(|member| member.presence == Presence::Announced);
        announced
            .map(|member| (member.id(node), member.user_name()))
            .collect()
    }
}

impl GroupMember {
    /// Returns its name among the members of all processes.
    pub(super) fn id(&self, node: u64) -> ConnectionId {
        let number = self.member;
        ConnectionId { node, number }
    }

    pub(super) fn user_name(&self) -> Option<Box<str>> {
        self.user.as_ref().map(|user| user.name.as_str().into())
    }
}
