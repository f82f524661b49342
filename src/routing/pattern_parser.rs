//! Pattern parser: parses the text of a path pattern into segments, or reports the error and its
//! position.

use std::fmt;
use std::sync::Arc;

use crate::routing::converter::Converter;
use crate::routing::foreign;
use crate::routing::segment::{Param, Segment};

/// An error in a pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PatternError {
    /// The expected text.
    pub expected: String,
    /// The text found instead.
    pub found: String,
    /// The byte offset of the error in the pattern.
    pub position: usize,
    /// A correction, if known.
    pub hint: Option<String>,
}

impl PatternError {
    pub(super) fn new(
        expected: impl Into<String>,
        found: impl Into<String>,
        position: usize,
    ) -> Self {
        Self {
            expected: expected.into(),
            found: found.into(),
            position,
            hint: None,
        }
    }

    /// Adds a correction.
    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Returns the message without the hint.
    pub fn sentence(&self) -> String {
        format!(
            "expected {}, found {}, at byte {} of the pattern",
            self.expected, self.found, self.position
        )
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence())?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PatternError {}

/// Parses a path pattern such as `/ws/chat/{room:slug}/`.
pub(super) fn parse_path(text: &str) -> Result<Vec<Segment>, PatternError> {
    let Some(relative) = text.strip_prefix('/') else {
        let found = text
            .chars()
            .next()
            .map_or("nothing".to_owned(), |found| format!("{found:?}"));
        let error = PatternError::new("\"/\" at the start", found, 0);
        return Err(match text {
            "" => error,
            text => error.with_hint(foreign::with_slash(text)),
        });
    };
    foreign::refuse(text)?;
    let mut segments: Vec<Segment> = Vec::new();
    let mut position = 1;
    let count = relative.split('/').count();
    for (index, written) in relative.split('/').enumerate() {
        let place = if index + 1 == count {
            SegmentPosition::Last
        } else {
            SegmentPosition::Inner
        };
        let segment = parse_segment(written, position, place)?;
        if let Some(param) = segment.param() {
            let same =
                |other: &Segment| other.param().is_some_and(|other| other.name == param.name);
            if segments.iter().any(same) {
                let found = format!("a second parameter {:?}", &*param.name);
                return Err(PatternError::new(
                    "each name once in a path",
                    found,
                    position,
                ));
            }
        }
        segments.push(segment);
        position += written.len() + 1;
    }
    Ok(segments)
}

/// The position of a segment in its pattern.
#[derive(Clone, Copy, Eq, PartialEq)]
enum SegmentPosition {
    Inner,
    Last,
}

/// A segment under construction.
#[derive(Default)]
struct PartialSegment {
    before: String,
    param: Option<Param>,
    after: String,
}

fn parse_segment(
    written: &str,
    start: usize,
    position: SegmentPosition,
) -> Result<Segment, PatternError> {
    if written.is_empty() && position == SegmentPosition::Inner {
        return Err(PatternError::new(
            "a segment between two slashes",
            "\"//\"",
            start - 1,
        ));
    }
    if matches!(written, "." | "..") {
        let expected = "a segment that a request can have";
        return Err(PatternError::new(expected, format!("{written:?}"), start));
    }
    let mut draft = PartialSegment::default();
    let mut rest = written;
    while let Some(character) = rest.chars().next() {
        let position = start + written.len() - rest.len();
        if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            draft.text().push(character);
            rest = after;
        } else if character == '{' {
            let (inside, after) = rest[1..].split_once('}').ok_or_else(|| {
                PatternError::new(
                    "\"}\" at the end of the parameter",
                    format!("{rest:?}"),
                    position,
                )
            })?;
            if draft.param.is_some() {
                let expected = "one parameter in a segment (a `regex` route can have more)";
                return Err(PatternError::new(
                    expected,
                    format!("\"{{{inside}}}\""),
                    position,
                ));
            }
            draft.param = Some(parse_param(inside, position + 1)?);
            rest = after;
        } else {
            push_literal(draft.text(), character, rest, position)?;
            rest = &rest[character.len_utf8()..];
        }
    }
    draft.finish(written, start, position)
}

/// Appends a literal character in canonical form.
fn push_literal(
    text: &mut String,
    character: char,
    rest: &str,
    position: usize,
) -> Result<(), PatternError> {
    let refuse = |expected: &str, found: String| Err(PatternError::new(expected, found, position));
    let is_escape = |escape: &str| escape.bytes().skip(1).all(|byte| byte.is_ascii_hexdigit());
    match character {
        '}' => refuse("\"}}\" for a literal brace", "\"}\"".to_owned()),
        '?' | '#' => refuse(
            "a path without query and fragment",
            format!("{character:?}"),
        ),
        '%' if rest.get(..3).is_some_and(is_escape) => refuse(
            "the character itself instead of its percent-encoding",
            format!("{:?}", &rest[..3]),
        ),
        '%' => {
            text.push_str("%25");
            Ok(())
        }
        control if control.is_control() => refuse("no control character", format!("{control:?}")),
        literal => {
            text.push(literal);
            Ok(())
        }
    }
}

/// Parses the text between the braces.
fn parse_param(inside: &str, position: usize) -> Result<Param, PatternError> {
    let (name, converter) = if let Some(name) = inside.strip_prefix('*') {
        (name, Converter::Path)
    } else if let Some((name, converter)) = inside.split_once(':') {
        let Some(converter) = Converter::named(converter) else {
            let known = Converter::NAMED.map(Converter::name).join(", ");
            let expected = format!("a converter ({known})");
            let position = position + name.len() + 1;
            return Err(PatternError::new(
                expected,
                format!("{converter:?}"),
                position,
            ));
        };
        (name, converter)
    } else {
        (inside, Converter::Str)
    };
    let mut bytes = name.bytes();
    let is_start = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    if !bytes.next().is_some_and(is_start)
        || !bytes.all(|byte| is_start(byte) || byte.is_ascii_digit())
    {
        let expected = "a name of ASCII letters, digits and underscores";
        return Err(PatternError::new(expected, format!("{name:?}"), position));
    }
    Ok(Param {
        name: Arc::from(name),
        converter,
        shadowed: false,
    })
}

impl PartialSegment {
    /// The text being read: before the parameter, or after it.
    fn text(&mut self) -> &mut String {
        if self.param.is_some() {
            &mut self.after
        } else {
            &mut self.before
        }
    }

    fn finish(
        self,
        written: &str,
        start: usize,
        position: SegmentPosition,
    ) -> Result<Segment, PatternError> {
        let Some(param) = self.param else {
            return Ok(Segment::Text(self.before.into()));
        };
        if param.converter != Converter::Path {
            return Ok(Segment::Param {
                before: self.before.into(),
                param,
                after: self.after.into(),
            });
        }
        if position == SegmentPosition::Inner || !self.before.is_empty() || !self.after.is_empty() {
            let expected = "a catch-all to be the whole last segment";
            return Err(PatternError::new(expected, format!("{written:?}"), start));
        }
        Ok(Segment::Rest(param))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_pattern_is_reported_with_the_expectation_and_position() {
        let check = |pattern: &str, expected: &str| {
            let error = parse_path(pattern).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(
            "foo/",
            "expected \"/\" at the start, found 'f', at byte 0 of the pattern (write \"/foo/\")",
        );
        check(
            "",
            "expected \"/\" at the start, found nothing, at byte 0 of the pattern",
        );
        check(
            "/a//b",
            "expected a segment between two slashes, found \"//\", at byte 2 of the pattern",
        );
        check(
            "/a/{x",
            "expected \"}\" at the end of the parameter, found \"{x\", at byte 3 of the pattern",
        );
        check(
            "/a}",
            "expected \"}}\" for a literal brace, found \"}\", at byte 2 of the pattern",
        );
        check(
            "/{}",
            "expected a name of ASCII letters, digits and underscores, found \"\", at byte 2 of the pattern",
        );
        check(
            "/{a}-{b}/",
            "expected one parameter in a segment (a `regex` route can have more), found \"{b}\", at byte 5 of the pattern",
        );
        check(
            "/{*x}/",
            "expected a catch-all to be the whole last segment, found \"{*x}\", at byte 1 of the pattern",
        );
        check(
            "/{x}/{x}/",
            "expected each name once in a path, found a second parameter \"x\", at byte 5 of the pattern",
        );
        check(
            "/a?b=1",
            "expected a path without query and fragment, found '?', at byte 2 of the pattern",
        );
        check(
            "/caf%C3%A9/",
            "expected the character itself instead of its percent-encoding, found \"%C3\", at byte 4 of the pattern",
        );
        check(
            "/a/../b",
            "expected a segment that a request can have, found \"..\", at byte 3 of the pattern",
        );
    }
}
