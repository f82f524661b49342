//! Entry: the state of one name: the plain file, and the precompressed files next to it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::representation::{FixedFields, Representation, Stored};
use super::root::Root;
use crate::clock::Millis;
use crate::http::encoding::{Accepted, Encoding};

/// How long an entry is served without a check whether its files have changed.
const FRESH: Millis = 1_000;

/// How long it is served while another request checks it.
const FRESH_DURING_CHECK: Millis = 2_000;

/// What an entry costs beyond its bytes: its fields, its key, its place in the cache.
const OVERHEAD_BYTES: u64 = 1_024;

/// The representations of one name.
#[derive(Debug)]
pub(super) struct Entry {
    plain: Representation,
    /// In the order of [`Encoding::ALL`].
    encoded: Vec<Representation>,
    /// When the files were last looked at.
    checked_at: AtomicU64,
    /// Whether a request is looking at them.
    is_checking: AtomicBool,
}

/// What a name leads to.
#[derive(Clone, Debug)]
pub(super) enum Found {
    File(Arc<Entry>),
    Directory,
}

/// Whether an entry may be served.
#[derive(Debug)]
pub(super) enum Freshness<'e> {
    Fresh,
    /// Not before its files are looked at, while which the claim is held.
    Due(CheckClaim<'e>),
}

/// A request that checks an entry. Dropped if the request is cancelled.
#[derive(Debug)]
pub(super) struct CheckClaim<'e>(&'e AtomicBool);

impl Drop for CheckClaim<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Entry {
    /// Looks a name up. Waits for the file system.
    pub(super) fn load(
        root: &Arc<Root>,
        name: &str,
        codings: impl Iterator<Item = Encoding>,
        fixed: &FixedFields,
        now: Millis,
    ) -> io::Result<Found> {
        if root.metadata(name)?.is_dir() {
            return Ok(Found::Directory);
        }
        let encoded: Vec<_> = codings
            // If one cannot be opened, the plain file is served.
            .filter_map(|coding| Representation::open(root, name, Some(coding), fixed).ok())
            .collect();
        Ok(Found::File(Arc::new(Self {
            plain: Representation::open(root, name, None, fixed)?,
            encoded,
            checked_at: AtomicU64::new(now),
            is_checking: AtomicBool::new(false),
        })))
    }

    /// Returns the representation for a client.
    pub(super) fn choose(&self, accepted: &Accepted) -> &Representation {
        accepted
            .iter()
            .find_map(|coding| {
                let mut encoded = self.encoded.iter();
                encoded.find(|encoded| encoded.encoding == Some(coding))
            })
            .unwrap_or(&self.plain)
    }

    fn all(&self) -> impl Iterator<Item = &Representation> {
        std::iter::once(&self.plain).chain(&self.encoded)
    }

    /// Returns the descriptors that the entry keeps open.
    pub(super) fn descriptors(&self) -> u64 {
        let is_open = |file: &&Representation| matches!(file.content, Stored::Open(_));
        self.all().filter(is_open).count() as u64
    }

    /// Returns the memory that the entry occupies.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |file: &Representation| match &file.content {
            Stored::Memory(bytes) => bytes.len() as u64 + OVERHEAD_BYTES,
            Stored::Open(_) | Stored::Closed => OVERHEAD_BYTES,
        };
        self.all().map(bytes).sum()
    }

    /// Returns whether the entry may be kept.
    pub(super) fn is_kept(&self) -> bool {
        self.all()
            .all(|file| file.is_settled && !matches!(file.content, Stored::Closed))
    }

    pub(super) fn freshness(&self, now: Millis) -> Freshness<'_> {
        let age = now.saturating_sub(self.checked_at.load(Ordering::Relaxed));
        if age < FRESH {
            return Freshness::Fresh;
        }
        let is_checking = self.is_checking.swap(true, Ordering::Relaxed);
        if is_checking && age < FRESH_DURING_CHECK {
            return Freshness::Fresh;
        }
        Freshness::Due(CheckClaim(&self.is_checking))
    }

    /// Returns whether all files are as they were. Waits for the file system.
    pub(super) fn is_current(&self, root: &Root, name: &str) -> bool {
        let is_known = |coding: Encoding| {
            let mut encoded = self.encoded.iter();
            encoded.any(|encoded| encoded.encoding == Some(coding))
        };
        // A precompressed file that did not exist, or could not be read, and now can.
        let has_more = Encoding::ALL.into_iter().any(|coding| {
            !is_known(coding) && root.open(&[name, coding.suffix()].concat()).is_ok()
        });
        !has_more && self.all().all(Representation::is_current)
    }

    pub(super) fn record_check(&self, now: Millis) {
        self.checked_at.store(now, Ordering::Relaxed);
    }
}
