//! Language: the set of texts in which a regular expression finds a match.

use std::collections::{HashSet, VecDeque};

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::util::start;

/// A walk that visits more states than this gives up undecided.
const STATES_MAX: usize = 4_000;

/// The memory bound for one expression's states.
const CACHE_BYTES: usize = 8 << 20;

/// The texts in which a regular expression finds a match.
///
/// The automaton is built lazily, as it is walked. Each walk stops at the first text that answers
/// the question, and gives up at [`STATES_MAX`]. An expression too large for the automaton counts
/// as undecided.
pub(super) struct Language {
    dfa: DFA,
    cache: Cache,
}

/// The texts to consider.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Texts {
    /// Any path.
    All,
    /// Paths whose first segment is not empty.
    WithoutLeadingSlash,
}

/// The position of a walk in one automaton.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum At {
    State(LazyStateID),
    /// A match was found; the rest of the text cannot change that.
    Matched,
}

/// A walk that gave up.
struct Undecided;

impl Language {
    /// Creates the language of an expression, as compiled for matching.
    pub(super) fn new(source: &str) -> Option<Self> {
        let config = DFA::config()
            .unicode_word_boundary(true)
            .cache_capacity(CACHE_BYTES)
            .skip_cache_capacity_check(true)
            .minimum_cache_clear_count(Some(0));
        let dfa = DFA::builder().configure(config).build(source).ok()?;
        let cache = dfa.create_cache();
        Some(Self { dfa, cache })
    }

    /// Returns whether none of these texts has a match; `false` if undecided.
    pub(super) fn is_empty(&mut self, texts: Texts) -> bool {
        matches!(self.shortest_match(texts), Ok(None))
    }

    /// Returns whether the empty text has a match; `true` if undecided.
    pub(super) fn takes_nothing(&mut self) -> bool {
        let taken = self.start().and_then(|start| self.ends_matched(start));
        taken.unwrap_or(true)
    }

    /// Returns whether every text that matches `other` matches this one too; `false` if undecided.
    pub(super) fn includes(&mut self, other: &mut Self) -> bool {
        self.finds_no_exception(other).unwrap_or(false)
    }

    /// Returns a shortest text that has a match, if one is found. An expression that includes this
    /// one must match it too.
    pub(super) fn witness(&mut self) -> Option<String> {
        let found = self.shortest_match(Texts::All).ok()??;
        String::from_utf8(found).ok()
    }

    fn shortest_match(&mut self, texts: Texts) -> Result<Option<Vec<u8>>, Undecided> {
        // The start state can recur later in a text, where a slash is allowed.
        let mut is_start = true;
        let mut seen = HashSet::new();
        let mut queue = VecDeque::from([(self.start()?, Vec::new())]);
        let bytes = self.bytes(None);
        while let Some((at, text)) = queue.pop_front() {
            if self.ends_matched(at)? {
                return Ok(Some(text));
            }
            let is_first = std::mem::take(&mut is_start);
            for &byte in &bytes {
                if byte == b'/' && is_first && texts == Texts::WithoutLeadingSlash {
                    continue;
                }
                match self.step(at, byte)? {
                    Some(next) if seen.insert(next) => {
                        let mut text = text.clone();
                        text.push(byte);
                        queue.push_back((next, text));
                    }
                    _ => {}
                }
            }
            if seen.len() > STATES_MAX {
                return Err(Undecided);
            }
        }
        Ok(None)
    }

    /// Walks both automata in step until this one has a match.
    fn finds_no_exception(&mut self, other: &mut Self) -> Result<bool, Undecided> {
        let start = (Some(self.start()?), other.start()?);
        let mut seen = HashSet::from([start]);
        let mut queue = VecDeque::from([start]);
        let bytes = self.bytes(Some(other));
        while let Some((mine, theirs)) = queue.pop_front() {
            let has_mine = match mine {
                Some(at) => self.ends_matched(at)?,
                None => false,
            };
            if !has_mine && other.ends_matched(theirs)? {
                return Ok(false);
            }
            for &byte in &bytes {
                let Some(their_next) = other.step(theirs, byte)? else {
                    continue;
                };
                let my_next = match mine {
                    Some(at) => self.step(at, byte)?,
                    None => None,
                };
                let next = (my_next, their_next);
                if my_next != Some(At::Matched) && seen.insert(next) {
                    queue.push_back(next);
                }
            }
            if seen.len() > STATES_MAX {
                return Err(Undecided);
            }
        }
        Ok(true)
    }

    /// Returns one path byte for each class of bytes that neither automaton distinguishes. A slash
    /// is always included.
    fn bytes(&self, other: Option<&Self>) -> Vec<u8> {
        let class_of = |byte: u8| {
            let mine = self.dfa.byte_classes().get(byte);
            let theirs = other.map(|other| other.dfa.byte_classes().get(byte));
            (byte == b'/', mine, theirs)
        };
        let mut seen = HashSet::new();
        path_bytes()
            .filter(|&byte| seen.insert(class_of(byte)))
            .collect()
    }

    fn start(&mut self) -> Result<At, Undecided> {
        let config = start::Config::new();
        let state = self.dfa.start_state(&mut self.cache, &config);
        state.map(At::State).map_err(|_| Undecided)
    }

    /// Advances by one byte; `None` if no continuation can have a match.
    fn step(&mut self, at: At, byte: u8) -> Result<Option<At>, Undecided> {
        let At::State(state) = at else {
            return Ok(Some(At::Matched));
        };
        let next = self.dfa.next_state(&mut self.cache, state, byte);
        let next = next.map_err(|_| Undecided)?;
        if next.is_match() {
            Ok(Some(At::Matched))
        } else if next.is_quit() {
            Err(Undecided)
        } else {
            Ok((!next.is_dead()).then_some(At::State(next)))
        }
    }

    /// Returns whether a text that ends at this position has a match.
    fn ends_matched(&mut self, at: At) -> Result<bool, Undecided> {
        let At::State(state) = at else {
            return Ok(true);
        };
        let last = self.dfa.next_eoi_state(&mut self.cache, state);
        last.map(|last| last.is_match()).map_err(|_| Undecided)
    }
}

/// Iterates over the bytes that a path can contain: all except control characters.
fn path_bytes() -> impl Iterator<Item = u8> {
    // Letters first: most expressions have a match among them, which ends the walk early.
    (b'a'..=b'z').chain((0x20..=0xff_u8).filter(|byte| !byte.is_ascii_lowercase() && *byte != 0x7f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_without_any_text_is_known() {
        let check = |source: &str, expected: bool| {
            let mut language = Language::new(source).unwrap();
            assert_eq!(language.is_empty(Texts::All), expected, "{source}");
        };
        check("", false);
        check("a", false);
        check("^ws/(?P<room>[-\\w]+)/$", false);
        check("a^", true);
        check("$a", true);
        check("^a$b", true);
        check("[a&&b]", true);
        check("^a\\n", true);
        check("x|a^", false);
        check("\\bws\\b", false);
        check("a\\Bb", false);
        check("é^", true);
    }

    #[test]
    fn a_witness_has_a_match() {
        for source in ["", "a", "^ws/(?P<room>[-\\w]+)/$", "x|é", "^é+$", "\\d{3}"] {
            let witness = Language::new(source).unwrap().witness().unwrap();
            let regex = regex::Regex::new(source).unwrap();
            assert!(regex.is_match(&witness), "{source}: {witness:?}");
        }
        assert_eq!(Language::new("a^").unwrap().witness(), None);
    }

    #[test]
    fn an_expression_that_wants_the_leading_slash_is_known() {
        let check = |source: &str, expected: bool| {
            let mut language = Language::new(source).unwrap();
            let texts = Texts::WithoutLeadingSlash;
            assert_eq!(language.is_empty(texts), expected, "{source}");
        };
        check("^/ws/", true);
        check("\\A/ws/", true);
        check("^(?:/a|/b)$", true);
        check("^\\/a", true);
        check("^/?ws/", false);
        check("/ws/", false);
        check("^$", false);
    }

    #[test]
    fn an_expression_inside_another_is_known() {
        let check = |outer: &str, inner: &str, expected: bool| {
            let mut outer_language = Language::new(outer).unwrap();
            let mut inner_language = Language::new(inner).unwrap();
            let found = outer_language.includes(&mut inner_language);
            assert_eq!(found, expected, "{outer} {inner}");
        };
        check("", "^a$", true);
        check(".*", "a", true);
        check("^(?:^a/.*$)$", "^(?:^a/b$)$", true);
        check("^a/", "^a/b/", true);
        check("^a/b/", "^a/", false);
        check("[0-9]+", "^x/[0-9]{4}$", true);
        check("^(?:\\w+/)$", "^(?:[a-z]+/)$", true);
        check("^(?:[a-z]+/)$", "^(?:\\w+/)$", false);
        check("a|b", "b", true);
        check("a", "b", false);
        check("^a", "a", false);
        check("a", "^a", true);
    }
}
