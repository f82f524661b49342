//! Tokens: bearer tokens, the app that is asked, and stores that are away, through the whole
//! journey.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use oneport::gateway::Registry;
use oneport::testing::{Application, HttpCommunicator, WebsocketCommunicator};
use oneport::websocket::{Close, Consumer, Context, Message};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{HttpEndpoint, application};

const KEY: &str = "a secret of thirty-two bytes and more";

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn token(header: &Value, claims: &Value, key: &str) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    let mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    let signature = mac.chain_update(&signed).finalize().into_bytes();
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn good(expires_in: u64) -> String {
    let claims = json!({"sub": "7", "name": "anna", "is_staff": true, "exp": now() + expires_in});
    token(&json!({"alg": "HS256", "typ": "JWT"}), &claims, KEY)
}

/// Says who it is.
struct Who;

impl Consumer for Who {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, _: Message) -> Result<(), Close> {
        let name = cx.scope().user.as_ref().map(|user| user.name.clone());
        let offered = cx.scope().subprotocols.to_vec();
        cx.send_json(&json!({"user": name, "subprotocols": offered}))?;
        Ok(())
    }
}

fn app(more: &str) -> Application {
    let text = format!(
        r#"
{more}
[session]
store = "memory"
check_interval = "100ms"
[http]
middleware = ["auth"]
[[http.route]]
path = "/staff/"
middleware = ["auth", "staff_required"]
view = "respond"
options = {{ body = "staff" }}
[[http.route]]
path = "/query/"
middleware = ["auth", "staff_required"]
token_in_query = true
view = "respond"
[[http.route]]
path = "/events/"
view = "events"
options = {{ group = "news" }}
[websocket]
middleware = ["origin", "auth", "login_required"]
[[websocket.route]]
path = "/ws/"
subprotocols = ["chat.v1"]
consumer = "who"
[[websocket.route]]
path = "/ws/query/"
token_in_query = true
consumer = "who"
"#
    );
    let registry = Registry::builtin().consumer::<Who>("who");
    application(&registry, &text)
}

fn bearer_app() -> Application {
    app(&format!("[auth.bearer]\nkey = {KEY:?}\nleeway = \"0s\"\n"))
}

async fn status(app: &Application, authorization: &str) -> u16 {
    let request = HttpCommunicator::get("/staff/")
        .header("accept", "application/json")
        .header("authorization", authorization);
    let response = request.send(app).await;
    let status = response.status().as_u16();
    let challenge = response.headers().get("www-authenticate");
    assert_eq!(challenge.is_some(), status == 401, "{authorization:.60}");
    status
}

#[tokio::test]
async fn a_token_in_the_header_is_its_user() {
    let app = bearer_app();
    let good = good(60);
    assert_eq!(status(&app, &format!("Bearer {good}")).await, 200);
    assert_eq!(status(&app, &format!("bearer   {good}")).await, 200);
    // Without a token, and with another scheme, somebody anonymous.
    assert_eq!(status(&app, "Basic YTpi").await, 401);
    let response = HttpCommunicator::get("/staff/").send(&app).await;
    assert_eq!(response.status(), 302);
    let vary = response.headers().get_all("vary");
    assert!(vary.iter().any(|field| field == "authorization"));
}

#[tokio::test]
async fn a_token_that_is_not_good_is_401() {
    let app = bearer_app();
    let claims = json!({"sub": "7", "name": "anna", "is_staff": true, "exp": now() + 60});
    let header = json!({"alg": "HS256"});
    let good = good(60);
    let unsigned = token(&json!({"alg": "none"}), &claims, KEY);
    let (head, _) = unsigned.rsplit_once('.').unwrap();
    let mut bad = vec![
        String::new(),
        "x".to_owned(),
        format!("{head}."),
        unsigned.clone(),
        token(&header, &claims, "another secret of thirty-two bytes!!"),
        token(&json!({"alg": "HS512"}), &claims, KEY),
        token(&header, &json!({"sub": "7", "exp": now() - 10}), KEY),
        token(&header, &json!({"sub": "7"}), KEY),
        token(&header, &json!({"exp": now() + 60}), KEY),
        token(
            &header,
            &json!({"sub": "7", "exp": now() + 60, "nbf": now() + 30}),
            KEY,
        ),
        format!("{good} {good}"),
    ];
    bad.extend(
        (0..good.len())
            .step_by(17)
            .map(|end| good[..end].to_owned()),
    );
    for token in bad {
        assert_eq!(
            status(&app, &format!("Bearer {token}")).await,
            401,
            "{token}"
        );
    }
}

#[tokio::test]
async fn browsers_bring_a_token_as_a_subprotocol() {
    let app = bearer_app();
    let good = good(60);
    for (offered, answered) in [
        (vec!["bearer", good.as_str()], "bearer"),
        (vec!["chat.v1", "bearer", good.as_str()], "chat.v1"),
    ] {
        let open = WebsocketCommunicator::new("/ws/").subprotocols(&offered);
        let mut socket = open.connect(&app).await.unwrap();
        assert_eq!(socket.subprotocol(), Some(answered));
        socket.send("who").await;
        let who: Value = socket.receive_json().await;
        assert_eq!(who["user"], "anna");
        assert!(
            !who.to_string().contains(&good),
            "the consumer sees the token"
        );
    }
    let refused = WebsocketCommunicator::new("/ws/").subprotocols(&["bearer", "x"]);
    assert_eq!(refused.connect(&app).await.unwrap_err().status(), 401);
    let alone = WebsocketCommunicator::new("/ws/").subprotocols(&["bearer"]);
    assert_eq!(alone.connect(&app).await.unwrap_err().status(), 403);
}

#[tokio::test]
async fn a_token_in_the_query_counts_only_where_the_route_says_so() {
    let app = bearer_app();
    let good = good(60);
    for (path, status) in [("/staff/", 302), ("/query/", 200)] {
        let request = HttpCommunicator::get(&format!("{path}?access_token={good}"));
        assert_eq!(request.send(&app).await.status(), status, "{path}");
    }
    let open = |path: &str| WebsocketCommunicator::new(&format!("{path}?access_token={good}"));
    assert_eq!(open("/ws/").connect(&app).await.unwrap_err().status(), 403);
    assert!(open("/ws/query/").connect(&app).await.is_ok());
}

#[tokio::test]
async fn a_socket_ends_with_its_token() {
    let app = bearer_app();
    let short = good(2);
    let open =
        WebsocketCommunicator::new("/ws/").header("authorization", &format!("Bearer {short}"));
    let mut socket = open.connect(&app).await.unwrap();
    socket.send("who").await;
    assert_eq!(socket.receive_json::<Value>().await["user"], "anna");
    assert_eq!(socket.receive_close().await.0, 4401);
}

/// The sibling of the socket above: the whole answer is read, so it has an end.
#[tokio::test]
async fn event_stream_ends_when_its_token_expires() {
    let app = bearer_app();
    let began = Instant::now();
    let response = HttpCommunicator::get("/events/")
        .header("authorization", &format!("Bearer {}", good(2)))
        .send(&app)
        .await;
    let text = String::from_utf8_lossy(response.body()).into_owned();
    assert!(text.starts_with("retry: 3000\nid: "), "{text}");
    assert!(
        text.ends_with("event: oneport.session_ended\ndata: {}\n\n"),
        "{text}"
    );
    assert!(began.elapsed() < Duration::from_secs(8));
}

/// An application that authenticates by the cookie. Returns its URL, how often it was asked, and the
/// server.
async fn upstream() -> (String, Arc<AtomicUsize>, HttpEndpoint) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = HttpEndpoint::start(move |head, _| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let head = head.to_lowercase();
            let answer = if head.contains("cookie: is=staff") {
                "200 OK\r\nx-user-id: 7\r\nx-user-name: anna\r\nx-user-staff: 1"
            } else if head.contains("cookie: is=known") {
                "200 OK\r\nx-user-id: 8"
            } else if head.contains("cookie: is=broken") {
                "500 Internal Server Error"
            } else if head.contains("cookie: is=slow") {
                tokio::time::sleep(Duration::from_secs(5)).await;
                "200 OK"
            } else {
                "401 Unauthorized"
            };
            format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
    })
    .await;
    (format!("http://{}/auth", server.address), asked, server)
}

#[tokio::test]
async fn the_app_authenticates_requests() {
    let (url, asked, _server) = upstream().await;
    let app = app(&format!(
        "[auth.forward]\nurl = {url:?}\ntimeout = \"300ms\"\ncache = \"60s\"\n"
    ));
    for (cookie, expected) in [
        ("is=staff", 200),
        ("is=staff", 200),
        ("is=known", 403),
        ("is=nobody", 302),
        ("is=broken", 503),
    ] {
        let request = HttpCommunicator::get("/staff/").header("cookie", cookie);
        let response = request.send(&app).await;
        assert_eq!(response.status(), expected, "{cookie}");
        let retry = response.headers().contains_key("retry-after");
        assert_eq!(retry, expected == 503, "{cookie}");
    }
    assert_eq!(
        asked.load(Ordering::Relaxed),
        4,
        "the second answer was kept"
    );
    // Nobody is asked about a request that brings nothing.
    let plain = HttpCommunicator::get("/staff/").send(&app).await;
    assert_eq!(
        (plain.status().as_u16(), asked.load(Ordering::Relaxed)),
        (302, 4)
    );
    let mut socket = WebsocketCommunicator::new("/ws/")
        .header("cookie", "is=staff")
        .connect(&app)
        .await
        .unwrap();
    socket.send("who").await;
    assert_eq!(socket.receive_json::<Value>().await["user"], "anna");
    let begun = Instant::now();
    let slow = HttpCommunicator::get("/staff/").header("cookie", "is=slow");
    assert_eq!(slow.send(&app).await.status(), 503);
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn only_requests_that_need_an_unavailable_store_are_503() {
    let app = Application::parse(
        r#"
[server]
secret_key = "a key of the tests, long enough to sign"
[session]
store = "postgres://nobody@127.0.0.1:1/none"
timeout = "200ms"
[auth]
users = "postgres://nobody@127.0.0.1:1/none"
[[http.route]]
path = "/"
middleware = ["session", "auth"]
view = "respond"
[[websocket.route]]
path = "/ws/"
middleware = ["origin", "session", "auth"]
consumer = "echo"
"#,
    )
    .unwrap_or_else(|problems| panic!("{problems}"));
    let cookie = format!("sessionid={}", "a".repeat(32));
    let request = HttpCommunicator::get("/").header("cookie", &cookie);
    let response = request.send(&app).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    let handshake = WebsocketCommunicator::new("/ws/").header("cookie", &cookie);
    assert_eq!(handshake.connect(&app).await.unwrap_err().status(), 503);
    assert_eq!(HttpCommunicator::get("/").send(&app).await.status(), 200);
    assert!(
        WebsocketCommunicator::new("/ws/")
            .connect(&app)
            .await
            .is_ok()
    );
}
