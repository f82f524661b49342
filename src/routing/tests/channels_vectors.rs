//! Vectors: the results of Django Channels' `URLRouter`, and where we differ on purpose.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::routing::{Resolution, Route, RoutePattern, Target, UrlRouter};

/// A differing outcome: table, the path in the scope, and the reason.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("flat path()", "//foo/", "slashes are never merged: 404"),
    (
        "nested path()",
        "/number/42//test/3/",
        "slashes are never merged: 404",
    ),
    (
        "flat path()",
        "foo/",
        "no request has a path without leading slash: bad path",
    ),
    (
        "flat path()",
        "/foo/\n",
        "control characters are refused before routing: bad path",
    ),
    (
        "flat re_path()",
        "/a/\n",
        "control characters are refused before routing: bad path",
    ),
    ("flat path()", "/foo", "the slash is appended: redirect"),
    (
        "nested path()",
        "/number/42",
        "the slash is appended: redirect",
    ),
    ("flat path()", "/rootfoo/", "a prefix ends at a slash: 404"),
];

/// The characters that Channels encodes in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.');

/// One of the tables of the vectors: patterns with the name of their app.
fn table(name: &str, root_path: &str) -> UrlRouter<&'static str> {
    let path = |text: &str| RoutePattern::path(text).unwrap();
    let regex = |text: &str| RoutePattern::regex(text).unwrap();
    let prefix = |text: &str, inner: &RoutePattern| path(text).join(inner).unwrap();
    let routes = match name {
        "flat path()" => [
            ("/", "root"),
            ("/foo/", "foo"),
            ("/n/{x:int}/", "int"),
            ("/s/{name}/", "str"),
            ("/sl/{s:slug}/", "slug"),
            ("/u/{u:uuid}/", "uuid"),
            ("/p/{*rest}", "path"),
            ("/two/{a:int}/{b}/", "two"),
        ]
        .map(|(text, app)| (prefix(&format!("{root_path}/"), &path(text)), app))
        .to_vec(),
        "flat re_path()" => vec![
            (regex("^a/$"), "a$"),
            (regex("^pref"), "pref"),
            (regex(r"^opt/(?:(?P<x>\d+)/)?$"), "opt"),
            (regex(r"end/(\d+)/$"), "end"),
        ],
        "nested path()" => vec![
            (
                prefix("/number/{number:int}/", &path("/test/{page:int}/")),
                "inner-test",
            ),
            (prefix("/number/{number:int}/", &path("/")), "inner-empty"),
            (path("/number/7/late/"), "late"),
        ],
        "nested re_path()" => vec![
            (
                regex(
                    r"^universe/(?P<universe>\d+)/author/(?P<author>\w+)/book/(?P<book>\w+)/page/(?P<page>\d+)/$",
                ),
                "book",
            ),
            (regex(r"^positional/(\w+)/pos/(\d+)/$"), "pos"),
        ],
        "nested kwargs override" => vec![(prefix("/{k}/", &path("/{k}/")), "kk")],
        "nested via flagged middleware" | "nested via plain middleware (issue 1428)" => {
            vec![(prefix("/m/", &path("/x/")), "mx")]
        }
        "fallthrough" => {
            vec![
                (prefix("/prefix/", &path("/other/")), "other"),
                (path("/prefix/stuff/"), "stuff"),
            ]
        }
        unknown => panic!("no table {unknown:?}"),
    };
    let route = |(pattern, app)| Route::new(pattern, app);
    UrlRouter::build(routes.into_iter().map(route).collect()).unwrap()
}

/// Returns whether app and parameters equal those of the vector. Numbers are text, and leading
/// zeros do not count.
fn is_same(resolution: &Resolution<'_, &str>, result: &Value) -> bool {
    let Resolution::Found(found) = resolution else {
        return matches!(resolution, Resolution::NotFound) && result.get("exception").is_some();
    };
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let kwargs = result["kwargs"].as_object().into_iter().flatten();
    let args = result["args"].as_array().into_iter().flatten();
    let mut expected: Vec<(String, String)> = kwargs
        .map(|(name, value)| (name.clone(), text(value).trim_start_matches('0').to_owned()))
        .chain(
            args.enumerate()
                .map(|(index, value)| ((index + 1).to_string(), text(value))),
        )
        .collect();
    let mut params: Vec<(String, String)> = found
        .params
        .iter()
        .map(|(name, value)| (name.to_owned(), value.trim_start_matches('0').to_owned()))
        .collect();
    expected.sort();
    params.sort();
    result["app"] == *found.route.value && params == expected
}

#[test]
fn every_url_router_vector_has_the_same_outcome_or_a_reason() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/routing.json")).unwrap();
    let mut unused: Vec<_> = DIFFERENCES.to_vec();
    for vector in vectors["url_router"].as_array().unwrap() {
        let (name, scope) = (vector["table"].as_str().unwrap(), &vector["scope"]);
        // Our request type always has a path.
        let Some(path) = scope["path"].as_str() else {
            continue;
        };
        let router = table(name, scope["root_path"].as_str().unwrap_or_default());
        let raw_path = utf8_percent_encode(path, PATH).to_string();
        let target = Target {
            raw_path: &raw_path,
            host: None,
            method: Some(&http::Method::GET),
        };
        let resolution = router.resolve(&target);
        let known = unused
            .iter()
            .position(|(table, known, _)| (*table, *known) == (name, path));
        let same = is_same(&resolution, &vector["result"]);
        match known {
            None => assert!(same, "{vector}: {resolution:?}"),
            Some(place) => {
                let (_, _, reason) = unused.swap_remove(place);
                let outcome = match resolution {
                    Resolution::NotFound => "404",
                    Resolution::SlashRedirect { .. } => "redirect",
                    Resolution::BadPath(_) => "bad path",
                    _ => "served",
                };
                assert!(
                    reason.contains(outcome),
                    "{vector}: {outcome}, not {reason}"
                );
            }
        }
    }
    assert_eq!(unused, []);
}
