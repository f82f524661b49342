//! Resolve: `Table::resolve`, which `oneport resolve` prints, against the responses of a live
//! server.

use oneport::gateway::{ConnectionInfo, Outcome};
use oneport::scope::Scheme;
use oneport::testing::LiveServer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::read_until;

const TEXT: &str = r#"
    [server]
    allowed_hosts = ["localhost"]

    [[http.route]]
    path = "/"
    view = "respond"
    middleware = ["hosts"]
    options = { body = "home" }

    [[http.route]]
    path = "/page/"
    view = "respond"
    methods = ["GET"]
    options = { body = "page" }

    [[http.route]]
    path = "/page/"
    view = "respond"
    methods = ["PUT"]
    options = { body = "put" }

    [[http.route]]
    path = "/form/"
    view = "respond"
    middleware = ["csrf"]
    options = { body = "form" }

    [[http.route]]
    path = "/data/"
    view = "respond"
    methods = ["GET", "DELETE"]
    middleware = ["hosts", "cors"]
    allowed_origins = ["https://app.example"]
    options = { body = "data" }

    [[http.route]]
    path = "/mine/"
    view = "respond"
    middleware = ["session", "auth", "login_required"]
    options = { body = "mine" }

    [[http.route]]
    path = "/logout/"
    view = "logout"
    methods = ["GET", "POST"]
    middleware = ["session", "auth"]

    [[http.route]]
    path = "/api/{*call}"
    view = "publish"
    options = { tokens = [{ name = "app", token = "tttttttttttttttttttttttttttttttttttttttt", groups = ["*"] }] }

    [[http.route]]
    path = "/n/{number:int}"
    view = "respond"
    append_slash = false
    options = { body = "number" }

    [[websocket.route]]
    path = "/echo/"
    consumer = "echo"

    [[websocket.route]]
    path = "/own/"
    consumer = "echo"
    middleware = ["origin"]
    allowed_origins = ["https://app.example"]
"#;

const HANDSHAKE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// The parts of a response that the head of a request decides.
#[derive(Debug, Eq, PartialEq)]
struct Answer {
    status: u16,
    allow: Option<String>,
    location: Option<String>,
}

fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> http::Request<()> {
    let mut request = http::Request::builder().method(method).uri(path);
    if !fields.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// Sends a request to the server, and reads the head of the response.
async fn serve(server: &LiveServer, request: &http::Request<()>) -> Answer {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut text = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap()));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let is_whole = |read: &[u8]| read.windows(4).any(|four| four == b"\r\n\r\n");
    let head = read_until(&mut stream, is_whole).await;
    let head = String::from_utf8_lossy(&head).into_owned();
    let field = |wanted: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        values.next().map(|(_, value)| value.to_owned())
    };
    Answer {
        status: head[9..12].parse().unwrap(),
        allow: field("allow"),
        location: field("location"),
    }
}

/// Asserts that a request's resolution is what the server does.
async fn check(server: &LiveServer, request: http::Request<()>) {
    let served = serve(server, &request).await;
    let about = format!("{request:?}: {served:?}");
    let info = ConnectionInfo {
        peer: None,
        server: None,
        security: Scheme::Plain,
        user: None,
        ..Default::default()
    };
    let table = server.gateway().table();
    let resolved = table.resolve(request.into_parts().0, &info);
    let headers = match &resolved.outcome {
        Outcome::Handler { needs } if needs.is_empty() => {
            assert!([101, 200, 303].contains(&served.status), "{about}");
            return;
        }
        Outcome::Handler { needs } => {
            let is_refused = [302, 401, 403].contains(&served.status);
            assert!(is_refused, "{about}, found the needs {needs:?}");
            return;
        }
        Outcome::Response(response) => response.headers(),
        Outcome::Failure(failure) => failure.headers(),
    };
    let field = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let found = Answer {
        status: resolved.outcome.status().unwrap().as_u16(),
        allow: field("allow"),
        location: field("location"),
    };
    assert_eq!(found, served, "{about}");
}

#[tokio::test]
async fn a_request_resolves_to_what_the_server_answers() {
    let server = LiveServer::start(TEXT)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let methods = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW",
    ];
    let paths = [
        "/",
        "/page/",
        "/page",
        "/form/",
        "/data/",
        "/mine/",
        "/logout/",
        "/n/7",
        "/n/7/",
        "/n/x",
        "/echo/",
        "/echo",
        "/own/",
        "/none/",
        "/page/?a=b",
        "/page?a=b",
        "/a/../page/",
        "/%zz/",
    ];
    for method in methods {
        for path in paths {
            check(&server, request(method, path, &[])).await;
            check(&server, request(method, path, &HANDSHAKE)).await;
        }
    }
    for method in ["GET", "OPTIONS"] {
        check(&server, request(method, "*", &[])).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_head_with_fields_resolves_to_what_the_server_answers() {
    let server = LiveServer::start(TEXT)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let ours = [("origin", "http://localhost")];
    let page = [("origin", "https://app.example")];
    let other = [("origin", "https://other.example")];
    let other_host = [("host", "other.example")];
    let preflight = |origin, wanted| {
        [
            ("origin", origin),
            ("access-control-request-method", wanted),
        ]
    };
    for (method, path, fields) in [
        ("GET", "/", &other_host[..]),
        ("GET", "/page/", &other_host),
        ("POST", "/form/", &ours),
        ("POST", "/form/", &other),
        ("GET", "/form/", &other),
        (
            "OPTIONS",
            "/data/",
            &preflight("https://app.example", "DELETE"),
        ),
        (
            "OPTIONS",
            "/data/",
            &preflight("https://app.example", "PUT"),
        ),
        (
            "OPTIONS",
            "/data/",
            &preflight("https://other.example", "GET"),
        ),
        (
            "OPTIONS",
            "/page/",
            &preflight("https://app.example", "GET"),
        ),
        ("GET", "/own/", &[&HANDSHAKE[..], &page].concat()),
        ("GET", "/own/", &[&HANDSHAKE[..], &other].concat()),
        ("GET", "/echo/", &HANDSHAKE[..2]),
        ("GET", "/echo/", &HANDSHAKE[..3]),
        ("GET", "/echo/", &HANDSHAKE[1..]),
        (
            "GET",
            "/echo/",
            &[&HANDSHAKE[..], &[("sec-websocket-protocol", "a, a")]].concat(),
        ),
    ] {
        check(&server, request(method, path, fields)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_call_of_the_server_api_resolves_to_what_the_server_answers() {
    let server = LiveServer::start(TEXT)
        .await
        .unwrap_or_else(|problems| panic!("{problems}"));
    let token = (
        "authorization",
        "Bearer tttttttttttttttttttttttttttttttttttttttt",
    );
    for (method, path) in [
        ("GET", "/api/groups/lobby"),
        ("HEAD", "/api/groups/lobby"),
        ("DELETE", "/api/groups/lobby"),
        ("OPTIONS", "/api/groups/lobby"),
        ("POST", "/api/info"),
        ("GET", "/api/info"),
        ("GET", "/api/openapi.json"),
        ("PUT", "/api/openapi.json"),
        ("GET", "/api/nothing"),
        ("DELETE", "/api/connections/x"),
        ("GET", "/api/connections?limit=0"),
    ] {
        check(&server, request(method, path, &[token])).await;
    }
    server.stop().await;
}
