//! Freshness: how long an answer may be reused, and for which other questions (RFC 9111).

use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::subrequest::DESCRIPTION;

/// The SHA-256 of the fields that an answer depends on, so that the cache holds no cookies or
/// tokens.
pub(super) type Key = [u8; 32];

/// The field that lists the question's fields an answer depends on. No framework sends it by
/// itself.
const ONEPORT_VARY: HeaderName = HeaderName::from_static("oneport-vary");

/// How an answer may be reused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reuse {
    /// Not at all, not even for an equal request at the same time: `no-store`, `no-cache` or `Vary:
    /// *`.
    Never,
    /// For a limited time. Zero: only for requests that wait for it now.
    For(Duration, Reach),
}

/// The questions that an answer applies to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Reach {
    /// An equal question, field for field.
    Same,
    /// All questions with equal values of these fields, which are sorted.
    Fields(Arc<[HeaderName]>),
}

impl Reuse {
    /// Reads `Oneport-Vary`, `Vary`, `Cache-Control` and `Age` of a response. `passed` are the
    /// client's own fields, `cache` is the longest lifetime.
    ///
    /// Only `Oneport-Vary` widens the reuse. `Vary` and `max-age` do not, because frameworks and
    /// their middleware add both by themselves, regardless of what else a response depends on.
    pub(super) fn of(
        answer: &HeaderMap,
        question: &HeaderMap,
        passed: &[HeaderName],
        cache: Duration,
    ) -> Self {
        if varies_on_anything(answer) {
            return Self::Never;
        }
        let Some(max_age) = max_age(answer) else {
            return Self::Never;
        };
        let lifetime = max_age.map_or(cache, |max_age| max_age.min(cache));
        Self::For(lifetime, Reach::of(answer, question, passed))
    }
}

impl Reach {
    /// Reads `Oneport-Vary`. A list is ignored if it names a field that no question has, or if it
    /// does not identify the client.
    fn of(answer: &HeaderMap, question: &HeaderMap, passed: &[HeaderName]) -> Self {
        let names = list(answer.get_all(ONEPORT_VARY)).map(|name| {
            let name = HeaderName::from_bytes(name?.as_bytes()).ok()?;
            (passed.contains(&name) || DESCRIPTION.contains(&name)).then_some(name)
        });
        let Some(mut names) = names.collect::<Option<Vec<_>>>() else {
            return Self::Same;
        };
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        let reach = Self::Fields(names.into());
        if reach.identifies_client(question) {
            reach
        } else {
            Self::Same
        }
    }

    /// Returns whether the fields identify the client of a question: one of them is a field of the
    /// client's own that the question has, and `authorization` is among them if the question has it
    /// (RFC 9111 §3.5).
    ///
    /// Checked for the question that was answered and for each one that the answer is recalled for:
    /// an answer to a cookie alone must not serve the same cookie with a token.
    pub(super) fn identifies_client(&self, question: &HeaderMap) -> bool {
        let Self::Fields(names) = self else {
            return true;
        };
        let has_own = names
            .iter()
            .any(|name| !DESCRIPTION.contains(name) && question.contains_key(name));
        let names_authorization = names.contains(&header::AUTHORIZATION);
        has_own && (names_authorization || !question.contains_key(header::AUTHORIZATION))
    }

    /// Returns the key that this question shares with the other questions of the answer.
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

/// Hashes a field with its values in order. Each part is prefixed with its length, so different
/// fields never hash the same bytes.
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

/// Returns whether an answer depends on more than fields (`Vary: *`).
fn varies_on_anything(answer: &HeaderMap) -> bool {
    let mut values = answer.get_all(header::VARY).iter();
    values.any(|value| {
        let mut elements = value.as_bytes().split(|byte| *byte == b',');
        elements.any(|element| element.trim_ascii() == b"*")
    })
}

/// Returns how long an answer declares itself fresh, if it does. The outer `None`: it must not be
/// used again.
///
/// The shortest lifetime wins; an unparsable one counts as zero. (RFC 9111 §4.2.1)
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

/// Reads a number of seconds. An unparsable number counts as zero, which makes an answer older and
/// never younger.
fn seconds(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// Iterates over list elements; yields `None` for a value that is not ASCII.
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
