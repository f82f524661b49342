//! What `check` says about routes with the view.

use oneport::config::Config;
use oneport::gateway::{Registry, compile};

/// The problems of these routes, without their positions.
fn problems(routes: &str) -> Vec<String> {
    let parsed = Config::parse("o.toml", routes, ".".as_ref(), &|_| None);
    let config = match parsed {
        Ok((config, _)) => config,
        Err(problems) => panic!("{problems}"),
    };
    let problems = match compile(&config, &Registry::builtin()) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    problems.to_string().lines().map(str::to_owned).collect()
}

fn route(path: &str, keys: &str, options: &str) -> String {
    format!(
        "[[http.route]]\npath = '{path}'\nview = 'proxy'\n{keys}\noptions = {{ upstream = ['http://127.0.0.1:9000']{options} }}\n"
    )
}

#[test]
fn a_protected_route_beside_one_for_everything_is_no_problem() {
    let admin = route(
        "/admin/{*path}",
        "middleware = ['session', 'auth', 'login_required']",
        "",
    );
    let all = route("/{*path}", "middleware = ['session', 'auth']", "");
    assert_eq!(problems(&format!("{admin}{all}")), [""; 0]);
}

#[test]
fn a_route_that_reaches_a_protected_path_by_another_one_is_a_warning() {
    let admin = route(
        "/admin/{*path}",
        "middleware = ['session', 'auth', 'login_required']",
        "",
    );
    for (path, options) in [
        ("/api/{*path}", ", strip_prefix = '/api'"),
        ("/old/{*path}", ", rewrite = '/{path}'"),
        ("/old/{*path}", ", rewrite = '/admin/{path}'"),
    ] {
        let other = route(path, "middleware = ['session', 'auth']", options);
        let found = problems(&format!("{admin}{other}"));
        let expected = "maps paths onto what http.route[0] (/admin/{*path}) protects with \"login_required\", without \"login_required\" itself";
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{options}: {found:?}"
        );
    }
    let elsewhere = route("/old/{*path}", "", ", rewrite = '/public/{path}'");
    assert_eq!(problems(&format!("{admin}{elsewhere}")), [""; 0]);
}

fn websocket_route(path: &str, keys: &str, options: &str) -> String {
    route(path, keys, options)
        .replace("http.route", "websocket.route")
        .replace("view", "consumer")
}

#[test]
fn a_handshake_that_reaches_a_protected_path_is_a_warning() {
    let login = "middleware = ['session', 'auth', 'login_required']";
    let admin = route("/admin/{*path}", login, "");
    let expected = "websocket.route[0]: warning: maps paths onto what http.route[0] (/admin/{*path}) protects with \"login_required\", without \"login_required\" itself";
    for socket in [
        websocket_route("/{*path}", "", ""),
        websocket_route("/admin/{*path}", "", ""),
        websocket_route("/ws/{*path}", "", ", strip_prefix = '/ws'"),
        websocket_route("/ws/{*path}", "", ", rewrite = '/admin/{path}'"),
        websocket_route("/{*path}", "", "") + &websocket_route("/admin/x/{*path}", login, ""),
    ] {
        let found = problems(&format!("{admin}{socket}"));
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{socket}: {found:?}"
        );
    }
    for socket in [
        websocket_route("/{*path}", login, ""),
        websocket_route("/ws/{*path}", "", ""),
        websocket_route("/ws/{*path}", "", ", rewrite = '/chat/{path}'"),
        websocket_route("/{*path}", "", "") + &websocket_route("/admin/{*path}", login, ""),
        websocket_route("/{*path}", "", "").replace(":9000", ":9001"),
    ] {
        let found = problems(&format!("{admin}{socket}"));
        assert!(
            !found.iter().any(|line| line.contains("maps paths")),
            "{socket}: {found:?}"
        );
    }
}

#[test]
fn options_that_cannot_be_are_all_reported() {
    let options = ", strip_prefix = '/x', host = 'a b', intercept_errors = [200], request_headers = { te = 'x', x-a = '{nope}' }, accel = { dir = '/no/such' }";
    let found = problems(&route("/api/{*path}", "", options));
    for expected in [
        "options.host: expected \"preserve\", \"upstream\" or the name of a host, found \"a b\"",
        "options.intercept_errors[0]: expected a status from 400 to 599, found 200",
        "options.request_headers.te: the server sets \"te\" itself",
        "options.accel.dir: no such directory: /no/such",
    ] {
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{expected}: {found:?}"
        );
    }
    let options = ", strip_prefix = '/x', request_headers = { x-a = '{nope}' }";
    let found = problems(&route("/api/{*path}", "", options));
    for expected in [
        "options.strip_prefix: expected the start of the route's path \"/api/{*path}\", found \"/x\"",
        "options.request_headers.x-a: the route has no parameter {nope}",
    ] {
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{expected}: {found:?}"
        );
    }
}
