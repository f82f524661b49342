//! Batch: events of one group that are delivered together, rendered once for all members.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;

use super::delivery::DeliveryTally;
use super::event_id::EventId;
use super::{Event, GroupName, Marks, Membership, Position, Seen};

/// One event on its way to a group's members.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number among all entries that this process delivers to the group, from 1.
    pub(super) number: u64,
    /// Its position in the group's history; for an event that is not kept, and for an early one,
    /// the position of the newest one before it.
    pub position: Position,
    /// Its sender and number, if a shared history keeps it.
    pub(super) id: EventId,
    /// True if it has no offset of its own yet.
    pub(super) is_early: bool,
    /// The early events that members have by then, itself included; `None` except in an outage.
    pub(super) marks: Option<Arc<Marks>>,
    /// The event.
    pub event: Event,
    /// The member that does not receive it: the sender, if it asked for that.
    pub except: Option<u64>,
    pub(super) audience: Audience,
    /// Counts its deliveries, if the sender asked for counts.
    pub(super) tally: Option<Arc<DeliveryTally>>,
}

/// Which members receive an event.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Audience {
    #[default]
    All,
    /// Those that joined when the group had this many entries, or later: the others received the
    /// event before it had an offset.
    JoinedFrom(u64),
    /// Those that know only the present epoch of the history: the others received the event in an
    /// earlier one.
    PresentEpoch,
}

impl Entry {
    /// Creates an entry for all members, without a number and a position.
    pub(super) fn new(event: Event) -> Self {
        Self {
            number: 0,
            position: Position::default(),
            id: EventId::default(),
            is_early: false,
            marks: None,
            event,
            except: None,
            audience: Audience::All,
            tally: None,
        }
    }

    /// Returns what a client has seen that has received the entry and everything before it.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen {
            position: self.position,
            marks: self.marks.as_deref().copied().unwrap_or_default(),
        }
    }

    /// Returns whether a member receives the entry: it was sent after the member joined, and the
    /// member is not excepted.
    pub(super) fn is_for(&self, member: &Membership) -> bool {
        let is_in_audience = match self.audience {
            Audience::All => true,
            Audience::JoinedFrom(number) => member.since >= number,
            Audience::PresentEpoch => member.lacks_earlier_epochs(),
        };
        is_in_audience && self.number > member.since && self.except != Some(member.member)
    }

    /// Returns the entry as a history keeps it: for all members.
    pub(super) fn to_kept(&self) -> Self {
        Self {
            audience: Audience::All,
            tally: None,
            marks: None,
            ..self.clone()
        }
    }

    /// Returns the memory that the entry takes in a history.
    pub(super) fn memory(&self) -> usize {
        size_of::<(Instant, Self)>() + self.event.memory()
    }
}

/// The form in which a member takes events: a number below [`FORMS`]. Members with the same form
/// share its bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Form(pub u8);

/// The number of forms.
pub const FORMS: usize = 16;

/// Events of one group that are delivered together.
///
/// Each form (WebSocket frames, plain or compressed with a certain window) is rendered by the first
/// member that needs it and shared by all.
#[derive(Debug)]
pub struct Batch {
    group: GroupName,
    entries: Vec<Entry>,
    /// Form 0, which most members take: a batch for them needs no allocation for the others.
    first: OnceLock<Rendered>,
    others: OnceLock<Box<[OnceLock<Rendered>; FORMS - 1]>>,
}

/// All entries in one form, one after the other.
#[derive(Debug)]
struct Rendered {
    bytes: Bytes,
    /// The end of each entry in the bytes.
    ends: Vec<usize>,
}

impl Batch {
    pub(super) fn new(group: GroupName, entries: Vec<Entry>) -> Self {
        Self {
            group,
            entries,
            first: OnceLock::new(),
            others: OnceLock::new(),
        }
    }

    /// Returns the group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Returns the entries that a member receives: those sent after it joined, unless the member is
    /// excepted from them.
    pub fn entries<'a>(&'a self, member: &'a Membership) -> impl Iterator<Item = &'a Entry> + 'a {
        self.entries.iter().filter(|entry| entry.is_for(member))
    }

    /// Returns the bytes of the whole batch, in the form that `render` writes; `None` unless the
    /// member receives all entries.
    pub fn whole(
        &self,
        member: &Membership,
        form: Form,
        render: impl Fn(&Entry, &mut Vec<u8>),
    ) -> Option<&Bytes> {
        let is_for_it = self.entries.iter().all(|entry| entry.is_for(member));
        is_for_it.then(|| &self.rendered(form, render).bytes)
    }

    /// Returns each entry that the member receives, in the form that `render` writes.
    pub fn pieces<'a>(
        &'a self,
        member: &'a Membership,
        form: Form,
        render: impl Fn(&Entry, &mut Vec<u8>),
    ) -> impl Iterator<Item = (&'a Entry, Bytes)> + 'a {
        let rendered = self.rendered(form, render);
        let of_member = move |(at, entry): (usize, &'a Entry)| {
            entry
                .is_for(member)
                .then(|| (entry, rendered.bytes.slice(rendered.range(at))))
        };
        self.entries.iter().enumerate().filter_map(of_member)
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the batch as a member takes it that has seen early events of other processes:
    /// without those, and with its own marks. Drops the marks of events that have their offset by
    /// now.
    pub(super) fn of_marked(&self, member: &mut Membership) -> Self {
        let mut view = member.marked().copied().unwrap_or_default();
        let mut entries = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.is_for(member)) {
            let is_seen = view.marks.cover(entry.id);
            if !entry.is_early {
                view.marks.confirm(entry.id);
            }
            if !is_seen {
                let of_group = entry.marks.as_deref().copied().unwrap_or_default();
                let marks = view.merged(of_group).shared();
                entries.push(Entry {
                    marks,
                    audience: Audience::All,
                    ..entry.clone()
                });
            }
        }
        member.set_marked(view);
        Self::new(self.group.clone(), entries)
    }

    /// Returns whether it has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn last_number(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.number)
    }

    /// Returns the tally of a counted event, which is a batch of its own.
    pub(super) fn tally(&self) -> Option<&Arc<DeliveryTally>> {
        self.entries.first()?.tally.as_ref()
    }

    fn rendered(&self, form: Form, render: impl Fn(&Entry, &mut Vec<u8>)) -> &Rendered {
        let slot = match usize::from(form.0) {
            0 => &self.first,
            form => &self.others.get_or_init(Box::default)[(form - 1).min(FORMS - 2)],
        };
        slot.get_or_init(|| {
            // The longest header of a server's frame is ten bytes.
            let bytes = self.entries.iter().map(|entry| entry.event.size() + 10);
            let mut bytes = Vec::with_capacity(bytes.sum());
            let mut ends = Vec::with_capacity(self.entries.len());
            for entry in &self.entries {
                render(entry, &mut bytes);
                ends.push(bytes.len());
            }
            Rendered {
                bytes: Bytes::from(bytes),
                ends,
            }
        })
    }
}

impl Rendered {
    fn range(&self, at: usize) -> Range<usize> {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        start..self.ends[at]
    }
}
