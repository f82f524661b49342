//! Panics: one ends one request, never the process.

use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::scope::Scope;
use oneport::testing::{Application, HttpCommunicator, LiveServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::DEADLINE;

struct Moody;

impl View for Moody {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, mut request: Request) -> Result<Response, Failure> {
        match request.scope.query_string() {
            "panic" => panic!("in a view"),
            "fail" => Err("a secret cause".into()),
            "hang" => std::future::pending().await,
            _ => Ok(respond(200, "text/plain", request.text().await?)),
        }
    }
}

/// A view that needs no waiting, for all of whose queries but one.
struct Quick;

impl View for Quick {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    fn responds_now() -> bool {
        true
    }

    fn respond_now(&self, scope: &Scope) -> Option<Result<Response, Failure>> {
        match scope.query_string() {
            "panic" => panic!("in a view"),
            "fail" => Some(Err("a secret cause".into())),
            "wait" => None,
            _ => Some(Ok(respond(200, "text/plain", "at once"))),
        }
    }

    async fn call(&self, _request: Request) -> Result<Response, Failure> {
        Ok(respond(200, "text/plain", "called"))
    }
}

#[tokio::test]
async fn view_that_needs_no_waiting_fails_as_one_that_waits() {
    for middleware in ["", "middleware = ['hosts', 'session']\n"] {
        let text = format!("[[http.route]]\npath = '/'\nview = 'quick'\n{middleware}");
        let registry = Registry::builtin().view::<Quick>("quick");
        let app = Application::with(&registry, &text).unwrap();
        // Middleware that may wait is followed by `call`.
        let now = match middleware {
            "" => [
                (500, None),
                (500, None),
                (200, Some("called")),
                (200, Some("at once")),
            ],
            _ => [(200, Some("called")); 4],
        };
        for (query, (status, body)) in ["panic", "fail", "wait", ""].into_iter().zip(now) {
            let response = HttpCommunicator::get(&format!("/?{query}"))
                .send(&app)
                .await;
            assert_eq!(response.status(), status, "{query}");
            match body {
                Some(body) => assert_eq!(response.body(), body, "{query}"),
                None => assert!(!String::from_utf8_lossy(response.body()).contains("secret")),
            }
        }
    }
}

#[tokio::test]
async fn connection_outlives_the_panic_of_a_view_that_needs_no_waiting() {
    let registry = Registry::builtin().view::<Quick>("quick");
    let text = "[server]\nallowed_hosts = ['*']\n[[http.route]]\npath = '/'\nview = 'quick'\n";
    let server = LiveServer::with(&registry, text).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let requests = [
        "GET /?panic HTTP/1.1\r\nHost: a\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ];
    stream
        .write_all(requests.concat().as_bytes())
        .await
        .unwrap();
    let mut read = String::new();
    let ended = timeout(DEADLINE, stream.read_to_string(&mut read)).await;
    ended.unwrap().unwrap();
    let (failed, rest) = read.split_once("HTTP/1.1 200 OK").unwrap();
    assert!(failed.starts_with("HTTP/1.1 500 "), "{failed}");
    let (head, last) = rest.split_once("HTTP/1.1 200 OK").unwrap();
    assert!(head.contains("content-length: 7\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "a HEAD has no body: {head}");
    assert!(last.ends_with("\r\n\r\nat once"), "{last}");
}

fn app() -> Application {
    let text = "[[http.route]]\npath = '/'\nview = 'moody'\nmethods = ['GET', 'POST']\nrequest_timeout = '100ms'\nbody_size = '4 B'\n";
    Application::with(&Registry::builtin().view::<Moody>("moody"), text).unwrap()
}

/// Case 45.
#[tokio::test]
async fn thousand_panics_do_not_hurt_the_next_request() {
    let app = app();
    for _ in 0..1000 {
        assert_eq!(
            HttpCommunicator::get("/?panic").send(&app).await.status(),
            500
        );
    }
    assert_eq!(
        HttpCommunicator::get("/")
            .body("fine")
            .send(&app)
            .await
            .body(),
        "fine"
    );
}

#[tokio::test]
async fn failures_show_a_sentence_and_keep_their_cause() {
    let app = app();
    for (query, status) in [("fail", 500), ("hang", 504)] {
        let response = HttpCommunicator::get(&format!("/?{query}"))
            .send(&app)
            .await;
        assert_eq!(response.status(), status);
        assert!(!String::from_utf8_lossy(response.body()).contains("secret"));
    }
    let response = HttpCommunicator::get("/?fail")
        .header("accept", "application/json")
        .send(&app)
        .await;
    let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(
        (
            body["error"]["status"].as_u64(),
            body["error"]["message"].as_str()
        ),
        (Some(500), Some("the server could not finish this request"))
    );
    let response = HttpCommunicator::get("/nowhere/")
        .header("accept", "text/html")
        .send(&app)
        .await;
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["content-type"]
        ),
        (404, &"text/html; charset=utf-8".parse().unwrap())
    );
}

#[tokio::test]
async fn body_over_the_limit_gets_413() {
    assert_eq!(
        HttpCommunicator::get("/")
            .body("five!")
            .send(&app())
            .await
            .status(),
        413
    );
    assert_eq!(
        HttpCommunicator::get("/")
            .body(&b"\xFF"[..])
            .send(&app())
            .await
            .status(),
        400
    );
}
