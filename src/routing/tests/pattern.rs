//! Tests of `pattern.rs`.

use super::*;

fn params(pattern: &str, raw_path: &str) -> Option<Vec<(String, String)>> {
    let pattern = RoutePattern::path(pattern).unwrap();
    let params = pattern.params_of(raw_path)?;
    Some(
        params
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    )
}

fn value(pattern: &str, raw_path: &str) -> Option<String> {
    params(pattern, raw_path).map(|params| params[0].1.clone())
}

#[test]
fn literal_text_is_compared_decoded() {
    assert!(params("/café/", "/caf%C3%A9/").is_some());
    assert!(params("/foo/", "/%66oo/").is_some());
    assert!(params("/foo/", "//foo/").is_none());
    assert!(params("/100%/", "/100%25/").is_some());
    assert!(params("/{{x}}/", "/%7Bx%7D/").is_some());
    assert!(params("/a/b/", "/a%2Fb/").is_none());
}

#[test]
fn an_encoded_slash_makes_no_segment_and_only_a_catch_all_takes_it() {
    assert_eq!(value("/s/{name}/", "/s/a%2Fb/"), None);
    assert_eq!(value("/s/{name}/", "/s/a%252Fb/").as_deref(), Some("a%2Fb"));
    assert_eq!(value("/p/{*rest}", "/p/a%2Fb/c").as_deref(), Some("a/b/c"));
}

#[test]
fn text_around_a_parameter_matches_whole_characters() {
    assert_eq!(
        value("/img-{id:int}.png", "/img-7.png").as_deref(),
        Some("7")
    );
    assert_eq!(value("/img-{id}.png", "/img-.png"), None);
    assert_eq!(value("/{x}5", "/a%25"), None);
    assert_eq!(value("/{x}F", "/a%2F"), None);
    assert_eq!(value("/{x}%", "/a%25").as_deref(), Some("a"));
}

#[test]
fn a_catch_all_is_not_empty() {
    assert_eq!(value("/p/{*rest}", "/p/"), None);
    assert_eq!(value("/p/{*rest}", "/p"), None);
    assert_eq!(value("/p/{*rest}", "/p//").as_deref(), Some("/"));
}

#[test]
fn an_invalid_regex_is_reported_with_its_position() {
    let error = RoutePattern::regex("ab(c").unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected a regular expression, found unclosed group, at byte 2 of the pattern"
    );
    let error = RoutePattern::regex(r"a\Z").unwrap_err();
    assert!(error.to_string().contains(r"\z"), "{error}");
}

#[test]
fn a_regex_searches_unless_it_ends_in_a_dollar() {
    let matches = |source: &str, path: &str| {
        RoutePattern::regex(source)
            .unwrap()
            .params_of(path)
            .is_some()
    };
    assert!(matches("bar", "/foo/bar/baz/"));
    assert!(!matches("bar/$", "/foo/bar/"));
    assert!(matches("foo|bar$", "/bar"));
    assert!(!matches("foo|bar$", "/foo/x"));
}

#[test]
fn named_groups_hide_unnamed_ones() {
    let pattern = RoutePattern::regex(r"^(\d+)/(?P<b>\w+)/$").unwrap();
    assert_eq!(
        pattern
            .params_of("/1/x/")
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        [("b", "x")]
    );
    let pattern = RoutePattern::regex(r"^(\d+)/(\w+)/$").unwrap();
    assert_eq!(
        pattern
            .params_of("/1/x/")
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        [("1", "1"), ("2", "x")]
    );
}

#[test]
fn the_inner_value_wins_behind_a_prefix() {
    let prefix = RoutePattern::path("/{k}/").unwrap();
    let joined = prefix
        .join(&RoutePattern::path("/{k:slug}/").unwrap())
        .unwrap();
    assert_eq!(
        joined
            .params_of("/a/b/")
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        [("k", "b")]
    );
    let joined = prefix
        .join(&RoutePattern::regex("^(?P<k>x+)$").unwrap())
        .unwrap();
    assert_eq!(
        joined
            .params_of("/a/xx")
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        [("k", "xx")]
    );
    assert!(joined.params_of("/xx").is_none());
}

#[test]
fn prefixes_nest_and_the_slash_between_counts_once() {
    let path = |text: &str| RoutePattern::path(text).unwrap();
    let check = |joined: RoutePattern, raw_path: &str| {
        assert!(joined.params_of(raw_path).is_some(), "{joined}");
    };
    check(path("/chat").join(&path("/")).unwrap(), "/chat/");
    check(path("/").join(&path("/x")).unwrap(), "/x");
    check(
        path("/a/")
            .join(&path("/b/").join(&path("/c")).unwrap())
            .unwrap(),
        "/a/b/c",
    );
    let regex = RoutePattern::regex("^x$").unwrap();
    let nested = path("/a/").join(&path("/b").join(&regex).unwrap()).unwrap();
    assert_eq!(nested.to_string(), "/a/b/ ^x$");
    check(nested, "/a/b/x");
    assert!(path("/{*rest}").join(&path("/x")).is_err());
    assert!(regex.join(&path("/x")).is_err());
}
