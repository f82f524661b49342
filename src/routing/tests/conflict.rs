//! Tests of `conflict.rs`.

use http::Method;

use super::*;
use crate::routing::UrlRouter;
use crate::routing::tests::resolution::{regex, route, with_host, with_methods};

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
        "route 1 (/u/{name:int}/) can never match: route 0 (/u/{id}/) comes first and takes all its requests",
    );
    assert!(matches!(&conflicts[0], Conflict::DuplicateName { name, .. } if name == "a"));
}

/// Whether the last of these routes is refused because of the others, and because of which.
fn hidden(routes: Vec<Route<&'static str>>) -> Option<usize> {
    let last = routes.len() - 1;
    let conflicts = UrlRouter::build(routes).err()?;
    assert!(
        conflicts.iter().all(|one| one.route() == last),
        "{conflicts:?}"
    );
    conflicts.first().map(Conflict::earlier)
}

#[test]
fn a_route_that_others_hide_is_refused_whatever_hides_it() {
    let get = &[Method::GET][..];
    let post = &[Method::POST][..];
    let both = &[Method::GET, Method::POST][..];
    let check = |routes: Vec<Route<&'static str>>, expected: Option<usize>| {
        let shown: Vec<String> = routes.iter().map(|one| one.pattern.to_string()).collect();
        assert_eq!(hidden(routes), expected, "{shown:?}");
    };
    let host = |host: &str, route| with_host(host, route);
    let of = |methods: &[Method], route| with_methods(methods, route);
    // A wider host, no methods, a wider converter, and all of them together.
    check(vec![host("*", route("/a/", "")), route("/a/", "")], Some(0));
    check(
        vec![
            route("/{x}/", ""),
            host("a.test", of(get, route("/{x:int}/", ""))),
        ],
        Some(0),
    );
    check(
        vec![
            host(".a.test", route("/{x:slug}/", "")),
            host("b.a.test", route("/{y:uuid}/", "")),
        ],
        Some(0),
    );
    check(
        vec![host("a.test", route("/a/", "")), route("/a/", "")],
        None,
    );
    check(vec![of(get, route("/a/", "")), route("/a/", "")], None);
    // Methods that several routes take together.
    check(
        vec![
            of(get, route("/a/", "")),
            of(post, route("/a/", "")),
            of(both, route("/a/", "")),
        ],
        Some(1),
    );
    check(
        vec![
            of(get, route("/a/", "")),
            of(post, route("/a/", "")),
            route("/a/", ""),
        ],
        None,
    );
    check(
        vec![
            of(get, route("/a/{x:int}", "")),
            of(post, route("/a/{x}", "")),
            of(both, route("/a/{x:int}", "")),
        ],
        Some(1),
    );
    check(
        vec![
            of(get, route("/a/{x:int}", "")),
            of(post, route("/a/{x}", "")),
            of(both, route("/a/{x}", "")),
        ],
        None,
    );
    // Regular expressions.
    check(vec![regex("", ""), regex("^a/$", "")], Some(0));
    check(vec![regex(".*", ""), regex("a", "")], Some(0));
    check(
        vec![regex("^ws/.*$", ""), regex("^ws/(?P<room>[a-z]+)/$", "")],
        Some(0),
    );
    check(
        vec![
            regex("^ws/", ""),
            host("a.test", regex("^ws/(?P<room>[^/]+)/$", "")),
        ],
        Some(0),
    );
    check(
        vec![regex("^(?P<a>\\w+)/$", ""), regex("^(?P<b>[a-z]+)/$", "")],
        Some(0),
    );
    check(
        vec![regex("^ws/(?P<room>[a-z]+)/$", ""), regex("^ws/.*$", "")],
        None,
    );
    check(vec![of(get, regex("", "")), regex("^a/$", "")], None);
    check(vec![host("a.test", regex("", "")), regex("^a/$", "")], None);
    check(
        vec![
            of(get, regex("^a", "")),
            of(post, regex("", "")),
            of(both, regex("^a/$", "")),
        ],
        Some(1),
    );
    // Behind prefixes.
    let behind = |prefix: &str, source: &str| {
        let joined = RoutePattern::path(prefix)
            .unwrap()
            .join(&RoutePattern::regex(source).unwrap());
        Route::new(joined.unwrap(), "")
    };
    check(
        vec![behind("/a/{x}", ""), behind("/a/{y:int}", "^b$")],
        Some(0),
    );
    check(
        vec![behind("/a/{x:int}", ""), behind("/a/{y}", "^b$")],
        None,
    );
    check(vec![behind("/a", ""), behind("/b", "")], None);
    // Paths come before regular expressions.
    check(vec![route("/{*rest}", ""), regex("^a/$", "")], Some(0));
    check(vec![route("/{*rest}", ""), behind("/a", "")], Some(0));
    check(vec![route("/{*rest}", ""), regex("^$", "")], None);
    check(vec![route("/a/{*rest}", ""), regex("^a/b$", "")], None);
    check(
        vec![of(get, route("/{*rest}", "")), regex("^a/$", "")],
        None,
    );
    // Literal text comes before parameters, regardless of the file order.
    check(
        vec![route("/{*rest}", ""), route("/{x}/", ""), route("/a/", "")],
        None,
    );
}
