//! Pipeline: a request and a handshake fail alike, wherever on their way they fail.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, View, respond};
use oneport::middleware::{Middleware, MiddlewareContext};
use oneport::scope::Scope;
use oneport::testing::{Application, HttpCommunicator, WebsocketCommunicator};
use oneport::websocket::{Accept, Close, Consumer, Context, Denial, Message};

use crate::support::application;

const FILE: &str = "
    [[http.route]]
    path            = '/'
    name            = 'request'
    middleware      = ['outer', 'failing', 'inner']
    view            = 'failing'
    request_timeout = '100ms'

    [[websocket.route]]
    path            = '/'
    name            = 'handshake'
    middleware      = ['outer', 'failing', 'inner']
    consumer        = 'failing'
    connect_timeout = '100ms'

    [session]
    store = 'memory'

    [[http.route]]
    path       = '/session'
    middleware = ['failing', 'session']
    view       = 'failing'

    [[websocket.route]]
    path       = '/session'
    middleware = ['failing', 'session']
    consumer   = 'failing'

    [[http.route]]
    path = '/metrics'
    view = 'metrics'
";

/// Fails in the way that the query parameter `stage` asks for.
async fn fail(scope: &Scope, stage: &str) -> Result<(), Failure> {
    match scope.query(stage).as_deref() {
        Some("refuse") => Err(Failure::new(StatusCode::IM_A_TEAPOT, "no tea")),
        Some("error") => Err("a secret cause".into()),
        Some("panic") => panic!("in {stage}"),
        Some("hang") => pending().await,
        _ => Ok(()),
    }
}

struct Failing;

impl Middleware for Failing {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
        fail(cx.scope, "before").await
    }

    async fn after(
        &self,
        scope: &Scope,
        response: &mut oneport::http::Response,
    ) -> Result<(), Failure> {
        if scope.query("after").as_deref() == Some("deny") {
            *response = respond(403, "text/plain", "no");
            let headers = response.headers_mut();
            headers.insert("content-length", HeaderValue::from_static("10"));
            headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        }
        fail(scope, "after").await
    }
}

impl View for Failing {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<oneport::http::Response, Failure> {
        fail(&request.scope, "handler").await?;
        if let Some(session) = &request.scope.session {
            session.set("colour", "blue");
        }
        Ok(respond(200, "text/plain", "fine"))
    }
}

impl Consumer for Failing {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        if let Some(session) = &scope.session {
            session.set("colour", "blue");
        }
        match scope.query("handler").as_deref() {
            Some("refuse") => Err(Denial::new(StatusCode::IM_A_TEAPOT, "no tea")),
            Some("error") => Err("a secret cause".into()),
            _ => {
                let _ = fail(scope, "handler").await;
                Ok(Accept::default())
            }
        }
    }

    async fn receive(&mut self, _: &mut Context<'_>, _: Message) -> Result<(), Close> {
        Ok(())
    }
}

/// Adds a header field of its name to each response.
struct Marking<const NAME: char>;

impl<const NAME: char> Middleware for Marking<NAME> {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn after(
        &self,
        _scope: &Scope,
        response: &mut oneport::http::Response,
    ) -> Result<(), Failure> {
        let name = HeaderName::from_bytes(format!("x-{NAME}").as_bytes())?;
        response
            .headers_mut()
            .append(name, HeaderValue::from_static("seen"));
        Ok(())
    }
}

fn app() -> Application {
    let registry = Registry::builtin()
        .middleware::<Marking<'o'>>("outer")
        .middleware::<Failing>("failing")
        .middleware::<Marking<'i'>>("inner")
        .view::<Failing>("failing")
        .consumer::<Failing>("failing");
    application(&registry, FILE)
}

/// What a failure leaves behind.
#[derive(Debug, Eq, PartialEq)]
struct Traces {
    status: u16,
    body: String,
    /// How often each middleware's field is in the response.
    fields: [usize; 2],
    /// Level, target and message of each line in the log.
    log: Vec<String>,
    /// How much the counters rose: the route's by class, and panics.
    counted: Vec<String>,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines since the last call, without what differs by table.
    fn take(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.contains(" oneport") || line.contains("access"));
        lines
            .map(|line| {
                let line = line.split(" id=").next().unwrap().trim();
                line.replace("handshake", "request")
                    .replace("http", "request")
            })
            .collect()
    }
}

async fn counters(app: &Application) -> Vec<(String, u64)> {
    let page = HttpCommunicator::get("/metrics").send(app).await;
    let page = String::from_utf8_lossy(page.body()).into_owned();
    // A refused handshake has no body that is counted.
    let wanted = |line: &&str| {
        line.starts_with("oneport_panics_total")
            || !line.contains("_bytes_")
                && (line.contains("_total{route=\"request\"")
                    || line.contains("_total{route=\"handshake\""))
    };
    page.lines()
        .filter(wanted)
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

async fn traces<F>(app: &Application, log: &Log, send: F) -> Traces
where
    F: Future<Output = Response<Bytes>>,
{
    let before = counters(app).await;
    log.take();
    let response = send.await;
    let log = log.take();
    let after = counters(app).await;
    let earlier = |name: &str| {
        let found = before.iter().find(|(known, _)| known == name);
        found.map_or(0, |(_, value)| *value)
    };
    let rose = |(name, value): &(String, u64)| {
        let by = value - earlier(name);
        let name = name.replace("handshake", "request");
        let name = name.replace(",method=\"GET\"", ""); // handshakes have no other
        (by > 0).then(|| format!("{name} {by}"))
    };
    let count = |name| response.headers().get_all(name).iter().count();
    let mut counted: Vec<String> = after.iter().filter_map(rose).collect();
    counted.sort_unstable(); // the two tables' metrics have other names
    Traces {
        status: response.status().as_u16(),
        body: String::from_utf8_lossy(response.body()).into_owned(),
        fields: [count("x-o"), count("x-i")],
        log,
        counted,
    }
}

/// Issue 15: an `after` that failed over a handshake ran twice, and middleware that panicked was not caught.
#[tokio::test]
async fn request_and_handshake_fail_alike() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let app = app();
    let too_long = |table: &str, stage: &str| match (stage, table) {
        ("after", _) => "the middleware took too long",
        (_, "request") => "the answer took too long",
        _ => "the decision on the handshake took too long",
    };
    for (stage, how, status) in [
        ("before", "refuse", 418),
        ("before", "error", 500),
        ("before", "panic", 500),
        ("before", "hang", 504),
        ("handler", "refuse", 418),
        ("handler", "error", 500),
        ("handler", "panic", 500),
        ("handler", "hang", 504),
        ("after", "refuse", 418),
        ("after", "error", 500),
        ("after", "panic", 500),
        ("after", "hang", 504),
    ] {
        let case = format!("{stage}={how}");
        let path = format!("/?{case}");
        let mut request = traces(&app, &log, HttpCommunicator::get(&path).send(&app)).await;
        let connect = async {
            let connected = WebsocketCommunicator::new(&path).connect(&app).await;
            let Err(refusal) = connected else {
                panic!("expected the handshake to be refused");
            };
            refusal
        };
        let mut handshake = traces(&app, &log, connect).await;
        assert_eq!(request.status, status, "{case}");
        assert_eq!(request.fields, [1, 1], "{case}");
        assert_eq!(
            request.log.len(),
            if status == 418 { 1 } else { 2 },
            "{case}: {:#?}",
            request.log
        );
        assert!(!request.counted.is_empty(), "{case}");
        if how == "hang" {
            for (traces, table) in [(&mut request, "request"), (&mut handshake, "handshake")] {
                assert_eq!(traces.body, format!("504 {}\n", too_long(table, stage)));
                traces.body.clear();
            }
        }
        assert_eq!(request, handshake, "{case}");
    }
}

/// Sends a request and a handshake that are refused; returns both responses.
async fn refusals(app: &Application, path: &str) -> [Response<Bytes>; 2] {
    let request = HttpCommunicator::get(path).send(app).await;
    let connected = WebsocketCommunicator::new(path).connect(app).await;
    let Err(handshake) = connected else {
        panic!("expected the handshake to be refused");
    };
    [request, handshake]
}

#[tokio::test]
async fn middleware_that_replaces_a_response_sets_no_framing() {
    for response in refusals(&app(), "/?after=deny").await {
        assert_eq!(
            (response.status().as_u16(), &response.body()[..]),
            (403, &b"no"[..])
        );
        for name in [
            "content-length",
            "transfer-encoding",
            "sec-websocket-accept",
        ] {
            assert_eq!(response.headers().get(name), None, "{name}");
        }
    }
}

#[tokio::test]
async fn saved_session_reaches_the_client_when_other_middleware_fails() {
    let app = app();
    for response in refusals(&app, "/session?after=error").await {
        assert_eq!(response.status(), 500);
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.starts_with("sessionid="), "{cookie}");
    }
    let path = "/session?after=error";
    let response = HttpCommunicator::get(path).send(&app).await;
    assert_eq!(response.headers()["vary"], "cookie");
}

#[tokio::test]
async fn middleware_runs_over_what_succeeds() {
    let app = app();
    let response = HttpCommunicator::get("/").send(&app).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-o"]),
        (200, &"seen".parse().unwrap())
    );
    let mut socket = WebsocketCommunicator::new("/").connect(&app).await.unwrap();
    assert_eq!(socket.response.headers()["x-i"], "seen");
    socket.send("hi").await;
    socket.disconnect().await;
}

/// Turns every response into a page of its own.
struct Rewriting;

impl Middleware for Rewriting {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn after(
        &self,
        scope: &Scope,
        response: &mut oneport::http::Response,
    ) -> Result<(), Failure> {
        let headers = response.headers_mut();
        headers.insert("sec-websocket-accept", HeaderValue::from_static("x"));
        headers.insert("content-length", HeaderValue::from_static("1000"));
        headers.remove("upgrade");
        if scope.query("refuse").is_some() {
            *response = respond(403, "text/plain", "no");
        }
        Ok(())
    }
}

#[tokio::test]
async fn middleware_changes_no_framing_and_may_refuse_an_accepted_handshake() {
    let registry = Registry::builtin().middleware::<Rewriting>("rewriting");
    let app = application(
        &registry,
        "[[http.route]]\npath = '/'\nmiddleware = ['rewriting']\nview = 'respond'\noptions = { body = 'hello' }\n[[websocket.route]]\npath = '/'\nmiddleware = ['rewriting']\nconsumer = 'echo'\n",
    );
    let response = HttpCommunicator::get("/").send(&app).await;
    assert_eq!(response.body(), "hello");
    assert!(!response.headers().contains_key("content-length"));
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut socket = WebsocketCommunicator::new("/").connect(&app).await.unwrap();
    assert_ne!(socket.response.headers()["sec-websocket-accept"], "x");
    assert!(socket.response.headers().contains_key("upgrade"));
    socket.send("hi").await;
    assert_eq!(socket.receive().await.as_text(), Some("hi"));
    socket.disconnect().await;
    let refused = WebsocketCommunicator::new("/?refuse").connect(&app).await;
    assert_eq!(refused.err().unwrap().status(), 403);
}
