//! URL router: a table of routes, and the lookup of a path in it.

use std::collections::HashMap;
use std::ops::ControlFlow;

use http::Method;

use crate::routing::canonical::CanonicalPath;
use crate::routing::conflict::{Conflict, conflicts};
use crate::routing::params::Params;
use crate::routing::pattern::Kind;
use crate::routing::readings;
use crate::routing::resolution::{Match, Resolution, Target, allow_of};
use crate::routing::route::Route;
use crate::routing::shape::Shape;
use crate::routing::tree::Tree;

/// An immutable table of routes.
///
/// ```
/// use http::Method;
/// use oneport::routing::{Resolution, Route, RoutePattern, Target, UrlRouter};
///
/// let router = UrlRouter::build(vec![
///     Route::new(RoutePattern::path("/ws/lobby/")?, "lobby"),
///     Route::new(RoutePattern::path("/ws/{room:slug}/")?, "room"),
/// ]).unwrap();
/// let target = Target { raw_path: "/ws/kitchen/", host: Some("example.com"), method: Some(&Method::GET) };
/// let Resolution::Found(found) = router.resolve(&target) else { panic!() };
/// assert_eq!((found.route.value, found.params.get("room")), ("room", Some("kitchen")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct UrlRouter<T> {
    routes: Vec<Route<T>>,
    tree: Tree,
    /// The routes of each shape, indexed by the shape's number in the tree.
    groups: Vec<Group>,
    regexes: Group,
    names: HashMap<String, usize>,
}

/// Routes that are tried one after another, in file order.
#[derive(Debug)]
struct Group {
    routes: Vec<usize>,
    /// Whether no route of the group has a parameter, so that the tree alone decides on the path.
    literal: bool,
}

/// The state of one lookup.
struct Search<'r, 'a> {
    target: &'a Target<'a>,
    /// The methods of routes that match the path but not the method.
    allow: Vec<&'r Method>,
    /// Whether to consider only routes that append slashes.
    append_slash: bool,
}

impl<T> UrlRouter<T> {
    /// Builds the table, or returns all its conflicts.
    pub fn build(routes: Vec<Route<T>>) -> Result<Self, Vec<Conflict>> {
        let mut numbers: HashMap<Shape, usize> = HashMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut regexes = Vec::new();
        let mut names = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            match route.pattern.kind() {
                Kind::Regex(_) => regexes.push(index),
                Kind::Path(segments) => {
                    let number = *numbers.entry(Shape::of(segments)).or_insert(groups.len());
                    match groups.get_mut(number) {
                        Some(group) => group.push(index),
                        None => groups.push(vec![index]),
                    }
                }
            }
            if let Some(name) = &route.name {
                names.entry(name.clone()).or_insert(index);
            }
        }
        let conflicts = conflicts(&routes, groups.iter().chain([&regexes]));
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let mut has_other_end = vec![false; groups.len()];
        for (index, route) in routes.iter().enumerate() {
            // Added after the routes with exactly this path: text comes before a catch-all.
            for segments in route.pattern.other_ends() {
                let number = *numbers.entry(Shape::of(&segments)).or_insert(groups.len());
                match groups.get_mut(number) {
                    Some(group) => group.push(index),
                    None => groups.push(vec![index]),
                }
                has_other_end.resize(groups.len(), false);
                has_other_end[number] = true;
            }
        }
        let mut shapes: Vec<(Shape, usize)> = numbers.into_iter().collect();
        shapes.sort_unstable_by_key(|(_, number)| *number);
        let shapes: Vec<Shape> = shapes.into_iter().map(|(shape, _)| shape).collect();
        Ok(Self {
            tree: Tree::build(&shapes),
            routes,
            groups: shapes
                .iter()
                .zip(groups.into_iter().zip(has_other_end))
                .map(|(shape, (routes, has_other_end))| Group {
                    routes,
                    literal: shape.params() == 0 && !has_other_end,
                })
                .collect(),
            regexes: Group {
                routes: regexes,
                literal: false,
            },
            names,
        })
    }

    /// Returns all routes in file order.
    pub fn routes(&self) -> &[Route<T>] {
        &self.routes
    }

    /// Returns the route with this name and its index in the table.
    pub fn named(&self, name: &str) -> Option<(usize, &Route<T>)> {
        let index = *self.names.get(name)?;
        Some((index, &self.routes[index]))
    }

    /// Returns the route that serves a target.
    ///
    /// If a route matches host and path but not the method, the result is `MethodNotAllowed`. If
    /// none does, the other form of the trailing slash is tried, for HTTP only.
    pub fn resolve<'r>(&'r self, target: &Target<'_>) -> Resolution<'r, T> {
        let path = match CanonicalPath::parse(target.raw_path) {
            Ok(path) => path,
            Err(reason) => return Resolution::BadPath(reason),
        };
        let mut search = Search {
            target,
            allow: Vec::new(),
            append_slash: false,
        };
        if let Some(found) = self.find(&path, &mut search) {
            return Resolution::Found(found);
        }
        if !search.allow.is_empty() {
            return Resolution::MethodNotAllowed {
                allow: allow_of(&search.allow),
            };
        }
        match self.other_slash_form(target) {
            Some(raw_path) => Resolution::SlashRedirect { raw_path },
            None => Resolution::NotFound,
        }
    }

    /// Returns whether an application that gets the path of a target as it is may take it for a
    /// path of another route than `index`, which takes the target, or for one of no route.
    ///
    /// Applications differ in encoded slashes, backslashes, empty segments, path parameters, and two
    /// slashes at the start. A path that can be read in more than 32 ways is ambiguous too.
    ///
    /// ```
    /// use oneport::routing::{Route, RoutePattern, Target, UrlRouter};
    ///
    /// let router = UrlRouter::build(vec![
    ///     Route::new(RoutePattern::path("/admin/{*rest}")?, "protected"),
    ///     Route::new(RoutePattern::path("/{*rest}")?, "open"),
    /// ]).unwrap();
    /// let get = |raw_path| Target { raw_path, host: None, method: None };
    /// assert!(router.is_ambiguous(&get("/admin%2Fusers"), 1));
    /// assert!(router.is_ambiguous(&get("//admin/users"), 1));
    /// assert!(!router.is_ambiguous(&get("/projects/a%2Fb"), 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_ambiguous(&self, target: &Target<'_>, index: usize) -> bool {
        if !readings::may_have(target.raw_path) {
            return false;
        }
        let Some(readings) = readings::of(target.raw_path) else {
            return true;
        };
        readings.iter().any(|raw_path| {
            let other = self.resolve(&Target {
                raw_path,
                ..*target
            });
            !matches!(other, Resolution::Found(found) if found.index == index)
        })
    }

    fn find<'r>(
        &'r self,
        path: &CanonicalPath<'_>,
        search: &mut Search<'r, '_>,
    ) -> Option<Match<'r, T>> {
        let mut found = None;
        self.tree.visit(path, &mut |shape| {
            found = self.first_of(&self.groups[shape], path, search);
            if found.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        found.or_else(|| self.first_of(&self.regexes, path, search))
    }

    /// Returns the first of these routes that takes the path, the host and the method.
    fn first_of<'r>(
        &'r self,
        group: &Group,
        path: &CanonicalPath<'_>,
        search: &mut Search<'r, '_>,
    ) -> Option<Match<'r, T>> {
        group.routes.iter().find_map(|&index| {
            let route = &self.routes[index];
            if !route.takes_host(search.target.host) || (search.append_slash && !route.append_slash)
            {
                return None;
            }
            let params = match group.literal {
                true => Params::default(),
                false => route.pattern.capture(path).ok()?,
            };
            if !route.takes_method(search.target.method) {
                search.allow.extend(&route.methods);
                return None;
            }
            Some(Match {
                route,
                index,
                params: route.with_defaults(params),
            })
        })
    }

    /// Returns the path with its trailing slash added or removed, if a route that appends slashes
    /// matches it.
    fn other_slash_form(&self, target: &Target<'_>) -> Option<String> {
        target.method?;
        let raw = target.raw_path;
        // A `Location` that begins with two slashes names another host, and browsers read `\` as a
        // slash.
        if raw.len() < 2 || raw.starts_with("//") || raw.starts_with("/\\") {
            return None;
        }
        let other = match raw.strip_suffix('/') {
            Some(without) => without.to_owned(),
            None => format!("{raw}/"),
        };
        let path = CanonicalPath::parse(&other).ok()?;
        let mut search = Search {
            target,
            allow: Vec::new(),
            append_slash: true,
        };
        let is_known = self.find(&path, &mut search).is_some();
        is_known.then_some(other)
    }
}
