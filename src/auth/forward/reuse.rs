//! Reuse: how long an answer counts, and for which other questions. (RFC 9111)

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::upstream::DESCRIPTION;

/// The SHA-256 of the fields that count: the cache keeps nothing of a cookie or a token.
pub(super) type Key = [u8; 32];

/// What an answer allows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reuse {
    /// `no-store`, `no-cache`, or `Vary: *`: one request alone, not even another one that waits at the same time.
    Never,
    /// For so long; zero for the requests that wait now.
    For(Duration, Reach),
}

/// The questions that an answer counts for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reach {
    /// The same question, field for field.
    Same,
    /// All questions with the same values of these fields, which are sorted.
    Fields(Arc<[HeaderName]>),
}

impl Reuse {
    /// Reads `Cache-Control`, `Age` and `Vary` of an answer to a question. `passed` are the fields of the client's own, `cache`
    /// is the longest time.
    ///
    /// `Vary` alone widens nothing: frameworks add `Vary: Cookie` and `Vary: Accept-Encoding` by themselves, whatever else the
    /// answer depends on. An answer reaches further if it also has a `max-age`, if the list names a field that says who the
    /// client is, and if it names `authorization` where the question has it (RFC 9111 §3.5).
    pub(super) fn of(
        answer: &HeaderMap,
        question: &HeaderMap,
        passed: &[HeaderName],
        cache: Duration,
    ) -> Self {
        let Some(varies) = vary(answer) else {
            return Self::Never;
        };
        let Some(max_age) = max_age(answer) else {
            return Self::Never;
        };
        let Some(max_age) = max_age else {
            return Self::For(cache, Reach::Same);
        };
        let is_told = |name: &HeaderName| passed.contains(name) || DESCRIPTION.contains(name);
        let mut names: Vec<HeaderName> = varies.into_iter().filter(is_told).collect();
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        let says_who = names
            .iter()
            .any(|name| passed.contains(name) && question.contains_key(name));
        let hides_authorization =
            question.contains_key(header::AUTHORIZATION) && !names.contains(&header::AUTHORIZATION);
        let reach = if says_who && !hides_authorization {
            Reach::Fields(names.into())
        } else {
            Reach::Same
        };
        Self::For(cache.min(max_age), reach)
    }
}

impl Reach {
    /// Returns the key of all questions that are as this one.
    pub(super) fn key(&self, question: &HeaderMap) -> Key {
        let mut hash = Sha256::new();
        let mut number = |count: usize| hash.update(count.to_be_bytes());
        match self {
            Self::Same => {
                number(0);
                let mut names: Vec<_> = question.keys().collect();
                names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
                for name in names {
                    add(&mut hash, name, question);
                }
            }
            Self::Fields(names) => {
                number(1);
                for name in names.iter() {
                    add(&mut hash, name, question);
                }
            }
        }
        hash.finalize().into()
    }
}

/// Hashes a field with its values in their order. Each part has its length before it, so that none runs into the next.
fn add(hash: &mut Sha256, name: &HeaderName, question: &HeaderMap) {
    let values = question.get_all(name);
    let mut part = |bytes: &[u8]| {
        hash.update(bytes.len().to_be_bytes());
        hash.update(bytes);
    };
    part(name.as_str().as_bytes());
    part(&values.iter().count().to_be_bytes());
    for value in values {
        part(value.as_bytes());
    }
}

/// Returns the fields that an answer depends on. None: on something beyond them (`*`), or on what cannot be read.
fn vary(answer: &HeaderMap) -> Option<Vec<HeaderName>> {
    list(answer.get_all(header::VARY))
        .map(|name| match name? {
            "*" => None,
            name => HeaderName::from_bytes(name.as_bytes()).ok(),
        })
        .collect()
}

/// Returns for how long an answer is fresh by its own word, if it says so. The outer none: it must not be used again at all.
///
/// Of several times the shortest counts, and one that cannot be read is none at all. (RFC 9111 §4.2.1)
fn max_age(answer: &HeaderMap) -> Option<Option<Duration>> {
    let mut shortest: Option<u64> = None;
    for directive in list(answer.get_all(header::CACHE_CONTROL)) {
        let directive = directive?;
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let is = |known: &str| name.trim_ascii().eq_ignore_ascii_case(known);
        if is("no-store") || is("no-cache") {
            return None;
        }
        if is("max-age") || is("s-maxage") {
            let seconds = seconds(value.trim_ascii().trim_matches('"'));
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    let Some(shortest) = shortest else {
        return Some(None);
    };
    let age = answer.get(header::AGE).and_then(|age| age.to_str().ok());
    let fresh = shortest.saturating_sub(age.map_or(0, seconds));
    Some(Some(Duration::from_secs(fresh)))
}

/// Reads a number of seconds; zero when it is none, so that it makes an answer older and never younger.
fn seconds(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// Walks the elements of a list in one or several fields; one that is no ASCII is none.
fn list<'h>(
    values: impl IntoIterator<Item = &'h HeaderValue>,
) -> impl Iterator<Item = Option<&'h str>> {
    values
        .into_iter()
        .flat_map(|value| match value.to_str() {
            Ok(text) => text.split(',').map(Some).collect::<Vec<_>>(),
            Err(_) => vec![None],
        })
        .map(|element| element.map(str::trim_ascii))
        .filter(|element| *element != Some(""))
}
