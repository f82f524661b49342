//! Tickets: a way into one WebSocket, for browsers that cannot send a header field with it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Login, User};
use crate::secrets;

/// The tickets that wait to be used, at most.
const WAITING_MAX: usize = 10_000;

/// Those of one user; one more takes the place of its oldest.
const OF_ONE_USER_MAX: usize = 16;

const TICKET_BYTES: usize = 24;

/// Tickets that wait to be used.
pub(super) struct Tickets {
    max_age: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    tickets: HashMap<String, Ticket>,
    /// The oldest first.
    of_user: HashMap<String, VecDeque<String>>,
    swept_at: Option<Instant>,
}

impl std::fmt::Debug for Tickets {
    /// Without the tickets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets")
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

impl Waiting {
    fn remove(&mut self, name: &str) -> Option<Ticket> {
        let ticket = self.tickets.remove(name)?;
        if let Some(names) = self.of_user.get_mut(&ticket.user.id) {
            names.retain(|known| known != name);
            if names.is_empty() {
                self.of_user.remove(&ticket.user.id);
            }
        }
        Some(ticket)
    }

    /// Lets go of what has expired, at most once a second.
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
        self.of_user.retain(|_, names| {
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
    pub(super) fn new(max_age: Duration) -> Self {
        Self {
            max_age,
            waiting: Mutex::default(),
        }
    }

    pub(super) fn max_age(&self) -> Duration {
        self.max_age
    }

    /// Makes a ticket; none when too many wait.
    pub(super) fn issue(&self, user: Arc<User>, login: Option<Arc<Login>>) -> Option<String> {
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        waiting.sweep(now);
        let oldest = waiting
            .of_user
            .get(&user.id)
            .filter(|names| names.len() >= OF_ONE_USER_MAX)
            .and_then(|names| names.front().cloned());
        if let Some(oldest) = oldest {
            waiting.remove(&oldest);
        }
        if waiting.tickets.len() >= WAITING_MAX {
            return None;
        }
        let name = secrets::random(TICKET_BYTES);
        let names = waiting.of_user.entry(user.id.clone()).or_default();
        names.push_back(name.clone());
        let ticket = Ticket {
            user,
            login,
            expires_at: now + self.max_age,
        };
        waiting.tickets.insert(name.clone(), ticket);
        Some(name)
    }

    /// Takes a ticket: nobody can use it again.
    pub(super) fn take(&self, name: &str) -> Option<(Arc<User>, Option<Arc<Login>>)> {
        let mut waiting = self.waiting.lock();
        let ticket = waiting.remove(name)?;
        (ticket.expires_at > Instant::now()).then_some((ticket.user, ticket.login))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let anna = || {
            Arc::new(User {
                id: "1".into(),
                name: "anna".into(),
                is_staff: false,
            })
        };
        let tickets = Tickets::new(Duration::from_secs(60));
        let name = tickets.issue(anna(), None).unwrap();
        assert_eq!(tickets.take(&name).map(|(user, _)| user), Some(anna()));
        assert!(tickets.take(&name).is_none());
        let late = Tickets::new(Duration::ZERO);
        let name = late.issue(anna(), None).unwrap();
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
        let tickets = Tickets::new(Duration::from_secs(60));
        let issued = (0..WAITING_MAX + 5)
            .filter(|id| tickets.issue(user(*id), None).is_some())
            .count();
        assert_eq!(issued, WAITING_MAX);
    }

    #[test]
    fn one_user_takes_no_place_of_others() {
        let tickets = Tickets::new(Duration::from_secs(60));
        let names: Vec<String> = (0..20)
            .map(|_| tickets.issue(user(1), None).unwrap())
            .collect();
        let good = names.iter().filter(|name| tickets.take(name).is_some());
        assert_eq!(good.count(), OF_ONE_USER_MAX);
        assert!(tickets.take(&names[0]).is_none() && tickets.issue(user(2), None).is_some());
        let waiting = tickets.waiting.lock();
        assert_eq!((waiting.tickets.len(), waiting.of_user.len()), (1, 1));
    }
}
