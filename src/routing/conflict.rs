//! Conflict: two routes that cannot stand in one table.

use std::collections::HashMap;

use crate::routing::language::Language;
use crate::routing::pattern::{Kind, RoutePattern};
use crate::routing::regex_pattern::RegexPattern;
use crate::routing::route::Route;
use crate::routing::segment::Segment;
use crate::routing::shape::Shape;

/// Two routes that cannot stand in one table. Routes are known by their place in it, from 0.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Conflict {
    /// The later route gets no request that the earlier one leaves it.
    #[error(
        "route {route} ({written}) can never match: route {earlier} ({earlier_written}) comes first and leaves it no request"
    )]
    NeverMatches {
        /// The later route.
        route: usize,
        /// Its pattern.
        written: String,
        /// The earlier route.
        earlier: usize,
        /// Its pattern.
        earlier_written: String,
    },
    /// Both routes have one name.
    #[error("expected each name once, found {name:?} for route {route} and route {earlier}")]
    DuplicateName {
        /// The later route.
        route: usize,
        /// The earlier route.
        earlier: usize,
        /// The name.
        name: String,
    },
}

impl Conflict {
    /// The route at fault, the later of the two.
    pub fn route(&self) -> usize {
        match self {
            Self::NeverMatches { route, .. } | Self::DuplicateName { route, .. } => *route,
        }
    }

    /// The route it clashes with.
    pub fn earlier(&self) -> usize {
        match self {
            Self::NeverMatches { earlier, .. } | Self::DuplicateName { earlier, .. } => *earlier,
        }
    }
}

/// Returns all conflicts of a table in file order, given the routes that are tried one after another.
pub(super) fn conflicts<'a, T>(
    routes: &[Route<T>],
    groups: impl Iterator<Item = &'a Vec<usize>>,
) -> Vec<Conflict> {
    let mut conflicts = duplicate_names(routes);
    let mut languages = Languages::default();
    let catch_alls: Vec<usize> = (0..routes.len())
        .filter(|&index| is_root_catch_all(&routes[index].pattern))
        .collect();
    for group in groups {
        for (place, &route) in group.iter().enumerate() {
            // Regular expressions come after all paths, wherever they stand.
            let first = match routes[route].pattern.kind() {
                Kind::Regex(_) => catch_alls.as_slice(),
                Kind::Path(_) => &[],
            };
            let earlier = first.iter().chain(&group[..place]).copied();
            if let Some(earlier) = hidden_by(routes, earlier, route, &mut languages) {
                conflicts.push(Conflict::NeverMatches {
                    route,
                    written: routes[route].pattern.to_string(),
                    earlier,
                    earlier_written: routes[earlier].pattern.to_string(),
                });
            }
        }
    }
    conflicts.sort_by_key(Conflict::route);
    conflicts
}

/// Returns an earlier route if it, alone or with others before, leaves nothing to this one.
fn hidden_by<T>(
    routes: &[Route<T>],
    earlier: impl Iterator<Item = usize>,
    route: usize,
    languages: &mut Languages,
) -> Option<usize> {
    let later = &routes[route];
    // What is left of the methods; none means all.
    let mut left = later.methods.clone();
    for index in earlier {
        let candidate = &routes[index];
        let takes_some = candidate.methods.is_empty()
            || left.iter().any(|method| candidate.lists_method(method));
        if !takes_some
            || !candidate.covers_host_of(later)
            || !takes_all_paths_of(
                (index, &candidate.pattern),
                (route, &later.pattern),
                languages,
            )
        {
            continue;
        }
        left.retain(|method| !candidate.lists_method(method));
        if candidate.methods.is_empty() || left.is_empty() {
            return Some(index);
        }
    }
    None
}

fn duplicate_names<T>(routes: &[Route<T>]) -> Vec<Conflict> {
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut conflicts = Vec::new();
    for (route, entry) in routes.iter().enumerate() {
        let Some(name) = &entry.name else { continue };
        let earlier = *first.entry(name).or_insert(route);
        if earlier != route {
            conflicts.push(Conflict::DuplicateName {
                route,
                earlier,
                name: name.clone(),
            });
        }
    }
    conflicts
}

/// The languages of the regular expressions, each made when it is first asked for.
#[derive(Default)]
struct Languages(HashMap<usize, Known>);

/// What is known of one expression.
struct Known {
    language: Option<Language>,
    /// A text that it matches.
    witness: Option<String>,
}

impl Known {
    fn of(regex: &RegexPattern) -> Self {
        let mut language = regex.language();
        let witness = language.as_mut().and_then(Language::witness);
        Self { language, witness }
    }
}

impl Languages {
    fn includes(&mut self, mine: (usize, &RegexPattern), theirs: (usize, &RegexPattern)) -> bool {
        let their_known = self
            .0
            .entry(theirs.0)
            .or_insert_with(|| Known::of(theirs.1));
        // Most pairs have nothing to do with each other, and one text tells.
        if their_known
            .witness
            .as_ref()
            .is_some_and(|witness| !mine.1.matches(witness))
        {
            return false;
        }
        let [mut my_known, mut their_known] = [mine, theirs].map(|(route, regex)| {
            // Taken out for the walk, which changes both.
            self.0.remove(&route).unwrap_or_else(|| Known::of(regex))
        });
        let includes = match (&mut my_known.language, &mut their_known.language) {
            (Some(mine), Some(theirs)) => mine.includes(theirs),
            _ => false,
        };
        self.0.insert(mine.0, my_known);
        self.0.insert(theirs.0, their_known);
        includes
    }

    fn takes_nothing(&mut self, (route, regex): (usize, &RegexPattern)) -> bool {
        let known = self.0.entry(route).or_insert_with(|| Known::of(regex));
        known.language.as_mut().is_none_or(Language::takes_nothing)
    }
}

/// Whether the earlier of two patterns takes every path of the later one. Both are of one shape, both are regular
/// expressions, or the earlier one is `/{*rest}`.
fn takes_all_paths_of(
    (earlier, earlier_pattern): (usize, &RoutePattern),
    (later, later_pattern): (usize, &RoutePattern),
    languages: &mut Languages,
) -> bool {
    match (earlier_pattern.kind(), later_pattern.kind()) {
        (Kind::Path(mine), Kind::Path(theirs)) => covers_segments(mine, theirs),
        (Kind::Regex(mine), Kind::Regex(theirs)) => {
            Shape::of(mine.prefix()) == Shape::of(theirs.prefix())
                && covers_segments(mine.prefix(), theirs.prefix())
                && (mine.source() == theirs.source()
                    || languages.includes((earlier, mine), (later, theirs)))
        }
        // It takes every path but "/".
        (Kind::Path(_), Kind::Regex(theirs)) => {
            !theirs.prefix().is_empty() || !languages.takes_nothing((later, theirs))
        }
        (Kind::Regex(_), Kind::Path(_)) => false,
    }
}

/// Whether the parameters of one shape take every value that those of the other do.
fn covers_segments(mine: &[Segment], theirs: &[Segment]) -> bool {
    let converters = |segments: &[Segment]| -> Vec<_> {
        segments
            .iter()
            .filter_map(Segment::param)
            .map(|param| param.converter)
            .collect()
    };
    let mut pairs = converters(mine).into_iter().zip(converters(theirs));
    pairs.all(|(mine, theirs)| mine.covers(theirs))
}

fn is_root_catch_all(pattern: &RoutePattern) -> bool {
    matches!(pattern.kind(), Kind::Path(segments) if matches!(segments.as_slice(), [Segment::Rest(_)]))
}

#[cfg(test)]
#[path = "tests/conflict.rs"]
mod tests;
