//! Conflict: two routes that cannot stand in one table.

use std::collections::HashMap;

use crate::routing::pattern::{Kind, RoutePattern};
use crate::routing::route::Route;
use crate::routing::segment::Segment;

/// Two routes that cannot stand in one table. Routes are known by their place in it, from 0.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Conflict {
    /// The later route gets no request that the earlier one leaves it.
    #[error(
        "route {route} ({written}) can never match: route {earlier} ({earlier_written}) comes first and takes the same path, host and methods"
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
    for group in groups {
        for (place, &route) in group.iter().enumerate() {
            let later = &routes[route];
            let covers = |earlier: &&usize| {
                let earlier = &routes[**earlier];
                earlier.covers_host_and_methods_of(later)
                    && takes_all_paths_of(&earlier.pattern, &later.pattern)
            };
            if let Some(&earlier) = group[..place].iter().find(covers) {
                let (written, earlier_written) = (
                    later.pattern.to_string(),
                    routes[earlier].pattern.to_string(),
                );
                conflicts.push(Conflict::NeverMatches {
                    route,
                    written,
                    earlier,
                    earlier_written,
                });
            }
        }
    }
    conflicts.sort_by_key(Conflict::route);
    conflicts
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

/// Whether the earlier of two patterns of one shape takes every path of the later one.
fn takes_all_paths_of(earlier: &RoutePattern, later: &RoutePattern) -> bool {
    let converters = |segments: &[Segment]| -> Vec<_> {
        segments
            .iter()
            .filter_map(Segment::param)
            .map(|param| param.converter)
            .collect()
    };
    match (earlier.kind(), later.kind()) {
        (Kind::Path(mine), Kind::Path(theirs)) => {
            let mut pairs = converters(mine).into_iter().zip(converters(theirs));
            pairs.all(|(mine, theirs)| mine.covers(theirs))
        }
        (Kind::Regex(mine), Kind::Regex(theirs)) => {
            mine.source() == theirs.source() && mine.prefix() == theirs.prefix()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::routing::UrlRouter;
    use crate::routing::claims::{regex, route, with_host, with_methods};

    #[test]
    fn every_conflict_is_reported_at_once() {
        let named = |name: &str, route| Route {
            name: Some(name.to_owned()),
            ..route
        };
        let get_only = &[Method::GET][..];
        let conflicts = UrlRouter::build(vec![
            named("a", route("/u/{id}/", "0")),
            named("a", route("/u/{name:int}/", "1")),
            with_methods(get_only, route("/m/", "2")),
            with_methods(&[Method::HEAD], route("/m/", "3")),
            route("/m/", "4"),
            with_host(".example.com", route("/h/", "5")),
            with_host("a.example.com", route("/h/", "6")),
            regex("^x$", "7"),
            regex("^x$", "8"),
        ])
        .unwrap_err();
        let pairs: Vec<_> = conflicts
            .iter()
            .map(|one| (one.earlier(), one.route()))
            .collect();
        assert_eq!(pairs, [(0, 1), (0, 1), (2, 3), (5, 6), (7, 8)]);
        assert_eq!(
            conflicts[1].to_string(),
            "route 1 (/u/{name:int}/) can never match: route 0 (/u/{id}/) comes first and takes the same path, host and methods",
        );
        assert!(matches!(&conflicts[0], Conflict::DuplicateName { name, .. } if name == "a"));
    }
}
