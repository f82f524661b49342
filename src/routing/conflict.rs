//! Conflict: two routes that cannot be in one table.

use std::collections::HashMap;

use crate::routing::language::Language;
use crate::routing::pattern::{Kind, RoutePattern};
use crate::routing::regex_pattern::RegexPattern;
use crate::routing::route::Route;
use crate::routing::segment::Segment;
use crate::routing::shape::Shape;

/// Two routes that cannot be in one table. Routes are identified by their index, from 0.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Conflict {
    /// The earlier route takes every request that the later one would match.
    #[error(
        "route {route} ({written}) can never match: route {earlier} ({earlier_written}) comes first and takes all its requests"
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
    /// Both routes have the same name.
    #[error("route {route} and route {earlier} have the same name, {name:?}")]
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
    /// Returns the route at fault, the later of the two.
    pub fn route(&self) -> usize {
        match self {
            Self::NeverMatches { route, .. } | Self::DuplicateName { route, .. } => *route,
        }
    }

    /// Returns the route that it conflicts with.
    pub fn earlier(&self) -> usize {
        match self {
            Self::NeverMatches { earlier, .. } | Self::DuplicateName { earlier, .. } => *earlier,
        }
    }
}

/// Returns all conflicts of a table in file order. Each group holds the routes that are tried one
/// after another.
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
            // Regular expressions are tried after all paths, whatever their position in the file.
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

/// Returns the earlier route that, alone or together with routes before it, takes every request of
/// this one.
fn hidden_by<T>(
    routes: &[Route<T>],
    earlier: impl Iterator<Item = usize>,
    route: usize,
    languages: &mut Languages,
) -> Option<usize> {
    let later = &routes[route];
    // The methods that no earlier route takes; empty means all.
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

/// The languages of the regular expressions, each built on first use.
#[derive(Default)]
struct Languages(HashMap<usize, Analysis>);

/// One expression's language, if the automaton could be built, and an example.
struct Analysis {
    language: Option<Language>,
    /// A text that it matches.
    witness: Option<String>,
}

impl Analysis {
    fn of(regex: &RegexPattern) -> Self {
        let mut language = regex.language();
        let witness = language.as_mut().and_then(Language::witness);
        Self { language, witness }
    }
}

impl Languages {
    fn includes(&mut self, mine: (usize, &RegexPattern), theirs: (usize, &RegexPattern)) -> bool {
        let their_analysis = self
            .0
            .entry(theirs.0)
            .or_insert_with(|| Analysis::of(theirs.1));
        // Most pairs are unrelated, and one example text shows it without a walk.
        if their_analysis
            .witness
            .as_ref()
            .is_some_and(|witness| !mine.1.matches(witness))
        {
            return false;
        }
        let [mut my_analysis, mut their_analysis] = [mine, theirs].map(|(route, regex)| {
            // Removed for the walk, which mutates both.
            self.0.remove(&route).unwrap_or_else(|| Analysis::of(regex))
        });
        let includes = match (&mut my_analysis.language, &mut their_analysis.language) {
            (Some(mine), Some(theirs)) => mine.includes(theirs),
            _ => false,
        };
        self.0.insert(mine.0, my_analysis);
        self.0.insert(theirs.0, their_analysis);
        includes
    }

    fn takes_nothing(&mut self, (route, regex): (usize, &RegexPattern)) -> bool {
        let analysis = self.0.entry(route).or_insert_with(|| Analysis::of(regex));
        analysis
            .language
            .as_mut()
            .is_none_or(Language::takes_nothing)
    }
}

/// Returns whether the earlier of two patterns takes every path of the later one. Both have the
/// same shape, both are regular expressions, or the earlier one is `/{*rest}`.
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
        // `/{*rest}` takes every path except "/".
        (Kind::Path(_), Kind::Regex(theirs)) => {
            !theirs.prefix().is_empty() || !languages.takes_nothing((later, theirs))
        }
        (Kind::Regex(_), Kind::Path(_)) => false,
    }
}

/// Returns whether the parameters `mine` accept every value that `theirs` accept. Both have the
/// same shape.
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
