//! Groups: what members are sent, by WebSocket and as Server-Sent Events.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use oneport::auth::User;
use oneport::channels::{Event, GroupName};
use oneport::gateway::Reply;
use oneport::testing::{Application, Connected, LiveServer, WebsocketCommunicator};
use serde_json::{Value, json};
use tokio::time::timeout;

const FILE: &str = "
    [session]
    store = 'memory'
    [auth]
    users = 'sqlite::memory:'
    [[http.route]]
    path = '/events/{room:slug}/'
    view = 'events'
    options = { group = 'chat_{room}', history = 3, heartbeat = '200ms' }
    [[websocket.route]]
    path = '/chat/{room:slug}/'
    consumer = 'chat'
    options = { group = 'chat_{room}', history = 3, presence = true, prefix = '> ', max_characters = 5 }
    [[websocket.route]]
    path = '/all/{room:slug}/'
    consumer = 'broadcast'
    options = { group = 'all_{room}' }
    [[websocket.route]]
    path = '/others/{room:slug}/'
    consumer = 'broadcast'
    options = { group = 'all_{room}', include_sender = false }
    [[websocket.route]]
    path = '/feed/'
    consumer = 'feed'
    middleware = ['origin', 'session', 'auth']
    options = { groups = ['news', 'user_{user.id}'] }
";

fn app() -> Application {
    Application::parse(FILE).unwrap()
}

async fn open(app: &Application, path: &str) -> Connected {
    WebsocketCommunicator::new(path).connect(app).await.unwrap()
}

/// Receives JSON without its time.
async fn hear(socket: &mut Connected) -> Value {
    let mut heard: Value = socket.receive_json().await;
    if let Some(fields) = heard.as_object_mut() {
        fields.remove("at");
        fields.remove("member"); // it names the process too
    }
    heard
}

#[tokio::test]
async fn chat_tells_messages_presence_history_and_errors() {
    let app = app();
    let mut one = open(&app, "/chat/lobby/").await;
    assert_eq!(
        hear(&mut one).await,
        json!({"type": "chat.join", "user": null, "members": 1})
    );
    for text in ["a", "b", "c", "d"] {
        one.send_json(&json!({"message": text})).await;
        assert_eq!(hear(&mut one).await["message"], format!("> {text}"));
    }
    let anna = User {
        id: "7".into(),
        name: "anna".into(),
        is_staff: false,
    };
    let mut two = WebsocketCommunicator::new("/chat/lobby/")
        .user(anna)
        .connect(&app)
        .await
        .unwrap();
    for text in ["b", "c", "d"] {
        assert_eq!(
            hear(&mut two).await,
            json!({"type": "chat.message", "message": format!("> {text}"), "user": null})
        );
    }
    let joined = json!({"type": "chat.join", "user": "anna", "members": 2});
    assert_eq!(
        (hear(&mut one).await, hear(&mut two).await),
        (joined.clone(), joined)
    );
    two.send_json(&json!({"type": "who"})).await;
    assert_eq!(
        hear(&mut two).await,
        json!({"type": "chat.who", "users": [null, "anna"], "members": 2})
    );
    for (said, code) in [
        ("{", "invalid_json"),
        ("[]", "invalid_message"),
        ("{\"message\": 1}", "invalid_message"),
        ("{\"message\": \"\"}", "invalid_message"),
        ("{\"message\": \"123456\"}", "too_long"),
    ] {
        two.send(said).await;
        assert_eq!(hear(&mut two).await["code"], code, "{said}");
    }
    two.disconnect().await;
    assert_eq!(
        hear(&mut one).await,
        json!({"type": "chat.leave", "user": "anna", "members": 1})
    );
}

/// Speaks, and returns what comes back without its time.
async fn say(socket: &mut Connected, said: Value) -> Value {
    socket.send_json(&said).await;
    hear(socket).await
}

#[tokio::test]
async fn nickname_is_never_a_user_and_only_an_anonymous_visitor_has_one() {
    let app = app();
    let mut one = open(&app, "/chat/names/").await;
    hear(&mut one).await;
    for nickname in [
        "anna",
        "Ännchen von Tharau",
        "李雷",
        "🚀",
        "❤\u{fe0f}",
        "O'Neill \"\\\"",
        "e\u{302}\u{301}\u{323}",
        "क्षिप्रा",
        "น้ำผึ้ง",
        "葛\u{e0100}城",
        "山田\u{3000}太郎",
        &"x".repeat(32),
    ] {
        let heard = say(&mut one, json!({"message": "a", "nickname": nickname})).await;
        assert_eq!(
            heard,
            json!({"type": "chat.message", "message": "> a", "user": null, "nickname": nickname})
        );
    }
    for nickname in [
        "",
        " anna",
        "anna\u{a0}",
        "an\nna",
        "an\u{0}na",
        "an\u{202e}na",
        "an\u{200b}na",
        "an\u{2066}na",
        "an\u{e0061}na",
        "an\u{2800}na",
        "\u{3164}",
        "\u{2800}",
        "\u{115f}",
        "\u{ffa0}",
        "\u{34f}",
        "\u{fe0f}",
        "\u{e0100}",
        "\u{180e}",
        "\u{301}a",
        &format!("a{}", "\u{301}".repeat(4)),
        &format!("a{}", "\u{301}".repeat(31)),
        &"x".repeat(33),
    ] {
        let heard = say(&mut one, json!({"message": "a", "nickname": nickname})).await;
        assert_eq!(heard["code"], "invalid_nickname", "{nickname:?}");
    }
    let heard = say(&mut one, json!({"message": "a", "nickname": 7})).await;
    assert_eq!(heard["code"], "invalid_message");
    let heard = say(&mut one, json!({"message": "a", "nickname": null})).await;
    assert_eq!(
        heard,
        json!({"type": "chat.message", "message": "> a", "user": null})
    );
    let ben = User {
        id: "8".into(),
        name: "ben".into(),
        is_staff: false,
    };
    let mut two = WebsocketCommunicator::new("/chat/other/")
        .user(ben)
        .connect(&app)
        .await
        .unwrap();
    hear(&mut two).await;
    for nickname in ["anna", ""] {
        assert_eq!(
            say(&mut two, json!({"message": "a", "nickname": nickname})).await,
            json!({"type": "chat.message", "message": "> a", "user": "ben"})
        );
    }
}

#[tokio::test]
async fn ref_of_a_message_comes_back_with_it() {
    let app = app();
    let mut one = open(&app, "/chat/refs/").await;
    hear(&mut one).await;
    let longest = "é".repeat(32);
    for reference in ["", "a1", &longest] {
        assert_eq!(
            say(&mut one, json!({"message": "a", "ref": reference})).await["ref"],
            reference
        );
    }
    for reference in [json!(format!("{longest}x")), json!(7), json!(["a"])] {
        let heard = say(&mut one, json!({"message": "a", "ref": reference})).await;
        assert_eq!(heard["code"], "invalid_message", "{reference}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn last_chat_leave_has_the_final_count_when_many_leave_at_once() {
    let app = app();
    for _ in 0..20 {
        let mut stays = open(&app, "/chat/crowd/").await;
        while hear(&mut stays).await["type"] != "chat.join" {} // it is in the group
        let mut others = Vec::new();
        for _ in 0..8 {
            others.push(open(&app, "/chat/crowd/").await);
        }
        let mut leaving = tokio::task::JoinSet::new();
        for other in others {
            leaving.spawn(async move { drop(other) });
        }
        leaving.join_all().await;
        let mut last = 0;
        let mut left = 0;
        while left < 8 {
            let heard = hear(&mut stays).await;
            left += usize::from(heard["type"] == "chat.leave");
            last = heard["members"].as_u64().unwrap();
        }
        assert_eq!(last, 1);
        drop(stays);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn broadcast_reaches_every_member_as_it_is() {
    let app = app();
    let (mut one, mut two, mut other) = (
        open(&app, "/all/x/").await,
        open(&app, "/others/x/").await,
        open(&app, "/all/y/").await,
    );
    while app
        .gateway()
        .services()
        .layer
        .group_len(&GroupName::new("all_x").unwrap())
        < 2
    {
        tokio::task::yield_now().await;
    }
    one.send("text").await;
    assert_eq!(one.receive().await.as_text(), Some("text"));
    assert_eq!(two.receive().await.as_text(), Some("text"));
    two.send(Bytes::from_static(&[0, 255])).await;
    assert_eq!(one.receive().await.as_bytes(), [0, 255]);
    assert!(two.receive_nothing(Duration::from_millis(50)).await);
    assert!(other.receive_nothing(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn feed_shows_events_as_they_are_and_is_for_listening() {
    let app = app();
    let anna = User {
        id: "7".into(),
        name: "anna".into(),
        is_staff: false,
    };
    let mut socket = WebsocketCommunicator::new("/feed/")
        .user(anna)
        .connect(&app)
        .await
        .unwrap();
    let layer = &app.gateway().services().layer;
    let group = GroupName::new("user_7").unwrap();
    while layer.group_len(&group) == 0 {
        tokio::task::yield_now().await;
    }
    layer
        .group_send(
            &group,
            Event::from_json(r#"{"type":"order.paid","n":1}"#).unwrap(),
            None,
        )
        .await
        .unwrap();
    assert_eq!(
        socket.receive().await.as_text(),
        Some(r#"{"type":"order.paid","n":1}"#)
    );
    layer
        .group_send(&group, Event::bytes(vec![1, 2]), None)
        .await
        .unwrap();
    assert_eq!(socket.receive().await.as_bytes(), [1, 2]);
    socket.send("x").await;
    assert_eq!(socket.receive_close().await.0, 1008);
}

/// None lost, none twice, in order for each sender, while members come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_gets_the_events_of_every_sender_in_order() {
    const SENDERS: usize = 4;
    const EVENTS: usize = 500;
    let app = app();
    let group = GroupName::new("all_busy").unwrap();
    let mut members = Vec::new();
    for _ in 0..60 {
        members.push(open(&app, "/all/busy/").await);
    }
    let layer = app.gateway().services().layer.clone();
    while layer.group_len(&group) < 60 {
        tokio::task::yield_now().await;
    }
    let mut sending = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let (layer, group) = (layer.clone(), group.clone());
        sending.spawn(async move {
            for at in 0..EVENTS {
                layer
                    .group_send(&group, Event::text(format!("{sender} {at}")), None)
                    .await
                    .unwrap();
                if at % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    let passing = open(&app, "/all/busy/").await;
    drop(passing);
    for member in &mut members {
        let mut next = [0; SENDERS];
        for _ in 0..SENDERS * EVENTS {
            let heard = member.receive().await;
            let (sender, at) = heard.as_text().unwrap().split_once(' ').unwrap();
            let sender: usize = sender.parse().unwrap();
            assert_eq!(at.parse::<usize>().unwrap(), next[sender]);
            next[sender] += 1;
        }
    }
    while sending.join_next().await.is_some() {}
}

/// Opens an event stream and reads until it says enough.
async fn read_events(
    app: &Application,
    last_id: Option<&str>,
    enough: impl Fn(&str) -> bool,
) -> String {
    let mut request = http::Request::builder()
        .uri("/events/lobby/")
        .header("host", "localhost");
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    let info = oneport::gateway::ConnectionInfo {
        peer: None,
        server: None,
        security: oneport::scope::Scheme::Plain,
        user: None,
        ..Default::default()
    };
    let Reply::Response(response) = app
        .gateway()
        .serve(request.body(oneport::http::Body::empty()).unwrap(), &info)
        .await
    else {
        panic!("expected a response");
    };
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut body, mut text) = (response.into_body(), String::new());
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    while !enough(&text) {
        assert!(
            tokio::time::Instant::now() < until,
            "expected more than {text:?}"
        );
        let frame = timeout(Duration::from_secs(5), body.frame())
            .await
            .expect("events in time")
            .unwrap()
            .unwrap();
        text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
    }
    text
}

#[tokio::test]
async fn event_stream_resumes_or_reports_a_gap() {
    let app = app();
    let layer = &app.gateway().services().layer;
    let group = GroupName::new("chat_lobby").unwrap();
    let send = async |text: &'static str| {
        layer
            .group_send(&group, Event::text(text), None)
            .await
            .unwrap();
    };
    let epoch = layer.node();
    // The first listener makes the group keep a history.
    read_events(&app, None, |text| {
        text.contains("retry: 3000") && text.contains(": still here")
    })
    .await;
    for text in ["one", "two\nlines", "three"] {
        send(text).await;
    }
    let text = read_events(&app, Some(&format!("{epoch:x}.1")), |text| {
        text.contains("three")
    })
    .await;
    assert!(
        text.contains(&format!("id: {epoch:x}.2\ndata: two\ndata: lines\n\n"))
            && !text.contains("one"),
        "{text}"
    );
    assert!(!text.contains("oneport.gap"), "{text}");
    send("four").await;
    let text = read_events(&app, Some(&format!("{epoch:x}.0")), |text| {
        text.contains("four")
    })
    .await;
    assert!(
        text.contains("event: oneport.gap") && !text.contains("data: one"),
        "{text}"
    );
    let text = read_events(&app, Some("0.2"), |text| text.contains("four")).await;
    assert!(
        text.contains("event: oneport.gap") && text.contains("two"),
        "{text}"
    );
}

#[tokio::test]
async fn event_stream_begins_with_its_position_so_that_nothing_before_the_first_event_is_lost() {
    let app = app();
    let layer = &app.gateway().services().layer;
    let group = GroupName::new("chat_lobby").unwrap();
    let first = read_events(&app, None, |text| text.contains("\n\n")).await;
    let position = first.strip_prefix("retry: 3000\nid: ").unwrap().trim_end();
    assert_eq!(position, layer.group_position(&group).to_string());
    let news = Event::text("while it was away");
    layer.group_send(&group, news, None).await.unwrap();
    let again = read_events(&app, Some(position), |text| text.contains("data: ")).await;
    assert!(again.contains("data: while it was away"), "{again}");
    assert!(!again.contains("oneport.gap"), "{again}");
    // An empty id is none: there is nothing that could be missing.
    for empty in ["", " "] {
        let text = read_events(&app, Some(empty), |text| text.contains("\n\n")).await;
        assert!(
            !text.contains("oneport.gap") && !text.contains("data: "),
            "{text}"
        );
    }
}

/// A group without a history is removed with its last member; its positions are not reused by its
/// successor.
#[tokio::test]
async fn position_of_a_removed_group_is_never_reused() {
    let app = app();
    let layer = &app.gateway().services().layer;
    let group = GroupName::new("brief").unwrap();
    let mut seen = Vec::new();
    for member in 1..4 {
        let mailbox = layer.mailbox();
        let subscriber: std::sync::Arc<dyn oneport::channels::Subscriber> = mailbox.clone();
        let keep = oneport::channels::GroupOptions::default();
        layer.group_add(&group, member, &subscriber, None, keep);
        seen.push(layer.group_position(&group));
        layer
            .group_send(&group, Event::text("x"), None)
            .await
            .unwrap();
        seen.push(layer.group_position(&group));
        layer.group_discard(&group, member);
    }
    let mut rising = seen.clone();
    rising.sort_unstable();
    rising.dedup();
    assert_eq!(rising, seen);
}

/// Cases 50 and 51: memory stays within the route's bounds, and the policy applies.
#[tokio::test]
async fn slow_client_is_closed_or_loses_events_by_the_policy_of_its_route() {
    for (policy, is_closed) in [
        ("close", true),
        ("drop_newest", false),
        ("drop_oldest", false),
    ] {
        let text = format!(
            "{FILE}\nsend_queue = '64 KiB'\nslow_client = '{policy}'\nwrite_timeout = '60s'\nclose_timeout = '300ms'\n"
        );
        let text = text.replace("'news', 'user_{user.id}'", "'news'");
        let server = LiveServer::start(&text).await.unwrap();
        let mut stream = tokio::net::TcpStream::connect(server.address())
            .await
            .unwrap();
        let handshake = crate::support::HANDSHAKE.replace("/echo/", "/feed/");
        tokio::io::AsyncWriteExt::write_all(&mut stream, handshake.as_bytes())
            .await
            .unwrap();
        crate::support::read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n")).await;
        let layer = &server.gateway().services().layer;
        let group = GroupName::new("news").unwrap();
        while layer.group_len(&group) == 0 {
            tokio::task::yield_now().await;
        }
        // 64 MiB to a client that reads nothing.
        for _ in 0..1024 {
            layer
                .group_send(&group, Event::text("x".repeat(64 * 1024 - 100)), None)
                .await
                .unwrap();
        }
        let ended = timeout(
            Duration::from_secs(2),
            server.gateway().sockets().all_ended(),
        )
        .await
        .is_ok();
        assert_eq!(ended, is_closed, "{policy}");
        drop(stream);
        server.stop().await;
    }
}
