//! RecentEnds: the last WebSockets that ended, the last requests and handshakes that were refused,
//! and the last connections that ended before a request.
//!
//! Nothing is kept until something shows them: a route of the dashboard, or a token of the server
//! API that may see connections. Each kind has a ring of its own, so that a wave of ordinary ends
//! does not push out the failures.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How many ends of each kind are kept.
const KEPT_PER_KIND: usize = 256;

/// The maximum length of a text, in bytes: paths and names come from strangers.
const TEXT_BYTES_MAX: usize = 256;

/// The kind of an end.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndKind {
    /// A WebSocket that its client, its consumer or an operator ended.
    Closed,
    /// A WebSocket that a limit, a deadline or a failure ended.
    Failed,
    /// A request or a handshake that was refused.
    Refused,
    /// A request or a handshake that the server, or one behind it, could not serve.
    Error,
    /// A connection that was refused, or failed, before a request.
    Connection,
}

/// One end.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct End {
    /// Ascending in one process.
    #[serde(default)]
    pub number: u64,
    /// When it ended (RFC 3339).
    pub at: String,
    /// Its kind.
    pub kind: EndKind,
    /// The table of its route: `http` or `websocket`; `connection` before a request.
    pub table: String,
    /// The route's name or path; empty if no route matched.
    pub route: String,
    /// The path of the request, without its query.
    pub path: String,
    /// The client's address.
    pub client: Option<String>,
    /// The user's name.
    pub user: Option<String>,
    /// The close code, or the status of the response; 0 if there was none.
    pub code: u16,
    /// The cause: the label of the access log for a WebSocket, `refused` or `error` for a request,
    /// and a word of its own for a connection.
    pub cause: String,
    /// The reason that the client got; of a connection, the error in the log.
    pub reason: String,
    /// The key of the timer or limit that ended it, with its value.
    pub rule: Option<String>,
    /// The WebSocket's id, or the request's.
    pub id: String,
    /// How long the WebSocket was open, in seconds.
    pub seconds: Option<f64>,
    /// How many messages the client sent.
    pub messages: Option<u64>,
    /// The name of the process, filled in for replies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process: String,
}

/// A selection of ends.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct EndFilter {
    /// Only of these kinds; of all if there is none.
    #[serde(default)]
    pub kinds: Vec<EndKind>,
    /// Only of the route with this name or path.
    #[serde(default)]
    pub route: Option<String>,
    /// Only with this cause.
    #[serde(default)]
    pub cause: Option<String>,
    /// Only of the user with this name.
    #[serde(default)]
    pub user: Option<String>,
}

impl EndFilter {
    fn matches(&self, end: &End) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        (self.kinds.is_empty() || self.kinds.contains(&end.kind))
            && is(&self.route, &end.route)
            && is(&self.cause, &end.cause)
            && is(&self.user, end.user.as_deref().unwrap_or_default())
    }
}

/// The last ends of a process.
#[derive(Debug, Default)]
pub struct RecentEnds {
    is_kept: AtomicBool,
    last_number: AtomicU64,
    rings: Mutex<[VecDeque<End>; 5]>,
}

impl RecentEnds {
    /// Keeps ends from now on.
    pub fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    /// Returns whether ends are kept; if not, do not make one.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.is_kept.load(Ordering::Relaxed)
    }

    /// Keeps an end. The oldest of its kind makes room.
    pub fn push(&self, mut end: End) {
        end.number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        for text in [&mut end.path, &mut end.reason, &mut end.route, &mut end.id] {
            cut(text);
        }
        if let Some(user) = &mut end.user {
            cut(user);
        }
        let mut rings = self.rings.lock();
        let ring = &mut rings[end.kind as usize];
        if ring.len() == KEPT_PER_KIND {
            ring.pop_front();
        }
        ring.push_back(end);
    }

    /// Returns at most `limit` ends that match, the newest first.
    #[must_use]
    pub fn list(&self, filter: &EndFilter, limit: usize) -> Vec<End> {
        let rings = self.rings.lock();
        let mut found: Vec<&End> = rings
            .iter()
            .flatten()
            .filter(|end| filter.matches(end))
            .collect();
        found.sort_unstable_by_key(|end| std::cmp::Reverse(end.number));
        found.into_iter().take(limit).cloned().collect()
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(kind: EndKind, route: &str) -> End {
        End {
            number: 0,
            at: "2026-11-30T00:00:00.000Z".to_owned(),
            kind,
            table: "websocket".to_owned(),
            route: route.to_owned(),
            path: "/".to_owned(),
            client: None,
            user: None,
            code: 1000,
            cause: "client_close".to_owned(),
            reason: String::new(),
            rule: None,
            id: "1".to_owned(),
            seconds: None,
            messages: None,
            process: String::new(),
        }
    }

    #[test]
    fn wave_of_ordinary_ends_leaves_the_failures() {
        let ends = RecentEnds::default();
        ends.push(end(EndKind::Failed, "slow"));
        for _ in 0..3 * KEPT_PER_KIND {
            ends.push(end(EndKind::Closed, "chat"));
        }
        let all = ends.list(&EndFilter::default(), usize::MAX);
        assert_eq!(all.len(), KEPT_PER_KIND + 1);
        assert_eq!(all.last().map(|end| end.route.as_str()), Some("slow"));
    }

    #[test]
    fn newest_end_comes_first_and_filters_select() {
        let ends = RecentEnds::default();
        ends.push(end(EndKind::Closed, "a"));
        ends.push(end(EndKind::Refused, "b"));
        ends.push(end(EndKind::Closed, "a"));
        let numbers = |filter: &EndFilter, limit| -> Vec<u64> {
            let found = ends.list(filter, limit);
            found.iter().map(|end| end.number).collect()
        };
        assert_eq!(numbers(&EndFilter::default(), 2), [3, 2]);
        let of_a = EndFilter {
            route: Some("a".to_owned()),
            ..EndFilter::default()
        };
        assert_eq!(numbers(&of_a, 9), [3, 1]);
        let two_kinds = EndFilter {
            kinds: vec![EndKind::Failed, EndKind::Refused],
            ..EndFilter::default()
        };
        assert_eq!(numbers(&two_kinds, 9), [2]);
        let of_nobody = EndFilter {
            user: Some("bob".to_owned()),
            ..of_a
        };
        assert!(numbers(&of_nobody, 9).is_empty());
    }

    #[test]
    fn texts_of_strangers_are_cut_at_a_character() {
        let ends = RecentEnds::default();
        ends.push(End {
            path: "é".repeat(10_000),
            ..end(EndKind::Refused, "a")
        });
        let kept = ends.list(&EndFilter::default(), 1);
        assert_eq!(kept[0].path, "é".repeat(TEXT_BYTES_MAX / 2));
    }
}
