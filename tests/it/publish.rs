//! Publish: the server API of one process, through its calls.

use http::Method;
use oneport::auth::User;
use oneport::channels::GroupName;
use oneport::testing::{Application, Connected, HttpCommunicator, WebsocketCommunicator};
use serde_json::{Value, json};

const ADMIN: &str = "the-token-of-the-admin";
const SHOP: &str = "the-token-of-the-shop";

const FILE: &str = "
    [[http.route]]
    path = '/api/{*call}'
    view = 'publish'
    options = { max_event = '100 B', max_batch = 3, tokens = [
      { name = 'admin', token = 'the-token-of-the-admin', groups = ['*'], connections = true },
      { name = 'shop', token = 'the-token-of-the-shop', groups = ['news_*', 'lobby'] },
    ] }
    [websocket]
    middleware = []
    [[websocket.route]]
    path = '/feed/{name}/'
    name = 'feed'
    consumer = 'feed'
    options = { groups = ['{name}'] }
";

fn app() -> Application {
    Application::parse(FILE).unwrap()
}

struct Caller<'a>(&'a Application, &'a str);

impl Caller<'_> {
    async fn call(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let request = HttpCommunicator::new(method, &format!("/api/{path}"))
            .header("authorization", &format!("Bearer {}", self.1))
            .body(body.to_owned());
        answer(request, self.0).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call(Method::POST, path, &body.to_string()).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, "").await
    }
}

async fn answer(request: HttpCommunicator, app: &Application) -> (u16, Value) {
    let response = request.send(app).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = serde_json::from_slice(response.body()).unwrap();
    (response.status().as_u16(), body)
}

async fn listen(app: &Application, group: &str, user: Option<&str>) -> Connected {
    let mut socket = WebsocketCommunicator::new(&format!("/feed/{group}/"));
    if let Some(name) = user {
        socket = socket.user(User {
            id: format!("id-{name}"),
            name: name.to_owned(),
            is_staff: false,
        });
    }
    let layer = &app.gateway().services().layer;
    let name = GroupName::new(group).unwrap();
    let before = layer.group_len(&name);
    let socket = socket.connect(app).await.unwrap();
    while layer.group_len(&name) == before {
        tokio::task::yield_now().await; // it joins once it is open
    }
    socket
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (
        answer.0,
        answer.1["error"]["code"].as_str().unwrap_or_default(),
    )
}

#[tokio::test]
async fn event_reaches_the_group_and_the_answer_counts() {
    let app = app();
    let (mut one, mut two) = (
        listen(&app, "lobby", None).await,
        listen(&app, "lobby", None).await,
    );
    let event = json!({"type": "chat.message", "message": "hi"});
    let shop = Caller(&app, SHOP);
    let counts = json!({"matched": 2, "queued": 2, "dropped": 0, "unanswered": 0});
    assert_eq!(shop.post("groups/lobby", &event).await, (200, counts));
    assert_eq!(one.receive_json::<Value>().await, event);
    assert_eq!(two.receive_json::<Value>().await, event);
    let nobody = json!({"matched": 0, "queued": 0, "dropped": 0, "unanswered": 0});
    assert_eq!(shop.post("groups/news_7", &event).await, (200, nobody));
}

#[tokio::test]
async fn a_call_without_permission_is_rejected() {
    let app = app();
    let event = r#"{"type": "a"}"#;
    let unknown = Caller(&app, "some-other-token");
    let refused = unknown.call(Method::POST, "groups/lobby", event).await;
    assert_eq!(code(&refused), (401, "unauthorized"));
    let bare = HttpCommunicator::new(Method::POST, "/api/groups/lobby")
        .send(&app)
        .await;
    assert_eq!(bare.status(), 401);
    assert!(
        bare.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .starts_with("Bearer")
    );
    let shop = Caller(&app, SHOP);
    for (method, path, body) in [
        (Method::POST, "groups/secret", event),
        (Method::GET, "groups/secret", ""),
        (Method::GET, "connections", ""),
        (Method::POST, "users/7/disconnect", ""),
    ] {
        let refused = shop.call(method, path, body).await;
        assert_eq!(code(&refused), (403, "forbidden"), "{path}");
    }
}

#[tokio::test]
async fn bad_calls_are_rejected_with_what_was_expected() {
    let app = app();
    let admin = Caller(&app, ADMIN);
    let long = format!(r#"{{"type": "{}"}}"#, "a".repeat(100));
    for (method, path, body, wanted) in [
        (Method::POST, "groups/lobby", "{", (400, "invalid_json")),
        (Method::POST, "groups/lobby", "[]", (400, "invalid_event")),
        (Method::POST, "groups/lobby", "{}", (400, "invalid_event")),
        (Method::POST, "groups/a%20b", "{}", (400, "invalid_group")),
        (Method::POST, "groups/lobby", &long, (413, "too_large")),
        (
            Method::PUT,
            "groups/lobby",
            "{}",
            (405, "method_not_allowed"),
        ),
        (Method::GET, "gruops/lobby", "", (404, "not_found")),
        (Method::GET, "connections/1.1", "", (404, "not_found")),
        (
            Method::GET,
            "connections?limit=0",
            "",
            (400, "invalid_request"),
        ),
        (
            Method::GET,
            "connections?usr=1",
            "",
            (400, "invalid_request"),
        ),
        (
            Method::POST,
            "users/7/disconnect",
            r#"{"code": 1005}"#,
            (400, "invalid_request"),
        ),
        (
            Method::POST,
            "batch",
            r#"{"evnts": []}"#,
            (400, "invalid_request"),
        ),
        (
            Method::POST,
            "batch",
            r#"{"events": [{"event": {}}, {"event": {}}, {"event": {}}, {"event": {}}]}"#,
            (413, "too_large"),
        ),
    ] {
        let refused = admin.call(method, path, body).await;
        assert_eq!(code(&refused), wanted, "{path} {body}: {}", refused.1);
        let message = refused.1["error"]["message"].as_str().unwrap();
        // Messages about state, not about parsing.
        let no_connection = r#"no such connection: "1.1""#;
        assert!(
            message.contains("expected") || message == no_connection,
            "{message}"
        );
    }
}

#[tokio::test]
async fn connections_are_shown_sent_to_and_ended() {
    let app = app();
    let admin = Caller(&app, ADMIN);
    let mut anna = listen(&app, "lobby", Some("anna")).await;
    let mut other = listen(&app, "news_1", None).await;
    let (_, group) = admin.get("groups/lobby").await;
    let user = json!({"id": "id-anna", "name": "anna", "connections": 1});
    assert_eq!(
        (&group["members"], &group["users"], &group["anonymous"]),
        (&json!(1), &json!([user]), &json!(0))
    );
    let (_, page) = admin.get("connections?user=id-anna").await;
    let shown = &page["connections"][0];
    assert_eq!(
        (&shown["route"], &shown["groups"]),
        (&json!("feed"), &json!(["lobby"]))
    );
    let id = shown["id"].as_str().unwrap().to_owned();
    assert_eq!(
        admin.get(&format!("connections/{id}")).await,
        (200, shown.clone())
    );
    let sent = admin
        .post(
            &format!("connections/{id}"),
            &json!({"type": "websocket.send", "text": "you"}),
        )
        .await;
    assert_eq!(
        sent,
        (200, json!({"matched": 1, "queued": 1, "dropped": 0}))
    );
    assert_eq!(anna.receive().await.as_text(), Some("you"));
    // Pages of one.
    let (_, first) = admin.get("connections?limit=1").await;
    let cursor = first["cursor"].as_str().unwrap();
    let (_, second) = admin
        .get(&format!("connections?limit=1&cursor={cursor}"))
        .await;
    assert_eq!(
        (
            first["connections"].as_array().unwrap().len(),
            &second["cursor"]
        ),
        (1, &Value::Null)
    );
    assert_ne!(
        first["connections"][0]["id"],
        second["connections"][0]["id"]
    );
    // The ends.
    let ended = admin
        .post(
            "users/id-anna/disconnect",
            &json!({"code": 4403, "reason": "bye"}),
        )
        .await;
    assert_eq!(
        ended,
        (200, json!({"matched": 1, "closed": 1, "unanswered": 0}))
    );
    assert_eq!(anna.receive_close().await, (4403, "bye".to_owned()));
    let (_, page) = admin.get("connections?group=news_1").await;
    let id = page["connections"][0]["id"].as_str().unwrap();
    let ended = admin
        .call(Method::DELETE, &format!("connections/{id}"), "")
        .await;
    assert_eq!(ended, (200, json!({"matched": 1, "closed": 1})));
    assert_eq!(other.receive_close().await, (4500, String::new()));
}

#[tokio::test]
async fn call_with_a_key_is_carried_out_once() {
    let app = app();
    let mut member = listen(&app, "lobby", None).await;
    let call = |body: &str, key: &str| {
        HttpCommunicator::new(Method::POST, "/api/groups/lobby")
            .header("authorization", &format!("Bearer {SHOP}"))
            .header("idempotency-key", key)
            .body(body.to_owned())
            .send(&app)
    };
    let event = r#"{"type":"a"}"#;
    let (first, second) = tokio::join!(call(event, "k"), call(event, "k"));
    assert_eq!(
        (first.status(), first.body()),
        (second.status(), second.body())
    );
    let replayed =
        [&first, &second].map(|answer| answer.headers().contains_key("idempotency-replayed"));
    assert_ne!(replayed[0], replayed[1]);
    assert_eq!(call(r#"{"type":"b"}"#, "k").await.status(), 409);
    assert_eq!(call(event, "another").await.status(), 200);
    assert_eq!(member.receive().await.as_text(), Some(event));
    assert_eq!(member.receive().await.as_text(), Some(event));
    assert!(
        member
            .receive_nothing(std::time::Duration::from_millis(50))
            .await
    );
}

#[tokio::test]
async fn batch_answers_each_and_the_document_names_every_call() {
    let app = app();
    let mut member = listen(&app, "lobby", None).await;
    let shop = Caller(&app, SHOP);
    let batch = json!({"events": [
        {"group": "lobby", "event": {"type": "one"}},
        {"group": "secret", "event": {"type": "two"}},
        {"group": "lobby", "event": {"type": "three"}},
    ]});
    let (status, answer) = shop.post("batch", &batch).await;
    assert_eq!(status, 200);
    assert_eq!(
        (
            &answer["results"][0]["matched"],
            &answer["results"][1]["error"]["code"]
        ),
        (&json!(1), &json!("forbidden"))
    );
    for wanted in ["one", "three"] {
        assert_eq!(member.receive_json::<Value>().await["type"], wanted);
    }
    let (_, document) = answer_of_document(&app).await;
    assert_eq!(
        (&document["openapi"], &document["servers"][0]["url"]),
        (&json!("3.1.0"), &json!("/api"))
    );
    for path in [
        "/groups/{group}",
        "/connections",
        "/connections/{id}",
        "/users/{id}/disconnect",
        "/batch",
        "/info",
    ] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
    let (_, info) = shop.get("info").await;
    assert_eq!(
        (&info["backend"], &info["connections"], &info["nodes"]),
        (&json!("memory"), &json!(1), &json!(1))
    );
}

async fn answer_of_document(app: &Application) -> (u16, Value) {
    answer(HttpCommunicator::get("/api/openapi.json"), app).await
}

#[test]
fn tokens_that_are_none_are_problems() {
    for (tokens, wanted) in [
        ("[]", "at least one token"),
        (
            "[{ name = 'a', token = 'short', groups = ['*'] }]",
            "at least 16 characters, found 5",
        ),
        (
            "[{ name = 'a', token = 'sixteen-or-more-characters', groups = [] }]",
            "the token allows nothing",
        ),
        (
            "[{ name = 'a', token = 'sixteen-or-more-characters', groups = ['*'] }, { name = 'b', token = 'sixteen-or-more-characters', groups = ['*'] }]",
            "the same token as tokens[0]",
        ),
    ] {
        let file = format!(
            "[[http.route]]\npath = '/api/{{*call}}'\nview = 'publish'\noptions = {{ tokens = {tokens} }}\n"
        );
        let problems = Application::parse(&file).unwrap_err().to_string();
        assert!(problems.contains(wanted), "{problems}");
    }
}
