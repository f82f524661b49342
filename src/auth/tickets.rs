//! Tickets: each admits one WebSocket, for browsers, which cannot add a header field to a
//! handshake.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Login, User};
use crate::secrets;

/// The most unused tickets.
const TICKETS_MAX: usize = 10_000;

/// The most unused tickets of one user; one more evicts the oldest.
const TICKETS_PER_USER_MAX: usize = 16;

const TICKET_BYTES: usize = 24;

/// The unused tickets of this process.
#[derive(Default)]
pub(super) struct Tickets {
    unused: Mutex<Unused>,
}

#[derive(Default)]
struct Unused {
    tickets: HashMap<String, Ticket>,
    /// The tickets of each user, the oldest first.
    by_user: HashMap<String, VecDeque<String>>,
    swept_at: Option<Instant>,
}

impl std::fmt::Debug for Tickets {
    /// Hides the tickets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Unused {
    fn remove(&mut self, name: &str) -> Option<Ticket> {
        let ticket = self.tickets.remove(name)?;
        if let Some(names) = self.by_user.get_mut(&ticket.user.id) {
            names.retain(|known| known != name);
            if names.is_empty() {
                self.by_user.remove(&ticket.user.id);
            }
        }
        Some(ticket)
    }

    /// Removes expired tickets, at most once a second.
    fn sweep(&mut self, now: Instant) {
        if self
            .swept_at
            .is_some_and(|at| now - at < Duration::from_secs(1))
        {
            return;
        }
        self.swept_at = Some(now);
        let tickets = &mut self.tickets;
        tickets.retain(|_, ticket| ticket.expires_at > now);
        self.by_user.retain(|_, names| {
            names.retain(|name| tickets.contains_key(name));
            !names.is_empty()
        });
    }
}

struct Ticket {
    user: Arc<User>,
    login: Option<Arc<Login>>,
    expires_at: Instant,
}

impl Tickets {
    /// Issues a ticket. `None` if too many are unused.
    pub(super) fn issue(
        &self,
        user: Arc<User>,
        login: Option<Arc<Login>>,
        max_age: Duration,
    ) -> Option<String> {
        let mut unused = self.unused.lock();
        let now = Instant::now();
        unused.sweep(now);
        let oldest = unused
            .by_user
            .get(&user.id)
            .filter(|names| names.len() >= TICKETS_PER_USER_MAX)
            .and_then(|names| names.front().cloned());
        if let Some(oldest) = oldest {
            unused.remove(&oldest);
        }
        if unused.tickets.len() >= TICKETS_MAX {
            return None;
        }
        let name = secrets::random(TICKET_BYTES);
        let names = unused.by_user.entry(user.id.clone()).or_default();
        names.push_back(name.clone());
        let ticket = Ticket {
            user,
            login,
            expires_at: now + max_age,
        };
        unused.tickets.insert(name.clone(), ticket);
        Some(name)
    }

    /// Takes a ticket, which cannot be used again.
    pub(super) fn take(&self, name: &str) -> Option<(Arc<User>, Option<Arc<Login>>)> {
        let mut unused = self.unused.lock();
        let ticket = unused.remove(name)?;
        (ticket.expires_at > Instant::now()).then_some((ticket.user, ticket.login))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(60);

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let anna = || {
            Arc::new(User {
                id: "1".into(),
                name: "anna".into(),
                is_staff: false,
            })
        };
        let tickets = Tickets::default();
        let name = tickets.issue(anna(), None, AGE).unwrap();
        assert_eq!(tickets.take(&name).map(|(user, _)| user), Some(anna()));
        assert!(tickets.take(&name).is_none());
        let late = Tickets::default();
        let name = late.issue(anna(), None, Duration::ZERO).unwrap();
        assert!(late.take(&name).is_none());
    }

    fn user(id: usize) -> Arc<User> {
        Arc::new(User {
            id: id.to_string(),
            name: "anna".into(),
            is_staff: false,
        })
    }

    #[test]
    fn only_so_many_wait() {
        let tickets = Tickets::default();
        let issued = (0..TICKETS_MAX + 5)
            .filter(|id| tickets.issue(user(*id), None, AGE).is_some())
            .count();
        assert_eq!(issued, TICKETS_MAX);
    }

    #[test]
    fn one_user_takes_no_place_of_others() {
        let tickets = Tickets::default();
        let names: Vec<String> = (0..20)
            .map(|_| tickets.issue(user(1), None, AGE).unwrap())
            .collect();
        let good = names.iter().filter(|name| tickets.take(name).is_some());
        assert_eq!(good.count(), TICKETS_PER_USER_MAX);
        assert!(tickets.take(&names[0]).is_none() && tickets.issue(user(2), None, AGE).is_some());
        let unused = tickets.unused.lock();
        assert_eq!((unused.tickets.len(), unused.by_user.len()), (1, 1));
    }
}
