//! Limits of groups: what a socket and an event stream over `groups_per_socket` or `groups_per_ip`
//! get, and when the places are free again.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use oneport::channels::{Event, GroupName, GroupOptions};
use oneport::gateway::{Registry, Reply};
use oneport::testing::{
    Application, Connected, HttpCommunicator, LiveServer, WebsocketCommunicator,
};
use oneport::websocket::{Close, Consumer, Context, Message};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{application, field, read_until};

/// `add NAME` and `frames NAME` join a group, `must NAME` ends the socket if it cannot, `leave
/// NAME` leaves one; `panic` panics.
struct Joiner;

impl Consumer for Joiner {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        let (verb, name) = message.as_text().and_then(|it| it.split_once(' ')).unwrap();
        let group = GroupName::new(name)?;
        let joined = match verb {
            "add" => cx.group_add(&group).await,
            "frames" => cx.group_add_frames(&group, GroupOptions::default()).await,
            "must" => {
                cx.group_add(&group).await?;
                Ok(())
            }
            "leave" => {
                cx.group_discard(&group);
                Ok(())
            }
            _ => panic!("as it was told"),
        };
        let reply = joined.map_or_else(|reached| reached.to_string(), |()| "done".to_owned());
        cx.send(reply);
        Ok(())
    }
}

fn app(limits: &str) -> Application {
    let text = format!(
        "
        [server]
        trusted_proxies = ['127.0.0.1']
        [server.limits]
        {limits}
        [[http.route]]
        path = '/events/{{room}}/'
        view = 'events'
        options = {{ group = 'room_{{room}}' }}
        [websocket]
        middleware = []
        [[websocket.route]]
        path = '/join/'
        consumer = 'joiner'
        [[websocket.route]]
        path = '/chat/{{room}}/'
        consumer = 'chat'
        options = {{ group = 'room_{{room}}', history = 5 }}
        [[websocket.route]]
        path = '/feed/'
        consumer = 'feed'
        options = {{ groups = ['one', 'two', 'three', 'one'] }}
        "
    );
    application(&Registry::builtin().consumer::<Joiner>("joiner"), &text)
}

async fn connect(app: &Application, path: &str, ip: &str) -> Result<Connected, Response<Bytes>> {
    let handshake = WebsocketCommunicator::new(path).header("x-forwarded-for", ip);
    handshake.connect(app).await
}

async fn join(app: &Application, ip: &str) -> Connected {
    connect(app, "/join/", ip).await.unwrap()
}

async fn tell(socket: &mut Connected, command: &str) -> String {
    socket.send(command.to_owned()).await;
    socket.receive().await.as_text().unwrap().to_owned()
}

/// Waits until a command succeeds: until the end of another socket has been noticed.
async fn until_done(socket: &mut Connected, command: &str) {
    for _ in 0..500 {
        if tell(socket, command).await == "done" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("expected a place for {command:?}");
}

fn len(app: &Application, group: &str) -> usize {
    let layer = &app.gateway().services().layer;
    layer.group_len(&GroupName::new(group).unwrap())
}

const OF_SOCKET: &str =
    "expected at most 3 groups (server.limits.groups_per_socket), found 3 before \"d\"";

#[tokio::test]
async fn consumer_learns_that_its_socket_is_in_as_many_groups_as_it_may() {
    let app = app("groups_per_socket = 3");
    let mut socket = join(&app, "192.0.2.1").await;
    for command in ["add a", "frames b", "add c", "add a", "frames a"] {
        assert_eq!(tell(&mut socket, command).await, "done", "{command}");
    }
    for command in ["add d", "frames d"] {
        assert_eq!(tell(&mut socket, command).await, OF_SOCKET);
    }
    assert_eq!((len(&app, "a"), len(&app, "d")), (1, 0));
    let layer = &app.gateway().services().layer;
    let group = GroupName::new("b").unwrap();
    layer
        .group_send(&group, Event::text("still"), None)
        .await
        .unwrap();
    assert_eq!(socket.receive().await.as_text(), Some("still"));
    for command in ["leave d", "leave b", "leave b", "add d"] {
        assert_eq!(tell(&mut socket, command).await, "done", "{command}");
    }
    assert_eq!((len(&app, "b"), len(&app, "d")), (0, 1));
    // Another socket of the same address has its own.
    let mut other = join(&app, "192.0.2.1").await;
    assert_eq!(tell(&mut other, "add d").await, "done");
}

#[tokio::test]
async fn question_mark_ends_the_socket_with_a_code_for_each_limit() {
    let limited = app("groups_per_socket = 1");
    let mut socket = join(&limited, "192.0.2.1").await;
    assert_eq!(tell(&mut socket, "must a").await, "done");
    socket.send("must b").await;
    let reason = "expected at most 1 groups".to_owned();
    assert_eq!(socket.receive_close().await, (1008, reason));
    let limited = app("groups_per_ip = 1");
    let mut socket = join(&limited, "192.0.2.1").await;
    assert_eq!(tell(&mut socket, "must a").await, "done");
    socket.send("must b").await;
    let reason = "too many groups of this address".to_owned();
    assert_eq!(socket.receive_close().await, (1013, reason));
}

#[tokio::test]
async fn places_of_an_address_are_free_again_when_a_socket_ends_in_any_way() {
    let app = app("groups_per_ip = 4");
    let mut stays = join(&app, "2001:db8::1").await;
    for end in ["close", "cut off", "panic", "limit"] {
        // Of the same 64 bits.
        let mut leaves = join(&app, "2001:db8::ffff:2").await;
        for command in ["add a", "add b", "frames c", "frames d"] {
            until_done(&mut leaves, command).await;
        }
        let reached = tell(&mut stays, "add a").await;
        let expected =
            "expected at most 4 groups (server.limits.groups_per_ip), found 4 before \"a\"";
        assert_eq!(reached, expected);
        let mut other = join(&app, "2001:db8:0:1::1").await;
        assert_eq!(tell(&mut other, "add a").await, "done", "another network");
        match end {
            "close" => assert_eq!(leaves.disconnect().await, 1000),
            "cut off" => drop(leaves),
            "panic" => {
                leaves.send("panic now").await;
                assert_eq!(leaves.receive_close().await.0, 1011);
            }
            _ => {
                leaves.send("must e").await;
                assert_eq!(leaves.receive_close().await.0, 1013);
            }
        }
        for command in ["add a", "add b", "add c", "add d"] {
            until_done(&mut stays, command).await;
        }
        for command in ["leave a", "leave b", "leave c", "leave d"] {
            assert_eq!(tell(&mut stays, command).await, "done");
        }
    }
}

#[tokio::test]
async fn handshake_of_a_consumer_that_would_join_too_many_groups_gets_429() {
    // The feed names three groups, one of them twice.
    for (limits, is_allowed) in [
        ("groups_per_socket = 3", true),
        ("groups_per_socket = 2", false),
        ("groups_per_ip = 3", true),
        ("groups_per_ip = 2", false),
    ] {
        let app = app(limits);
        match connect(&app, "/feed/", "192.0.2.1").await {
            Ok(_) => assert!(is_allowed, "{limits}"),
            Err(response) => {
                assert!(!is_allowed, "{limits}");
                assert_eq!(response.status(), 429);
                assert_eq!(field(&response, "retry-after"), Some("10"));
                let body = String::from_utf8_lossy(response.body());
                assert_eq!(body, "429 too many groups; try again later\n");
            }
        }
    }
}

#[tokio::test]
async fn groups_with_a_history_and_event_streams_count_for_their_address() {
    let app = app("groups_per_ip = 2");
    let chat = connect(&app, "/chat/a/", "192.0.2.1").await.unwrap();
    let stream = stream(&app, "192.0.2.1").await;
    while len(&app, "room_a") < 2 {
        tokio::task::yield_now().await;
    }
    let refused = connect(&app, "/chat/b/", "192.0.2.1").await.unwrap_err();
    assert_eq!(refused.status(), 429);
    let get = || HttpCommunicator::get("/events/b/").header("x-forwarded-for", "192.0.2.1");
    let refused = get().send(&app).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(field(&refused, "retry-after"), Some("10"));
    assert_eq!(len(&app, "room_b"), 0);
    let other = connect(&app, "/chat/b/", "192.0.2.2").await;
    assert!(other.is_ok());
    drop(stream); // its end is noticed at once
    let again = connect(&app, "/chat/b/", "192.0.2.1").await.unwrap();
    while len(&app, "room_b") < 2 {
        tokio::task::yield_now().await;
    }
    let refused = get().send(&app).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(chat.disconnect().await, 1000);
    assert_eq!(again.disconnect().await, 1000);
}

/// Opens an event stream of the room `a`, and reads its first part.
async fn stream(app: &Application, ip: &str) -> oneport::http::Body {
    let request = http::Request::builder()
        .uri("/events/a/")
        .header("host", "localhost")
        .header("x-forwarded-for", ip)
        .body(oneport::http::Body::empty());
    let info = oneport::gateway::ConnectionInfo {
        peer: Some(([127, 0, 0, 1], 40_000).into()),
        ..Default::default()
    };
    let Reply::Response(response) = app.gateway().serve(request.unwrap(), &info).await else {
        panic!("expected a response");
    };
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert!(body.frame().await.is_some());
    body
}

/// hyper does not read what follows the request of an event stream, and sees no end behind it.
#[tokio::test]
async fn place_of_an_event_stream_is_free_again_although_its_client_sent_more() {
    let text = "
        [server.limits]
        groups_per_ip = 1
        [[http.route]]
        path = '/events/{room}/'
        view = 'events'
        options = { group = 'room_{room}', heartbeat = '1h' }
    ";
    let server = LiveServer::start(text).await.unwrap();
    let get = |room: &str| format!("GET /events/{room}/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for (end, behind) in [
        ("closes", "G".to_owned()),
        ("resets", get("next").repeat(10_000)),
        ("half-closes", get("next")),
    ] {
        let mut stream = opened(&server, &get("one")).await;
        let _ = stream.try_write(behind.as_bytes());
        match end {
            "closes" => drop(stream),
            "resets" => {
                stream.set_zero_linger().unwrap();
                drop(stream);
            }
            _ => {
                stream.shutdown().await.unwrap();
                // The end of its response, then a whole one for the request behind it.
                let rest = read_until(&mut stream, |_| false).await;
                let rest = String::from_utf8_lossy(&rest);
                assert!(rest.starts_with("0\r\n\r\nHTTP/1.1 200"), "{rest}");
                assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest}");
            }
        }
    }
    opened(&server, &get("last")).await;
}

/// Opens an event stream as soon as its address has a place, and reads the first part.
async fn opened(server: &LiveServer, request: &str) -> TcpStream {
    for _ in 0..500 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let is_refused = |read: &[u8]| read.starts_with(b"HTTP/1.1 429");
        let is_begun = |read: &[u8]| is_refused(read) || read.ends_with(b"\n\n\r\n");
        let read = read_until(&mut stream, is_begun).await;
        if !is_refused(&read) {
            assert!(read.starts_with(b"HTTP/1.1 200"), "{read:?}");
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("expected a place for an event stream");
}
