//! Requests through the whole gateway, without a socket: the input is a head and a body. No request
//! panics or is answered with 500.

use std::cell::OnceCell;

use http::Request;
use http_body_util::BodyExt;
use oneport::gateway::{ConnectionInfo, Reply};
use oneport::http::Body;
use oneport::testing::Application;

use super::head_scanner::parse_head;
use crate::input::block_on;

const CONFIG: &str = r#"
    [server]
    allowed_hosts = ["localhost", ".example.com"]
    trusted_proxies = ["127.0.0.0/8"]
    secret_key = "a secret key of at least thirty-two bytes"
    [server.limits]
    [csrf]
    [http]
    middleware = ["hosts", "headers", "session", "auth", "csrf", "cors"]
    headers = { "x-content-type-options" = "nosniff" }
    allowed_origins = ["https://app.example.com"]
    [websocket]
    middleware = ["hosts", "origin", "session", "auth"]
    compression = "auto"
    [[http.route]]
    path = "/hello/{name:slug}/"
    name = "hello"
    view = "respond"
    options = { body = "hello" }
    [[http.route]]
    path = "/api/{id:int}"
    methods = ["GET", "POST"]
    view = "respond"
    options = { body = "{}" }
    [[http.route]]
    path = "/form/"
    view = "respond"
    options = { body = "a form" }
    [[http.route]]
    path = "/logout/"
    view = "logout"
    [[http.route]]
    path = "/old/{*path}"
    view = "redirect"
    options = { to = "/hello/{path}" }
    [[http.route]]
    path = "/health/"
    view = "health"
    [[websocket.route]]
    path = "/ws/{room:slug}/"
    consumer = "chat"
    options = { group = "chat_{room}" }
    [[websocket.route]]
    path = "/echo/"
    consumer = "echo"
    subprotocols = ["a", "b"]
"#;

thread_local! {
    static APPLICATION: OnceCell<Application> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    let Some((request, length)) = parse_head(data) else {
        return;
    };
    send(CONFIG, &APPLICATION, request, &data[length..]);
}

/// Sends a request through an application, which is started once.
pub(super) fn send(
    config: &'static str,
    application: &'static std::thread::LocalKey<OnceCell<Application>>,
    request: Request<()>,
    body: &[u8],
) {
    let body = body.to_vec();
    block_on(async {
        let application = application.with(|application| {
            let start = || match Application::parse(config) {
                Ok(application) => application,
                Err(problems) => panic!("{problems}"),
            };
            application.get_or_init(start).clone()
        });
        let info = ConnectionInfo {
            peer: Some(([127, 0, 0, 1], 40_000).into()),
            ..ConnectionInfo::default()
        };
        let request = request.map(|()| Body::full(body));
        let answer = application.gateway().serve(request, &info).await;
        let (Reply::Response(response) | Reply::Upgrade(response, _)) = answer;
        let status = response.status().as_u16();
        assert!(status < 500 || matches!(status, 501 | 503), "{status}");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        if let Some(length) = parts.headers.get("content-length") {
            let is_without = bytes.is_empty(); // HEAD and 304 tell the length alone
            assert!(
                is_without || *length == bytes.len().to_string(),
                "{length:?}"
            );
        }
    });
}
