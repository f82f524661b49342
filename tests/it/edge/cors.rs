//! Cors: what a page of another origin may send and read.

use http::{Method, StatusCode};
use oneport::config::OptionErrors;
use oneport::gateway::{Registry, Reply};
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::testing::{Application, HttpCommunicator};

use crate::support::{application, field};

const PAGE: &str = "https://page.example";

const FILE: &str = r#"
[server]
allowed_hosts = ["localhost"]
[session]
store = "sqlite:/proc/self/oneport.db"
[auth]
users = "sqlite:/proc/self/oneport.db"
[http]
middleware = ["hosts", "cors"]
allowed_origins = ["https://page.example"]
[[http.route]]
path = "/own/"
view = "own"
methods = ["GET", "PUT"]
cors = { expose_headers = ["x-total", "x-page"], max_age = "1m", headers = ["x-one"] }
[[http.route]]
path = "/own/"
view = "respond"
methods = ["DELETE"]
middleware = ["hosts"]
[[http.route]]
path = "/cookies/"
view = "own"
cors = { credentials = true }
[[http.route]]
path = "/any/"
view = "own"
allowed_origins = ["*"]
[[http.route]]
path = "/guarded/"
view = "own"
middleware = ["hosts", "origin", "cors", "headers"]
headers = { preset = "page" }
[[http.route]]
path = "/away/"
view = "own"
middleware = ["session", "auth", "csrf", "login_required", "cors"]
methods = ["GET", "POST"]
[[http.route]]
path = "/saved/"
view = "own"
middleware = ["session", "cors", "headers"]
headers = { preset = "page" }
[[http.route]]
path = "/bare/"
view = "own"
middleware = ["hosts"]
[[http.route]]
path = "/events/{room:slug}/"
view = "events"
options = { group = "chat_{room}" }
[[http.route]]
path = "/api/{*call}"
view = "publish"
options = { tokens = [{ name = "t", token = "0123456789abcdef", groups = ["*"] }] }
"#;

/// Responds, or fails if the query asks for it; must never see a preflight.
struct Own;

impl View for Own {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        assert_ne!(request.scope.method, Method::OPTIONS);
        match request.scope.query_string() {
            "404" => Err(Failure::not_found("no such thing")),
            "500" => Err(Failure::from("a cause")),
            "panic" => panic!("in the view"),
            "save" => {
                request.scope.session.as_ref().unwrap().set("n", 1);
                Ok(respond(200, "text/plain", "own"))
            }
            _ => Ok(respond(200, "text/plain", "own")),
        }
    }
}

fn app(text: &str) -> Application {
    let registry = Registry::builtin().view::<Own>("own");
    application(&registry, text)
}

fn varies<T>(response: &http::Response<T>) -> bool {
    let mut fields = response.headers().get_all("vary").iter();
    fields.any(|value| value.to_str().unwrap().contains("origin"))
}

fn preflight(path: &str, origin: &str, method: &str) -> HttpCommunicator {
    HttpCommunicator::new(Method::OPTIONS, path)
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", "x-one")
}

#[tokio::test]
async fn answers_to_a_page_of_an_allowed_origin_name_it_whatever_their_status() {
    let app = app(FILE);
    for (path, status) in [
        ("/own/", 200),
        ("/own/?404", 404),
        ("/own/?500", 500),
        ("/own/?panic", 500),
        ("/away/", 401),
        ("/guarded/", 200),
        ("/api/info", 401),
    ] {
        let request = HttpCommunicator::get(path)
            .header("accept", "application/json")
            .header("origin", PAGE);
        let response = request.send(&app).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(
            field(&response, "access-control-allow-origin"),
            Some(PAGE),
            "{path}"
        );
        assert_eq!(
            field(&response, "access-control-allow-credentials"),
            None,
            "{path}"
        );
        assert!(varies(&response), "{path}");
    }
    let exposed = HttpCommunicator::get("/own/")
        .header("origin", PAGE)
        .send(&app)
        .await;
    let names = field(&exposed, "access-control-expose-headers");
    assert_eq!(names, Some("x-total, x-page"));
}

/// The session store is unavailable: `session` fails before the view, or after it, when other
/// middleware has added its fields.
#[tokio::test]
async fn answer_of_middleware_that_failed_is_readable_too() {
    let app = app(FILE);
    for path in ["/away/", "/saved/?save"] {
        let response = HttpCommunicator::get(path)
            .header("origin", PAGE)
            .header("cookie", "sessionid=abcdefghijklmnopqrstuvwxyz012345")
            .send(&app)
            .await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(
            field(&response, "access-control-allow-origin"),
            Some(PAGE),
            "{path}"
        );
    }
    let saved = HttpCommunicator::get("/saved/?save").header("origin", PAGE);
    let response = saved.send(&app).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(field(&response, "access-control-allow-origin"), Some(PAGE));
    assert_eq!(field(&response, "x-frame-options"), Some("DENY"));
}

#[tokio::test]
async fn other_origins_get_no_field_and_every_answer_varies() {
    let app = app(FILE);
    for origin in [
        "",
        "null",
        "http://page.example",
        "https://page.example.evil.example",
        "https://page.example:8443",
        "https://evil.example",
    ] {
        let mut request = HttpCommunicator::get("/own/");
        if !origin.is_empty() {
            request = request.header("origin", origin);
        }
        let response = request.send(&app).await;
        assert_eq!(response.status(), StatusCode::OK, "{origin}");
        assert_eq!(
            field(&response, "access-control-allow-origin"),
            None,
            "{origin}"
        );
        assert!(varies(&response), "{origin}");
        let response = preflight("/own/", origin, "PUT").send(&app).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{origin}");
        assert_eq!(
            field(&response, "access-control-allow-origin"),
            None,
            "{origin}"
        );
        assert_eq!(
            field(&response, "access-control-allow-methods"),
            None,
            "{origin}"
        );
        assert!(varies(&response), "{origin}");
    }
}

#[tokio::test]
async fn preflight_is_answered_for_the_method_that_it_asks_for() {
    let app = app(FILE);
    for (path, method, methods, headers, max_age) in [
        ("/own/", "PUT", "GET, PUT", "x-one", "60"),
        ("/own/", "GET", "GET, PUT", "x-one", "60"),
        (
            "/events/lobby/",
            "GET",
            "GET",
            "authorization, content-type, last-event-id",
            "600",
        ),
        (
            "/api/groups/a",
            "POST",
            "POST",
            "authorization, content-type, last-event-id",
            "600",
        ),
        (
            "/away/",
            "POST",
            "GET, POST",
            "authorization, content-type, last-event-id",
            "600",
        ),
    ] {
        let response = preflight(path, PAGE, method).send(&app).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{path}");
        let found = |name| field(&response, name);
        assert_eq!(found("access-control-allow-origin"), Some(PAGE), "{path}");
        assert_eq!(
            found("access-control-allow-methods"),
            Some(methods),
            "{path}"
        );
        assert_eq!(
            found("access-control-allow-headers"),
            Some(headers),
            "{path}"
        );
        assert_eq!(found("access-control-max-age"), Some(max_age), "{path}");
        assert!(varies(&response), "{path}");
    }
}

#[tokio::test]
async fn options_without_a_route_with_cors_are_answered_as_before() {
    let app = app(FILE);
    for request in [
        preflight("/own/", PAGE, "DELETE"),
        preflight("/own/", PAGE, "PATCH"),
        preflight("/own/", PAGE, "a b"),
        preflight("/bare/", PAGE, "GET"),
        HttpCommunicator::new(Method::OPTIONS, "/own/").header("origin", PAGE),
    ] {
        let shown = format!("{request:?}");
        let response = request.send(&app).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{shown}");
        assert!(field(&response, "allow").is_some(), "{shown}");
        assert_eq!(
            field(&response, "access-control-allow-origin"),
            None,
            "{shown}"
        );
    }
    let missed = preflight("/missed/", PAGE, "GET").send(&app).await;
    assert_eq!(missed.status(), StatusCode::NOT_FOUND);
    let of_another_host = preflight("/own/", PAGE, "PUT").header("host", "evil.example");
    assert_eq!(
        of_another_host.send(&app).await.status(),
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn star_is_sent_only_if_every_page_may_read_without_credentials() {
    let app = app(FILE);
    let any = HttpCommunicator::get("/any/")
        .header("origin", "null")
        .send(&app)
        .await;
    assert_eq!(field(&any, "access-control-allow-origin"), Some("*"));
    let cookies = HttpCommunicator::get("/cookies/")
        .header("origin", PAGE)
        .send(&app)
        .await;
    assert_eq!(field(&cookies, "access-control-allow-origin"), Some(PAGE));
    assert_eq!(
        field(&cookies, "access-control-allow-credentials"),
        Some("true")
    );
    let asked = preflight("/cookies/", PAGE, "GET").send(&app).await;
    assert_eq!(
        field(&asked, "access-control-allow-credentials"),
        Some("true")
    );
}

#[tokio::test]
async fn event_stream_may_be_read_by_a_page_of_an_allowed_origin() {
    let app = app(FILE);
    let request = http::Request::builder()
        .uri("/events/lobby/")
        .header("host", "localhost")
        .header("origin", PAGE)
        .body(oneport::http::Body::empty())
        .unwrap();
    let info = oneport::gateway::ConnectionInfo {
        peer: None,
        server: None,
        security: oneport::scope::Scheme::Plain,
        user: None,
        ..Default::default()
    };
    let Reply::Response(response) = app.gateway().serve(request, &info).await else {
        panic!("expected a response");
    };
    assert_eq!(field(&response, "access-control-allow-origin"), Some(PAGE));
}

#[test]
fn settings_that_contradict_the_middleware_are_problems() {
    for (text, sentence) in [
        (
            "[[http.route]]\npath = '/'\nview = 'health'\nmiddleware = ['cors']\n",
            "http.route[0].middleware[0]: expected allowed_origins for the middleware \"cors\", found none",
        ),
        (
            "[[http.route]]\npath = '/'\nview = 'health'\nmiddleware = ['cors']\nallowed_origins = ['*']\ncors = { credentials = true }\n",
            "http.route[0].allowed_origins: expected origins by name for credentials = true, found \"*\"",
        ),
        (
            "[[websocket.route]]\npath = '/'\nconsumer = 'echo'\nmiddleware = ['cors']\n",
            "websocket.route[0].middleware[0]: \"cors\" has no effect on a WebSocket",
        ),
        (
            "[[http.route]]\npath = '/'\nview = 'health'\ncors = { headers = ['a b'] }\n",
            "http.route[0].cors.headers[0]: expected a header name",
        ),
        (
            "[http]\ncors = { credential = true }\n",
            "http.cors.credential: unknown key \"credential\" (did you mean \"credentials\"?)",
        ),
    ] {
        let problems = Application::parse(text).unwrap_err().to_string();
        assert!(problems.contains(sentence), "{problems}");
    }
}

#[test]
fn settings_without_the_middleware_are_warned_about() {
    let text = "[[http.route]]\npath = '/'\nview = 'health'\ncors = { max_age = '1s' }\n";
    let (config, _) =
        oneport::config::Config::parse("oneport.toml", text, ".".as_ref(), &|_| None).unwrap();
    let (_, warnings) = oneport::gateway::compile(&config, &Registry::builtin()).unwrap();
    let warnings = warnings.to_string();
    assert!(warnings.contains("these settings do nothing"), "{warnings}");
}
