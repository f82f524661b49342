//! The view and the consumer `dashboard`, and the figures that they and the server API show.

use std::time::Duration;

use http::Method;
use oneport::auth::User;
use oneport::testing::{Application, Connected, HttpCommunicator, WebsocketCommunicator};
use serde_json::{Value, json};

const TOKEN: &str = "an-admin-token-of-32-characters!";

const FILE: &str = "
    [auth.bearer]
    algorithms = ['HS256']
    key = '0123456789abcdef0123456789abcdef'

    [http]
    middleware = []
    [[http.route]]
    path = '/dashboard/'
    middleware = ['auth', 'staff_required']
    view = 'dashboard'
    [[http.route]]
    path = '/api/{*call}'
    view = 'publish'
    options = { tokens = [
        { name = 'admin', token = 'an-admin-token-of-32-characters!', groups = ['*'], connections = true },
        { name = 'shop', token = 'a-token-for-groups-alone-not-more', groups = ['*'] },
    ] }
    [[http.route]]
    path = '/hello/'
    name = 'hello'
    view = 'respond'
    options = { body = 'hi' }

    [websocket]
    middleware = []
    [[websocket.route]]
    path = '/dashboard/'
    middleware = ['auth', 'staff_required']
    consumer = 'dashboard'
    [[websocket.route]]
    path = '/ws/chat/{room}/'
    name = 'chat'
    consumer = 'chat'
    options = { group = 'chat_{room}' }
    [[websocket.route]]
    path = '/ws/short/'
    name = 'short'
    consumer = 'echo'
    max_message = '16 B'
";

fn app() -> Application {
    Application::parse(FILE).unwrap()
}

fn staff() -> User {
    User {
        id: "1".to_owned(),
        name: "ann".to_owned(),
        is_staff: true,
    }
}

fn visitor() -> User {
    User {
        id: "2".to_owned(),
        name: "<b>bob</b>".to_owned(),
        is_staff: false,
    }
}

/// A page of the dashboard.
struct Page {
    socket: Connected,
    stats: Value,
    last_id: u64,
}

impl Page {
    async fn open(app: &Application) -> Self {
        let socket = WebsocketCommunicator::new("/dashboard/").user(staff());
        let mut socket = socket.connect(app).await.unwrap();
        let first: Value = socket.receive_json().await;
        assert_eq!(first["type"], "snapshot");
        Self {
            socket,
            stats: first["stats"].clone(),
            last_id: 0,
        }
    }

    /// Calls, and returns the reply; updates in between are passed over.
    async fn call(&mut self, name: &str, mut fields: Value) -> Value {
        self.last_id += 1;
        fields["id"] = json!(self.last_id);
        fields["call"] = json!(name);
        self.socket.send_json(&fields).await;
        loop {
            let message: Value = self.socket.receive_json().await;
            if message["type"] == "reply" {
                assert_eq!(message["id"], self.last_id);
                return message;
            }
        }
    }

    async fn update(&mut self) -> Value {
        self.socket.receive_json().await
    }
}

async fn open_chat(app: &Application, room: &str) -> Connected {
    let socket = WebsocketCommunicator::new(&format!("/ws/chat/{room}/?access_token=secret"));
    let socket = socket.header("cookie", "sessionid=secret").user(visitor());
    socket.connect(app).await.unwrap()
}

async fn get(app: &Application, path: &str, user: Option<User>) -> http::Response<bytes::Bytes> {
    let mut request = HttpCommunicator::get(path);
    if let Some(user) = user {
        request = request.user(user);
    }
    request.send(app).await
}

#[tokio::test]
async fn page_and_its_files_are_for_staff_alone() {
    let app = app();
    for path in ["/dashboard/", "/dashboard/?file=dashboard.js"] {
        assert_eq!(get(&app, path, None).await.status(), 302, "{path}");
        let refused = get(&app, path, Some(visitor())).await;
        assert_eq!(refused.status(), 403, "{path}");
        let shown = get(&app, path, Some(staff())).await;
        assert_eq!(shown.status(), 200, "{path}");
        let policy = shown.headers()["content-security-policy"].to_str().unwrap();
        assert!(!policy.contains("unsafe") && policy.contains("default-src 'none'"));
    }
    let missing = get(&app, "/dashboard/?file=../mod.rs", Some(staff())).await;
    assert_eq!(missing.status(), 404);
}

#[tokio::test]
async fn file_that_the_browser_has_is_not_sent_again() {
    let app = app();
    let first = get(&app, "/dashboard/?file=uplot.js", Some(staff())).await;
    let etag = first.headers()["etag"].to_str().unwrap();
    let again = HttpCommunicator::get("/dashboard/?file=uplot.js")
        .header("if-none-match", etag)
        .user(staff());
    let again = again.send(&app).await;
    assert_eq!((again.status().as_u16(), again.body().len()), (304, 0));
}

#[tokio::test]
async fn socket_is_for_staff_alone() {
    let app = app();
    let anonymous = WebsocketCommunicator::new("/dashboard/");
    assert_eq!(anonymous.connect(&app).await.unwrap_err().status(), 403);
    let other = WebsocketCommunicator::new("/dashboard/").user(visitor());
    assert_eq!(other.connect(&app).await.unwrap_err().status(), 403);
}

#[tokio::test]
async fn figures_come_once_and_then_what_has_changed() {
    let app = app();
    let _chat = open_chat(&app, "a").await;
    let mut page = Page::open(&app).await;
    let routes = &page.stats["websocket"];
    assert_eq!(routes["chat"]["path"], "/ws/chat/{room}/");
    assert_eq!(routes["chat"]["handler"], "chat");
    assert_eq!(page.stats["http"]["hello"]["handler"], "respond");
    assert!(page.stats["sockets"]["open"].as_u64() >= Some(2));
    let before = page.update().await;
    let _another = open_chat(&app, "b").await;
    let after = loop {
        let update = page.update().await;
        if update["patch"]["groups"] == 2 {
            break update;
        }
    };
    assert!(after["seq"].as_u64() > before["seq"].as_u64());
    assert!(
        after["patch"]["name"].is_null(),
        "it has not changed: {after}"
    );
    assert!(after["point"].is_array());
}

#[tokio::test]
async fn page_that_missed_updates_gets_everything_again() {
    let app = app();
    let mut page = Page::open(&app).await;
    page.call("snapshot", json!({})).await;
    assert_eq!(page.update().await["type"], "snapshot");
    assert_eq!(page.update().await["type"], "update");
}

#[tokio::test]
async fn sampling_ends_with_the_last_page() {
    let app = app();
    let tasks = &app.gateway().services().tasks;
    let before = tasks.alive();
    let one = Page::open(&app).await;
    let two = Page::open(&app).await;
    assert!(tasks.alive() > before);
    one.socket.disconnect().await;
    two.socket.disconnect().await;
    while tasks.alive() > before {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // And it starts again.
    let mut again = Page::open(&app).await;
    assert_eq!(again.update().await["type"], "update");
}

#[tokio::test]
async fn socket_is_shown_without_its_secrets() {
    let app = app();
    let mut chat = open_chat(&app, "a").await;
    chat.send(r#"{"message": "hi"}"#).await;
    chat.receive().await;
    let mut page = Page::open(&app).await;
    let listed = page.call("sockets", json!({"route": "chat"})).await;
    let listed = &listed["value"]["sockets"];
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["user"]["name"], "<b>bob</b>");
    let shown = page
        .call("socket", json!({"socket": listed[0]["id"]}))
        .await;
    let value = &shown["value"];
    assert_eq!(value["groups"], json!(["chat_a"]));
    assert_eq!(value["query"], json!(["access_token"]));
    assert_eq!(value["report"]["messages"], 1);
    assert_eq!(value["params"], json!([["room", "a"]]));
    let fields = value["headers"].as_array().unwrap();
    assert!(fields.contains(&json!(["cookie", null])), "{fields:?}");
    assert!(!shown.to_string().contains("secret"), "{shown}");
    let none = page.call("sockets", json!({"user": "77"})).await;
    assert_eq!(none["value"]["sockets"], json!([]));
}

#[tokio::test]
async fn messages_and_a_close_reach_the_client() {
    let app = app();
    let mut chat = open_chat(&app, "a").await;
    let mut page = Page::open(&app).await;
    let listed = page.call("sockets", json!({"route": "chat"})).await;
    let id = listed["value"]["sockets"][0]["id"].clone();
    let text = "{\"type\": \"notice\", \"n\": 1e2}";
    let sent = page.call("send", json!({"socket": id, "text": text})).await;
    assert_eq!(sent["value"], Value::Null);
    assert_eq!(chat.receive().await.as_text(), Some(text));
    for (code, reason) in [(1006, "no"), (999, "no"), (4000, "x".repeat(124).as_str())] {
        let close = json!({"socket": id, "code": code, "reason": reason});
        assert!(
            page.call("close", close).await["error"].is_string(),
            "{code}"
        );
    }
    let close = json!({"socket": id, "code": 4000, "reason": "bye"});
    assert!(page.call("close", close.clone()).await["error"].is_null());
    assert_eq!(chat.receive_close().await, (4000, "bye".to_owned()));
    drop(chat);
    loop {
        let again = page.call("close", close.clone()).await;
        if again["error"] == "the socket is closed" {
            break;
        }
        tokio::task::yield_now().await; // it waits for the client's close frame
    }
    let ends = page
        .call("ends", json!({"filter": {"route": "chat"}}))
        .await;
    let end = &ends["value"]["ends"][0];
    assert_eq!(
        (&end["kind"], &end["cause"], &end["code"], &end["reason"]),
        (
            &json!("closed"),
            &json!("disconnected"),
            &json!(4000),
            &json!("bye")
        )
    );
}

#[tokio::test]
async fn ends_name_their_cause_and_the_limit() {
    let app = app();
    let mut short = WebsocketCommunicator::new("/ws/short/")
        .connect(&app)
        .await
        .unwrap();
    short.send("more than sixteen bytes").await;
    assert_eq!(short.receive_close().await.0, 1009);
    drop(short);
    let refused = WebsocketCommunicator::new("/ws/nothing/");
    assert_eq!(refused.connect(&app).await.unwrap_err().status(), 404);
    let mut page = Page::open(&app).await;
    let failed = loop {
        let failed = page
            .call("ends", json!({"filter": {"kinds": ["failed"]}}))
            .await;
        if failed["value"]["ends"] != json!([]) {
            break failed["value"]["ends"][0].clone();
        }
    };
    assert_eq!(failed["cause"], "too_big");
    assert_eq!(failed["rule"], "max_message = 16 B");
    let words = |end: &Value, key: &str| end[key].as_str().is_some_and(|text| text.len() > 20);
    assert!(
        words(&failed, "happened") && words(&failed, "remedy"),
        "{failed}"
    );
    let refused = page
        .call("ends", json!({"filter": {"kinds": ["refused"]}}))
        .await;
    let refused = &refused["value"]["ends"][0];
    assert_eq!(
        (&refused["code"], &refused["path"]),
        (&json!(404), &json!("/ws/nothing/"))
    );
    assert!(words(refused, "happened"), "{refused}");
}

#[tokio::test]
async fn groups_are_listed_by_size_with_their_users() {
    let app = app();
    let _members = [
        open_chat(&app, "large").await,
        open_chat(&app, "large").await,
        open_chat(&app, "small").await,
    ];
    let mut page = Page::open(&app).await;
    let groups = loop {
        let groups = page.call("groups", json!({})).await["value"].clone();
        if groups["groups"][0]["members"] == 2 && groups["groups"][1]["members"] == 1 {
            break groups;
        }
    };
    assert_eq!(groups["groups"][0]["name"], "chat_large");
    assert_eq!(groups["matched"], 2);
    let some = page.call("groups", json!({"contains": "small"})).await;
    assert_eq!(some["value"]["groups"].as_array().map(Vec::len), Some(1));
    let group = page.call("group", json!({"group": "chat_large"})).await;
    assert_eq!(group["value"]["members"], 2);
    assert_eq!(group["value"]["users"][0]["connections"], 2);
    let long = page
        .call("groups", json!({"contains": "x".repeat(513)}))
        .await;
    assert!(long["error"].is_string());
}

/// Pages of a table are told apart by the numbers of sockets, which the shards of the table mix.
#[tokio::test]
async fn pages_hold_every_socket_once() {
    const SOCKETS: usize = 1_000;
    let app = app();
    let mut sockets = Vec::new();
    for number in 0..SOCKETS {
        sockets.push(open_chat(&app, &format!("room{}", number % 400)).await);
    }
    let mut page = Page::open(&app).await;
    while page.call("groups", json!({})).await["value"]["matched"] != 400 {}
    let (mut seen, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let asked = json!({"route": "chat", "cursor": cursor});
        let found = page.call("sockets", asked).await["value"].clone();
        let ids = found["sockets"].as_array().unwrap().iter();
        seen.extend(ids.map(|socket| socket["id"].as_str().unwrap().to_owned()));
        cursor = found["cursor"].clone();
        if cursor.is_null() {
            break;
        }
        assert_eq!(seen.len() % 200, 0);
    }
    assert_eq!(seen.len(), SOCKETS);
    let number = |id: &String| id.split('.').next_back().unwrap().parse::<u64>().unwrap();
    assert!(seen.is_sorted_by(|one, next| number(one) < number(next)));

    let asked = json!({"group": "chat_room399"});
    let of_group = page.call("sockets", asked).await["value"].clone();
    assert_eq!(of_group["sockets"].as_array().map(Vec::len), Some(2));
    assert!(of_group["cursor"].is_null());
    let groups = page.call("groups", json!({"contains": "room"})).await["value"].clone();
    let sizes = groups["groups"].as_array().unwrap().iter();
    let sizes: Vec<u64> = sizes
        .map(|group| group["members"].as_u64().unwrap())
        .collect();
    assert_eq!((sizes.len(), sizes[0]), (200, 3));
    assert!(sizes.is_sorted_by(|one, next| one >= next));
    assert_eq!(groups["matched"], 400);
}

#[tokio::test]
async fn nonsense_and_unknown_sockets_are_errors() {
    let app = app();
    let mut page = Page::open(&app).await;
    for socket in ["", "1", "zz.1", "0000000000000001.1"] {
        let shown = page.call("socket", json!({"socket": socket})).await;
        assert!(shown["error"].is_string(), "{socket}");
    }
    let processes = page.call("processes", json!({})).await;
    assert_eq!(
        processes["value"]["processes"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(processes["value"]["unanswered"], 0);
    for nonsense in ["", "[]", "{\"id\": 1, \"call\": \"shutdown\"}"] {
        page.socket.send(nonsense).await;
        let reply = loop {
            let message: Value = page.socket.receive_json().await;
            if message["type"] == "reply" {
                break message;
            }
        };
        assert!(
            reply["id"].is_null() && reply["error"].is_string(),
            "{reply}"
        );
    }
}

#[tokio::test]
async fn reload_is_answered_and_other_calls_go_on() {
    let app = app(); // no listeners, so nothing reloads
    let mut page = Page::open(&app).await;
    let report = page.call("reload", json!({})).await;
    assert_eq!(report["value"]["outcome"], "unavailable");
    assert!(page.call("groups", json!({})).await["value"].is_object());
}

#[tokio::test]
async fn figures_of_the_server_api_need_a_token_for_connections() {
    let app = app();
    let stats = |token: &str| {
        HttpCommunicator::new(Method::GET, "/api/stats")
            .header("authorization", &format!("Bearer {token}"))
    };
    let refused = stats("a-token-for-groups-alone-not-more").send(&app).await;
    assert_eq!(refused.status(), 403);
    let _chat = open_chat(&app, "a").await;
    let answer = stats(TOKEN).send(&app).await;
    assert_eq!(answer.status(), 200);
    let stats: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(stats["sockets"]["open"], 1);
    assert!(stats["recent_ends"].is_array());
    assert!(stats["process"]["resident_bytes"].as_u64() > Some(1 << 20));
    assert_eq!(stats["layer"]["backend"], "memory");
}
