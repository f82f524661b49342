//! Tickets: a way into one WebSocket, for browsers that cannot send a header field with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Login, User};
use crate::secrets;

/// The tickets that wait to be used, at most.
const WAITING_MAX: usize = 10_000;

const TICKET_BYTES: usize = 24;

/// Tickets that wait to be used.
#[derive(Debug)]
pub(super) struct Tickets {
    max_age: Duration,
    waiting: Mutex<HashMap<String, Ticket>>,
}

#[derive(Debug)]
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
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if waiting.len() >= WAITING_MAX {
            waiting.retain(|_, ticket| ticket.expires_at > now);
            if waiting.len() >= WAITING_MAX {
                return None;
            }
        }
        let name = secrets::random(TICKET_BYTES);
        let expires_at = now + self.max_age;
        let ticket = Ticket {
            user,
            login,
            expires_at,
        };
        waiting.insert(name.clone(), ticket);
        Some(name)
    }

    /// Takes a ticket: nobody can use it again.
    pub(super) fn take(&self, name: &str) -> Option<(Arc<User>, Option<Arc<Login>>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
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

    #[test]
    fn only_so_many_wait() {
        let tickets = Tickets::new(Duration::from_secs(60));
        let user = Arc::new(User {
            id: "1".into(),
            name: "anna".into(),
            is_staff: false,
        });
        let issued = (0..WAITING_MAX + 5)
            .filter(|_| tickets.issue(user.clone(), None).is_some())
            .count();
        assert_eq!(issued, WAITING_MAX);
    }
}
