//! Tickets: each admits one WebSocket, for browsers, which cannot add a header field to a
//! handshake.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

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

/// A ticket on its way to the process that takes the place of this one.
#[derive(Deserialize, PartialEq, Serialize)]
pub(crate) struct PassedTicket {
    name: String,
    user_id: String,
    user_name: String,
    is_staff: bool,
    login: Option<PassedLogin>,
    /// How long it is still valid.
    left: Duration,
}

#[derive(Deserialize, PartialEq, Serialize)]
enum PassedLogin {
    Session {
        key: String,
        user_id: String,
        is_staff: bool,
    },
    Token {
        expires_at: SystemTime,
    },
}

impl std::fmt::Debug for PassedTicket {
    /// Hides the ticket and the session.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PassedTicket")
            .field("user_id", &self.user_id)
            .finish_non_exhaustive()
    }
}

impl From<&Login> for PassedLogin {
    fn from(login: &Login) -> Self {
        match login {
            Login::Session {
                key,
                user_id,
                is_staff,
            } => Self::Session {
                key: key.as_ref().to_owned(),
                user_id: user_id.as_ref().to_owned(),
                is_staff: *is_staff,
            },
            Login::Token { expires_at } => Self::Token {
                expires_at: *expires_at,
            },
        }
    }
}

impl From<PassedLogin> for Login {
    fn from(login: PassedLogin) -> Self {
        match login {
            PassedLogin::Session {
                key,
                user_id,
                is_staff,
            } => Self::Session {
                key: key.into(),
                user_id: user_id.into(),
                is_staff,
            },
            PassedLogin::Token { expires_at } => Self::Token { expires_at },
        }
    }
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

    /// Takes all tickets, for another process. They cannot be used in this one again.
    pub(super) fn take_all(&self) -> Vec<PassedTicket> {
        let Unused { tickets, .. } = std::mem::take(&mut *self.unused.lock());
        let now = Instant::now();
        let tickets = tickets.into_iter();
        let valid = tickets.filter(|(_, ticket)| ticket.expires_at > now);
        valid
            .map(|(name, ticket)| PassedTicket {
                name,
                user_id: ticket.user.id.clone(),
                user_name: ticket.user.name.clone(),
                is_staff: ticket.user.is_staff,
                login: ticket.login.as_deref().map(PassedLogin::from),
                left: ticket.expires_at - now,
            })
            .collect()
    }

    /// Adds the tickets of another process, as far as there is room.
    pub(super) fn add(&self, passed: Vec<PassedTicket>) {
        let mut unused = self.unused.lock();
        let now = Instant::now();
        for one in passed {
            if unused.tickets.len() >= TICKETS_MAX {
                return;
            }
            let ticket = Ticket {
                user: Arc::new(User {
                    id: one.user_id,
                    name: one.user_name,
                    is_staff: one.is_staff,
                }),
                login: one.login.map(|login| Arc::new(login.into())),
                expires_at: now + one.left,
            };
            let names = unused.by_user.entry(ticket.user.id.clone()).or_default();
            names.push_back(one.name.clone());
            unused.tickets.insert(one.name, ticket);
        }
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
    fn a_ticket_that_is_passed_on_is_good_once_and_only_there() {
        let (old, new) = (Tickets::default(), Tickets::default());
        let login = Login::Session {
            key: "key".into(),
            user_id: "7".into(),
            is_staff: true,
        };
        let name = old.issue(user(7), Some(Arc::new(login.clone())), AGE);
        let name = name.unwrap();
        let token = Login::Token {
            expires_at: SystemTime::now(),
        };
        let other = old.issue(user(7), Some(Arc::new(token.clone())), AGE);
        let other = other.unwrap();
        let written = serde_json::to_string(&old.take_all()).unwrap();
        new.add(serde_json::from_str(&written).unwrap());
        assert!(old.take(&name).is_none());
        assert_eq!(new.take(&name), Some((user(7), Some(Arc::new(login)))));
        assert!(new.take(&name).is_none());
        assert_eq!(new.take(&other), Some((user(7), Some(Arc::new(token)))));
        assert!(new.unused.lock().by_user.is_empty());
        assert!(old.take_all().is_empty());
        let late = Tickets::default();
        let _ = late.issue(user(1), None, Duration::ZERO).unwrap();
        assert!(late.take_all().is_empty());
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
