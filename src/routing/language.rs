//! Language: which texts a regular expression finds a match in, decided without any text.

use std::collections::{HashSet, VecDeque};

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::util::start;

/// More states than this are not looked at: then nothing is decided.
const STATES_MAX: usize = 4_000;

/// Memory for the states of one expression.
const CACHE_BYTES: usize = 8 << 20;

/// The texts that a regular expression finds a match in.
///
/// The automaton is built as far as it is walked. Each walk stops at the first text that answers the question, and
/// gives up at [`STATES_MAX`]; an expression that the automaton cannot hold is taken as one about which nothing is known.
pub(super) struct Language {
    dfa: DFA,
    cache: Cache,
}

/// What a path pattern may hold of a text, besides any other byte.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Texts {
    /// Any path.
    All,
    /// Paths whose first segment is not empty.
    WithoutLeadingSlash,
}

/// Where a walk is in one automaton.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum At {
    State(LazyStateID),
    /// A match was found: whatever follows, the text has one.
    Matched,
}

/// A walk that decided nothing.
struct Undecided;

impl Language {
    /// Takes an expression as it is compiled for matching.
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

    /// Tells whether none of these texts has a match; `false` where that is not known.
    pub(super) fn is_empty(&mut self, texts: Texts) -> bool {
        matches!(self.shortest_match(texts), Ok(None))
    }

    /// Tells whether the empty text has a match; `true` where that is not known.
    pub(super) fn takes_nothing(&mut self) -> bool {
        let taken = self.start().and_then(|start| self.ends_matched(start));
        taken.unwrap_or(true)
    }

    /// Tells whether every text that has a match in `other` has one here; `false` where that is not known.
    pub(super) fn includes(&mut self, other: &mut Self) -> bool {
        self.finds_no_exception(other).unwrap_or(false)
    }

    /// Returns a shortest text that has a match, if that is known: what another expression must match to include this one.
    pub(super) fn witness(&mut self) -> Option<String> {
        let found = self.shortest_match(Texts::All).ok()??;
        String::from_utf8(found).ok()
    }

    fn shortest_match(&mut self, texts: Texts) -> Result<Option<Vec<u8>>, Undecided> {
        // The start may come again in the midst of a text, where a slash is welcome.
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

    /// Walks both automata side by side, as long as this one has no match yet.
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

    /// The bytes of a path, one for each class that neither automaton tells apart. A slash is always among them.
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

    /// One byte further; `None` where no text can have a match any more.
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

    /// Tells whether the text that ends here has a match.
    fn ends_matched(&mut self, at: At) -> Result<bool, Undecided> {
        let At::State(state) = at else {
            return Ok(true);
        };
        let last = self.dfa.next_eoi_state(&mut self.cache, state);
        last.map(|last| last.is_match()).map_err(|_| Undecided)
    }
}

/// The bytes that a path can have: no control characters.
fn path_bytes() -> impl Iterator<Item = u8> {
    // Letters first: most expressions have a match among them, and the walk ends there.
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
