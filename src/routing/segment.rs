//! Segment: one part of a path pattern between slashes, and matching a path against a list of them.

use std::sync::Arc;

use crate::routing::canonical::decode;
use crate::routing::converter::Converter;
use crate::routing::params::Params;

/// One part of a path pattern. Literal text is canonical, as in
/// [`CanonicalPath`](super::canonical::CanonicalPath).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Segment {
    /// Literal text. An empty text at the end is a trailing slash.
    Text(Box<str>),
    /// A parameter, with optional literal text before and after it.
    Param {
        before: Box<str>,
        param: Param,
        after: Box<str>,
    },
    /// The rest of the path, always last.
    Rest(Param),
}

/// A named parameter of a pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Param {
    pub(super) name: Arc<str>,
    pub(super) converter: Converter,
    /// Whether a later segment uses the name again. The value is still checked, but the later one
    /// is kept.
    pub(super) shadowed: bool,
}

/// The first reason why a path does not match a pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mismatch<'a> {
    /// The literal text of this segment, counted from 1, differs.
    Text {
        segment: usize,
        expected: &'a str,
        found: &'a str,
    },
    /// The text around a parameter differs, or leaves no value for it.
    Around {
        segment: usize,
        before: &'a str,
        after: &'a str,
        found: &'a str,
    },
    /// The path ends before this segment.
    Ended { segment: usize },
    /// The pattern ends before the path does.
    Longer { rest: &'a str },
    /// The converter rejects the value (canonical text).
    Converter { param: &'a Param, found: &'a str },
    /// The regex finds nothing.
    Regex,
}

impl Segment {
    /// Returns the segment's parameter, if any.
    pub(super) fn param(&self) -> Option<&Param> {
        match self {
            Self::Text(_) => None,
            Self::Param { param, .. } | Self::Rest(param) => Some(param),
        }
    }

    /// Returns whether the segment is the empty text behind a trailing slash.
    pub(super) fn is_empty_text(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }

    /// Returns the segment's parameter, if any, mutably.
    pub(super) fn param_mut(&mut self) -> Option<&mut Param> {
        match self {
            Self::Text(_) => None,
            Self::Param { param, .. } | Self::Rest(param) => Some(param),
        }
    }
}

/// Returns the non-empty text between `before` and `after`, if the segment has both.
pub(super) fn between<'a>(segment: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let value = segment.strip_prefix(before)?.strip_suffix(after)?;
    // An escape is one character: "%2F" does not end in the text "F".
    let bytes = value.as_bytes();
    let cuts_an_escape = bytes.iter().rev().take(2).any(|byte| *byte == b'%');
    (!value.is_empty() && !cuts_an_escape).then_some(value)
}

/// Matches the start of a path (canonical, without leading slash) against the segments and collects
/// parameters.
///
/// Returns the rest of the path after the last segment and its slash; `None` if the path ends
/// there.
pub(super) fn match_front<'a>(
    segments: &'a [Segment],
    path: &'a str,
    params: &mut Params,
) -> Result<Option<&'a str>, Mismatch<'a>> {
    let mut left = Some(path);
    for (index, segment) in segments.iter().enumerate() {
        let number = index + 1;
        let rest = left.ok_or(Mismatch::Ended { segment: number })?;
        let (found, next) = match rest.split_once('/') {
            Some((found, next)) => (found, Some(next)),
            None => (rest, None),
        };
        left = next;
        match segment {
            Segment::Text(text) if **text == *found => {}
            Segment::Text(expected) => {
                return Err(Mismatch::Text {
                    segment: number,
                    expected,
                    found,
                });
            }
            Segment::Param {
                before,
                param,
                after,
            } => {
                let value = between(found, before, after).ok_or(Mismatch::Around {
                    segment: number,
                    before,
                    after,
                    found,
                })?;
                take(param, value, params)?;
            }
            Segment::Rest(param) => {
                take(param, rest, params)?;
                left = None;
            }
        }
    }
    Ok(left)
}

/// Matches a whole path (canonical, without leading slash) against the segments and collects
/// parameters.
pub(super) fn match_whole<'a>(
    segments: &'a [Segment],
    path: &'a str,
    params: &mut Params,
) -> Result<(), Mismatch<'a>> {
    match match_front(segments, path, params)? {
        None => Ok(()),
        Some(rest) => Err(Mismatch::Longer { rest }),
    }
}

/// Decodes a value and adds it to the parameters if its converter accepts it.
fn take<'a>(param: &'a Param, found: &'a str, params: &mut Params) -> Result<(), Mismatch<'a>> {
    let value = decode(found);
    if !param.converter.accepts(&value) {
        return Err(Mismatch::Converter { param, found });
    }
    if !param.shadowed {
        params.push(&param.name, &value);
    }
    Ok(())
}
