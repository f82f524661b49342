//! Tests of forwarded authentication: answers, questions, and what is shared and cached.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{join_all, poll_immediate};
use http::header::{AUTHORIZATION, COOKIE, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::cache::{ANSWER_BYTES, ANSWERS_BYTES_MAX, REACHES_MAX};
use super::subrequest::{BODY_BYTES_MAX, FORWARDED_FOR, ORIGINAL_URI, SUBREQUESTS_MAX};
use super::*;

/// The app's behavior for a subrequest.
#[derive(Clone)]
enum Script {
    Answer(String),
    /// Answers once the gate is open, and keeps it open.
    Gate(Arc<Gate>, String),
    /// Sends the first half of the answer and then nothing.
    Hang(String),
    /// Answers this and closes.
    Close(String),
}

#[derive(Default)]
struct Gate {
    open: Notify,
    waiting: AtomicUsize,
    waiting_most: AtomicUsize,
}

/// An app on its own port; its tasks end with it.
struct App {
    port: u16,
    /// The heads of the subrequests in their order.
    heads: mpsc::UnboundedReceiver<String>,
    _tasks: JoinSet<()>,
}

impl App {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, heads) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, script.clone(), sender.clone()));
            }
        });
        Self {
            port,
            heads,
            _tasks: tasks,
        }
    }

    fn forward(&self) -> Forward {
        Forward::new(settings(self.port)).unwrap()
    }

    fn asked(&mut self) -> usize {
        let mut count = 0;
        while self.heads.try_recv().is_ok() {
            count += 1;
        }
        count
    }
}

async fn serve(mut stream: TcpStream, script: Script, heads: mpsc::UnboundedSender<String>) {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        if heads.send(text).is_err() {
            return;
        }
        let answer = match &script {
            Script::Answer(answer) | Script::Hang(answer) | Script::Close(answer) => answer,
            Script::Gate(gate, answer) => {
                let waiting = gate.waiting.fetch_add(1, Ordering::SeqCst) + 1;
                gate.waiting_most.fetch_max(waiting, Ordering::SeqCst);
                gate.open.notified().await;
                gate.open.notify_one();
                gate.waiting.fetch_sub(1, Ordering::SeqCst);
                answer
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        match script {
            Script::Answer(_) | Script::Gate(..) => {}
            Script::Hang(_) => std::future::pending().await,
            Script::Close(_) => return,
        }
    }
}

fn settings(port: u16) -> ForwardSettings {
    ForwardSettings {
        ca: None,
        url: format!("http://127.0.0.1:{port}/auth?from=here"),
        request_headers: vec![COOKIE, AUTHORIZATION],
        id_header: HeaderName::from_static("x-user-id"),
        name_header: HeaderName::from_static("x-user-name"),
        staff_header: HeaderName::from_static("x-user-staff"),
        cache: Duration::from_secs(60),
        timeout: Duration::from_secs(20),
    }
}

/// An answer with a status, further lines of the head, and a body.
fn answer(status: &str, lines: &[&str], body: &str) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{lines}\r\n{body}")
}

fn json(body: &str) -> String {
    let content_type = "Content-Type: Application/JSON; charset=utf-8";
    answer("200 OK", &[content_type], body)
}

fn cookie(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(COOKIE, value.parse().unwrap())])
}

fn subject(headers: &HeaderMap) -> Subject<'_> {
    Subject {
        method: "GET",
        uri: "/chat/?room=1",
        host: "example.com",
        scheme: "http",
        client: None,
        headers,
    }
}

async fn ask(forward: &Forward, value: &str) -> Result<Option<Arc<User>>, ForwardError> {
    let headers = cookie(value);
    forward.ask(&subject(&headers)).await
}

/// The user of a request to which the app gives this answer.
async fn user_after(answer: String) -> Result<Option<User>, String> {
    let app = App::start(Script::Answer(answer)).await;
    let user = ask(&app.forward(), "a=1").await;
    user.map(|user| user.map(|user| User::clone(&user)))
        .map_err(|error| error.to_string())
}

fn user(id: &str, name: &str, is_staff: bool) -> Result<Option<User>, String> {
    Ok(Some(User {
        id: id.into(),
        name: name.into(),
        is_staff,
    }))
}

#[tokio::test]
async fn takes_the_user_from_the_headers() {
    let long = "a".repeat(256);
    let long_id = format!("X-User-Id: {long}");
    let long_name = format!("X-User-Name: {long}a");
    let table: [(&[&str], _); 8] = [
        (
            &["X-User-Id: 7", "X-User-Name: Ann", "X-User-Staff: 1"],
            user("7", "Ann", true),
        ),
        (
            &["X-User-Id: 7", "X-User-Staff: true"],
            user("7", "7", true),
        ),
        (
            &["X-User-Id: 7", "X-User-Staff: yes"],
            user("7", "7", false),
        ),
        (
            &["X-User-Id: 7", "X-User-Staff: 1", "X-User-Staff: 0"],
            user("7", "7", false),
        ),
        (
            &["X-User-Id: ä", "X-User-Name: Ä B"],
            user("ä", "Ä B", false),
        ),
        (&["X-User-Id: 7", "X-User-Name:"], user("7", "7", false)),
        (&["X-User-Id: 7", &long_name], user("7", "7", false)),
        (&[&long_id], user(&long, &long, false)),
    ];
    for (lines, expected) in table {
        assert_eq!(user_after(answer("200 OK", lines, "")).await, expected);
    }
    let with_204 = "HTTP/1.1 204 No Content\r\nx-user-id: 7\r\n\r\n";
    assert_eq!(user_after(with_204.into()).await, user("7", "7", false));
}

#[tokio::test]
async fn refuses_an_id_header_that_is_none() {
    let long = format!("X-User-Id: {}", "a".repeat(257));
    let table: [(&[&str], &str); 3] = [
        (&["X-User-Id: 7", "X-User-Id: 8"], "several"),
        (&[&long], "a longer text"),
        (&["X-User-Id: a\tb"], "control characters"),
    ];
    for (lines, found) in table {
        let error = user_after(answer("200 OK", lines, "")).await.unwrap_err();
        let start = "expected one id of at most 256 bytes in the header x-user-id";
        assert_eq!(error, format!("{start} of the auth URL, found {found}"));
    }
}

#[tokio::test]
async fn takes_the_user_from_a_json_body() {
    for (body, expected) in [
        (
            r#"{"id":"7","name":"Ann","is_staff":true}"#,
            user("7", "Ann", true),
        ),
        (r#"{"id":-7,"is_staff":1}"#, user("-7", "-7", false)),
        (
            r#"{"id":"7","name":null,"is_staff":"true"}"#,
            user("7", "7", false),
        ),
        (r#"{"id":"7","name":"a\nb"}"#, user("7", "7", false)),
        (r#"{"id":null,"name":"Ann"}"#, Ok(None)),
        (r#"{"id":""}"#, Ok(None)),
        ("{}", Ok(None)),
    ] {
        assert_eq!(user_after(json(body)).await, expected, "{body}");
    }
}

#[tokio::test]
async fn the_header_goes_before_the_body() {
    let lines = ["x-user-id: 7", "content-type: application/json"];
    let found = user_after(answer("200 OK", &lines, r#"{"id":8}"#)).await;
    assert_eq!(found, user("7", "7", false));
}

#[tokio::test]
async fn refuses_json_that_says_nothing() {
    let long = format!(r#"{{"id":"{}"}}"#, "a".repeat(257));
    for body in [
        "",
        "{",
        "null",
        "[]",
        r#"{"id":1.5}"#,
        r#"{"id":true}"#,
        r#"{"id":"a\u0000"}"#,
        &long,
    ] {
        let error = user_after(json(body)).await.unwrap_err();
        assert!(
            error.contains("in the JSON body of the auth URL"),
            "{error}"
        );
    }
    let huge = format!(r#"{{"id":7,"more":"{}"}}"#, "a".repeat(BODY_BYTES_MAX));
    assert_eq!(
        user_after(json(&huge)).await.unwrap_err(),
        "expected at most 64 KiB in the JSON body of the auth URL, found more"
    );
}

#[tokio::test]
async fn other_answers_name_nobody() {
    for answer in [
        answer("200 OK", &[], ""),
        answer("200 OK", &["x-user-id: "], "welcome"),
        answer("201 Created", &["content-type: text/html"], r#"{"id":7}"#),
        "HTTP/1.1 204 No Content\r\ncontent-type: application/json\r\n\r\n".into(),
        answer("401 Unauthorized", &["x-user-id: 7"], ""),
        answer(
            "403 Forbidden",
            &["content-type: application/json"],
            r#"{"id":7}"#,
        ),
    ] {
        assert_eq!(user_after(answer).await, Ok(None));
    }
}

#[tokio::test]
async fn another_status_is_an_error() {
    for status in [
        "302 Found",
        "304 Not Modified",
        "400 Bad",
        "404 Not Found",
        "500 Oh",
        "503 Away",
    ] {
        let lines = ["location: /auth", "x-user-id: 7"];
        let error = user_after(answer(status, &lines, "")).await.unwrap_err();
        let found = &status[..3];
        assert_eq!(
            error,
            format!("the auth URL returned the status {found}, expected 2xx, 401 or 403")
        );
    }
}

#[tokio::test]
async fn redirects_and_errors_are_asked_for_once_each_time() {
    let script = Script::Answer(answer("302 Found", &["location: /auth"], ""));
    let mut app = App::start(script).await;
    let forward = app.forward();
    for _ in 0..3 {
        let error = ask(&forward, "a=1").await.unwrap_err();
        assert!(matches!(error, ForwardError::Status { found: 302 }));
        assert_eq!(app.asked(), 1);
    }
}

#[tokio::test]
async fn the_subrequest_describes_the_request() {
    let mut app = App::start(Script::Answer(answer("200 OK", &[], ""))).await;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("authorization", "Basic Og=="),
        ("accept", "text/html"),
        ("x-forwarded-for", "203.0.113.9"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    let mut question = subject(&headers);
    question.method = "POST";
    question.client = Some([192, 0, 2, 1].into());
    let mut settings = settings(app.port);
    settings.request_headers.push(FORWARDED_FOR);
    let forward = Forward::new(settings).unwrap();
    assert!(forward.ask(&question).await.unwrap().is_none());
    let head = app.heads.try_recv().unwrap();
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    let host = format!("host: 127.0.0.1:{}", app.port);
    assert_eq!(
        lines,
        [
            "GET /auth?from=here HTTP/1.1",
            "authorization: Basic Og==",
            "cookie: a=1",
            "cookie: b=2",
            &host,
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: example.com",
            "x-forwarded-proto: http",
            "x-original-method: POST",
            "x-original-uri: /chat/?room=1",
        ]
    );
    headers.insert(COOKIE, HeaderValue::from_static("other"));
    question = subject(&headers);
    assert!(forward.ask(&question).await.unwrap().is_none());
    let head = app.heads.try_recv().unwrap();
    assert!(!head.contains("x-forwarded-for"), "{head}");
}

#[tokio::test]
async fn a_request_without_a_listed_header_is_anonymous_unasked() {
    let mut app = App::start(Script::Answer(answer("200 OK", &["x-user-id: 7"], ""))).await;
    let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("*/*"))]);
    let found = app.forward().ask(&subject(&headers)).await.unwrap();
    assert_eq!((found, app.asked()), (None, 0));
}

#[tokio::test]
async fn refuses_a_request_that_fits_in_no_header() {
    let app = App::start(Script::Answer(answer("200 OK", &[], ""))).await;
    let headers = cookie("a=1");
    let mut question = subject(&headers);
    question.uri = "/\r\nx-user: 1";
    let error = app.forward().ask(&question).await.unwrap_err();
    assert!(matches!(error, ForwardError::Subject { header } if header == ORIGINAL_URI));
}

#[tokio::test]
async fn an_answer_is_used_again_for_the_same_headers() {
    for answer in [
        answer("200 OK", &["x-user-id: 7"], ""),
        answer("401 No", &[], ""),
    ] {
        let mut app = App::start(Script::Answer(answer)).await;
        let forward = app.forward();
        let first = ask(&forward, "a=1").await.unwrap();
        assert_eq!(ask(&forward, "a=1").await.unwrap(), first);
        assert_eq!(app.asked(), 1);
        assert_eq!(ask(&forward, "a=2").await.unwrap(), first);
        assert_eq!(app.asked(), 1);
    }
}

#[tokio::test]
async fn without_a_cache_each_request_is_asked_for() {
    let mut app = App::start(Script::Answer(answer("200 OK", &[], ""))).await;
    let mut settings = settings(app.port);
    settings.cache = Duration::ZERO;
    let forward = Forward::new(settings).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&forward, "a=1").await.unwrap(), None);
    }
    assert_eq!(app.asked(), 3);
    assert!(forward.answers.lock().known.is_empty());
}

#[tokio::test]
async fn an_old_answer_is_asked_for_again() {
    let mut app = App::start(Script::Answer(answer("200 OK", &[], ""))).await;
    let mut settings = settings(app.port);
    settings.cache = Duration::from_millis(1);
    let forward = Forward::new(settings).unwrap();
    let mut asked = 0;
    while asked < 3 {
        assert_eq!(ask(&forward, "a=1").await.unwrap(), None);
        asked += app.asked();
    }
}

/// A question with these fields.
fn question(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut question = HeaderMap::new();
    for (name, value) in fields {
        question.append(*name, HeaderValue::from_static(value));
    }
    question
}

fn recall(answers: &AnswerCache, question: &HeaderMap, now: Instant) -> Option<Option<Arc<User>>> {
    answers.recall(question, &Reach::Same.key(question), now)
}

fn same_for(seconds: u64) -> Reuse {
    Reuse::For(Duration::from_secs(seconds), Reach::Same)
}

fn fields_for(seconds: u64, names: &[&'static str]) -> Reuse {
    let names: Vec<_> = names
        .iter()
        .map(|name| HeaderName::from_static(name))
        .collect();
    Reuse::For(Duration::from_secs(seconds), Reach::Fields(names.into()))
}

#[test]
fn an_answer_gets_too_old() {
    let mut answers = AnswerCache::default();
    let start = Instant::now();
    let (one, other) = (question(&[("cookie", "1")]), question(&[("cookie", "2")]));
    answers.remember(&one, None, &same_for(5), start);
    let after = |millis| start + Duration::from_millis(millis);
    assert_eq!(recall(&answers, &one, after(4_999)), Some(None));
    assert_eq!(recall(&answers, &one, after(5_000)), None);
    answers.remember(&other, None, &same_for(5), after(5_000));
    assert_eq!((answers.known.len(), answers.bytes), (1, ANSWER_BYTES));
}

#[test]
fn the_oldest_answers_go_first() {
    let mut answers = AnswerCache::default();
    let now = Instant::now();
    let question = |number: usize| {
        let value = HeaderValue::from_str(&number.to_string()).unwrap();
        HeaderMap::from_iter([(COOKIE, value)])
    };
    let most = ANSWERS_BYTES_MAX / ANSWER_BYTES;
    for number in 0..=most {
        answers.remember(&question(number), None, &same_for(5), now);
    }
    assert_eq!(answers.known.len(), most);
    assert!(answers.bytes <= ANSWERS_BYTES_MAX, "{}", answers.bytes);
    assert_eq!(recall(&answers, &question(0), now), None);
    assert_eq!(recall(&answers, &question(1), now), Some(None));
}

#[test]
fn the_names_of_users_count_as_bytes() {
    let mut answers = AnswerCache::default();
    let now = Instant::now();
    let user = Arc::new(User {
        id: "a".repeat(256),
        name: "b".repeat(256),
        is_staff: false,
    });
    for number in 0..20_000 {
        let value = HeaderValue::from_str(&number.to_string()).unwrap();
        let question = HeaderMap::from_iter([(COOKIE, value)]);
        answers.remember(&question, Some(user.clone()), &same_for(5), now);
    }
    assert_eq!(
        answers.known.len(),
        ANSWERS_BYTES_MAX / (ANSWER_BYTES + 512)
    );
}

#[test]
fn the_key_tells_questions_apart() {
    let table = [
        question(&[]),
        question(&[("cookie", "")]),
        question(&[("cookie", "ab")]),
        question(&[("cookie", "a"), ("cookie", "b")]),
        question(&[("cookie", "b"), ("cookie", "a")]),
        question(&[("cookie", "a"), ("cookie", "a"), ("cookie", "b")]),
        question(&[("cookie", "a"), ("authorization", "b")]),
        question(&[("authorization", "ab")]),
        question(&[("authorization", "a"), ("x-original-uri", "/")]),
        question(&[("authorization", "a"), ("x-original-uri", "/a")]),
    ];
    let keys: Vec<_> = table.iter().map(|one| Reach::Same.key(one)).collect();
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key), "{:?}", table[at]);
    }
    let one = question(&[("cookie", "a"), ("authorization", "b")]);
    let other = question(&[("authorization", "b"), ("cookie", "a")]);
    assert_eq!(Reach::Same.key(&one), Reach::Same.key(&other));
}

/// A head with these fields; one without a value is left out.
fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut head = HeaderMap::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        head.append(*name, HeaderValue::from_str(value).unwrap());
    }
    head
}

fn reuse_of(head: &HeaderMap, asked: &HeaderMap) -> Reuse {
    let passed = [COOKIE, AUTHORIZATION];
    Reuse::of(head, asked, &passed, Duration::from_secs(5))
}

#[test]
fn only_a_field_of_our_own_widens_an_answer() {
    let cookie: &[_] = &[("cookie", "a"), ("x-original-uri", "/")];
    let token: &[_] = &[("authorization", "a"), ("x-original-uri", "/")];
    let both: &[_] = &[("cookie", "a"), ("authorization", "a")];
    let same = || same_for(5);
    let table = [
        ("nothing is said", cookie, "", same()),
        ("a field", cookie, "Cookie", fields_for(5, &["cookie"])),
        (
            "in any order and case",
            cookie,
            " x-ORIGINAL-uri ,, cookie,Cookie",
            fields_for(5, &["cookie", "x-original-uri"]),
        ),
        (
            "a field that is told of other questions",
            cookie,
            "Cookie, Authorization",
            fields_for(5, &["authorization", "cookie"]),
        ),
        ("an empty list", cookie, " , ", same()),
        (
            "a field that is never told",
            cookie,
            "Cookie, Origin",
            same(),
        ),
        ("only what is asked for", cookie, "X-Original-URI", same()),
        ("a credential it has not", token, "Cookie", same()),
        ("one of two credentials", both, "Cookie", same()),
        (
            "two credentials",
            both,
            "Cookie, Authorization",
            fields_for(5, &["authorization", "cookie"]),
        ),
        ("anything", cookie, "*", same()),
        ("anything, too", cookie, "Cookie, *", same()),
        ("no list", cookie, "Cookie, Coo kie", same()),
        ("no ASCII", cookie, "Cookie, é", same()),
    ];
    for (about, fields, list, expected) in table {
        // Frameworks add `Vary` and `max-age` by themselves.
        for vary in ["", "Cookie", "Cookie, X-Original-URI", "Coo kie", "é"] {
            for cache_control in ["", "private", "max-age=60"] {
                let head = head(&[
                    ("oneport-vary", list),
                    ("vary", vary),
                    ("cache-control", cache_control),
                ]);
                let found = reuse_of(&head, &question(fields));
                assert_eq!(found, expected, "{about}, {vary:?}, {cache_control:?}");
            }
        }
    }
}

#[test]
fn an_answer_says_how_long_it_counts() {
    let for_seconds = |seconds| (same_for(seconds), fields_for(seconds, &["cookie"]));
    let never = || (Reuse::Never, Reuse::Never);
    let table = [
        ("", "max-age=3", for_seconds(3)),
        ("", "max-age=60", for_seconds(5)),
        ("", "private, Max-Age = \"4\"", for_seconds(4)),
        ("", "max-age=0", for_seconds(0)),
        ("", "max-age=x", for_seconds(0)),
        ("", "max-age=-1", for_seconds(0)),
        ("", "max-age=4, max-age=2", for_seconds(2)),
        ("", "max-age=4, s-maxage=1", for_seconds(1)),
        ("", "private, immutable", for_seconds(5)),
        ("", "max-age=3, no-store", never()),
        ("", "No-Cache", never()),
        ("*", "max-age=3", never()),
        ("Cookie, *", "", never()),
        ("é,*", "", never()),
    ];
    let asked = question(&[("cookie", "a")]);
    for (vary, cache_control, (same, widened)) in table {
        for (list, expected) in [("", same), ("cookie", widened)] {
            let head = head(&[
                ("oneport-vary", list),
                ("vary", vary),
                ("cache-control", cache_control),
            ]);
            let found = reuse_of(&head, &asked);
            assert_eq!(found, expected, "{vary:?}, {cache_control:?}, {list:?}");
        }
    }
}

#[test]
fn several_fields_are_one_list_and_an_age_counts() {
    let mut answer = head(&[
        ("oneport-vary", "cookie"),
        ("oneport-vary", "x-original-uri"),
        ("cache-control", "private"),
        ("cache-control", "max-age=10"),
        ("age", "7"),
    ]);
    let asked = question(&[("cookie", "a")]);
    let reuse = |answer: &HeaderMap| Reuse::of(answer, &asked, &[COOKIE], Duration::from_secs(60));
    assert_eq!(reuse(&answer), fields_for(3, &["cookie", "x-original-uri"]));
    answer.insert(header::AGE, HeaderValue::from_static("11"));
    assert_eq!(reuse(&answer), fields_for(0, &["cookie", "x-original-uri"]));
}

#[test]
fn a_description_that_is_passed_on_does_not_say_who_the_client_is() {
    let answer = head(&[("oneport-vary", "x-original-uri")]);
    let asked = question(&[("cookie", "a"), ("x-original-uri", "/")]);
    let passed = [COOKIE, ORIGINAL_URI];
    let reuse = Reuse::of(&answer, &asked, &passed, Duration::from_secs(5));
    assert_eq!(reuse, same_for(5));
}

#[test]
fn an_answer_to_a_cookie_is_not_recalled_for_the_cookie_with_a_token() {
    let user = |id: &str| {
        Some(Arc::new(User {
            id: id.into(),
            name: id.into(),
            is_staff: false,
        }))
    };
    let plain = question(&[("cookie", "a"), ("x-original-uri", "/")]);
    let other = question(&[("cookie", "a"), ("x-original-uri", "/other")]);
    let with_token = question(&[
        ("cookie", "a"),
        ("authorization", "b"),
        ("x-original-uri", "/"),
    ]);
    let now = Instant::now();
    let mut answers = AnswerCache::default();
    answers.remember(&plain, user("1"), &fields_for(5, &["cookie"]), now);
    assert_eq!(recall(&answers, &other, now), Some(user("1")));
    assert_eq!(recall(&answers, &with_token, now), None);
    // An answer to both does not serve the cookie alone.
    let by_both = fields_for(5, &["authorization", "cookie"]);
    answers.remember(&with_token, user("2"), &by_both, now);
    assert_eq!(recall(&answers, &with_token, now), Some(user("2")));
    assert_eq!(recall(&answers, &plain, now), Some(user("1")));
}

#[test]
fn answers_with_different_lists_stand_side_by_side() {
    let user = |id: &str| {
        Some(Arc::new(User {
            id: id.into(),
            name: id.into(),
            is_staff: false,
        }))
    };
    let at = |cookie, uri| question(&[("cookie", cookie), ("x-original-uri", uri)]);
    let now = Instant::now();
    let mut answers = AnswerCache::default();
    let by_cookie = fields_for(5, &["cookie"]);
    let by_both = fields_for(5, &["cookie", "x-original-uri"]);
    answers.remember(&at("a", "/"), user("1"), &by_cookie, now);
    answers.remember(&at("b", "/"), user("2"), &by_both, now);
    answers.remember(&at("c", "/"), user("3"), &same_for(5), now);
    for (cookie, uri, expected) in [
        ("a", "/", Some("1")),
        ("a", "/other", Some("1")),
        ("b", "/", Some("2")),
        ("b", "/other", None),
        ("c", "/", Some("3")),
        ("c", "/other", None),
        ("d", "/", None),
    ] {
        let found = recall(&answers, &at(cookie, uri), now).flatten();
        assert_eq!(
            found.as_ref().map(|user| user.id.as_str()),
            expected,
            "{cookie} {uri}"
        );
    }
    // If two fit, the newer one wins (RFC 9111 §4.1).
    answers.remember(&at("a", "/"), user("4"), &by_both, now);
    let found = |uri| recall(&answers, &at("a", uri), now).flatten().unwrap();
    assert_eq!((&*found("/").id, &*found("/other").id), ("4", "1"));
}

#[test]
fn a_list_too_many_widens_nothing() {
    let names: Vec<String> = (0..=REACHES_MAX)
        .map(|number| format!("x-{number}"))
        .collect();
    let now = Instant::now();
    let mut answers = AnswerCache::default();
    let asked = |uri| question(&[("cookie", "a"), ("x-original-uri", uri)]);
    for name in &names {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let reach = Reach::Fields([COOKIE, name].into());
        let reuse = Reuse::For(Duration::from_secs(5), reach);
        answers.remember(&asked("/"), None, &reuse, now);
    }
    let last_key = Reach::Same.key(&asked("/"));
    assert_eq!(answers.known.len(), names.len());
    assert!(answers.known.contains_key(&last_key));
    let last = now + Duration::from_secs(5);
    assert_eq!(recall(&answers, &asked("/"), last), None);
    // Once all are stale, their lists are removed, and there is room for another.
    answers.remember(&asked("/"), None, &fields_for(5, &["cookie"]), last);
    assert_eq!(recall(&answers, &asked("/other"), last), Some(None));
    assert_eq!(answers.known.len(), 1);
}

#[tokio::test]
async fn an_answer_counts_for_the_same_question_alone() {
    let mut app = App::start(Script::Answer(answer("200 OK", &["x-user-id: 7"], ""))).await;
    let mut settings = settings(app.port);
    settings.request_headers.push(header::USER_AGENT);
    let forward = Forward::new(settings).unwrap();
    let mut headers = cookie("a=1");
    let base = subject(&headers);
    forward.ask(&base).await.unwrap();
    forward.ask(&base).await.unwrap();
    assert_eq!(app.asked(), 1);
    let client = Some([192, 0, 2, 1].into());
    let others = [
        Subject {
            method: "POST",
            ..base
        },
        Subject {
            uri: "/chat/?room=2",
            ..base
        },
        Subject {
            uri: "/chat/",
            ..base
        },
        Subject {
            host: "example.org",
            ..base
        },
        Subject {
            scheme: "https",
            ..base
        },
        Subject { client, ..base },
    ];
    for other in &others {
        for _ in 0..2 {
            forward.ask(other).await.unwrap();
        }
        assert_eq!(app.asked(), 1, "{other:?}");
    }
    for (name, value) in [
        ("cookie", "a=1"), // once more
        ("cookie", "b=2"),
        ("authorization", "x"),
        ("user-agent", "x"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
        for _ in 0..2 {
            forward.ask(&subject(&headers)).await.unwrap();
        }
        assert_eq!(app.asked(), 1, "{name}");
    }
}

#[tokio::test]
async fn who_joins_a_request_whose_answer_is_not_shared_asks_again() {
    for (line, asked) in [
        ("cache-control: no-store", 3),
        ("cache-control: no-cache", 3),
        ("vary: *", 3),
        ("cache-control: max-age=0", 1),
    ] {
        let gate = Arc::new(Gate::default());
        let answer = answer("200 OK", &["x-user-id: 7", line], "");
        let mut app = App::start(Script::Gate(Arc::clone(&gate), answer)).await;
        let forward = app.forward();
        let asks = join_all((0..3).map(|_| ask(&forward, "a=1")));
        let open = async {
            app.heads.recv().await.unwrap();
            gate.open.notify_one();
        };
        let (users, ()) = tokio::join!(asks, open);
        assert!(users.iter().all(|user| user.as_ref().unwrap().is_some()));
        assert_eq!(app.asked() + 1, asked, "{line}");
        assert!(forward.answers.lock().known.is_empty());
    }
}

#[tokio::test]
async fn requests_that_wait_at_the_same_time_share_one_subrequest() {
    let gate = Arc::new(Gate::default());
    let answer = answer("200 OK", &["x-user-id: 7"], "");
    let mut app = App::start(Script::Gate(Arc::clone(&gate), answer)).await;
    for cache in [Duration::ZERO, Duration::from_secs(60)] {
        let mut settings = settings(app.port);
        settings.cache = cache;
        let forward = Forward::new(settings).unwrap();
        let asks = join_all((0..20).map(|_| ask(&forward, "a=1")));
        let open = async {
            app.heads.recv().await.unwrap();
            gate.open.notify_one();
        };
        let (users, ()) = tokio::join!(asks, open);
        assert_eq!(users.len(), 20);
        assert!(users.iter().all(|user| user.as_ref().unwrap().is_some()));
        assert_eq!(app.asked(), 0);
        assert!(forward.answers.lock().running.is_empty());
    }
}

#[tokio::test]
async fn the_first_that_waits_may_leave() {
    let gate = Arc::new(Gate::default());
    let answer = answer("200 OK", &["x-user-id: 7"], "");
    let mut app = App::start(Script::Gate(Arc::clone(&gate), answer)).await;
    let forward = app.forward();
    let mut first = Box::pin(ask(&forward, "a=1"));
    let mut second = Box::pin(ask(&forward, "a=1"));
    assert!(poll_immediate(&mut first).await.is_none());
    assert!(poll_immediate(&mut second).await.is_none());
    tokio::select! {
        _ = &mut first => panic!("the gate is closed"),
        head = app.heads.recv() => assert!(head.is_some()),
    }
    drop(first);
    gate.open.notify_one();
    assert_eq!(second.await.unwrap().unwrap().id, "7");
    assert_eq!(app.asked(), 0);
}

#[tokio::test]
async fn a_subrequest_ends_when_nobody_waits() {
    let gate = Arc::new(Gate::default());
    let answer = answer("200 OK", &["x-user-id: 7"], "");
    let mut app = App::start(Script::Gate(Arc::clone(&gate), answer)).await;
    let forward = app.forward();
    tokio::select! {
        _ = ask(&forward, "a=1") => panic!("the gate is closed"),
        head = app.heads.recv() => assert!(head.is_some()),
    }
    assert!(forward.answers.lock().running.is_empty());
    assert_eq!(forward.upstream.client.free_slots(), SUBREQUESTS_MAX);
    gate.open.notify_one();
    assert!(ask(&forward, "a=1").await.unwrap().is_some());
    assert_eq!(app.asked(), 1);
}

#[tokio::test]
async fn only_so_many_subrequests_run_at_once() {
    let gate = Arc::new(Gate::default());
    let answer = answer("200 OK", &["x-user-id: 7"], "");
    let mut app = App::start(Script::Gate(Arc::clone(&gate), answer)).await;
    let forward = app.forward();
    let asks = (0..100).map(|number| {
        let forward = &forward;
        async move { ask(forward, &format!("a={number}")).await }
    });
    let open = async {
        for _ in 0..SUBREQUESTS_MAX {
            app.heads.recv().await.unwrap();
        }
        assert_eq!(forward.upstream.client.free_slots(), 0);
        gate.open.notify_one();
    };
    let (users, ()) = tokio::join!(join_all(asks), open);
    assert!(users.iter().all(|user| user.as_ref().unwrap().is_some()));
    assert_eq!(app.asked(), 100 - SUBREQUESTS_MAX);
    assert_eq!(gate.waiting_most.load(Ordering::SeqCst), SUBREQUESTS_MAX);
}

#[tokio::test]
async fn an_app_that_hangs_is_a_timeout() {
    let whole = json("{}");
    for half in ["", "HTTP/1.1 200 OK\r\nx-us", &whole[..whole.len() - 1]] {
        let mut app = App::start(Script::Hang(half.into())).await;
        let mut settings = settings(app.port);
        settings.timeout = Duration::from_millis(50);
        let forward = Forward::new(settings).unwrap();
        for _ in 0..2 {
            let error = ask(&forward, "a=1").await.unwrap_err();
            let sentence = "no response from the auth URL within 50ms";
            assert_eq!(error.to_string(), sentence);
        }
        assert_eq!(app.asked(), 2);
    }
}

#[tokio::test]
async fn the_wait_for_a_turn_counts_into_the_timeout() {
    let app = App::start(Script::Answer(answer("200 OK", &[], ""))).await;
    let mut settings = settings(app.port);
    settings.timeout = Duration::from_millis(50);
    let forward = Forward::new(settings).unwrap();
    let permits = (0..SUBREQUESTS_MAX).map(|_| forward.upstream.client.acquire());
    let _all = join_all(permits).await;
    let error = ask(&forward, "a=1").await.unwrap_err();
    assert!(matches!(error, ForwardError::Timeout { .. }));
}

#[tokio::test]
async fn an_app_that_closes_is_an_error() {
    let whole = json("{}");
    let cut = &whole[..whole.len() - 1];
    for half in ["", "HTTP/1.1 200 OK\r\nx-us", cut, "no HTTP\r\n\r\n"] {
        let app = App::start(Script::Close(half.into())).await;
        let error = ask(&app.forward(), "secret").await.unwrap_err();
        assert!(
            matches!(error, ForwardError::Connection { .. }),
            "{error:?}"
        );
        assert!(!format!("{error:?}").contains("secret"));
        assert!(error.source().is_some());
    }
}

#[tokio::test]
async fn an_app_that_is_away_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let forward = Forward::new(settings(port)).unwrap();
    let error = ask(&forward, "a=1").await.unwrap_err();
    assert!(
        matches!(error, ForwardError::Connection { .. }),
        "{error:?}"
    );
}

#[test]
fn only_http_and_https_urls_with_a_host_are_taken() {
    let check = |url: &str| {
        let mut settings = settings(9000);
        settings.url = url.into();
        Forward::new(settings).map(|forward| forward.upstream.url.uri.to_string())
    };
    for url in [
        "http://127.0.0.1:9000/auth",
        "http://app/",
        "http://[::1]:80/a?b=@",
        "HTTP://app/",
        "https://app/",
    ] {
        assert_eq!(check(url), Ok(url.replace("HTTP", "http")));
    }
    for url in [
        "",
        "/auth",
        "app:9000",
        "ws://app/",
        "http://",
        "http:///auth",
        "http://:80/",
        "http://app:99999/",
        "http://app:/",
        "http://a b/",
        "unix:/run/auth",
    ] {
        let found = url.into();
        assert_eq!(check(url), Err(ForwardSettingsError::Url { found }));
    }
    for url in [
        "http://user:pass@app/",
        "https://user@app",
        "http://a b@app",
    ] {
        assert_eq!(check(url), Err(ForwardSettingsError::Credentials));
    }
}

#[test]
fn the_listed_headers_say_who_the_client_is() {
    let check = |names: Vec<HeaderName>| {
        let mut settings = settings(9000);
        settings.request_headers = names;
        Forward::new(settings).map(|forward| forward.upstream.settings.request_headers.len())
    };
    assert_eq!(check(vec![COOKIE, AUTHORIZATION, COOKIE]), Ok(2));
    assert_eq!(check(vec![]), Err(ForwardSettingsError::NoRequestHeader));
    let hop_by_hop = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let hop_by_hop = hop_by_hop.map(HeaderName::from_static);
    for found in hop_by_hop.into_iter().chain(MESSAGE_HEADERS) {
        let names = vec![COOKIE, found.clone()];
        assert_eq!(
            check(names),
            Err(ForwardSettingsError::RequestHeader { found })
        );
    }
}
