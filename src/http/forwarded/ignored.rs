//! Ignored: warns, at most once a minute, that a forwarded field is ignored.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderName;

use super::{ForwardedFamily, family};
use crate::telemetry::LogThrottle;

/// The shortest time between two warnings: an untrusted proxy causes one per request, and so can
/// any client.
const INTERVAL: Duration = Duration::from_secs(60);

/// One per process: requests on all worker threads share the interval.
static IGNORED: LogThrottle = LogThrottle::every(INTERVAL);

/// Warns that a field is ignored and which setting accepts it, at most once a minute.
pub(crate) fn warn_of_ignored(
    name: &HeaderName,
    peer: Option<IpAddr>,
    believed: Option<ForwardedFamily>,
) {
    if let Some(sentence) = sentence(name, peer, believed)
        && IGNORED.count().is_some()
    {
        tracing::warn!("{sentence}");
    }
}

/// Returns the warning. `believed` is the family of a trusted peer.
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

/// Returns a field's name in its usual capitalisation.
fn shown(name: &HeaderName) -> String {
    let word = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    };
    let words: Vec<String> = name.as_str().split('-').map(word).collect();
    words.join("-")
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
}
