//! Descriptors: the limit of open files, and its split between connections and everything else.

use std::sync::LazyLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// The bounds of one share. Two shares are reserved for everything but connections.
const SHARE_MIN: usize = 32;
const SHARE_MAX: usize = 400;

/// Raises the soft limit of open files to the hard one, if it can. The usual soft limit of 1,024
/// exists for programs that call `select`.
pub(crate) fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Returns the limit of open files.
pub(crate) fn limit() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(soft, _)| {
        usize::try_from(soft).unwrap_or(usize::MAX)
    })
}

/// Returns how many connections fit in `files`: one share is reserved for files that are being
/// sent, another for stores, Redis, backends and reloads.
pub(crate) fn connections_max(files: usize) -> usize {
    files.saturating_sub(2 * share(files)).max(1)
}

/// Returns the permits for files that `static` keeps open while it sends them. Without a permit, a
/// file is reopened for each chunk.
pub(crate) fn sent_files() -> &'static Semaphore {
    static FILES: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(share(limit())));
    &FILES
}

/// Returns how many blocking threads the runtime may have. Each can have a file open, so they get
/// half of the share for everything except connections and files that are sent.
pub(crate) fn blocking_threads(files: usize) -> usize {
    share(files) / 2
}

/// Returns the size of one share: a sixteenth, within bounds.
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
