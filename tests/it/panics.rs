//! Panics: one ends one request, never the process.

use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::scope::Scope;
use oneport::testing::{Application, HttpCommunicator};

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
        let head = HttpCommunicator::new(http::Method::HEAD, "/")
            .send(&app)
            .await;
        assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
    }
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
