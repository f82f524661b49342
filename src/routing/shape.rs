//! Shape: a path pattern without its names and converters. Routes of one shape share a node of the
//! tree.

use std::cmp::Ordering;
use std::fmt::Write;

use crate::routing::segment::{Segment, between};

/// The part of a pattern that decides its precedence. A lesser shape is tried first.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Shape(Box<[Part]>);

/// One segment of a shape.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Part {
    Text(Box<str>),
    Around { before: Box<str>, after: Box<str> },
    Any,
    Rest,
}

impl Shape {
    pub(super) fn of(segments: &[Segment]) -> Self {
        let part = |segment: &Segment| match segment {
            Segment::Text(text) => Part::Text(text.clone()),
            Segment::Param { before, after, .. } if before.is_empty() && after.is_empty() => {
                Part::Any
            }
            Segment::Param { before, after, .. } => Part::Around {
                before: before.clone(),
                after: after.clone(),
            },
            Segment::Rest(_) => Part::Rest,
        };
        Self(segments.iter().map(part).collect())
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.0
    }

    /// Returns the number of parameters.
    pub(super) fn params(&self) -> usize {
        self.0
            .iter()
            .filter(|part| !matches!(part, Part::Text(_)))
            .count()
    }

    /// Returns whether a parameter shares its segment with literal text.
    pub(super) fn has_around(&self) -> bool {
        self.0
            .iter()
            .any(|part| matches!(part, Part::Around { .. }))
    }

    /// Returns the shape in matchit's syntax: `{a}`, `{*a}`, braces doubled.
    pub(super) fn tree_text(&self) -> String {
        let mut text = String::new();
        for (index, part) in self.0.iter().enumerate() {
            text.push('/');
            // Writing to a string cannot fail.
            let _ = match part {
                Part::Text(literal) => {
                    write!(text, "{}", literal.replace('{', "{{").replace('}', "}}"))
                }
                Part::Around { before, after } => write!(text, "{before}{{p{index}}}{after}"),
                Part::Any => write!(text, "{{p{index}}}"),
                Part::Rest => write!(text, "{{*p{index}}}"),
            };
        }
        text
    }

    /// Returns whether some path can have both shapes. May return `true` wrongly if only text
    /// around parameters distinguishes them.
    pub(super) fn may_overlap(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(other.0.iter());
        let differs = pairs.find_map(|(mine, theirs)| match (mine, theirs) {
            (Part::Rest, _) | (_, Part::Rest) => Some(true),
            _ if mine.may_share(theirs) => None,
            _ => Some(false),
        });
        differs.unwrap_or(self.0.len() == other.0.len())
    }
}

impl Part {
    /// Returns whether some segment can match both parts, neither of them a catch-all.
    fn may_share(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(mine), Self::Text(theirs)) => mine == theirs,
            (Self::Text(text), Self::Around { before, after })
            | (Self::Around { before, after }, Self::Text(text)) => {
                between(text, before, after).is_some()
            }
            (Self::Text(text), _) | (_, Self::Text(text)) => !text.is_empty(),
            _ => true,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Text(_) => 0,
            Self::Around { .. } => 1,
            Self::Any => 2,
            Self::Rest => 3,
        }
    }
}

impl Ord for Part {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(mine), Self::Text(theirs)) => mine.cmp(theirs),
            (
                Self::Around { before, after },
                Self::Around {
                    before: their_before,
                    after: their_after,
                },
            ) => {
                let mine = (before.len() + after.len(), before.len());
                let theirs = (their_before.len() + their_after.len(), their_before.len());
                theirs
                    .cmp(&mine)
                    .then_with(|| (before, after).cmp(&(their_before, their_after)))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Part {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Shape {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Shape {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::pattern_parser::parse_path;

    fn shape(text: &str) -> Shape {
        Shape::of(&parse_path(text).unwrap())
    }

    #[test]
    fn the_more_literal_shape_comes_first() {
        let order = [
            "/a/{x}",
            "/ab{x}/",
            "/{x}b/{y}",
            "/{x}/a",
            "/{x}/{y}",
            "/{*x}",
        ];
        for pair in order.windows(2) {
            assert!(shape(pair[0]) < shape(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn names_and_converters_are_no_part_of_a_shape() {
        assert_eq!(shape("/u/{id:int}/"), shape("/u/{name}/"));
        assert_ne!(shape("/u/{id}/"), shape("/u/{id}"));
    }

    #[test]
    fn knows_which_shapes_may_share_a_path() {
        let check = |one: &str, other: &str, expected: bool| {
            assert_eq!(
                shape(one).may_overlap(&shape(other)),
                expected,
                "{one} {other}"
            );
            assert_eq!(
                shape(other).may_overlap(&shape(one)),
                expected,
                "{other} {one}"
            );
        };
        check("/a/{x}", "/{y}/b", true);
        check("/a/{x}", "/b/{x}", false);
        check("/a/", "/a/{x}", false);
        check("/a/b/c", "/a/{*x}", true);
        check("/a", "/a/{*x}", false);
        check("/img-1.png", "/img-{x}.png", true);
        check("/img.png", "/img-{x}.png", false);
    }
}
