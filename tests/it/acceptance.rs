//! Acceptance: the cases of Channels and Daphne that concern routing, the handshake and HTTP,
//! through the test kit.

use oneport::testing::{Application, HttpCommunicator, WebsocketCommunicator};

const FILE: &str = "
    [session]
    store = 'memory'
    [auth]
    users = 'sqlite::memory:'
    [[http.route]]
    path = '/both/'
    view = 'respond'
    options = { body = 'http' }
    [[http.route]]
    path = '/page/{number:int}/'
    view = 'health'
    [[websocket.route]]
    path = '/both/'
    consumer = 'echo'
    subprotocols = ['b', 'a']
    [[websocket.route]]
    path = '/room/{room:slug}/'
    consumer = 'broadcast'
    options = { group = 'room_{room}' }
    [[websocket.route]]
    path = '/open/'
    consumer = 'echo'
    missing_origin = 'allow'
    [[websocket.route]]
    path = '/mine/'
    consumer = 'feed'
    middleware = ['origin', 'session', 'auth']
    options = { groups = ['user_{user.id}'] }
";

fn app() -> Application {
    Application::parse(FILE).unwrap()
}

async fn status(path: &str) -> u16 {
    HttpCommunicator::get(path)
        .send(&app())
        .await
        .status()
        .as_u16()
}

async fn refusal(socket: WebsocketCommunicator) -> (u16, String) {
    let response = socket.connect(&app()).await.expect_err("a refusal");
    (
        response.status().as_u16(),
        String::from_utf8_lossy(response.body()).into_owned(),
    )
}

/// Case 1.
#[tokio::test]
async fn request_and_handshake_on_one_path_reach_their_own_tables() {
    let app = app();
    assert_eq!(
        HttpCommunicator::get("/both/").send(&app).await.body(),
        "http"
    );
    let mut socket = WebsocketCommunicator::new("/both/")
        .connect(&app)
        .await
        .unwrap();
    socket.send("websocket").await;
    assert_eq!(socket.receive().await.as_text(), Some("websocket"));
}

/// Cases 2 and 14.
#[tokio::test]
async fn handshake_without_a_route_gets_404_and_a_request_for_a_socket_426() {
    assert_eq!(refusal(WebsocketCommunicator::new("/page/1/")).await.0, 404);
    assert_eq!(refusal(WebsocketCommunicator::new("/none/")).await.0, 404);
    let response = HttpCommunicator::get("/open/").send(&app()).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["upgrade"]),
        (426, &"websocket".parse().unwrap())
    );
}

/// Cases 4 and 6.
#[tokio::test]
async fn converters_and_slashes_decide_on_the_status() {
    assert_eq!(status("/page/2012/").await, 200);
    assert_eq!(status("/page/2012").await, 308);
    assert_eq!(status("/page/-1/").await, 404);
    assert_eq!(status("/page/x/").await, 404);
    assert_eq!(status("//page/1/").await, 404);
}

#[tokio::test]
async fn other_methods_get_405_with_allow_and_options_204() {
    let app = app();
    let response = HttpCommunicator::new(http::Method::POST, "/page/1/")
        .send(&app)
        .await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["allow"]),
        (405, &"GET, HEAD, OPTIONS".parse().unwrap())
    );
    let response = HttpCommunicator::new(http::Method::OPTIONS, "/page/1/")
        .send(&app)
        .await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["allow"]),
        (204, &"GET, HEAD, OPTIONS".parse().unwrap())
    );
    assert_eq!(
        HttpCommunicator::new(http::Method::HEAD, "/page/1/")
            .send(&app)
            .await
            .status(),
        200
    );
}

/// Cases 16 to 23.
#[tokio::test]
async fn origin_is_judged_before_101() {
    let app = app();
    for good in [
        "http://localhost",
        "https://localhost:3000",
        "http://127.0.0.1:8000",
        "http://[::1]:1",
    ] {
        assert!(
            WebsocketCommunicator::new("/both/")
                .header("origin", good)
                .connect(&app)
                .await
                .is_ok(),
            "{good}"
        );
    }
    for bad in [
        "http://evil.example",
        "null",
        "something-invalid",
        "http://[::1",
        "http://xlocalhost",
    ] {
        assert_eq!(
            refusal(WebsocketCommunicator::new("/both/").header("origin", bad))
                .await
                .0,
            403,
            "{bad}"
        );
    }
    assert_eq!(
        refusal(WebsocketCommunicator::new("/both/").header("origin", ""))
            .await
            .0,
        403
    );
    assert!(
        WebsocketCommunicator::new("/open/")
            .header("origin", "")
            .connect(&app)
            .await
            .is_ok()
    );
}

/// Case 25.
#[tokio::test]
async fn rejected_handshakes_quote_what_was_found() {
    let (status, sentence) =
        refusal(WebsocketCommunicator::new("/both/").header("sec-websocket-version", "8")).await;
    assert_eq!(
        (status, sentence.as_str()),
        (426, "426 expected Sec-WebSocket-Version 13, found \"8\"\n")
    );
    assert_eq!(
        refusal(WebsocketCommunicator::new("/both/").header("sec-websocket-key", "short"))
            .await
            .0,
        400
    );
    assert_eq!(
        refusal(WebsocketCommunicator::new("/both/").header("host", ""))
            .await
            .0,
        400
    );
}

/// Case 27.
#[tokio::test]
async fn first_offered_subprotocol_that_the_route_lists_is_chosen() {
    let app = app();
    let chosen = |offered: &'static [&'static str]| {
        let app = app.clone();
        async move {
            let socket = WebsocketCommunicator::new("/both/")
                .subprotocols(offered)
                .connect(&app)
                .await
                .unwrap();
            socket.subprotocol().map(str::to_owned)
        }
    };
    assert_eq!(chosen(&["x", "a", "b"]).await.as_deref(), Some("a"));
    assert_eq!(chosen(&["x"]).await, None);
}

#[tokio::test]
async fn group_pattern_with_a_user_denies_an_anonymous_visitor() {
    assert_eq!(refusal(WebsocketCommunicator::new("/mine/")).await.0, 403);
    let user = oneport::auth::User {
        id: "7".into(),
        name: "anna".into(),
        is_staff: false,
    };
    assert!(
        WebsocketCommunicator::new("/mine/")
            .user(user)
            .connect(&app())
            .await
            .is_ok()
    );
}

/// Case 32, and encodings that are rejected.
#[tokio::test]
async fn encoded_slash_makes_no_segment_and_dots_are_refused() {
    assert_eq!(status("/page%2F1/").await, 404);
    assert_eq!(status("/%70age/1/").await, 200);
    assert_eq!(status("/page/%2e%2e/").await, 400);
    assert_eq!(status("/page/%zz/").await, 400);
}
