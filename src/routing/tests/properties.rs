//! Properties: invariants of every table and every path.

use std::fmt::Write;

use http::Method;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::routing::canonical::CanonicalPath;
use crate::routing::pattern::Kind;
use crate::routing::shape::Shape;
use crate::routing::{Resolution, Route, RoutePattern, Target, UrlRouter};

/// Segments that often overlap.
const SEGMENTS: &[&str] = &[
    "a", "b", "ab", "{x}", "{x:int}", "{x:slug}", "a{x}", "{x}b", "a{x}b", "{x:int}b", "ab{x}",
    "{x}ab", "{{",
];

/// Path segments to match them with.
const PARTS: &[&str] = &[
    "a", "b", "ab", "7", "7b", "aab", "a-b", "", "", "%7B", "a%2Fb", "%25", "%61", "abab", "aabb",
];

const METHODS: &[Method] = &[Method::GET, Method::HEAD, Method::POST, Method::OPTIONS];

/// Numbers the parameters, so that each name is unique.
fn pattern_of(segments: &[&str], end: &str) -> String {
    let mut text = String::new();
    for (index, segment) in segments.iter().enumerate() {
        let _ = write!(text, "/{}", segment.replace("{x", &format!("{{x{index}")));
    }
    if text.is_empty() && end.is_empty() {
        "/".to_owned()
    } else {
        text + end
    }
}

fn route() -> impl Strategy<Value = Route<()>> {
    let path = (
        vec(select(SEGMENTS), 0..4),
        select(&["", "/", "/{*rest}"][..]),
    )
        .prop_map(|(segments, end)| RoutePattern::path(&pattern_of(&segments, end)).unwrap());
    let regex = select(&["^a/", "b$", "(?P<x>a+)/b"][..])
        .prop_map(|source| RoutePattern::regex(source).unwrap());
    let host = select(&[None, None, Some("h"), Some(".h")][..]);
    let pattern = prop_oneof![9 => path, 1 => regex];
    (pattern, vec(select(METHODS), 0..2), host, any::<bool>()).prop_map(
        |(pattern, methods, host, append_slash)| Route {
            methods,
            host: host.map(|host| host.parse().unwrap()),
            append_slash,
            ..Route::new(pattern, ())
        },
    )
}

fn raw_path() -> impl Strategy<Value = String> {
    vec(select(PARTS), 1..5).prop_map(|parts| format!("/{}", parts.join("/")))
}

/// Builds a router without the routes that conflict.
fn build(mut routes: Vec<Route<()>>) -> UrlRouter<()> {
    while let Err(conflicts) = UrlRouter::build(routes.clone()) {
        routes.remove(conflicts[0].route());
    }
    UrlRouter::build(routes).unwrap()
}

/// The precedence rule without a tree: of all routes that take the request, returns the one with
/// the least shape, regexes last, then the first in the file.
fn naive(routes: &[Route<()>], target: &Target<'_>) -> Option<usize> {
    let path = CanonicalPath::parse(target.raw_path).ok()?;
    let takes = |route: &Route<()>| {
        route.pattern.capture(&path).is_ok()
            && route.takes_host(target.host)
            && route.takes_method(target.method)
    };
    let rank = |route: &Route<()>| match route.pattern.kind() {
        Kind::Path(segments) => (false, Some(Shape::of(segments))),
        Kind::Regex(_) => (true, None),
    };
    let takers = routes.iter().enumerate().filter(|(_, route)| takes(route));
    takers
        .min_by_key(|(index, route)| (rank(route), *index))
        .map(|(index, _)| index)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_finds_what_asking_every_route_finds(
        routes in vec(route(), 0..12),
        raw_paths in vec(raw_path(), 1..8),
        method in select(&[None, Some(Method::GET), Some(Method::HEAD), Some(Method::POST)][..]),
        host in select(&[None, Some("h"), Some("x.h")][..]),
    ) {
        let router = build(routes);
        for raw_path in &raw_paths {
            let target = Target { raw_path, host, method: method.as_ref() };
            let expected = naive(router.routes(), &target);
            let resolution = router.resolve(&target);
            match (&resolution, expected) {
                (Resolution::Found(found), Some(index)) => prop_assert_eq!(found.index, index),
                (Resolution::Found(_), None) | (_, Some(_)) => {
                    prop_assert!(false, "{raw_path}: expected {expected:?}, found {resolution:?}");
                }
                (Resolution::MethodNotAllowed { allow }, None) => {
                    let takes = |method| naive(router.routes(), &Target { method: Some(method), ..target });
                    for method in METHODS.iter().filter(|method| **method != Method::OPTIONS) {
                        prop_assert_eq!(allow.contains(method), takes(method).is_some(), "{}", method);
                    }
                }
                (Resolution::SlashRedirect { raw_path }, None) => {
                    let found = naive(router.routes(), &Target { raw_path, ..target });
                    prop_assert!(found.is_some());
                }
                (Resolution::NotFound | Resolution::BadPath(_), None) => {
                    let without = Target { method: None, ..target };
                    prop_assert_eq!(naive(router.routes(), &without), None);
                }
            }
            let served = router.explain(&target).iter().filter_map(|one| match one.verdict {
                crate::routing::Verdict::Serves(_) => Some(one.index),
                _ => None,
            }).collect::<Vec<_>>();
            prop_assert_eq!(served, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_path_makes_it_panic(routes in vec(route(), 0..8), bytes in vec(any::<u8>(), 0..40), text in ".*") {
        let router = build(routes);
        for raw_path in [&*String::from_utf8_lossy(&bytes), &text, &format!("/{text}"), &format!("/a/%{text}")] {
            let target = Target { raw_path, host: Some(&text), method: Some(&Method::GET) };
            router.resolve(&target);
            router.explain(&target);
            let _ = RoutePattern::path(raw_path);
            let _ = RoutePattern::regex(&text);
        }
    }

    #[test]
    fn a_path_made_from_a_name_resolves_to_the_same_values(
        segments in vec(select(SEGMENTS), 0..4),
        end in select(&["", "/", "/{*rest}"][..]),
        values in vec("\\PC{1,6}|[0-9]{1,3}|[-_a-z/.%]{1,5}", 5),
    ) {
        let pattern = RoutePattern::path(&pattern_of(&segments, end)).unwrap();
        let names: Vec<String> = pattern.param_names().map(str::to_owned).collect();
        let params: Vec<(&str, &str)> =
            names.iter().map(String::as_str).zip(values.iter().map(String::as_str)).collect();
        let router = build(vec![Route { name: Some("r".into()), ..Route::new(pattern.clone(), ()) }]);
        if let Ok(url) = router.url_for("r", &params) {
            prop_assert!(url.is_ascii() && !url.starts_with("//"), "{url}");
            let target = Target { raw_path: &url, host: None, method: None };
            let Resolution::Found(found) = router.resolve(&target) else {
                return Err(TestCaseError::fail(format!("{pattern}: {url} is not found")));
            };
            prop_assert_eq!(found.params.iter().collect::<Vec<_>>(), params);
        }
    }
}
