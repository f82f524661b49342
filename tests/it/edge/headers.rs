//! Headers: the fields that protect a page are on every response.

use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::testing::{Application, HttpCommunicator};

use crate::support::application;

const FIELDS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("x-frame-options", "DENY"),
];

const PAGE: &str = "[http]\nmiddleware = ['hosts', 'headers']\nheaders = { preset = 'page' }\n";

/// A page that sets X-Frame-Options itself.
struct Framed;

impl View for Framed {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        if request.scope.query("fail").is_some() {
            return Err(Failure::from("a cause"));
        }
        let mut response = respond(200, "text/html", "");
        let framed = http::HeaderValue::from_static("SAMEORIGIN");
        response.headers_mut().insert("x-frame-options", framed);
        Ok(response)
    }
}

async fn answer(text: &str, request: HttpCommunicator) -> http::Response<bytes::Bytes> {
    let registry = Registry::builtin().view::<Framed>("framed");
    let app = application(&registry, text);
    request.send(&app).await
}

#[tokio::test]
async fn answers_that_no_route_gives_have_the_headers_of_the_section() {
    let text = format!(
        "{PAGE}[[http.route]]\npath = '/a/'\nview = 'health'\n[[websocket.route]]\npath = '/ws/'\nconsumer = 'echo'\n"
    );
    let upgrade = |path| {
        HttpCommunicator::get(path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
    };
    for (request, status) in [
        (HttpCommunicator::get("/a/"), 200),
        (
            HttpCommunicator::get("/a/").header("host", "evil.example"),
            400,
        ),
        (
            HttpCommunicator::get("/missed/").header("accept", "text/html"),
            404,
        ),
        (HttpCommunicator::get("/%zz/"), 400),
        (HttpCommunicator::get("/a"), 308),
        (HttpCommunicator::new(http::Method::POST, "/a/"), 405),
        (HttpCommunicator::get("/ws/"), 426),
        (upgrade("/missed/"), 400),
    ] {
        let shown = format!("{request:?}");
        let response = answer(&text, request).await;
        assert_eq!(response.status().as_u16(), status, "{shown}");
        for (name, value) in FIELDS {
            assert_eq!(response.headers()[name], value, "{shown}");
        }
    }
    let text = text.replace("'hosts', 'headers'", "'hosts'");
    let bare = answer(&text, HttpCommunicator::get("/missed/")).await;
    assert!(!bare.headers().contains_key("x-frame-options"));
}

#[tokio::test]
async fn written_fields_win_over_the_preset_and_the_preset_gives_way_to_the_view() {
    let route = |headers: &str| {
        format!(
            "[[http.route]]\npath = '/'\nview = 'framed'\nmiddleware = ['headers']\nheaders = {headers}\n"
        )
    };
    for (headers, path, framed, referrer) in [
        ("{ preset = 'page' }", "/", "SAMEORIGIN", "same-origin"),
        ("{ preset = 'page' }", "/?fail=1", "DENY", "same-origin"),
        (
            "{ preset = 'page', Referrer-Policy = 'no-referrer' }",
            "/",
            "SAMEORIGIN",
            "no-referrer",
        ),
        (
            "{ x-frame-options = 'ALLOW', preset = 'page' }",
            "/",
            "ALLOW",
            "same-origin",
        ),
    ] {
        let response = answer(&route(headers), HttpCommunicator::get(path)).await;
        let found = |name| response.headers().get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(found("x-frame-options"), [framed], "{headers}");
        assert_eq!(found("referrer-policy"), [referrer], "{headers}");
    }
}

#[test]
fn unknown_preset_is_a_problem_that_names_the_known_ones() {
    for preset in ["'pages'", "1", "''"] {
        let text = format!("[http]\nheaders = {{ preset = {preset} }}\n");
        let problems = Application::parse(&text).unwrap_err().to_string();
        assert!(
            problems.contains("http.headers.preset: expected") && problems.contains("page"),
            "{problems}"
        );
    }
}

/// Shipped pages have no inline script or style, which the policy would block.
#[test]
fn shipped_pages_have_nothing_inline() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = ["templates", "examples/vue", "examples/react"]
        .map(|name| root.join(name))
        .to_vec();
    let inline =
        regex::Regex::new(r"(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script(?:>|\s[^>]*>)")
            .unwrap();
    let mut checked = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("node_modules") {
                directories.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "html")
            {
                let text = std::fs::read_to_string(&path).unwrap();
                for found in inline.find_iter(&text) {
                    assert!(
                        found.as_str().contains(" src="),
                        "{}: {}",
                        path.display(),
                        found.as_str()
                    );
                }
                checked += 1;
            }
        }
    }
    assert!(checked >= 8, "{checked}");
}
