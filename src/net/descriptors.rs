//! Descriptors: how many files the process may open, and what of that connections may use.

use std::sync::LazyLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// The smallest and the largest of the two shares that are kept for anything but connections.
const SHARE_MIN: usize = 32;
const SHARE_MAX: usize = 400;

/// Raises the soft limit of open files to the hard one: the soft limit of 1,024 that most systems start with is for programs
/// that call `select`. A limit that cannot be raised stays.
pub(crate) fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Returns how many files the process may have open.
pub(crate) fn limit() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(soft, _)| {
        usize::try_from(soft).unwrap_or(usize::MAX)
    })
}

/// Returns how many connections there can be with so many files: a sixteenth is kept for files that are sent, and another one for
/// stores, Redis, backends and the reload.
pub(crate) fn connections_max(files: usize) -> usize {
    files.saturating_sub(2 * share(files)).max(1)
}

/// Returns how many of the files that `static` sends stay open while they are sent; a further one is opened for each step of it.
pub(crate) fn sent_files() -> &'static Semaphore {
    static FILES: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(share(limit())));
    &FILES
}

/// Returns one of the two shares.
pub(crate) fn share(files: usize) -> usize {
    (files / 16).clamp(SHARE_MIN, SHARE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_shares_are_kept() {
        for (files, connections) in [
            (16, 1),
            (256, 192),
            (1024, 896),
            (20_000, 19_200),
            (1_048_576, 1_047_776),
        ] {
            assert_eq!(connections_max(files), connections, "{files}");
        }
    }
}
