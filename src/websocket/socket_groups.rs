//! SocketGroups: the groups that one socket is in, each counted against the limits of groups.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::channels::{GroupLimitReached, GroupLimits, GroupName};

/// The most names that are searched one after the other. More of them are in a set, until half as
/// many are left.
const FEW_MAX: usize = 32;

/// The groups that one socket is in.
///
/// ```text
///          33 names
///    Few ────────────► Many
///     ▲                  │ 16 names
///     └──────────────────┘
/// ```
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "the set is twice as large as the list, and few sockets have one"
)]
pub(super) enum SocketGroups {
    /// In the order in which they were joined. Most sockets are in one or two groups.
    Few(Vec<GroupName>),
    Many(Box<HashSet<GroupName>>),
}

const _: () = assert!(size_of::<SocketGroups>() <= size_of::<Vec<GroupName>>());

impl Default for SocketGroups {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl SocketGroups {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(names) => names.len(),
            Self::Many(names) => names.len(),
        }
    }

    pub(super) fn contains(&self, group: &str) -> bool {
        match self {
            Self::Few(names) => names.iter().any(|name| name.as_str() == group),
            Self::Many(names) => names.contains(group),
        }
    }

    /// Returns at most `max` names.
    pub(super) fn names(&self, max: usize) -> Vec<String> {
        match self {
            Self::Few(names) => names.iter().take(max).map(GroupName::to_string).collect(),
            Self::Many(names) => names.iter().take(max).map(GroupName::to_string).collect(),
        }
    }

    /// Adds a group. One that is there already counts once.
    pub(super) fn join(
        &mut self,
        group: &GroupName,
        limits: &GroupLimits,
        client: Option<IpAddr>,
    ) -> Result<(), GroupLimitReached> {
        if self.contains(group.as_str()) {
            return Ok(());
        }
        limits.claim(client, self.len(), group)?;
        match self {
            Self::Few(names) if names.len() < FEW_MAX => {
                if names.is_empty() {
                    names.reserve_exact(1); // most sockets are in one group
                }
                names.push(group.clone());
            }
            Self::Few(names) => {
                let mut many: HashSet<_> = std::mem::take(names).into_iter().collect();
                many.insert(group.clone());
                *self = Self::Many(Box::new(many));
            }
            Self::Many(names) => {
                names.insert(group.clone());
            }
        }
        Ok(())
    }

    /// Removes a group, if it is there.
    pub(super) fn leave(&mut self, group: &str, limits: &GroupLimits, client: Option<IpAddr>) {
        let before = self.len();
        match self {
            Self::Few(names) => names.retain(|name| name.as_str() != group),
            Self::Many(names) => {
                names.remove(group);
                if names.len() <= FEW_MAX / 2 {
                    *self = Self::Few(names.drain().collect());
                }
            }
        }
        limits.release(client, before - self.len());
    }

    /// Removes all groups, and returns them.
    pub(super) fn leave_all(
        &mut self,
        limits: &GroupLimits,
        client: Option<IpAddr>,
    ) -> Vec<GroupName> {
        limits.release(client, self.len());
        match std::mem::take(self) {
            Self::Few(names) => names,
            Self::Many(names) => names.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
