//! Answers: what the app said a moment ago, and what it is being asked.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{Shared, WeakShared};

use super::ForwardError;
use crate::auth::User;

/// The most answers that are kept; the oldest go first.
pub(super) const ANSWERS_MAX: usize = 10_000;

pub(super) type Answer = Result<Option<Arc<User>>, ForwardError>;
pub(super) type Subrequest = Shared<Pin<Box<dyn Future<Output = Answer> + Send>>>;
pub(super) type WeakSubrequest = WeakShared<Pin<Box<dyn Future<Output = Answer> + Send>>>;

/// The SHA-256 of the listed headers: nothing of a cookie or a token is kept.
pub(super) type Key = [u8; 32];

/// What was answered a moment ago, and what is being asked.
pub(super) struct Answers {
    pub(super) ttl: Duration,
    pub(super) known: HashMap<Key, (Option<Arc<User>>, Instant)>,
    /// The oldest in front.
    pub(super) by_age: VecDeque<(Key, Instant)>,
    /// Each with its number. They run only as long as somebody waits for them.
    pub(super) running: HashMap<Key, (u64, WeakSubrequest)>,
    pub(super) started: u64,
}

impl Answers {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            known: HashMap::new(),
            by_age: VecDeque::new(),
            running: HashMap::new(),
            started: 0,
        }
    }

    pub(super) fn remember(&mut self, key: Key, user: Option<Arc<User>>, now: Instant) {
        if self.ttl.is_zero() {
            return;
        }
        while let Some((oldest, at)) = self.by_age.front().copied() {
            if self.is_fresh(at, now) && self.by_age.len() < ANSWERS_MAX {
                break;
            }
            self.by_age.pop_front();
            if self
                .known
                .get(&oldest)
                .is_some_and(|(_, since)| *since == at)
            {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(key, (user, now));
        self.by_age.push_back((key, now));
    }

    pub(super) fn recall(&self, key: &Key, now: Instant) -> Option<Option<Arc<User>>> {
        let (user, at) = self.known.get(key)?;
        self.is_fresh(*at, now).then(|| user.clone())
    }

    pub(super) fn running(&self, key: &Key) -> Option<Subrequest> {
        self.running.get(key)?.1.upgrade()
    }

    pub(super) fn is_fresh(&self, at: Instant, now: Instant) -> bool {
        now.saturating_duration_since(at) < self.ttl
    }
}

/// A subrequest's place among those that run, until it has ended or nobody waits for it.
pub(super) struct Running {
    pub(super) answers: Arc<Mutex<Answers>>,
    pub(super) key: Key,
    pub(super) number: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut answers = lock(&self.answers);
        // Between the last waiter's leave and this, another may have started.
        if answers
            .running
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            answers.running.remove(&self.key);
        }
    }
}

pub(super) fn lock(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}
