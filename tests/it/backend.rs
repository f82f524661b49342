//! Backend: the requests to an HTTP endpoint, and the effects of its responses, valid and invalid.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use oneport::auth::User;
use oneport::channels::GroupName;
use oneport::testing::{Application, WebsocketCommunicator};
use oneport::websocket::CloseCode;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{HttpEndpoint, head_field};

struct Endpoint {
    url: String,
    heard: Arc<Mutex<VecDeque<(String, Value)>>>,
    _server: HttpEndpoint,
}

fn ok(answer: &Value) -> String {
    let body = if answer.is_null() {
        String::new()
    } else {
        answer.to_string()
    };
    status(200, &body)
}

fn status(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Endpoint {
    async fn start(script: impl Fn(&Value) -> String + Send + Sync + 'static) -> Self {
        let heard = Arc::<Mutex<VecDeque<_>>>::default();
        let (script, hearing) = (Arc::new(script), heard.clone());
        let server = HttpEndpoint::start(move |head, body| {
            let (script, hearing) = (script.clone(), hearing.clone());
            async move {
                check_signature(&head, &body);
                let value: Value = serde_json::from_slice(&body).unwrap();
                hearing.lock().unwrap().push_back((head, value.clone()));
                let response = script(&value);
                if response == "hang" {
                    std::future::pending::<()>().await;
                }
                response
            }
        })
        .await;
        Self {
            url: format!("http://{}/ws?key=1", server.address),
            heard,
            _server: server,
        }
    }

    /// Waits for a request with an event of this type; skips others.
    async fn hear(&self, event_type: &str) -> (String, Value) {
        for _ in 0..500 {
            while let Some(heard) = self.heard.lock().unwrap().pop_front() {
                if heard.1["events"][0]["type"] == event_type {
                    return heard;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("expected a request with {event_type}, found none");
    }

    fn app(&self, more: &str) -> Application {
        self.app_with("", more)
    }

    /// With sections of the file before its routes.
    fn app_with(&self, sections: &str, more: &str) -> Application {
        let url = &self.url;
        let file = format!(
            "[server]\nname = 'here'\n{sections}[websocket]\nmiddleware = []\n[[websocket.route]]\npath = '/ws/{{room}}/'\nname = 'app'\nconsumer = 'backend'\n\
             options = {{ url = '{url}', secret = 'shared', {more} }}\n"
        );
        Application::parse(&file).unwrap()
    }
}

fn check_signature(head: &str, body: &[u8]) {
    let signature = head_field(head, "oneport-signature").unwrap();
    let (time, found) = signature.split_once(",v1=").unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(b"shared").unwrap();
    mac.update(time.strip_prefix("t=").unwrap().as_bytes());
    mac.update(b".");
    mac.update(body);
    let wanted = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
    assert_eq!(found, wanted);
}

fn is(request: &Value, event_type: &str) -> bool {
    request["events"][0]["type"] == event_type
}

#[tokio::test]
async fn endpoint_gets_every_event_and_its_actions_are_carried_out() {
    let endpoint = Endpoint::start(|request| {
        let count = request["connection"]["state"]["count"]
            .as_u64()
            .unwrap_or(0);
        let count = count + request["events"].as_array().unwrap().len() as u64;
        let events = match request["events"][0]["type"].as_str().unwrap() {
            "websocket.connect" => json!([
                {"type": "websocket.accept", "subprotocol": "chat", "headers": [["x-app", "1"]]},
                {"type": "group.add", "group": "room"},
                {"type": "websocket.send", "text": "welcome"},
            ]),
            "websocket.receive" => json!([
                {"type": "group.send", "group": "room", "event": {"type": "said", "count": count}},
                {"type": "websocket.send", "bytes": "AAE="},
            ]),
            _ => json!([]),
        };
        ok(&json!({"state": {"count": count}, "events": events}))
    })
    .await;
    let app = endpoint.app("");
    let started = endpoint.hear("oneport.node_started").await.1;
    assert_eq!(started["node"]["name"], "here");
    let anna = User {
        id: "7".into(),
        name: "anna".into(),
        is_staff: false,
    };
    let mut socket = WebsocketCommunicator::new("/ws/lobby/?a=b")
        .header("cookie", "sessionid=x")
        .header("authorization", "secret")
        .subprotocols(&["other", "chat"])
        .user(anna)
        .connect(&app)
        .await
        .unwrap();
    assert_eq!(socket.subprotocol(), Some("chat"));
    let (head, request) = endpoint.hear("websocket.connect").await;
    let id = request["connection"]["id"].as_str().unwrap();
    assert_eq!(
        head_field(&head, "idempotency-key").unwrap(),
        format!("{id}-1")
    );
    assert!(head.starts_with("POST /ws?key=1 HTTP/1.1"), "{head}");
    assert_eq!(
        (
            &request["v"],
            &request["connection"]["state"],
            &request["connection"]["name"]
        ),
        (&json!(1), &Value::Null, &json!("here"))
    );
    let scope = &request["scope"];
    assert_eq!(
        (
            &scope["type"],
            &scope["path"],
            &scope["raw_query"],
            &scope["url_route"],
            &scope["user"]
        ),
        (
            &json!("websocket"),
            &json!("/ws/lobby/"),
            &json!("a=b"),
            &json!({"name": "app", "kwargs": {"room": "lobby"}}),
            &json!({"id": "7", "name": "anna", "is_staff": false}),
        )
    );
    assert_eq!(
        scope["headers"],
        json!([["origin", "http://localhost"], ["cookie", "sessionid=x"]])
    );
    assert_eq!(scope["subprotocols"], json!(["other", "chat"]));
    assert_eq!(socket.receive().await.as_text(), Some("welcome"));
    socket.send("hi").await;
    let (_, request) = endpoint.hear("websocket.receive").await;
    assert_eq!(
        request["events"],
        json!([{"seq": 2, "type": "websocket.receive", "text": "hi"}])
    );
    assert_eq!(request["connection"]["state"], json!({"count": 1}));
    assert_eq!(
        socket.receive_json::<Value>().await,
        json!({"type": "said", "count": 2})
    );
    assert_eq!(socket.receive().await.as_bytes(), [0, 1]);
    let code = CloseCode::new(4001).unwrap();
    socket.close(code, "bye").await;
    let (_, request) = endpoint.hear("websocket.disconnect").await;
    let end = json!({"seq": 3, "type": "websocket.disconnect", "code": 4001, "reason": "bye", "cause": "client_close"});
    assert_eq!(
        (&request["events"][0], &request["connection"]["state"]),
        (&end, &json!({"count": 2}))
    );
}

#[tokio::test]
async fn events_during_a_request_are_one_batch_and_unacknowledged_ones_are_sent_again() {
    let endpoint = Endpoint::start(|request| {
        let events = request["events"].as_array().unwrap();
        if !is(request, "websocket.receive") {
            return ok(&Value::Null);
        }
        // The first alone, then of each batch only the first half.
        std::thread::sleep(Duration::from_millis(50));
        let first = events[0]["seq"].as_u64().unwrap();
        let ack = first + (events.len() as u64 - 1) / 2;
        let done = events
            .iter()
            .filter(|event| event["seq"].as_u64() <= Some(ack));
        let sends: Vec<_> = done
            .map(|event| json!({"type": "websocket.send", "text": event["text"]}))
            .collect();
        ok(&json!({"ack": ack, "events": sends}))
    })
    .await;
    let app = endpoint.app("batch_events = 4");
    let mut socket = WebsocketCommunicator::new("/ws/a/")
        .connect(&app)
        .await
        .unwrap();
    for at in 0..9 {
        socket.send(at.to_string()).await;
    }
    for at in 0..9 {
        assert_eq!(
            socket.receive().await.as_text(),
            Some(at.to_string().as_str())
        );
    }
    let heard = endpoint.heard.lock().unwrap();
    let most = heard
        .iter()
        .map(|(_, request)| request["events"].as_array().unwrap().len())
        .max();
    assert_eq!(most, Some(4));
}

#[tokio::test]
async fn endpoint_that_acknowledges_nothing_counts_as_unavailable_and_gets_the_disconnect() {
    let endpoint = Endpoint::start(|request| {
        let first = request["events"][0]["seq"].as_u64().unwrap_or(1);
        ok(&json!({"ack": first.saturating_sub(u64::from(is(request, "websocket.receive")))}))
    })
    .await;
    let app = endpoint.app("hold_time = '400ms'");
    let mut socket = WebsocketCommunicator::new("/ws/a/")
        .connect(&app)
        .await
        .unwrap();
    socket.send("a").await;
    assert_eq!(socket.receive_close().await.0, 1013);
    let (_, told) = endpoint.hear("websocket.disconnect").await;
    assert_eq!(told["events"][0]["cause"], "backend_away");
}

#[tokio::test]
async fn state_is_cleared_by_null_and_kept_by_silence() {
    let endpoint = Endpoint::start(|request| match request["events"][0]["text"].as_str() {
        None => ok(&json!({"state": {"n": 1}})),
        Some("clear") => ok(&json!({"state": null})),
        Some(_) => ok(&Value::Null),
    })
    .await;
    let app = endpoint.app("");
    let mut socket = WebsocketCommunicator::new("/ws/a/")
        .connect(&app)
        .await
        .unwrap();
    for (text, before) in [
        ("keep", json!({"n": 1})),
        ("clear", json!({"n": 1})),
        ("after", Value::Null),
    ] {
        socket.send(text).await;
        let (_, request) = endpoint.hear("websocket.receive").await;
        assert_eq!(request["connection"]["state"], before, "{text}");
    }
}

#[tokio::test]
async fn answer_to_the_end_may_speak_to_groups() {
    let endpoint = Endpoint::start(|request| {
        let gone = json!({"type": "group.send", "group": "room", "event": {"type": "left"}});
        let pointless = json!({"type": "websocket.send", "text": "nobody hears it"});
        if is(request, "websocket.disconnect") {
            return ok(&json!({"events": [pointless, gone]}));
        }
        ok(&json!({"events": [{"type": "group.add", "group": "room"}]}))
    })
    .await;
    let app = endpoint.app("");
    let join = async || {
        WebsocketCommunicator::new("/ws/a/")
            .connect(&app)
            .await
            .unwrap()
    };
    let (mut stays, leaves) = (join().await, join().await);
    drop(leaves);
    assert_eq!(stays.receive().await.as_text(), Some(r#"{"type":"left"}"#));
}

/// One in the response to `websocket.connect`, and one in a later response.
#[tokio::test]
async fn endpoint_that_names_ten_thousand_groups_learns_which_ones_were_refused() {
    fn groups(from: usize) -> Vec<Value> {
        let names = (from..10_000).map(|number| format!("room_{number}"));
        names
            .map(|group| json!({"type": "group.add", "group": group}))
            .collect()
    }
    let endpoint = Endpoint::start(|request| {
        let mut events = match request["events"][0]["type"].as_str() {
            Some("websocket.connect") => groups(0),
            Some("websocket.receive") => {
                let mut events = vec![json!({"type": "group.discard", "group": "room_7"})];
                events.extend(groups(9_998));
                events
            }
            _ => Vec::new(),
        };
        if is(request, "group.refused") {
            events.push(json!({"type": "websocket.send", "text": "told"}));
        }
        ok(&json!({"events": events}))
    })
    .await;
    let app = endpoint.app("max_effects = 20000, max_response = '2 MiB'");
    let connect = WebsocketCommunicator::new("/ws/a/");
    let mut socket = connect.connect(&app).await.unwrap();
    let (_, request) = endpoint.hear("group.refused").await;
    let event = &request["events"][0];
    let refused = event["groups"].as_array().unwrap();
    assert_eq!((refused.len(), &refused[0]), (9_000, &json!("room_1000")));
    assert_eq!(
        (&event["limit"], &event["max"], &event["seq"]),
        (&json!("groups_per_socket"), &json!(1_000), &json!(2))
    );
    assert_eq!(socket.receive().await.as_text(), Some("told"));
    let layer = &app.gateway().services().layer;
    let len = |group: &str| layer.group_len(&GroupName::new(group).unwrap());
    assert_eq!((len("room_999"), len("room_1000")), (1, 0));
    socket.send("another one").await;
    let (_, request) = endpoint.hear("group.refused").await;
    assert_eq!(request["events"][0]["groups"], json!(["room_9999"]));
    assert_eq!(socket.receive().await.as_text(), Some("told"));
    assert_eq!((len("room_7"), len("room_9998")), (0, 1));
    assert_eq!(socket.disconnect().await, 1000);
}

/// Actions that join more groups than a socket may be in: its first one is joined.
fn too_many_groups(count: usize) -> Vec<Value> {
    (0..count)
        .map(|number| json!({"type": "group.add", "group": format!("room_{number}")}))
        .collect()
}

const ONE_GROUP: &str = "[server.limits]\ngroups_per_socket = 1\n";

#[tokio::test]
async fn refused_groups_that_are_not_acknowledged_do_not_fill_the_queue() {
    // One of the events is acknowledged at a time.
    let endpoint = Endpoint::start(|request| {
        let first = &request["events"][0];
        match first["type"].as_str() {
            Some("websocket.receive") => {
                ok(&json!({"ack": first["seq"], "events": too_many_groups(200)}))
            }
            _ => ok(&Value::Null),
        }
    })
    .await;
    let app = endpoint.app_with(ONE_GROUP, "hold = '4 KiB', batch_events = 100");
    let connect = WebsocketCommunicator::new("/ws/a/");
    let mut socket = connect.connect(&app).await.unwrap();
    for _ in 0..40 {
        socket.send("x").await;
    }
    assert_eq!(socket.receive_close().await.0, 1013);
    let (_, told) = endpoint.hear("websocket.disconnect").await;
    assert_eq!(told["events"][0]["cause"], "backend_away");
}

#[tokio::test]
async fn refused_groups_of_one_response_may_exceed_the_queue() {
    let endpoint = Endpoint::start(|request| {
        let events = match request["events"][0]["type"].as_str() {
            Some("websocket.receive") => too_many_groups(200),
            Some("group.refused") => vec![json!({"type": "websocket.send", "text": "told"})],
            _ => Vec::new(),
        };
        ok(&json!({"events": events}))
    })
    .await;
    let app = endpoint.app_with(ONE_GROUP, "hold = '1 KiB'");
    let connect = WebsocketCommunicator::new("/ws/a/");
    let mut socket = connect.connect(&app).await.unwrap();
    for _ in 0..10 {
        socket.send("x").await;
        assert_eq!(socket.receive().await.as_text(), Some("told"));
    }
    assert_eq!(socket.disconnect().await, 1000);
}

#[tokio::test]
async fn endpoint_that_asks_again_for_refused_groups_is_asked_more_and_more_slowly() {
    let endpoint = Endpoint::start(|request| {
        let mut events = too_many_groups(2);
        let asked = request["events"].as_array().unwrap();
        if asked
            .iter()
            .any(|event| event["type"] == "websocket.receive")
        {
            events = vec![json!({"type": "websocket.send", "text": "told"})];
        }
        ok(&json!({"events": events}))
    })
    .await;
    let app = endpoint.app_with(ONE_GROUP, "timeout = '5s'");
    let begun = Instant::now();
    let connect = WebsocketCommunicator::new("/ws/a/");
    let mut socket = connect.connect(&app).await.unwrap();
    endpoint.hear("group.refused").await;
    for _ in 0..4 {
        endpoint.hear("group.refused").await;
    }
    // 50, 100, 200 and 400 ms, each at least half as long.
    assert!(
        begun.elapsed() >= Duration::from_millis(370),
        "{:?}",
        begun.elapsed()
    );
    socket.send("x").await;
    assert_eq!(socket.receive().await.as_text(), Some("told"));
    assert_eq!(socket.disconnect().await, 1000);
    endpoint.hear("websocket.disconnect").await;
}

#[tokio::test]
async fn endpoint_may_do_without_the_start_of_a_process() {
    let endpoint = Endpoint::start(|_| ok(&Value::Null)).await;
    let app = endpoint.app("node_started = false");
    let socket = WebsocketCommunicator::new("/ws/a/")
        .connect(&app)
        .await
        .unwrap();
    drop(socket);
    // One queue has both, so the start of the process would come first.
    for _ in 0..1000 {
        let heard = endpoint.heard.lock().unwrap().pop_front();
        match heard {
            Some((_, request)) if is(&request, "websocket.disconnect") => return,
            Some((_, request)) => assert!(is(&request, "websocket.connect"), "{request}"),
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("expected websocket.disconnect, found nothing");
}

#[tokio::test]
async fn client_that_leaves_while_the_endpoint_decides_is_reported_as_gone() {
    let endpoint = Endpoint::start(|request| {
        if is(request, "websocket.connect") {
            return "hang".to_owned();
        }
        ok(&Value::Null)
    })
    .await;
    let app = endpoint.app("timeout = '500ms'");
    let asked = WebsocketCommunicator::new("/ws/a/").connect(&app);
    let impatient = tokio::time::timeout(Duration::from_millis(300), asked);
    assert!(impatient.await.is_err());
    let (head, connect) = endpoint.hear("websocket.connect").await;
    let (_, told) = endpoint.hear("websocket.disconnect").await;
    assert_eq!(told["connection"]["id"], connect["connection"]["id"]);
    assert_eq!(told["events"][0]["cause"], "client_gone");
    assert_eq!(
        head_field(&head, "idempotency-key").map(|key| key.ends_with("-1")),
        Some(true)
    );
}

#[tokio::test]
async fn handshake_is_denied_as_the_endpoint_says() {
    for (answer, wanted, body) in [
        (status(402, "pay first"), 402, Some("pay first")),
        (
            ok(
                &json!({"events": [{"type": "websocket.http.response", "status": 410, "headers": [["x-why", "old"], ["content-length", "2"], ["transfer-encoding", "chunked"]], "body": "gone"}]}),
            ),
            410,
            Some("gone"),
        ),
        (
            ok(&json!({"events": [{"type": "websocket.close", "code": 4003}]})),
            403,
            None,
        ),
        (
            ok(&json!({"events": [{"type": "websocket.accept", "subprotocol": "never.offered"}]})),
            502,
            None,
        ),
        (status(302, ""), 502, None),
        (status(500, "oops"), 502, None),
        (status(200, "<html>"), 502, None),
        (ok(&json!({"events": [{"type": "unknown"}]})), 502, None),
        (
            ok(
                &json!({"events": [{"type": "websocket.send", "text": "a"}, {"type": "websocket.send", "text": "a"}]}),
            ),
            502,
            None,
        ),
        (ok(&json!({"state": "x".repeat(50)})), 502, None),
        (status(200, &" ".repeat(2000)), 502, None),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{".to_owned(),
            502,
            None,
        ),
        (String::new(), 502, None),
        ("hang".to_owned(), 504, None),
    ] {
        let shown = answer.clone();
        let endpoint = Endpoint::start(move |_| answer.clone()).await;
        let app = endpoint.app("timeout = '300ms', max_effects = 1, max_state = '20 B', max_response = '1 KiB', retries = 0");
        let denied = tokio::time::timeout(
            Duration::from_secs(5),
            WebsocketCommunicator::new("/ws/a/").connect(&app),
        );
        let denied = denied
            .await
            .unwrap()
            .err()
            .unwrap_or_else(|| panic!("expected a denial after {shown}"));
        let found = String::from_utf8_lossy(denied.body()).into_owned();
        assert_eq!(denied.status().as_u16(), wanted, "{shown}: {found}");
        assert!(
            !denied.headers().contains_key("transfer-encoding"),
            "{shown}"
        );
        if let Some(body) = body {
            assert_eq!(found, body);
        }
    }
}

#[tokio::test]
async fn connection_may_be_accepted_and_closed_at_once() {
    let endpoint = Endpoint::start(|request| {
        if is(request, "websocket.connect") {
            ok(&json!({"events": [
                {"type": "websocket.accept"}, {"type": "websocket.send", "text": "full"},
                {"type": "websocket.close", "code": 4001, "reason": "come later"},
            ]}))
        } else {
            ok(&Value::Null)
        }
    })
    .await;
    let app = endpoint.app("");
    let mut socket = WebsocketCommunicator::new("/ws/a/")
        .connect(&app)
        .await
        .unwrap();
    assert_eq!(socket.receive().await.as_text(), Some("full"));
    assert_eq!(socket.receive_close().await.0, 4001);
    let (_, end) = endpoint.hear("websocket.disconnect").await;
    assert_eq!(end["events"][0]["cause"], "consumer_close");
}

#[tokio::test]
async fn endpoint_that_fails_later_ends_the_connection() {
    for answer in [
        status(302, ""),
        status(500, "oops"),
        status(404, ""),
        status(200, "nonsense"),
        ok(&json!({"events": [{"type": "websocket.accept"}]})),
        ok(&json!({"events": [{"type": "group.add", "group": "a b"}]})),
        ok(&json!({"events": [{"type": "websocket.send"}]})),
        ok(&json!({"events": [{"type": "group.send", "group": "a", "event": {}}]})),
        ok(&json!({"ack": 99})),
        ok(&json!({"state": "x".repeat(50)})),
    ] {
        let shown = answer.clone();
        let endpoint = Endpoint::start(move |request| {
            if is(request, "websocket.receive") {
                answer.clone()
            } else {
                ok(&Value::Null)
            }
        })
        .await;
        let app = endpoint.app("max_state = '20 B'");
        let mut socket = WebsocketCommunicator::new("/ws/a/")
            .connect(&app)
            .await
            .unwrap();
        socket.send("hi").await;
        assert_eq!(socket.receive_close().await.0, 1011, "{shown}");
        let (_, end) = endpoint.hear("websocket.disconnect").await;
        assert_eq!(
            (&end["events"][0]["code"], &end["events"][0]["cause"]),
            (&json!(1011), &json!("backend_error")),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn endpoint_that_is_unavailable_for_a_moment_loses_nothing() {
    let tries = Arc::new(Mutex::new(Vec::new()));
    let trying = tries.clone();
    let endpoint = Endpoint::start(move |request| {
        if !is(request, "websocket.receive") {
            return ok(&Value::Null);
        }
        let mut tries = trying.lock().unwrap();
        tries.push(request["events"].clone());
        match tries.len() {
            1 => status(503, ""),
            2 => String::new(),
            3 => status(429, ""),
            _ => ok(&json!({"events": [{"type": "websocket.send", "text": "back"}]})),
        }
    })
    .await;
    let app = endpoint.app("breaker_failures = 2, breaker_open = '100ms'");
    let mut socket = WebsocketCommunicator::new("/ws/a/")
        .connect(&app)
        .await
        .unwrap();
    socket.send("hi").await;
    assert_eq!(socket.receive().await.as_text(), Some("back"));
    let tries = tries.lock().unwrap();
    assert!(
        tries.len() == 4 && tries.iter().all(|events| *events == tries[0]),
        "{tries:?}"
    );
}

#[tokio::test]
async fn endpoint_that_stays_unavailable_ends_the_connection_and_denies_others() {
    let is_away = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let away = is_away.clone();
    let endpoint = Endpoint::start(move |_| {
        if away.load(std::sync::atomic::Ordering::SeqCst) {
            status(503, "")
        } else {
            ok(&Value::Null)
        }
    })
    .await;
    let app = endpoint.app("breaker_failures = 1, breaker_open = '10s', hold_time = '300ms'");
    let mut socket = WebsocketCommunicator::new("/ws/a/")
        .connect(&app)
        .await
        .unwrap();
    is_away.store(true, std::sync::atomic::Ordering::SeqCst);
    socket.send("hi").await;
    // The event is held, and the circuit opens.
    assert!(socket.receive_nothing(Duration::from_millis(100)).await);
    let denied = WebsocketCommunicator::new("/ws/a/")
        .connect(&app)
        .await
        .err()
        .unwrap();
    assert_eq!(
        (
            denied.status().as_u16(),
            denied.headers().get("retry-after").is_some()
        ),
        (503, true)
    );
    let ended = tokio::time::timeout(Duration::from_secs(15), socket.receive_close())
        .await
        .unwrap();
    assert_eq!(ended, (1013, "the application is unavailable".to_owned()));
}

#[test]
fn options_that_cannot_be_are_problems() {
    for (options, wanted) in [
        ("{}", "found neither"),
        (
            "{ url = 'http://h/', channel = 'c', secret = 's' }",
            "found both",
        ),
        (
            "{ url = 'ftp://h/', secret = 's' }",
            "http://HOST:PORT/PATH",
        ),
        (
            "{ url = 'http://h/' }",
            "to sign the requests with, found none",
        ),
        ("{ channel = 'a b' }", "character 2"),
        (
            "{ channel = 'c', batch_events = 0 }",
            "batch_events: expected more than zero",
        ),
        (
            "{ channel = 'c', disconnect_rate = 2_000_000 }",
            "disconnect_rate: expected at most 1000000",
        ),
        (
            "{ channel = 'c', concurrency = 9_000_000_000 }",
            "concurrency: expected at most 65536",
        ),
        ("{ channel = 'c', headers = ['a b'] }", "names of fields"),
    ] {
        let file = format!(
            "[[websocket.route]]\npath = '/ws/'\nconsumer = 'backend'\noptions = {options}\n"
        );
        let problems = Application::parse(&file).unwrap_err().to_string();
        assert!(problems.contains(wanted), "{problems}");
    }
}
