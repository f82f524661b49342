//! Limits: rates of connections, requests, handshakes and messages.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use oneport::auth::User;
use oneport::config::Config;
use oneport::gateway::{Registry, Table, compile};
use oneport::pace::Pace;
use oneport::testing::{Application, HttpCommunicator, LiveServer, WebsocketCommunicator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{DEADLINE, application, close_code, field, frame, open, read_until};

fn app(text: &str) -> Application {
    application(&Registry::builtin(), text)
}

fn table(text: &str) -> Table {
    let (config, _) = Config::parse("test.toml", text, Path::new("."), &|_| None).unwrap();
    compile(&config, &Registry::builtin()).unwrap().0
}

fn user(id: &str) -> User {
    User {
        id: id.to_owned(),
        name: id.to_owned(),
        is_staff: false,
    }
}

/// A route `/` whose requests are limited.
fn limited(rate_limit: &str) -> String {
    format!(
        "[[http.route]]\npath = '/'\nname = 'home'\nmiddleware = ['rate_limit']\nview = 'respond'\nrate_limit = {rate_limit}\n"
    )
}

async fn status(app: &Application, request: HttpCommunicator) -> u16 {
    request.send(app).await.status().as_u16()
}

fn get() -> HttpCommunicator {
    HttpCommunicator::get("/")
}

// --- Requests and handshakes

#[tokio::test]
async fn requests_over_the_rate_get_429_and_all_responses_say_what_is_left() {
    let app = app(&limited("{ rate = '1/m', burst = 2 }"));
    for left in ["1", "0"] {
        let response = get().send(&app).await;
        assert_eq!(response.status(), 200);
        assert_eq!(
            field(&response, "ratelimit-policy"),
            Some("\"address\";q=2;w=120")
        );
        let fields = field(&response, "ratelimit").unwrap();
        assert!(
            fields.starts_with(&format!("\"address\";r={left};t=")),
            "{fields}"
        );
        assert_eq!(field(&response, "retry-after"), None);
    }
    let response = get().send(&app).await;
    assert_eq!(response.status(), 429);
    assert_eq!(field(&response, "retry-after"), Some("60"));
    assert_eq!(field(&response, "ratelimit"), Some("\"address\";r=0;t=120"));
    assert_eq!(response.body(), "429 too many requests; try again later\n");
}

#[tokio::test]
async fn each_key_has_its_own_count() {
    let text = "
        [[http.route]]
        path = '/users/'
        middleware = ['auth', 'rate_limit']
        view = 'respond'
        rate_limit = { rate = '1/h', by = 'user' }
        [[http.route]]
        path = '/keys/'
        middleware = ['rate_limit']
        view = 'respond'
        rate_limit = { rate = '1/h', by = 'header:X-Key' }
        [[http.route]]
        path = '/rooms/{room}/'
        middleware = ['rate_limit']
        view = 'respond'
        rate_limit = { rate = '1/h', by = 'param:room' }
        [auth.bearer]
        key = 'a secret of thirty-two bytes and more'
    ";
    let app = app(text);
    let of_user = |id: &str| HttpCommunicator::get("/users/").user(user(id));
    let of_key = |key: &str| HttpCommunicator::get("/keys/").header("x-key", key);
    let of_room = |room: &str| HttpCommunicator::get(&format!("/rooms/{room}/"));
    for (one, again, other) in [
        (of_user("1"), of_user("1"), of_user("2")),
        (of_key("a"), of_key("a"), of_key("b")),
        (of_room("a"), of_room("a"), of_room("b")),
    ] {
        assert_eq!(status(&app, one).await, 200);
        assert_eq!(status(&app, again).await, 429);
        assert_eq!(status(&app, other).await, 200);
    }
    // Without a user, and without the field: the address.
    for path in ["/users/", "/keys/"] {
        assert_eq!(
            status(&app, HttpCommunicator::get(path)).await,
            200,
            "{path}"
        );
        assert_eq!(
            status(&app, HttpCommunicator::get(path)).await,
            429,
            "{path}"
        );
    }
    assert_eq!(status(&app, of_key("")).await, 429);
}

#[tokio::test]
async fn routes_of_several_hosts_and_equal_limits_have_counts_of_their_own() {
    let route = |host: &str| {
        format!(
            "{}host = '{host}'\n",
            limited("[{ rate = '2/h' }, { rate = '2/h' }]")
        )
        .replace("name = 'home'\n", "")
    };
    let app = app(&(route("a.example") + &route("b.example")));
    for host in ["a.example", "b.example"] {
        for expected in [200, 200, 429] {
            let request = get().header("host", host);
            assert_eq!(status(&app, request).await, expected, "{host}");
        }
    }
}

#[tokio::test]
async fn a_request_that_one_limit_refuses_counts_for_none() {
    let app = app(&limited(
        "[{ rate = '3/h' }, { rate = '1/h', by = 'header:x-key' }]",
    ));
    let of_key = |key: &str| get().header("x-key", key);
    assert_eq!(status(&app, of_key("a")).await, 200);
    for _ in 0..10 {
        let response = of_key("a").send(&app).await;
        assert_eq!(response.status(), 429);
        let left = field(&response, "ratelimit").unwrap();
        assert!(left.starts_with("\"address\";r=2;t="), "{left}");
        assert!(left.contains("\"header:x-key\";r=0;t="), "{left}");
    }
    assert_eq!(status(&app, of_key("b")).await, 200);
    assert_eq!(status(&app, of_key("c")).await, 200);
    assert_eq!(status(&app, of_key("d")).await, 429);
}

#[tokio::test]
async fn handshakes_are_limited_like_requests() {
    let app = app("
        [[websocket.route]]
        path = '/echo/'
        middleware = ['rate_limit']
        consumer = 'echo'
        rate_limit = { rate = '2/h' }
    ");
    let handshake = || WebsocketCommunicator::new("/echo/").connect(&app);
    let mut sockets = Vec::new();
    for _ in 0..2 {
        sockets.push(handshake().await.unwrap());
    }
    let denied = handshake().await.err().unwrap();
    assert_eq!(denied.status(), 429);
    assert!(field(&denied, "retry-after").is_some());
    assert!(
        field(&denied, "ratelimit")
            .unwrap()
            .starts_with("\"address\";r=0")
    );
}

#[tokio::test]
async fn the_sections_limit_counts_all_its_routes_together() {
    let text = "
        [http]
        middleware = ['rate_limit']
        rate_limit = { rate = '2/h' }
        [[http.route]]
        path = '/a/'
        view = 'respond'
        [[http.route]]
        path = '/b/'
        view = 'respond'
        [[http.route]]
        path = '/own/'
        view = 'respond'
        rate_limit = { rate = '2/h' }
    ";
    let app = app(text);
    for (path, expected) in [("/a/", 200), ("/b/", 200), ("/a/", 429), ("/own/", 200)] {
        let found = status(&app, HttpCommunicator::get(path)).await;
        assert_eq!(found, expected, "{path}");
    }
}

#[tokio::test]
async fn a_reload_keeps_the_counts_of_a_limit_that_it_does_not_change() {
    let text = limited("{ rate = '1/h' }");
    let app = app(&text);
    assert_eq!(status(&app, get()).await, 200);
    let moved = format!("[[http.route]]\npath = '/other/'\nview = 'respond'\n{text}");
    app.gateway().replace(table(&moved), Pace::AT_ONCE).await;
    assert_eq!(status(&app, get()).await, 429);
    let changed = limited("{ rate = '2/h' }");
    app.gateway().replace(table(&changed), Pace::AT_ONCE).await;
    assert_eq!(status(&app, get()).await, 200);
}

#[tokio::test]
async fn a_limit_without_its_middleware_does_nothing() {
    let app = app("[[http.route]]\npath = '/'\nview = 'respond'\nrate_limit = { rate = '1/h' }\n");
    for _ in 0..3 {
        let response = get().send(&app).await;
        assert_eq!(
            (response.status().as_u16(), field(&response, "ratelimit")),
            (200, None)
        );
    }
}

#[tokio::test]
async fn refusals_of_earlier_middleware_are_not_counted() {
    let app = app("
        [[http.route]]
        path = '/'
        middleware = ['hosts', 'rate_limit']
        view = 'respond'
        rate_limit = { rate = '1/h' }
    ");
    for _ in 0..3 {
        let response = get().header("host", "evil.example").send(&app).await;
        assert_eq!(
            (response.status().as_u16(), field(&response, "ratelimit")),
            (400, None)
        );
    }
    assert_eq!(
        status(&app, HttpCommunicator::new(Method::HEAD, "/")).await,
        200
    );
    assert_eq!(status(&app, get()).await, 429);
}

/// Sends a request on a connection of its own and returns the status line and the fields.
async fn request(server: &LiveServer, before: &str, fields: &str) -> String {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    request_over(stream, before, fields).await
}

/// The same from another address of this machine.
async fn request_from(server: &LiveServer, address: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    let stream = socket.connect(server.address()).await.unwrap();
    request_over(stream, "", "").await
}

async fn request_over(mut stream: TcpStream, before: &str, fields: &str) -> String {
    let head =
        format!("{before}GET / HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    String::from_utf8(read_until(&mut stream, |_| false).await).unwrap()
}

#[tokio::test]
async fn the_address_is_that_of_the_client_behind_a_trusted_proxy() {
    let text = format!(
        "[server]\ntrusted_proxies = ['127.0.0.1']\n{}",
        limited("{ rate = '1/h' }")
    );
    let server = LiveServer::start(&text).await.unwrap();
    let forwarded = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    let announced = |client: &str| format!("PROXY TCP4 {client} 192.0.2.80 50000 80\r\n");
    for (before, fields, expected) in [
        (String::new(), forwarded("203.0.113.1"), "200"),
        (String::new(), forwarded("203.0.113.1"), "429"),
        (String::new(), forwarded("203.0.113.2"), "200"),
        // The same client, by the header of the PROXY protocol.
        (announced("203.0.113.2"), String::new(), "429"),
        (announced("203.0.113.3"), String::new(), "200"),
        // The field of an untrusted client is ignored.
        (announced("203.0.113.3"), forwarded("203.0.113.4"), "429"),
        (String::new(), forwarded("2001:db8::1"), "200"),
        (String::new(), forwarded("2001:db8::2"), "429"),
    ] {
        let response = request(&server, &before, &fields).await;
        assert_eq!(&response[9..12], expected, "{before}{fields}{response}");
    }
}

// --- Messages

/// A route `/echo/` whose messages are limited.
fn echo(rate_limit: &str) -> String {
    format!(
        "[[websocket.route]]\npath = '/echo/'\nname = 'echo'\nconsumer = 'echo'\nclose_timeout = '1s'\nrate_limit = {rate_limit}\n"
    )
}

#[tokio::test]
async fn messages_over_the_rate_are_dropped() {
    let app = app(&echo("{ rate = '3/h', by = 'connection', over = 'drop' }"));
    let mut socket = WebsocketCommunicator::new("/echo/")
        .connect(&app)
        .await
        .unwrap();
    for number in 0..10 {
        socket.send(format!("{number}")).await;
    }
    for number in 0..3 {
        assert_eq!(socket.receive().await.as_text(), Some(&*number.to_string()));
    }
    assert!(socket.receive_nothing(Duration::from_millis(100)).await);
    // Another socket has counters of its own.
    let mut other = WebsocketCommunicator::new("/echo/")
        .connect(&app)
        .await
        .unwrap();
    other.send("hi").await;
    assert_eq!(other.receive().await.as_text(), Some("hi"));
}

#[tokio::test]
async fn messages_over_the_rate_end_the_socket_after_those_before_them() {
    let text = echo("{ rate = '2/h', by = 'connection', over = 'close' }");
    let server = LiveServer::start(&text).await.unwrap();
    let mut stream = open(&server).await;
    let burst: Vec<u8> = (0..5).flat_map(|_| frame(0x81, b"hi")).collect();
    stream.write_all(&burst).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    let echoed = b"\x81\x02hi\x81\x02hi";
    assert!(answer.starts_with(echoed), "{answer:?}");
    assert_eq!(close_code(&answer[echoed.len()..]), 1008);
    assert!(answer.ends_with(b"the client sends too much"), "{answer:?}");
}

#[tokio::test]
async fn pings_count_as_messages_and_pongs_by_their_bytes() {
    let text = echo("{ rate = '2/h', bytes = '1 kB/h', by = 'connection', over = 'close' }");
    let server = LiveServer::start(&format!("{text}max_message = '1 kB'\n"))
        .await
        .unwrap();
    let mut stream = open(&server).await;
    for _ in 0..2 {
        stream.write_all(&frame(0x89, b"p")).await.unwrap();
        let pong = read_until(&mut stream, |read| read.len() == 3).await;
        assert_eq!(pong, b"\x8a\x01p");
    }
    stream.write_all(&frame(0x8a, &[0; 100])).await.unwrap();
    stream.write_all(&frame(0x89, b"p")).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert_eq!(close_code(&answer), 1008);
    let mut stream = open(&server).await;
    for _ in 0..9 {
        stream.write_all(&frame(0x8a, &[0; 125])).await.unwrap();
    }
    let answer = read_until(&mut stream, |_| false).await;
    assert_eq!(close_code(&answer), 1008);
}

#[tokio::test]
async fn delayed_messages_arrive_at_the_rate_and_none_is_lost() {
    let text = echo("{ rate = '100/s', burst = 10, over = 'delay' }");
    let server = LiveServer::start(&text).await.unwrap();
    let mut stream = open(&server).await;
    let begun = Instant::now();
    let messages: Vec<u8> = (0..60_u8).flat_map(|at| frame(0x82, &[at])).collect();
    stream.write_all(&messages).await.unwrap();
    let expected: Vec<u8> = (0..60_u8).flat_map(|at| [0x82, 1, at]).collect();
    let answer = read_until(&mut stream, |read| read.len() >= expected.len()).await;
    let took = begun.elapsed();
    assert_eq!(answer, expected);
    // Fifty of them after the burst.
    assert!(took >= Duration::from_millis(480), "{took:?}");
    // A close frame behind a pause is still answered.
    let mut last = messages[..7 * 30].to_vec();
    last.extend(frame(0x88, &1000_u16.to_be_bytes()));
    stream.write_all(&last).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert_eq!(close_code(&answer[30 * 3..]), 1000);
}

#[tokio::test]
async fn a_delayed_client_comes_to_a_halt_and_is_not_timed_out() {
    let text = echo("{ bytes = '64 KiB/s', over = 'delay' }");
    let text =
        format!("{text}ping_interval = '200ms'\npong_timeout = '200ms'\nidle_timeout = '300ms'\n");
    let server = LiveServer::start(&text).await.unwrap();
    let mut stream = open(&server).await;
    // Two messages of the largest size: after the second the socket pauses for a second.
    let message = frame(0x82, &[7; 65_000]);
    let begun = Instant::now();
    let (mut read, mut write) = stream.split();
    let sending = async {
        for _ in 0..3 {
            write.write_all(&message).await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let receiving = async {
        let mut received = 0;
        let mut buffer = vec![0; 65_536];
        while received < 3 * 65_004 {
            received += read.read(&mut buffer).await.unwrap();
        }
    };
    let done = tokio::time::timeout(DEADLINE * 2, async {
        tokio::select! {
            () = sending => unreachable!(),
            () = receiving => {}
        }
    });
    done.await.expect("all messages");
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn items_without_a_payload_count_against_a_limit_of_bytes() {
    let text = echo("{ bytes = '1 B/h', by = 'connection', over = 'close' }");
    let server = LiveServer::start(&format!("{text}max_message = '1 kB'\n"))
        .await
        .unwrap();
    for first in [0x8a, 0x81] {
        let mut stream = open(&server).await;
        let items: Vec<u8> = (0..300).flat_map(|_| frame(first, b"")).collect();
        stream.write_all(&items).await.unwrap();
        let answer = read_until(&mut stream, |_| false).await;
        let close = answer.iter().position(|byte| *byte == 0x88).unwrap();
        assert_eq!(close_code(&answer[close..]), 1008);
    }
}

/// A pause ends with its client, though bytes that it has sent before are unread.
#[tokio::test]
async fn a_delayed_client_that_leaves_is_noticed() {
    let upstream = LiveServer::start("[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\n");
    let upstream = upstream.await.unwrap();
    let limit = "{ rate = '2/h', by = 'connection', over = 'delay' }";
    for text in [echo(limit), tunnel(&upstream, limit)] {
        let server = LiveServer::start(&format!("{text}ping_interval = '0s'\n"))
            .await
            .unwrap();
        let mut stream = open(&server).await;
        let messages = frame(0x81, b"hi").repeat(3);
        stream.write_all(&messages).await.unwrap();
        let answer = read_until(&mut stream, |read| read.len() == 12).await;
        assert_eq!(answer, b"\x81\x02hi".repeat(3));
        // In the kernel, and never read.
        stream.write_all(&messages).await.unwrap();
        assert_eq!(server.gateway().sockets().len(), 1);
        drop(stream);
        until(|| server.gateway().sockets().is_empty(), "the end").await;
    }
}

/// Each socket of an address waits for what the others owe, so that none adds more than an item.
#[tokio::test]
async fn sockets_that_reconnect_do_not_add_to_a_debt() {
    let text = echo("{ bytes = '40 KiB/s', by = 'address', over = 'delay' }");
    let text = format!("{text}max_message = '40 KiB'\nping_interval = '0s'\n");
    let server = LiveServer::start(&text).await.unwrap();
    let message = frame(0x82, &[7; 40_000]);
    let mut left = Vec::new();
    for _ in 0..30 {
        let mut stream = open(&server).await;
        stream.write_all(&message).await.unwrap();
        left.push(stream);
    }
    drop(left);
    // Those that have left hold no place, though what they sent was not read.
    until(|| server.gateway().sockets().is_empty(), "the ends").await;
    let mut stream = open(&server).await;
    let echoing = async {
        for _ in 0..2 {
            stream.write_all(&frame(0x81, b"hi")).await.unwrap();
            let answer = read_until(&mut stream, |read| read.len() == 4).await;
            assert_eq!(answer, b"\x81\x02hi");
        }
    };
    let echoed = tokio::time::timeout(Duration::from_secs(8), echoing).await;
    assert!(echoed.is_ok(), "thirty messages would be paid off in 29 s");
}

/// A socket that floods does not keep another of its address from being heard.
#[tokio::test]
async fn sockets_that_share_a_limit_take_turns() {
    let text = echo("{ rate = '20/s', burst = 1, by = 'address', over = 'delay' }");
    let server = LiveServer::start(&text).await.unwrap();
    let mut flood = open(&server).await;
    let messages = frame(0x81, b"flood").repeat(1_000);
    flood.write_all(&messages).await.unwrap();
    read_until(&mut flood, |read| !read.is_empty()).await;
    let mut stream = open(&server).await;
    let echoing = async {
        for _ in 0..5 {
            stream.write_all(&frame(0x81, b"hi")).await.unwrap();
            let answer = read_until(&mut stream, |read| read.len() == 4).await;
            assert_eq!(answer, b"\x81\x02hi");
        }
    };
    let echoed = tokio::time::timeout(Duration::from_secs(5), echoing).await;
    assert!(echoed.is_ok(), "every second message is the other's");
}

/// A message that is never whole counts with the bytes that have arrived, in whatever way its
/// socket ends: new connections do not evade a limit.
#[tokio::test]
async fn messages_that_are_never_whole_count_by_their_bytes() {
    let fragment = |bytes: usize| frame(0x02, &vec![7; bytes]);
    let text = |last: u8| frame(0x81, &[&[b'a'; 3_900][..], &[last]].concat());
    let unfinished = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    for (what, bytes) in [
        ("a frame without its end", unfinished(fragment(4_000))),
        ("a message without its last fragment", fragment(3_999)),
        (
            "fragments that are no text",
            [frame(0x01, &[b'a'; 3_900]), frame(0x80, b"\xc3")].concat(),
        ),
        ("a frame that is no text", text(0xc3)),
        (
            "a ping of two pieces behind a fragment",
            [fragment(3_900), frame(0x09, b"")].concat(),
        ),
    ] {
        let route = echo("{ bytes = '4 kB/s', by = 'address', over = 'delay' }");
        let server = LiveServer::start(&format!("{route}max_message = '4 kB'\n"))
            .await
            .unwrap();
        let begun = Instant::now();
        for _ in 0..2 {
            let mut stream = open(&server).await;
            stream.write_all(&bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            read_until(&mut stream, |_| false).await;
        }
        until(|| server.gateway().sockets().is_empty(), "the ends").await;
        let mut stream = open(&server).await;
        stream.write_all(&frame(0x81, b"hi")).await.unwrap();
        let answer = read_until(&mut stream, |read| read.len() == 4).await;
        assert_eq!(answer, b"\x81\x02hi", "{what}");
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(500), "{what}: {waited:?}");
    }
}

/// The first message has to come in time, though a limit delays what the client sends before it.
#[tokio::test]
async fn first_message_is_not_put_off_by_a_limit() {
    let upstream = LiveServer::start("[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\n");
    let upstream = upstream.await.unwrap();
    let by_address = "{ rate = '20/s', burst = 1, by = 'address', over = 'delay' }";
    let by_bytes = "{ bytes = '2 kB/s', by = 'connection', over = 'delay' }";
    let by_rate = "{ rate = '20/s', burst = 1, by = 'connection', over = 'delay' }";
    let fragment = frame(0x02, &[7; 5_000]);
    let drip = |sent: usize| {
        let drops = fragment[sent..].chunks(1).take(400);
        (
            fragment[..sent].to_vec(),
            drops.map(<[u8]>::to_vec).collect::<Vec<_>>(),
        )
    };
    let pings = (frame(0x89, b"").repeat(100), vec![frame(0x89, b""); 400]);
    let echo = |limit| format!("{}max_message = '10 kB'\n", echo(limit));
    let tunnel = |limit| format!("{}max_message = '1 kB'\n", tunnel(&upstream, limit));
    for (what, route, (first, later), floods) in [
        ("a drip beside floods", echo(by_address), drip(9), 2),
        (
            "a drip beside floods in a tunnel",
            tunnel(by_address),
            drip(9),
            2,
        ),
        (
            "a drip over a limit of bytes",
            tunnel(by_bytes),
            drip(3_000),
            0,
        ),
        ("pings", echo(by_rate), pings.clone(), 0),
        ("pings in a tunnel", tunnel(by_rate), pings, 0),
    ] {
        let route = format!("{route}first_message_timeout = '500ms'\n");
        let server = LiveServer::start(&route).await.unwrap();
        let mut flooding = Vec::new();
        for _ in 0..floods {
            let mut stream = open(&server).await;
            stream
                .write_all(&frame(0x81, b"flood").repeat(1_000))
                .await
                .unwrap();
            flooding.push(stream);
        }
        let mut stream = open(&server).await;
        stream.write_all(&first).await.unwrap();
        let (mut read, mut write) = stream.split();
        let dripping = async {
            for bytes in &later {
                if write.write_all(bytes).await.is_err() {
                    return std::future::pending().await; // the reader knows why
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            false
        };
        let reading = async {
            let mut received = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                received.extend_from_slice(&buffer[..count]);
            }
            let reason = b"the first message did not arrive in time";
            received.ends_with(reason)
        };
        let is_ended = tokio::select! {
            is_ended = dripping => is_ended,
            is_ended = reading => is_ended,
        };
        assert!(is_ended, "{what}");
    }
}

/// What others owe delays the first message, and is not held against the client.
#[tokio::test]
async fn first_message_that_waits_for_others_is_in_time() {
    let upstream = LiveServer::start("[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\n");
    let upstream = upstream.await.unwrap();
    let limit = "{ rate = '1/s', burst = 1, by = 'address', over = 'delay' }";
    for route in [echo(limit), tunnel(&upstream, limit)] {
        let route = format!("{route}first_message_timeout = '300ms'\n");
        let server = LiveServer::start(&route).await.unwrap();
        let mut other = open(&server).await;
        other
            .write_all(&frame(0x81, b"hi").repeat(2))
            .await
            .unwrap();
        read_until(&mut other, |read| read.len() == 8).await;
        let mut stream = open(&server).await;
        stream.write_all(&frame(0x81, b"hi")).await.unwrap();
        let answer = read_until(&mut stream, |read| read.len() == 4).await;
        assert_eq!(answer, b"\x81\x02hi");
    }
}

#[tokio::test]
async fn sockets_of_a_user_share_a_limit() {
    let text = "
        [[websocket.route]]
        path = '/echo/'
        middleware = ['auth']
        consumer = 'echo'
        rate_limit = { rate = '2/h', by = 'user', over = 'drop' }
        [auth.bearer]
        key = 'a secret of thirty-two bytes and more'
    ";
    let app = app(text);
    let mut sockets = HashMap::new();
    for (socket, id) in [("one", "1"), ("two", "1"), ("other", "2")] {
        let handshake = WebsocketCommunicator::new("/echo/").user(user(id));
        sockets.insert(socket, handshake.connect(&app).await.unwrap());
    }
    for (socket, passes) in [
        ("one", true),
        ("two", true),
        ("one", false),
        ("other", true),
    ] {
        let socket = sockets.get_mut(socket).unwrap();
        socket.send("hi").await;
        match passes {
            true => assert_eq!(socket.receive().await.as_text(), Some("hi")),
            false => assert!(socket.receive_nothing(Duration::from_millis(50)).await),
        }
    }
}

/// A route whose messages go to an upstream.
fn tunnel(upstream: &LiveServer, rate_limit: &str) -> String {
    format!(
        "[[websocket.route]]\npath = '/echo/'\nconsumer = 'proxy'\nclose_timeout = '1s'\nrate_limit = {rate_limit}\noptions = {{ upstream = ['http://{}'] }}\n",
        upstream.address()
    )
}

/// What comes at once is counted frame by frame: the rest does not reach the upstream.
#[tokio::test]
async fn nothing_over_a_limit_passes_a_tunnel() {
    let upstream = "[[websocket.route]]\npath = '/echo/'\nname = 'upstream'\nconsumer = 'echo'\n";
    let upstream = LiveServer::start(upstream).await.unwrap();
    let limit = "{ rate = '10/h', by = 'address', over = 'close' }";
    let server = LiveServer::start(&tunnel(&upstream, limit)).await.unwrap();
    for _ in 0..3 {
        let mut stream = open(&server).await;
        let messages = frame(0x81, b"hi").repeat(5_000);
        stream.write_all(&messages).await.unwrap();
        let answer = read_until(&mut stream, |_| false).await;
        let close = answer.iter().position(|byte| *byte == 0x88).unwrap();
        assert_eq!(close_code(&answer[close..]), 1008);
    }
    until(|| upstream.gateway().sockets().is_empty(), "the ends").await;
    let metrics = upstream.gateway().services().metrics.as_ref().unwrap();
    let labels = [("route", "upstream")];
    let received = "oneport_messages_received_total";
    let messages = metrics.snapshot().sum(received, &labels);
    assert_eq!(messages as u32, 10);
}

/// A client that sends nothing is not delayed by a neighbour, and keeps no place for it.
#[tokio::test]
async fn silent_tunnel_ends_though_its_neighbour_floods() {
    let upstream = LiveServer::start("[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\n");
    let upstream = upstream.await.unwrap();
    let limit = "{ rate = '20/s', burst = 1, by = 'address', over = 'delay' }";
    for (settings, code) in [
        ("ping_interval = '200ms'\npong_timeout = '200ms'\n", None),
        (
            "ping_interval = '100ms'\npong_timeout = '60s'\nidle_timeout = '1s'\n",
            Some(1000),
        ),
    ] {
        let text = format!("{}{settings}", tunnel(&upstream, limit));
        let server = LiveServer::start(&text).await.unwrap();
        let mut flood = open(&server).await;
        let messages = frame(0x81, b"flood").repeat(1_000);
        flood.write_all(&messages).await.unwrap();
        read_until(&mut flood, |read| {
            read.windows(5).any(|part| part == b"flood")
        })
        .await;
        let mut silent = open(&server).await;
        let reading = read_until(&mut silent, |_| false);
        let answer = tokio::time::timeout(Duration::from_secs(4), reading).await;
        let answer = answer.unwrap_or_else(|_| panic!("the end, with {settings}"));
        let close = answer.iter().position(|byte| *byte == 0x88);
        assert_eq!(close.map(|at| close_code(&answer[at..])), code);
        // The neighbour is delayed still.
        flood.write_all(&frame(0x81, b"x")).await.unwrap();
    }
}

/// Frames that end no message are not free of charge: each over `max_fragments` is a message.
#[tokio::test]
async fn fragments_in_a_tunnel_count_beyond_their_number_in_a_message() {
    let upstream =
        "[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\nmax_fragments = 100_000\n";
    let upstream = LiveServer::start(upstream).await.unwrap();
    let route = tunnel(&upstream, "{ rate = '3/h', over = 'close' }");
    let route = format!("{route}max_fragments = 10\n");
    let server = LiveServer::start(&route).await.unwrap();
    let message = |fragments: usize| {
        let more = frame(0x00, b"").repeat(fragments - 2);
        [&frame(0x01, b"a")[..], &more, &frame(0x80, b"b")].concat()
    };
    // Three messages of eleven frames are three.
    let mut stream = open(&server).await;
    stream.write_all(&message(11).repeat(3)).await.unwrap();
    let answer = read_until(&mut stream, |read| read.len() == 12).await;
    assert_eq!(answer, b"\x81\x02ab".repeat(3));
    for endless in [
        [frame(0x01, b""), frame(0x00, b"").repeat(14)].concat(),
        frame(0x03, b"").repeat(15),
    ] {
        let mut stream = open(&server).await;
        stream.write_all(&endless).await.unwrap();
        let answer = read_until(&mut stream, |_| false).await;
        assert_eq!(close_code(&answer), 1008);
        assert!(answer.ends_with(b"the client sends too much"), "{answer:?}");
    }
}

#[tokio::test]
async fn what_a_tunnels_client_sends_is_limited_too() {
    let upstream = LiveServer::start("[[websocket.route]]\npath = '/echo/'\nconsumer = 'echo'\n");
    let upstream = upstream.await.unwrap();
    let front = |rate_limit: &str| tunnel(&upstream, rate_limit);
    // Closed.
    let server = LiveServer::start(&front("{ rate = '3/h', over = 'close' }"))
        .await
        .unwrap();
    let mut stream = open(&server).await;
    for _ in 0..3 {
        stream.write_all(&frame(0x81, b"hi")).await.unwrap();
        assert_eq!(
            read_until(&mut stream, |read| read.len() == 4).await,
            b"\x81\x02hi"
        );
    }
    stream.write_all(&frame(0x89, b"")).await.unwrap();
    let answer = read_until(&mut stream, |read| read.len() > 4).await;
    let close = answer.iter().position(|byte| *byte == 0x88).unwrap();
    assert_eq!(close_code(&answer[close..]), 1008);
    // Delayed, by bytes: 2 more frames of 1,000 bytes than the burst.
    let text = front("{ bytes = '10 kB/s', over = 'delay' }");
    let server = LiveServer::start(&format!("{text}max_message = '1 kB'\n"))
        .await
        .unwrap();
    let mut stream = open(&server).await;
    let begun = Instant::now();
    for number in 0..15 {
        stream
            .write_all(&frame(0x82, &[number; 1_000]))
            .await
            .unwrap();
        let answer = read_until(&mut stream, |read| read.len() == 1_004).await;
        assert_eq!(answer[1_003], number);
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(400),
        "{:?}",
        begun.elapsed()
    );
}

// --- Connections

#[tokio::test]
async fn accepting_pauses_over_the_rate_and_no_connection_is_refused() {
    let text = format!(
        "[server.limits]\nconnection_rate = '100/s'\n{}",
        limited("{ rate = '1000/s' }")
    );
    let server = LiveServer::start(&text).await.unwrap();
    let begun = Instant::now();
    let requests = (0..60).map(|_| request(&server, "", ""));
    let responses = futures_util::future::join_all(requests).await;
    for response in responses {
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    }
    // Fifty of them after the burst of a tenth of a second.
    assert!(
        begun.elapsed() >= Duration::from_millis(490),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn connections_of_one_address_over_its_rate_get_503() {
    let text = format!(
        "[server.limits]\nconnection_rate_per_ip = '3/h'\n{}",
        limited("{ rate = '1000/s' }")
    );
    let server = LiveServer::start(&text).await.unwrap();
    for expected in ["200", "200", "200", "503", "503"] {
        let response = request(&server, "", "").await;
        assert_eq!(&response[9..12], expected, "{response}");
    }
    // The clients of a trusted proxy are counted by their own addresses, its connections are not.
    let text = format!("[server]\ntrusted_proxies = ['127.0.0.1']\n{text}");
    let server = LiveServer::start(&text).await.unwrap();
    for _ in 0..5 {
        let response = request(&server, "", "X-Forwarded-For: 203.0.113.1\r\n").await;
        assert_eq!(&response[9..12], "200");
    }
    let announced = "PROXY TCP4 203.0.113.1 192.0.2.80 50000 80\r\n";
    for expected in ["200", "200", "200", "503"] {
        let response = request(&server, announced, "").await;
        assert_eq!(&response[9..12], expected);
    }
}

#[tokio::test]
async fn connections_that_are_refused_do_not_use_up_the_rate_of_all() {
    let text = format!(
        "[server.limits]\nconnection_rate = '10/s'\nconnection_rate_per_ip = '2/h'\n{}",
        limited("{ rate = '1000/s' }")
    );
    let server = LiveServer::start(&text).await.unwrap();
    for _ in 0..2 {
        assert!(request(&server, "", "").await.starts_with("HTTP/1.1 200"));
    }
    // Counted, forty of them would take four seconds; and the client of another address is not
    // behind them.
    let begun = Instant::now();
    for _ in 0..40 {
        assert!(request(&server, "", "").await.starts_with("HTTP/1.1 503"));
    }
    let other = request_from(&server, "127.0.0.2:0").await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    // The same for clients that a proxy names.
    let text = format!("[server]\ntrusted_proxies = ['127.0.0.1']\n{text}");
    let server = LiveServer::start(&text).await.unwrap();
    let announced = |client: &str| format!("PROXY TCP4 {client} 192.0.2.80 50000 80\r\n");
    let (one, other) = (announced("203.0.113.1"), announced("203.0.113.2"));
    for _ in 0..2 {
        assert!(request(&server, &one, "").await.starts_with("HTTP/1.1 200"));
    }
    let begun = Instant::now();
    for _ in 0..40 {
        assert!(request(&server, &one, "").await.starts_with("HTTP/1.1 503"));
    }
    let response = request(&server, &other, "").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn client_of_a_proxy_that_is_refused_and_stays_keeps_no_place_of_others() {
    let text = format!(
        "[server]\ntrusted_proxies = ['127.0.0.1']\n[server.limits]\nconnections = 3\nconnection_rate_per_ip = '1/h'\n{}",
        limited("{ rate = '1000/s' }")
    );
    let server = LiveServer::start(&text).await.unwrap();
    let announced = |client: &str| format!("PROXY TCP4 {client} 192.0.2.80 50000 80\r\n");
    let counted = request(&server, &announced("203.0.113.1"), "").await;
    assert!(counted.starts_with("HTTP/1.1 200"), "{counted}");
    let mut refused = Vec::new();
    for _ in 0..12 {
        // It reads the whole answer, and does not close.
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let head = announced("203.0.113.1");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, |_| false).await;
        assert!(answer.starts_with(b"HTTP/1.1 503"), "{answer:?}");
        refused.push(stream);
    }
    let other = request(&server, &announced("203.0.113.2"), "").await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
}

/// Clients that are refused come again: when the server is full, they do so at the rate.
#[tokio::test]
async fn connections_to_a_full_server_count_against_the_rate() {
    let text = format!(
        "[server.limits]\nconnections = 1\nconnection_rate = '50/s'\n{}",
        limited("{ rate = '1000/s' }")
    );
    let server = LiveServer::start(&text).await.unwrap();
    let _open = TcpStream::connect(server.address()).await.unwrap();
    let begun = Instant::now();
    for _ in 0..40 {
        let response = request(&server, "", "").await;
        assert!(response.starts_with("HTTP/1.1 503"), "{response}");
    }
    // Thirty-four of them after the burst of a tenth of a second.
    assert!(
        begun.elapsed() >= Duration::from_millis(600),
        "{:?}",
        begun.elapsed()
    );
}

// --- Heads

#[tokio::test]
async fn targets_and_fields_over_their_limits_are_refused() {
    let text = "
        [server.limits]
        uri_size = '100 B'
        header_count = 5
        [[http.route]]
        path = '/{*path}'
        view = 'respond'
    ";
    let server = LiveServer::start(text).await.unwrap();
    let target = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
    let fields = |count: usize| {
        (0..count)
            .map(|at| format!("X-{at}: 1\r\n"))
            .collect::<String>()
    };
    for (target, fields, expected) in [
        (target(100), String::new(), "200"),
        (target(101), String::new(), "414"),
        // With Host and Connection.
        (target(10), fields(3), "200"),
        (target(10), fields(4), "431"),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let response = read_until(&mut stream, |_| false).await;
        let response = String::from_utf8_lossy(&response);
        assert_eq!(&response[9..12], expected, "{response}");
    }
}

#[tokio::test]
async fn more_fields_than_the_parsers_default_may_be_allowed() {
    let text =
        "[server.limits]\nheader_count = 150\n[[http.route]]\npath = '/'\nview = 'respond'\n";
    let server = LiveServer::start(text).await.unwrap();
    let fields = |count: usize| {
        (0..count)
            .map(|at| format!("X-{at}: 1\r\n"))
            .collect::<String>()
    };
    for (count, expected) in [(140, "200"), (160, "431")] {
        let response = request(&server, "", &fields(count)).await;
        assert_eq!(&response[9..12], expected);
    }
}

/// A frame of HTTP/2.
fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET http://localhost/`, by indices of HPACK's static table.
const HTTP2_GET: &[u8] = b"\x82\x86\x84\x41\x09localhost";

/// Sends frames over HTTP/2 until the server ends the connection.
async fn flood(server: &LiveServer, frames: impl Fn(u32) -> Vec<u8>, count: u32) {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(http2_frame(4, 0, 0, &[]));
    stream.write_all(&hello).await.unwrap();
    let (mut read, mut write) = stream.split();
    let writing = async {
        for number in 0..count {
            if write.write_all(&frames(number)).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await; // the server ends it
    };
    let reading = async {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
    };
    let both = async {
        tokio::select! {
            () = writing => {}
            () = reading => {}
        }
    };
    tokio::time::timeout(DEADLINE, both)
        .await
        .expect("an end of the connection");
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool, what: &str) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, waiting).await;
    assert!(waited.is_ok(), "{what}");
}

#[tokio::test]
async fn floods_over_http2_end_with_enhance_your_calm() {
    let server = LiveServer::start(&limited("{ rate = '1000/s' }"))
        .await
        .unwrap();
    let ended = || {
        let metrics = server
            .gateway()
            .services()
            .metrics
            .as_ref()
            .unwrap()
            .snapshot();
        let labels = [("reason", "enhance_your_calm")];
        metrics.sum("oneport_http2_goaways_total", &labels) as u32
    };
    let stream = |number: u32| number * 2 + 1;
    // Rapid reset: each request is cancelled at once.
    let rapid_reset = |number: u32| {
        let streams = number * 50..(number + 1) * 50;
        let frames = streams.flat_map(|number| {
            let mut frames = http2_frame(1, 4 | 1, stream(number), HTTP2_GET);
            frames.extend(http2_frame(3, 0, stream(number), &8_u32.to_be_bytes()));
            frames
        });
        frames.collect()
    };
    flood(&server, rapid_reset, 200).await;
    until(|| ended() == 1, "rapid reset").await;
    // Made-you-reset: each stream is reset because its window overflows.
    let made_you_reset = |number| {
        let mut frames = http2_frame(1, 4, stream(number), HTTP2_GET);
        frames.extend(http2_frame(
            8,
            0,
            stream(number),
            &0x7fff_ffff_u32.to_be_bytes(),
        ));
        frames
    };
    flood(&server, made_you_reset, 3_000).await;
    until(|| ended() == 2, "made-you-reset").await;
    // CONTINUATION: a head that does not end.
    let continuation = |number| match number {
        0 => http2_frame(1, 0, 1, HTTP2_GET),
        number => {
            let name = format!("x-{number}");
            let mut field = vec![0x40, name.len() as u8];
            field.extend(name.as_bytes());
            field.extend(b"\x01a");
            http2_frame(9, 0, 1, &field)
        }
    };
    flood(&server, continuation, 20_000).await;
    until(|| ended() == 3, "CONTINUATION").await;
}
