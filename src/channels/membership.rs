//! Membership: one member's state in one group.

use tokio::time::Instant;

use super::Marks;
use super::event_id::EventId;

/// One member's state in one group.
///
/// Most members follow their group: they have received the same events as the others since they
/// joined. The rest differ from them:
///
/// ```text
///   joined before the shared history was read ─▶ Awaiting ── the history was read ──▶ follows
///   returned with marks                       ─▶ Marked ── all have their offsets ──▶ follows
///   joined otherwise                          ──────────────────────────────────────▶ follows
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// The number of the member's connection or mailbox, unique in the process.
    pub member: u64,
    /// Whether the member receives each event's position.
    pub shows_positions: bool,
    /// The number of the newest entry when the member joined; it receives only later ones.
    pub(super) since: u64,
    /// How it differs from members that follow the group. Boxed: few do.
    pub(super) view: Option<Box<MemberView>>,
}

/// How a member differs from those that follow the group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum MemberView {
    Awaiting(Awaiting),
    Marked(Marked),
}

/// A member that joined before the group's shared history was read. Until then it receives events
/// without an offset; then it receives the history, without those of them that have one by then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Awaiting {
    pub(super) start: AwaitedStart,
    /// The number of the first early entry that it receives or has received.
    pub(super) early_from: u64,
}

/// The part of the history that a member awaits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AwaitedStart {
    History,
    /// The events sent since it joined.
    Now(Instant),
    /// The events since the group keeps a history: the member had joined before that.
    Kept,
}

/// A member that returned with marks, or that knows only the present epoch of a history.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Marked {
    /// The events that it has seen and that may still come with an offset.
    pub(super) marks: Marks,
    /// Until when they are expected: the process that sent them may have died.
    pub(super) marks_until: Option<Instant>,
    /// Set if the members that follow the group have seen events in an earlier epoch, which this
    /// one has not: the process that sends no such event after it.
    pub(super) lacks_earlier_until: Option<Instant>,
    /// This process, whose early events it receives as the others do.
    pub(super) node: u64,
}

impl Marked {
    /// Returns the marks of an entry for this member, from those for the others.
    pub(super) fn merged(&self, of_group: Marks) -> Marks {
        let mut of_group = of_group;
        if self.lacks_earlier_until.is_some() {
            of_group.retain(|mark: EventId| mark.node == self.node);
        }
        self.marks.merged(&of_group)
    }
}

impl Membership {
    /// A member that follows its group.
    pub(super) fn new(member: u64, shows_positions: bool, since: u64) -> Self {
        Self {
            member,
            shows_positions,
            since,
            view: None,
        }
    }

    pub(super) fn marked(&self) -> Option<&Marked> {
        match self.view.as_deref() {
            Some(MemberView::Marked(marked)) => Some(marked),
            Some(MemberView::Awaiting(_)) | None => None,
        }
    }

    /// Sets the marks that are left; without any, the member follows the group.
    pub(super) fn set_marked(&mut self, mut marked: Marked) {
        let has_passed = |until: Option<Instant>| until.is_none_or(|until| until <= Instant::now());
        if !marked.marks.is_empty() && has_passed(marked.marks_until) {
            marked.marks = Marks::default();
        }
        let is_left = !marked.marks.is_empty() || !has_passed(marked.lacks_earlier_until);
        match self.view.as_deref_mut() {
            Some(view) if is_left => *view = MemberView::Marked(marked),
            None if is_left => self.view = Some(Box::new(MemberView::Marked(marked))),
            _ => self.view = None,
        }
    }

    /// Ends the wait for the history.
    pub(super) fn take_awaiting(&mut self) -> Option<Awaiting> {
        match self.view.as_deref() {
            Some(MemberView::Awaiting(awaiting)) => {
                let awaiting = *awaiting;
                self.view = None;
                Some(awaiting)
            }
            Some(MemberView::Marked(_)) | None => None,
        }
    }

    pub(super) fn lacks_earlier_epochs(&self) -> bool {
        let marked = self.marked();
        marked.is_some_and(|marked| marked.lacks_earlier_until.is_some())
    }
}
