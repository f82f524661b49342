//! Cache: the files that were asked for a moment ago, for all views of a server.
//!
//! ```text
//!            found, fresh                              hit
//! request ──┬─────────────────────────────────────────────────> response
//!           ├ found, older than 1 s ── thread: unchanged? ─yes─>
//!           │                                  │ no
//!           └ not found ───────────────────────┴── thread: open, read ──> response
//! ```
//!
//! Small files are kept with their bytes, bounded by `server.limits.file_cache`; large ones as open
//! descriptors, bounded by half of those that are reserved for files being sent. Both evict what is
//! asked for rarely: a file that is asked for once does not displace one that is asked for often.
//!
//! Requests that miss the same file share one load, and its outcome, also if that is not kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Weak};

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Equivalent, OptionsBuilder, Weighter};

use super::entry::{Entry, Found, Freshness};
use super::joined_loads::JoinedLoads;
use super::listing::Listings;
use super::representation::FixedFields;
use super::root::Root;
use crate::clock::Clock;
use crate::http::encoding::{Accepted, Encoding};
use crate::net::descriptors;

/// The bytes of an average entry, for the cache's bookkeeping.
const AVERAGE_BYTES: u64 = 16 * 1024;

/// Parts of the cache with a lock of their own. The largest entry has to fit in one.
const SHARDS_MAX: u64 = 16;
const SHARD_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// The share of the memory for entries that were asked for more than once.
const HOT_SHARE: f64 = 0.9;

/// The files of a server that are kept.
#[derive(Debug)]
pub(super) struct FileCache {
    /// `None` if nothing is kept.
    kept: Option<Kept>,
    /// Those in use, by the settings of their views.
    spaces: Mutex<Spaces>,
    loads: JoinedLoads<Key, Result<Found, Arc<io::Error>>>,
    pub(super) listings: Listings,
    hits: Counter,
    misses: Counter,
    bytes: Gauge,
}

#[derive(Debug, Default)]
struct Spaces {
    used: HashMap<String, Weak<Space>>,
    created: u64,
}

/// The entries of views whose settings are equal, as those of one route before and after a reload.
/// The last of them removes the entries.
#[derive(Debug)]
pub(super) struct Space {
    number: u64,
    cache: Weak<FileCache>,
}

impl Space {
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.upgrade() {
            cache.remove_space(self.number);
        }
    }
}

#[derive(Debug)]
struct Kept {
    small: Cache<Key, Arc<Entry>, Weight>,
    large: Cache<Key, Arc<Entry>, Weight>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    space: u64,
    name: Box<str>,
}

/// A key that is looked up.
#[derive(Hash)]
struct KeyRef<'n> {
    space: u64,
    name: &'n str,
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.space == key.space && *self.name == *key.name
    }
}

/// The cache of a server, by its size: a reload that changes it starts with an empty one. The views
/// of before keep theirs until their requests have ended.
#[derive(Debug, Default)]
pub(super) struct FileCaches(Mutex<Option<(u64, Arc<FileCache>)>>);

impl FileCaches {
    /// Returns the cache of so many bytes.
    pub(super) fn of(&self, bytes: u64) -> Arc<FileCache> {
        let mut current = self.0.lock();
        match &*current {
            Some((size, cache)) if *size == bytes => cache.clone(),
            _ => {
                let cache = Arc::new(FileCache::new(bytes));
                *current = Some((bytes, cache.clone()));
                cache
            }
        }
    }
}

/// Weighs entries by what their cache is bounded in.
#[derive(Clone, Copy, Debug)]
enum Weight {
    Bytes,
    Descriptors,
}

impl Weighter<Key, Arc<Entry>> for Weight {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        match self {
            Self::Bytes => entry.bytes() + key.name.len() as u64,
            Self::Descriptors => entry.descriptors().max(1),
        }
    }
}

/// How a view loads the entry of a name.
pub(super) struct Lookup<'l> {
    pub(super) space: &'l Space,
    pub(super) root: &'l Arc<Root>,
    pub(super) name: &'l str,
    pub(super) accepted: &'l Accepted,
    pub(super) clock: &'l Clock,
    pub(super) fixed: &'l (dyn Fn(&str) -> io::Result<FixedFields> + Sync),
}

impl FileCache {
    /// With 0 bytes, nothing is kept.
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            kept: (bytes > 0).then(|| Kept::new(bytes)).flatten(),
            spaces: Mutex::default(),
            loads: JoinedLoads::default(),
            listings: Listings::default(),
            hits: counter!("oneport_file_cache_hits_total"),
            misses: counter!("oneport_file_cache_misses_total"),
            bytes: gauge!("oneport_file_cache_bytes"),
        }
    }

    /// Returns the space of a view, whose entries depend on its settings.
    pub(super) fn space(self: &Arc<Self>, settings: String) -> Arc<Space> {
        let mut spaces = self.spaces.lock();
        if let Some(used) = spaces.used.get(&settings).and_then(Weak::upgrade) {
            return used;
        }
        spaces.used.retain(|_, space| space.strong_count() > 0);
        spaces.created += 1;
        let space = Arc::new(Space {
            number: spaces.created,
            cache: Arc::downgrade(self),
        });
        spaces.used.insert(settings, Arc::downgrade(&space));
        space
    }

    fn remove_space(&self, number: u64) {
        self.listings.remove_space(number);
        if let Some(kept) = &self.kept {
            for cache in [&kept.small, &kept.large] {
                cache.retain(|key, _| key.space != number);
            }
            self.show_bytes(kept);
        }
    }

    fn show_bytes(&self, kept: &Kept) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        self.bytes.set(kept.small.weight() as f64);
    }

    /// Finds what a name leads to.
    pub(super) async fn find(self: &Arc<Self>, lookup: &Lookup<'_>) -> io::Result<Found> {
        let Some(kept) = &self.kept else {
            return lookup.load(lookup.accepted.iter()).await;
        };
        if let Some(entry) = self.look_up(kept, lookup).await? {
            self.hits.increment(1);
            return Ok(Found::File(entry));
        }
        // Boxed, so that a hit does not carry the future of a miss.
        Box::pin(self.load(lookup)).await
    }

    /// Returns an entry that is known and unchanged.
    async fn look_up(&self, kept: &Kept, lookup: &Lookup<'_>) -> io::Result<Option<Arc<Entry>>> {
        let key = KeyRef {
            space: lookup.space.number,
            name: lookup.name,
        };
        let Some(entry) = kept.small.get(&key).or_else(|| kept.large.get(&key)) else {
            return Ok(None);
        };
        let is_current = match entry.freshness(lookup.clock.now()) {
            Freshness::Fresh => true,
            Freshness::Due(claim) => {
                let is_current = Box::pin(lookup.check(&entry)).await?;
                drop(claim);
                is_current
            }
        };
        if is_current && entry.choose(lookup.accepted).is_as_opened() {
            return Ok(Some(entry));
        }
        for cache in [&kept.small, &kept.large] {
            cache.remove_if(&key, |known| Arc::ptr_eq(known, &entry));
        }
        self.show_bytes(kept);
        Ok(None)
    }

    /// Loads an entry, together with the other requests for it.
    async fn load(self: &Arc<Self>, lookup: &Lookup<'_>) -> io::Result<Found> {
        let key = Key {
            space: lookup.space.number,
            name: lookup.name.into(),
        };
        let fixed = (lookup.fixed)(lookup.name)?;
        let mut is_first = false;
        let load = self.loads.join(key.clone(), || {
            is_first = true;
            let (cache, root, now) = (self.clone(), lookup.root.clone(), lookup.clock.now());
            async move {
                let name = key.name.clone();
                let codings = Encoding::ALL.into_iter();
                let load = move |root: &Arc<Root>| Entry::load(root, &name, codings, &fixed, now);
                let found = root.run(load).await?;
                cache.keep(key, &found);
                Ok(found)
            }
        });
        match is_first {
            true => self.misses.increment(1),
            false => self.hits.increment(1),
        }
        load.await.map_err(unshared)
    }

    /// Keeps what a load has found, if it may be kept.
    fn keep(&self, key: Key, found: &Found) {
        if let Some(kept) = &self.kept
            && let Found::File(entry) = found
            && entry.is_kept()
        {
            match entry.descriptors() {
                0 => kept.small.insert(key, entry.clone()),
                _ => kept.large.insert(key, entry.clone()),
            }
            self.show_bytes(kept);
        }
    }
}

/// Returns the error of a load for one of its requests.
pub(super) fn unshared(error: Arc<io::Error>) -> io::Error {
    Arc::try_unwrap(error).unwrap_or_else(|error| match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error),
    })
}

impl Kept {
    fn new(bytes: u64) -> Option<Self> {
        let descriptors = descriptors::share(descriptors::limit()) as u64 / 2;
        Some(Self {
            small: cache(bytes, bytes / AVERAGE_BYTES, Weight::Bytes)?,
            large: cache(descriptors, descriptors, Weight::Descriptors)?,
        })
    }
}

fn cache(capacity: u64, entries: u64, weight: Weight) -> Option<Cache<Key, Arc<Entry>, Weight>> {
    let shards = match weight {
        Weight::Bytes => (capacity / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX),
        Weight::Descriptors => 1,
    };
    let options = OptionsBuilder::new()
        .shards(usize::try_from(shards).unwrap_or(1))
        .hot_allocation(HOT_SHARE)
        .weight_capacity(capacity)
        .estimated_items_capacity(usize::try_from(entries).unwrap_or(usize::MAX).max(16))
        .build()
        .ok()?;
    Some(Cache::with_options(
        options,
        weight,
        DefaultHashBuilder::default(),
        DefaultLifecycle::default(),
    ))
}

impl Lookup<'_> {
    /// Opens and reads the files of the name on a thread.
    async fn load(&self, codings: impl Iterator<Item = Encoding>) -> io::Result<Found> {
        let codings: Vec<_> = codings.collect();
        let (name, now) = (self.name.to_owned(), self.clock.now());
        let fixed = (self.fixed)(self.name)?;
        self.root
            .run(move |root| Entry::load(root, &name, codings.into_iter(), &fixed, now))
            .await
    }

    /// Looks at the files of an entry on a thread. Returns whether they are as they were.
    async fn check(&self, entry: &Arc<Entry>) -> io::Result<bool> {
        let now = self.clock.now();
        let (name, checked) = (self.name.to_owned(), entry.clone());
        let work = move |root: &Arc<Root>| Ok(checked.is_current(root, &name));
        let is_current = self.root.run(work).await?;
        if is_current {
            entry.record_check(now);
        }
        Ok(is_current)
    }
}
