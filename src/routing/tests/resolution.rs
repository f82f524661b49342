//! Resolution: which route serves a request, and the results without a route.

use http::Method;

use crate::routing::{BadPath, Resolution, Route, RoutePattern, Target, UrlRouter};

pub(in crate::routing) fn route(pattern: &str, value: &'static str) -> Route<&'static str> {
    Route::new(RoutePattern::path(pattern).unwrap(), value)
}

pub(in crate::routing) fn regex(source: &str, value: &'static str) -> Route<&'static str> {
    Route::new(RoutePattern::regex(source).unwrap(), value)
}

pub(in crate::routing) fn with_methods(
    methods: &[Method],
    route: Route<&'static str>,
) -> Route<&'static str> {
    Route {
        methods: methods.to_vec(),
        ..route
    }
}

pub(in crate::routing) fn with_host(host: &str, route: Route<&'static str>) -> Route<&'static str> {
    Route {
        host: Some(host.parse().unwrap()),
        ..route
    }
}

pub(in crate::routing) fn get(raw_path: &str) -> Target<'_> {
    Target {
        raw_path,
        host: Some("example.com"),
        method: Some(&Method::GET),
    }
}

/// The value that serves the target, or the name of another result.
fn outcome(router: &UrlRouter<&'static str>, target: &Target<'_>) -> String {
    match router.resolve(target) {
        Resolution::Found(found) => {
            let mut text = found.route.value.to_owned();
            for (name, value) in found.params.iter() {
                text += &format!(" {name}={value}");
            }
            text
        }
        Resolution::MethodNotAllowed { allow } => {
            let allow: Vec<&str> = allow.iter().map(Method::as_str).collect();
            format!("405 {}", allow.join(" "))
        }
        Resolution::SlashRedirect { raw_path } => format!("308 {raw_path}"),
        Resolution::BadPath(_) => "400".to_owned(),
        Resolution::NotFound => "404".to_owned(),
    }
}

fn check(router: &UrlRouter<&'static str>, expected: &[(&str, &str)]) {
    for (raw_path, expected) in expected {
        assert_eq!(outcome(router, &get(raw_path)), *expected, "{raw_path}");
    }
}

#[test]
fn literal_text_comes_before_a_parameter_and_that_before_a_catch_all_in_any_file_order() {
    let router = UrlRouter::build(vec![
        regex("", "regex"),
        route("/{*rest}", "rest"),
        route("/{page}/", "page"),
        route("/a{page}/", "around"),
        route("/about/", "about"),
    ])
    .unwrap();
    check(
        &router,
        &[
            ("/about/", "about"),
            ("/ab/", "around page=b"),
            ("/x/", "page page=x"),
            ("/x/y", "rest rest=x/y"),
            ("/", "regex"),
        ],
    );
}

#[test]
fn a_pattern_whose_converter_refuses_gives_way_to_the_next() {
    let router = UrlRouter::build(vec![
        route("/u/{id:int}/", "id"),
        route("/u/{name}/", "name"),
        route("/v/{id:int}/", "v"),
        route("/{a}/{b}/", "any"),
    ])
    .unwrap();
    check(
        &router,
        &[
            ("/u/7/", "id id=7"),
            ("/u/x/", "name name=x"),
            ("/v/x/", "any a=v b=x"),
        ],
    );
}

#[test]
fn a_pattern_for_another_host_gives_way_to_the_next() {
    let router = UrlRouter::build(vec![
        with_host("chat.example.com", route("/ws/lobby/", "lobby")),
        route("/ws/{room:slug}/", "room"),
    ])
    .unwrap();
    let on_host = Target {
        host: Some("CHAT.example.com"),
        ..get("/ws/lobby/")
    };
    assert_eq!(outcome(&router, &on_host), "lobby");
    check(&router, &[("/ws/lobby/", "room room=lobby")]);
    assert_eq!(
        outcome(
            &router,
            &Target {
                host: None,
                ..get("/ws/lobby/")
            }
        ),
        "room room=lobby"
    );
}

#[test]
fn routes_of_one_shape_are_tried_in_file_order() {
    let router = UrlRouter::build(vec![
        with_host(".example.com", route("/", "inner")),
        with_host("*", route("/", "outer")),
    ])
    .unwrap();
    check(&router, &[("/", "inner")]);
    assert_eq!(
        outcome(
            &router,
            &Target {
                host: None,
                ..get("/")
            }
        ),
        "outer"
    );
}

#[test]
fn another_method_is_405_with_all_methods_of_the_path_on_this_host() {
    let router = UrlRouter::build(vec![
        with_methods(&[Method::GET], route("/a/{id:int}", "get")),
        with_methods(&[Method::PUT], route("/{*rest}", "put")),
        with_host(
            "other.com",
            with_methods(&[Method::DELETE], route("/a/{x}", "delete")),
        ),
    ])
    .unwrap();
    let with = |method| {
        outcome(
            &router,
            &Target {
                method: Some(method),
                ..get("/a/7")
            },
        )
    };
    assert_eq!(with(&Method::GET), "get id=7");
    assert_eq!(with(&Method::HEAD), "get id=7");
    assert_eq!(with(&Method::PUT), "put rest=a/7");
    assert_eq!(with(&Method::POST), "405 GET HEAD OPTIONS PUT");
    assert_eq!(with(&Method::OPTIONS), "405 GET HEAD OPTIONS PUT");
    assert_eq!(
        outcome(
            &router,
            &Target {
                method: None,
                ..get("/a/7")
            }
        ),
        "get id=7"
    );
}

#[test]
fn the_other_form_of_the_trailing_slash_is_redirected_for_http_only() {
    let off = Route {
        append_slash: false,
        ..route("/off/", "off")
    };
    let router = UrlRouter::build(vec![
        route("/foo/", "foo"),
        route("/bar", "bar"),
        off,
        with_methods(&[Method::POST], route("/post/", "post")),
        route("/{x}/{y:int}/", "xy"),
    ])
    .unwrap();
    check(
        &router,
        &[
            ("/foo", "308 /foo/"),
            ("/bar/", "308 /bar"),
            ("/off", "404"),
            ("/post", "404"),
            ("/%66oo", "308 /%66oo/"),
            ("/a/7", "308 /a/7/"),
            ("/a/b", "404"),
            ("/", "404"),
            ("", "404"),
        ],
    );
    assert_eq!(
        outcome(
            &router,
            &Target {
                method: None,
                ..get("/foo")
            }
        ),
        "404"
    );
}

#[test]
fn a_redirect_never_leads_to_another_host() {
    let router = UrlRouter::build(vec![route("/{x}/", "x"), route("/{x}/{y}/", "xy")]).unwrap();
    check(
        &router,
        &[
            ("//evil.com", "404"),
            ("/\\evil.com", "404"),
            ("/ok", "308 /ok/"),
        ],
    );
}

#[test]
fn slashes_are_never_merged() {
    let router = UrlRouter::build(vec![route("/foo/", "foo"), regex("^bar/$", "bar")]).unwrap();
    check(
        &router,
        &[
            ("//foo/", "404"),
            ("/foo//", "308 /foo/"),
            ("//bar/", "404"),
        ],
    );
}

#[test]
fn a_dangerous_path_is_refused_even_below_a_catch_all() {
    let router = UrlRouter::build(vec![route("/{*rest}", "rest"), regex("", "all")]).unwrap();
    for raw_path in [
        "/a/../b",
        "/%2e%2e/",
        "/a%2F..%2Fb",
        "/a%00",
        "/%zz",
        "/%ff",
        "/a\nb",
        "*",
    ] {
        assert_eq!(outcome(&router, &get(raw_path)), "400", "{raw_path}");
    }
    let Resolution::BadPath(reason) = router.resolve(&get("/%zz")) else {
        panic!()
    };
    assert_eq!(reason, BadPath::BadEscape { at: 1 });
}

#[test]
fn defaults_need_no_capture_and_win_over_one() {
    let defaults =
        [("default", "42"), ("x", "fixed")].map(|(name, value)| (name.into(), value.into()));
    let route = Route {
        defaults: defaults.into(),
        ..route("/{x}/", "a")
    };
    check(
        &UrlRouter::build(vec![route]).unwrap(),
        &[("/y/", "a x=fixed default=42")],
    );
}

#[test]
fn regexes_are_tried_in_file_order_after_all_paths() {
    let router = UrlRouter::build(vec![
        regex("bar", "one"),
        regex("^x/(?P<y>.*)", "two"),
        route("/bar/", "path"),
    ])
    .unwrap();
    check(
        &router,
        &[
            ("/bar/", "path"),
            ("/foo/bar/baz/", "one"),
            ("/x/a%2Fb", "two y=a/b"),
        ],
    );
}

#[test]
fn a_catch_all_beside_parameters_is_found_where_it_is_the_best() {
    let router = UrlRouter::build(vec![
        route("/a/{x}", "ax"),
        route("/a/{*rest}", "a-rest"),
        route("/{y}/b/c", "ybc"),
        route("/{*rest}", "rest"),
    ])
    .unwrap();
    check(
        &router,
        &[
            ("/a/b", "ax x=b"),
            ("/a/b/c", "a-rest rest=b/c"),
            ("/z/b/c", "ybc y=z"),
            ("/z", "rest rest=z"),
            ("//foo/", "rest rest=/foo/"),
        ],
    );
}

#[test]
fn more_parameters_than_the_tree_has_names_for_are_no_problem() {
    let pattern: String = (0..40).map(|index| format!("/{{p{index}}}")).collect();
    let router = UrlRouter::build(vec![route(&pattern, "many")]).unwrap();
    let Resolution::Found(found) = router.resolve(&get(&"/x".repeat(40))) else {
        panic!()
    };
    assert_eq!(found.params.len(), 40);
}

#[test]
fn a_catch_all_that_may_be_empty_takes_the_folder_itself_behind_routes_of_that_path() {
    let files = |pattern: &str, value| {
        let pattern = RoutePattern::path(pattern).unwrap().with_empty_rest();
        Route::new(pattern, value)
    };
    let router = UrlRouter::build(vec![
        files("/{*path}", "all"),
        files("/static/{*path}", "static"),
        files("/{user}/files/{*path}", "user"),
        with_methods(&[Method::POST], route("/static/", "upload")),
        files("/own/{*path}", "own-files"),
        route("/own/", "own"),
    ])
    .unwrap();
    check(
        &router,
        &[
            ("/", "all path="),
            ("/a", "all path=a"),
            ("/static/", "static path="),
            ("/static", "all path=static"),
            ("/static/a/", "static path=a/"),
            ("/anna/files/", "user user=anna path="),
            ("/own/", "own"),
            ("/own/x", "own-files path=x"),
        ],
    );
}

#[test]
fn the_folder_of_an_empty_catch_all_is_redirected_to_its_slash() {
    let pattern = RoutePattern::path("/static/{*path}").unwrap();
    let router = UrlRouter::build(vec![Route::new(pattern.with_empty_rest(), "static")]).unwrap();
    check(
        &router,
        &[("/static", "308 /static/"), ("/static/", "static path=")],
    );
}

/// A route whose paths are another application's.
fn app(pattern: &str, value: &'static str) -> Route<&'static str> {
    let pattern = RoutePattern::path(pattern).unwrap().with_optional_end();
    Route::new(pattern, value)
}

#[test]
fn an_optional_catch_all_takes_its_folder_without_the_slash_too() {
    let router = UrlRouter::build(vec![
        app("/{*path}", "all"),
        app("/admin/{*path}", "admin"),
        app("/u/{id}/{*path}", "user"),
        app("/own/{*path}", "own-app"),
        route("/own", "own"),
    ])
    .unwrap();
    check(
        &router,
        &[
            ("/", "all path="),
            ("/admin", "admin path="),
            ("/%61dmin", "admin path="),
            ("/admin/", "admin path="),
            ("/admin/a", "admin path=a"),
            ("/admins", "all path=admins"),
            ("/u/7", "user id=7 path="),
            ("/u/", "all path=u/"),
            ("/own", "own"),
            ("/own/", "own-app path="),
        ],
    );
}

#[test]
fn an_optional_slash_takes_both_forms_behind_routes_of_those_paths() {
    let router = UrlRouter::build(vec![
        app("/{*path}", "all"),
        app("/one", "one"),
        app("/two/", "two"),
        app("/u/{id:int}", "user"),
        app("/u/{id:int}/edit/", "edit"),
        app("/own", "own"),
        route("/own/", "own-slash"),
    ])
    .unwrap();
    check(
        &router,
        &[
            ("/", "all path="),
            ("/one", "one"),
            ("/one/", "one"),
            ("/%6Fne/", "one"),
            ("/one//", "all path=one//"),
            ("/two", "two"),
            ("/u/7/", "user id=7"),
            ("/u/", "all path=u/"),
            ("/u/7/edit", "edit id=7"),
            ("/own", "own"),
            ("/own/", "own-slash"),
        ],
    );
    for path in ["/one//", "/one%2F", "//one", "/two%2f", r"/u\7"] {
        assert!(router.is_ambiguous(&get(path), 0), "{path}");
    }
}

#[test]
fn a_path_is_ambiguous_if_a_server_may_take_it_for_another_routes() {
    let router = UrlRouter::build(vec![
        app("/{*path}", "all"),
        route("/admin/{*path}", "admin"),
        route("/a/{id}/secret/{*path}", "secret"),
        route("/item/{id}", "item"),
    ])
    .unwrap();
    let is_ambiguous = |path: &str| {
        let target = get(path);
        let Resolution::Found(found) = router.resolve(&target) else {
            panic!("{path}")
        };
        router.is_ambiguous(&target, found.index)
    };
    for path in [
        "/x",
        "/a%2Fb",
        "//x//y",
        r"/x;v=1/y\z",
        "/admin/a%2Fb//c;d",
        "/item/7",
        "/item/7;v=1",
        "/%61dmin%20/x",
        "/admin%252Fx",
    ] {
        assert!(!is_ambiguous(path), "{path}");
    }
    for path in [
        "/admin%2Fx",
        "/admin%2fx",
        "//admin/x",
        "/%2Fadmin/x",
        "/admin;v=1/x",
        "/admin%3B/x",
        r"/admin\x",
        "/admin%5Cx",
        "/admin%5c%2Fx",
        "/;/admin/x",
        // Two ways together would hide what one alone reaches.
        "/a/;%2Fsecret/x",
        "/x;/..;/admin/y",
        r"/x\..\admin\y",
        // Parameters may be dropped before slashes are decoded.
        "/item%2F7;%2Fx",
        r"/item\7;\z",
        "//x/admin/y",
        r"/\x/admin/y",
        "//x//y/admin/z",
        // Only one of the two backslashes is a slash.
        r"/item\a%5Cb",
    ] {
        assert!(is_ambiguous(path), "{path}");
    }
}
