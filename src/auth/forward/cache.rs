//! AnswerCache: the app's recent responses, and the subrequests in flight.
//!
//! A crate's cache does not fit: a response is looked up under several keys (one for each list of
//! `Oneport-Vary`), the newest wins, and the bound counts bytes.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Shared, WeakShared};
use http::HeaderMap;
use parking_lot::Mutex;

use super::ForwardError;
use super::freshness::{Key, Reach, Reuse};
use crate::auth::User;

/// The most bytes of all answers; the oldest are evicted first.
pub(super) const ANSWERS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The bytes of an answer besides its user's texts: its entries in the map and the queue, and the
/// user itself.
pub(super) const ANSWER_BYTES: usize = 384;

/// The most lists of `Oneport-Vary` at the same time, since each lookup tries all. An answer with
/// another list is reused only for an equal question.
pub(super) const REACHES_MAX: usize = 8;

/// The outcome of a subrequest.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) user: Option<Arc<User>>,
    /// Whether other requests that wait for it may use it.
    pub(super) is_shared: bool,
}

pub(super) type AnswerResult = Result<Answer, ForwardError>;
pub(super) type Subrequest = Shared<Pin<Box<dyn Future<Output = AnswerResult> + Send>>>;
pub(super) type WeakSubrequest = WeakShared<Pin<Box<dyn Future<Output = AnswerResult> + Send>>>;

/// Recent answers and running subrequests.
#[derive(Default)]
pub(super) struct AnswerCache {
    pub(super) known: HashMap<Key, Known>,
    /// The oldest first. A replaced answer keeps its entry, and counts, until it is the oldest.
    by_age: VecDeque<AgeEntry>,
    /// The sum over `by_age`.
    pub(super) bytes: usize,
    /// The lists of fields in use, each with the number of answers in `by_age` that depend on it.
    reaches: Vec<(Reach, usize)>,
    /// Each with its number. A subrequest is dropped with the last request that waits for it.
    pub(super) running: HashMap<Key, (u64, WeakSubrequest)>,
    /// The number of the newest answer or subrequest.
    numbered: u64,
}

/// An answer.
pub(super) struct Known {
    user: Option<Arc<User>>,
    until: Instant,
    number: u64,
}

/// An answer in the order of age.
struct AgeEntry {
    key: Key,
    number: u64,
    bytes: usize,
    reach: Reach,
}

impl AnswerCache {
    /// Caches an answer for as long, and as widely, as `reuse` allows.
    pub(super) fn remember(
        &mut self,
        question: &HeaderMap,
        user: Option<Arc<User>>,
        reuse: &Reuse,
        now: Instant,
    ) {
        let Reuse::For(lifetime, reach) = reuse else {
            return;
        };
        if lifetime.is_zero() {
            return;
        }
        let bytes = ANSWER_BYTES
            + user
                .as_ref()
                .map_or(0, |user| user.id.len() + user.name.len());
        self.make_room(bytes, now);
        let reach = self.reserve(reach);
        let (key, number) = (reach.key(question), self.next_number());
        // On overflow, cap the lifetime at one day.
        let until = now
            .checked_add(*lifetime)
            .unwrap_or(now + Duration::from_secs(86_400));
        let known = Known {
            user,
            until,
            number,
        };
        self.known.insert(key, known);
        self.bytes += bytes;
        self.by_age.push_back(AgeEntry {
            key,
            number,
            bytes,
            reach,
        });
    }

    /// Returns the newest answer to a question. `key` is the question's own key, hashed before the
    /// lock is taken.
    pub(super) fn recall(
        &self,
        question: &HeaderMap,
        key: &Key,
        now: Instant,
    ) -> Option<Option<Arc<User>>> {
        let lists = self.reaches.iter().map(|(reach, _)| reach);
        let wider = lists
            .filter(|reach| reach.identifies_client(question))
            .filter_map(|reach| self.known.get(&reach.key(question)));
        let newest = wider
            .chain(self.known.get(key))
            .filter(|known| now < known.until)
            .max_by_key(|known| known.number)?;
        Some(newest.user.clone())
    }

    pub(super) fn running(&self, key: &Key) -> Option<Subrequest> {
        self.running.get(key)?.1.upgrade()
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    /// Evicts the oldest answers: those that are stale, and as many others as a new one needs.
    fn make_room(&mut self, bytes: usize, now: Instant) {
        while let Some(oldest) = self.by_age.front() {
            let known = self.known.get(&oldest.key);
            let known = known.filter(|known| known.number == oldest.number);
            let is_fresh = known.is_some_and(|known| now < known.until);
            if is_fresh && self.bytes + bytes <= ANSWERS_BYTES_MAX {
                break;
            }
            if known.is_some() {
                self.known.remove(&oldest.key);
            }
            self.bytes -= oldest.bytes;
            if let Some(oldest) = self.by_age.pop_front() {
                self.release(&oldest.reach);
            }
        }
    }

    /// Counts an answer that depends on a list of fields. Returns [`Reach::Same`] if there are too
    /// many lists.
    fn reserve(&mut self, reach: &Reach) -> Reach {
        if *reach == Reach::Same {
            return Reach::Same;
        }
        if let Some((known, count)) = self.reaches.iter_mut().find(|(known, _)| known == reach) {
            *count += 1;
            return known.clone();
        }
        if self.reaches.len() == REACHES_MAX {
            return Reach::Same;
        }
        self.reaches.push((reach.clone(), 1));
        reach.clone()
    }

    /// Removes a list of fields with its last answer.
    fn release(&mut self, reach: &Reach) {
        if let Some(at) = self.reaches.iter().position(|(known, _)| known == reach) {
            self.reaches[at].1 -= 1;
            if self.reaches[at].1 == 0 {
                self.reaches.swap_remove(at);
            }
        }
    }
}

/// A running subrequest: removed from the cache when it has ended or was dropped.
pub(super) struct Running {
    pub(super) answers: Arc<Mutex<AnswerCache>>,
    pub(super) key: Key,
    pub(super) number: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut answers = self.answers.lock();
        // Race: after the last waiter has gone and before this point, an equal subrequest may have
        // started. It has another number.
        if answers
            .running
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            answers.running.remove(&self.key);
        }
    }
}
