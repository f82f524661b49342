//! Ignored: warns, at most once a minute, that a forwarded field is ignored.

use std::net::IpAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderName;

use super::{ForwardedFamily, family};

/// The shortest time between two warnings: an untrusted proxy causes one per request, and so can any client.
const INTERVAL: Duration = Duration::from_secs(60);

/// One per process: requests on all workers share the interval.
static SELDOM: Seldom = Seldom(AtomicU64::new(0));
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Warns that a field is ignored, and says what to set; at most once a minute.
pub(crate) fn warn_of_ignored(
    name: &HeaderName,
    peer: Option<IpAddr>,
    believed: Option<ForwardedFamily>,
) {
    if let Some(sentence) = sentence(name, peer, believed)
        && SELDOM.is_due(STARTED.elapsed())
    {
        tracing::warn!("{sentence}");
    }
}

/// `believed` is the family of a peer that is trusted.
fn sentence(
    name: &HeaderName,
    peer: Option<IpAddr>,
    believed: Option<ForwardedFamily>,
) -> Option<String> {
    let shown = shown(name);
    let from = peer.map_or_else(
        || "a peer on a unix socket".to_owned(),
        |peer| peer.to_string(),
    );
    match (believed, peer) {
        (None, Some(peer)) => Some(format!(
            "{shown} from {peer} is ignored: if this is your proxy, add it to server.trusted_proxies"
        )),
        (None, None) => Some(format!(
            "{shown} from {from} is ignored: to believe the proxy there, set server.trusted_proxies"
        )),
        (Some(_), _) => family(name).map(|family| {
            format!(
                "{shown} from {from} is ignored: if this proxy sets it itself, and not the client, set server.forwarded to {:?}",
                family.as_str()
            )
        }),
    }
}

/// Returns a field's name as it is usually written.
fn shown(name: &HeaderName) -> String {
    let word = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    };
    let words: Vec<String> = name.as_str().split('-').map(word).collect();
    words.join("-")
}

/// When the last warning was written: milliseconds since the start, plus one; 0 for never.
struct Seldom(AtomicU64);

impl Seldom {
    /// Tells whether a warning is due, and records it.
    fn is_due(&self, now: Duration) -> bool {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let last = self.0.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= INTERVAL.as_millis() as u64;
        // Of several workers that get here at once, one wins.
        is_due
            && self
                .0
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_says_what_to_set_and_names_the_peer() {
        let for_ = HeaderName::from_static("x-forwarded-for");
        let standard = HeaderName::from_static("forwarded");
        let peer = Some([10, 0, 0, 5].into());
        for (name, peer, believed, expected) in [
            (
                &for_,
                peer,
                None,
                "X-Forwarded-For from 10.0.0.5 is ignored: if this is your proxy, add it to server.trusted_proxies",
            ),
            (
                &standard,
                None,
                None,
                "Forwarded from a peer on a unix socket is ignored: to believe the proxy there, set server.trusted_proxies",
            ),
            (
                &standard,
                peer,
                Some(ForwardedFamily::X),
                "Forwarded from 10.0.0.5 is ignored: if this proxy sets it itself, and not the client, set server.forwarded to \"forwarded\"",
            ),
        ] {
            assert_eq!(sentence(name, peer, believed).as_deref(), Some(expected));
        }
        let real_ip = HeaderName::from_static("x-real-ip");
        assert_eq!(sentence(&real_ip, peer, Some(ForwardedFamily::X)), None);
    }

    #[test]
    fn warning_comes_once_an_interval() {
        let seldom = Seldom(AtomicU64::new(0));
        let seconds = [0, 1, 59, 60, 61, 119, 120, 500];
        let due: Vec<u64> = seconds
            .into_iter()
            .filter(|second| seldom.is_due(Duration::from_secs(*second)))
            .collect();
        assert_eq!(due, [0, 60, 120, 500]);
    }
}
