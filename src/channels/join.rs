//! Join: what a member receives when it joins a group, and when the history that it awaits is
//! loaded.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::batch::{Batch, Entry};
use super::group::{Group, Member, Outgoing};
use super::history::{AwaitedPart, GroupHistory, Joined, Replay, Start};
use super::membership::{AwaitedStart, Awaiting, MemberView};
use super::{GroupOptions, Membership, Subscriber};
use crate::auth::User;

impl Group {
    /// Adds a member. Returns its start; `None` if it is already in the group.
    ///
    /// The replay reaches the subscriber before this returns and before any newer event: the
    /// members' lock is held throughout, and delivery needs it.
    pub(super) fn join(
        &self,
        member: u64,
        subscriber: &Arc<dyn Subscriber>,
        user: Option<Arc<User>>,
        options: &GroupOptions,
        start: Start,
    ) -> Option<Joined> {
        let mut members = self.members.lock();
        if members.contains(member) {
            return None;
        }
        let mut outgoing = self.outgoing.lock();
        if options.history > 0 {
            let newest = outgoing.number;
            outgoing.history.set_bounds(options, newest);
        }
        if members.is_empty() {
            outgoing.history.account.set_members(true);
        }
        outgoing.history.forget_old(Instant::now());
        let mut membership = Membership::new(member, options.recover, outgoing.number);
        let replay = outgoing.replay(&mut membership, start, options.history > 0);
        drop(outgoing);
        if options.recover {
            let recovered = matches!(start, Start::After(_)).then_some(replay.is_complete);
            subscriber.joined(&replay.from, recovered);
        }
        if !replay.entries.is_empty() {
            let replayed = Membership::new(member, options.recover, 0);
            subscriber.deliver_history(&Batch::new(self.name().clone(), replay.entries), &replayed);
        }
        members.insert(Member {
            membership,
            subscriber: subscriber.clone(),
            user,
            presence: options.presence,
        });
        self.len.fetch_add(1, Ordering::Relaxed);
        Some(Joined {
            from: replay.from,
            is_complete: replay.is_complete,
        })
    }

    /// Called with how much Redis keeps of the group's history, and the newest offset. If no member
    /// of this process has asked for the history, the process keeps a copy from now on: members
    /// follow its offsets, so none of them misses an event. Returns whether they have received
    /// events after the newest one: then the history has to be read once more.
    pub(super) fn adopt_history(
        &self,
        (history, history_expiry): (usize, Duration),
        newest: u64,
    ) -> bool {
        let outgoing = &mut *self.outgoing.lock();
        if outgoing.history.is_shared() || history == 0 {
            return false;
        }
        let options = GroupOptions {
            history,
            history_expiry,
            ..GroupOptions::default()
        };
        outgoing.history.set_bounds(&options, outgoing.number);
        outgoing.history.is_delivered_beyond(newest)
    }

    /// Called when the shared history was read to its end. For the first time, gives each member
    /// the part that it has awaited.
    ///
    /// The members' lock is held throughout, so nothing newer overtakes it. An event without an
    /// offset that waits for delivery meanwhile still reaches the members: each keeps its `since`.
    pub(super) fn history_read(&self) {
        let mut members = self.members.lock();
        let Some(history) = self.with_history(GroupHistory::read_to_end) else {
            return;
        };
        // Members that joined at about the same time receive the same.
        let mut last: Option<(AwaitedPart, Batch)> = None;
        for slot in members.slots.iter_mut().flatten() {
            let awaiting = slot.membership.take_awaiting().unwrap_or(Awaiting {
                start: AwaitedStart::Kept,
                early_from: 0,
            });
            let part = history.part(&awaiting);
            let (_, batch) = match last.take().filter(|(of, _)| *of == part) {
                Some(same) => last.insert(same),
                None => {
                    let entries = history.entries(&part);
                    last.insert((part, Batch::new(self.name().clone(), entries)))
                }
            };
            if !batch.is_empty() {
                let of = &slot.membership;
                let replayed = Membership::new(of.member, of.shows_positions, 0);
                slot.subscriber.deliver_history(batch, &replayed);
            }
        }
    }
}

impl Outgoing {
    /// Returns what a member receives when it joins, and sets how it differs from the others.
    fn replay(&mut self, membership: &mut Membership, start: Start, wants_history: bool) -> Replay {
        let is_loaded = self.history.is_loaded();
        let pending = self.pending_joins.start(membership.member);
        let mut replay = self.history.replay(start, wants_history);
        if start == Start::Now
            && let Some((_, seen)) = pending
        {
            replay.from = seen; // the entries retained since then are replayed
        }
        self.pending_joins
            .complete(membership.member, &mut replay.entries);
        if let Start::After(seen) = start
            && replay.is_complete
        {
            // Among those that were retained may be events that it has seen elsewhere.
            let has_passed = |entry: &Entry| {
                let position = entry.position;
                entry.id.is_kept()
                    && !entry.is_early
                    && position.epoch == seen.position.epoch
                    && position.offset <= seen.position.offset
            };
            replay
                .entries
                .retain(|entry| !seen.marks.cover(entry.id) && !has_passed(entry));
        }
        if is_loaded {
            if self.history.is_shared() {
                replay.set_positions();
            }
            membership.set_marked(replay.marked);
            return replay;
        }
        // Those with an offset follow when the history is loaded.
        replay
            .entries
            .retain(|entry| !entry.id.is_kept() || entry.is_early);
        let mut early = replay.entries.iter().filter(|entry| entry.is_early);
        let start = match start {
            Start::History if wants_history => AwaitedStart::History,
            Start::After(_) => AwaitedStart::History,
            Start::Now | Start::History => {
                AwaitedStart::Now(pending.map_or_else(tokio::time::Instant::now, |(at, _)| at))
            }
        };
        let awaiting = Awaiting {
            start,
            early_from: early.next().map_or(self.number + 1, |entry| entry.number),
        };
        membership.view = Some(Box::new(MemberView::Awaiting(awaiting)));
        replay
    }
}
