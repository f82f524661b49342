//! Sessions: what is remembered, who is logged in, and every guard around it. Each test fails when its guard is taken away.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Method, Response};
use oneport::auth::login_rate_limit::{LoginLimits, LoginRateLimit};
use oneport::database::{Database, DatabaseSettings};
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, View, respond};
use oneport::testing::{Application, Connected, Heard, HttpCommunicator, WebsocketCommunicator};
use oneport::websocket::{Close, CloseCode, Consumer, Context, Message};
use serde_json::json;

const ROUTES: &str = r#"
[[http.route]]
path = "/login/"
name = "login"
view = "login"
options = { attempts_window = "1h" }

[[http.route]]
path = "/logout/"
name = "logout"
view = "logout"

[[http.route]]
path = "/ticket/"
view = "ticket"

[[http.route]]
path = "/logout/get/"
methods = ["GET", "POST"]
view = "logout"

[[http.route]]
path = "/blind/"
middleware = []
view = "template"
options = { template = "login.html", context = { form = {} } }

[[http.route]]
path = "/me/"
view = "me"
methods = ["GET", "POST"]

[[http.route]]
path = "/members/"
middleware = ["session", "auth", "login_required"]
view = "respond"
options = { body = "members" }

[[http.route]]
path = "/staff/"
middleware = ["session", "auth", "staff_required"]
view = "respond"
options = { body = "staff" }

[[http.route]]
path = "/guarded/"
middleware = ["session", "auth", "csrf"]
view = "respond"
options = { body = "done" }

[websocket]
middleware = ["origin", "session", "auth"]

[[websocket.route]]
path = "/ws/me/"
consumer = "me"

[[websocket.route]]
path = "/ws/members/"
middleware = ["origin", "session", "auth", "login_required"]
consumer = "echo"

[[websocket.route]]
path = "/ws/staff/"
middleware = ["origin", "session", "auth", "staff_required"]
consumer = "echo"

[[websocket.route]]
path = "/ws/query/"
token_in_query = true
consumer = "me"
"#;

const LOGIN_PAGE: &str = r#"<form>{{ form.error }}|{{ form.username }}|{{ form.next }}|<input name="csrfmiddlewaretoken" value="{{ csrf_token() }}"></form>"#;

/// Says who it is; POST puts what the query says into the session.
struct Me;

impl View for Me {
    type Options = ();

    fn new((): ()) -> Self {
        Self
    }

    async fn call(&self, request: Request) -> Result<oneport::http::Response, Failure> {
        let scope = &request.scope;
        let session = scope.session.clone().ok_or("no session")?;
        if scope.method == Method::POST {
            for (name, value) in scope.query_pairs() {
                if value.is_empty() {
                    session.remove(&name);
                } else {
                    session.set(&name, value);
                }
            }
        }
        if scope.query("fail").is_some() {
            return Err(Failure::from("as asked"));
        }
        let shown: serde_json::Map<_, _> = session
            .data()
            .iter()
            .filter(|(name, _)| !name.starts_with('_'))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let user = scope.user.as_ref().map(|user| user.name.clone());
        Ok(respond(
            200,
            "application/json",
            json!({"user": user, "session": shown}).to_string(),
        ))
    }
}

/// Says who it is; `NAME=VALUE` goes into the session, `save` saves it.
struct MyConsumer;

impl Consumer for MyConsumer {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        let session = cx.scope().session.clone().ok_or("no session")?;
        let user = cx.scope().user.as_ref().map(|user| user.name.clone());
        match message.as_text().and_then(|text| text.split_once('=')) {
            Some((name, value)) => session.set(name, value),
            None if message.as_text() == Some("save") => session.save().await?,
            None => {}
        }
        cx.send_json(&user)?;
        Ok(())
    }
}

fn registry() -> Registry {
    Registry::builtin()
        .view::<Me>("me")
        .consumer::<MyConsumer>("me")
}

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("oneport-sessions-{}", oneport::secrets::random(9));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("login.html"), LOGIN_PAGE).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An application with the users anna, berta (staff) and carla (may not log in), whose passwords are their names and `-password`.
struct Site {
    app: Application,
    directory: Directory,
}

impl Site {
    async fn new() -> Self {
        Self::with("sqlite:", "").await
    }

    /// `store` is `memory`, or `sqlite:` for a file of its own; `more` are further keys of `[session]` and sections.
    async fn with(store: &str, more: &str) -> Self {
        let directory = Directory::new();
        let file = directory.0.join("users.db");
        let users = format!("sqlite:{}", file.display());
        let store = if store == "sqlite:" { &users } else { store };
        let interval = if more.contains("check_interval") {
            ""
        } else {
            "check_interval = \"100ms\""
        };
        let text = format!(
            "[templates]\ndir = {:?}\n[session]\nstore = {store:?}\ncache = \"0s\"\n{interval}\n{more}\n[auth]\nusers = {users:?}\n[http]\nmiddleware = [\"session\", \"auth\"]\n{ROUTES}",
            directory.0
        );
        let app =
            Application::with(&registry(), &text).unwrap_or_else(|problems| panic!("{problems}"));
        let site = Self { app, directory };
        for (name, is_staff) in [("anna", false), ("berta", true), ("carla", false)] {
            site.add(name, is_staff).await;
        }
        site
    }

    fn users(&self) -> &oneport::auth::Users {
        self.app.gateway().services().auth.users().unwrap()
    }

    async fn add(&self, name: &str, is_staff: bool) {
        let auth = &self.app.gateway().services().auth;
        let encoded = auth.hash(&format!("{name}-password")).await.unwrap();
        self.users().add(name, &encoded, is_staff).await.unwrap();
    }

    fn browser(&self) -> Browser<'_> {
        Browser {
            site: self,
            cookies: Vec::new(),
        }
    }
}

/// Keeps cookies.
#[derive(Clone)]
struct Browser<'s> {
    site: &'s Site,
    cookies: Vec<(String, String)>,
}

impl<'s> Browser<'s> {
    fn cookie(&self, name: &str) -> Option<&str> {
        let mut cookies = self.cookies.iter();
        cookies.find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    fn cookies(&self) -> String {
        let pairs = self
            .cookies
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }

    async fn send(&mut self, request: HttpCommunicator) -> Response<Bytes> {
        let cookies = self.cookies();
        let request = if cookies.is_empty() {
            request
        } else {
            request.header("cookie", &cookies)
        };
        let response = request.send(&self.site.app).await;
        for field in response.headers().get_all("set-cookie") {
            let pair = field.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.retain(|(key, _)| key != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        response
    }

    async fn get(&mut self, path: &str) -> Response<Bytes> {
        self.send(HttpCommunicator::get(path)).await
    }

    async fn me(&mut self) -> serde_json::Value {
        serde_json::from_slice(self.get("/me/").await.body()).unwrap()
    }

    async fn user(&mut self) -> Option<String> {
        self.me().await["user"].as_str().map(str::to_owned)
    }

    /// The token of the login page.
    async fn token(&mut self) -> String {
        let page = self.get("/login/").await;
        let text = String::from_utf8(page.body().to_vec()).unwrap();
        let (_, rest) = text.split_once("value=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Response<Bytes> {
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        };
        let body: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        let request = HttpCommunicator::new(Method::POST, path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"));
        self.send(request).await
    }

    async fn log_in(&mut self, name: &str, password: &str, next: &str) -> Response<Bytes> {
        let token = self.token().await;
        let fields = [
            ("username", name),
            ("password", password),
            ("next", next),
            ("csrfmiddlewaretoken", &token),
        ];
        self.post("/login/", &fields).await
    }

    async fn log_out(&mut self) -> Response<Bytes> {
        let token = self.token().await;
        self.post("/logout/", &[("csrfmiddlewaretoken", &token)])
            .await
    }

    async fn logged_in(site: &'s Site, name: &str) -> Self {
        let mut browser = site.browser();
        let response = browser.log_in(name, &format!("{name}-password"), "").await;
        assert_eq!(response.status(), 303);
        browser
    }

    async fn socket(&self, path: &str) -> Result<Connected, Response<Bytes>> {
        WebsocketCommunicator::new(path)
            .header("cookie", &self.cookies())
            .connect(&self.site.app)
            .await
    }
}

fn location(response: &Response<Bytes>) -> &str {
    response.headers()["location"].to_str().unwrap()
}

async fn closed_with(socket: &mut Connected) -> u16 {
    match socket.hear().await {
        Heard::Close { code, .. } => code,
        other => panic!("expected a close frame, found {other:?}"),
    }
}

#[tokio::test]
async fn nothing_is_stored_and_no_cookie_set_before_something_is_put_in() {
    for store in ["sqlite:", "memory"] {
        let site = Site::with(store, "").await;
        let mut browser = site.browser();
        let response = browser.get("/me/").await;
        assert!(response.headers().get("set-cookie").is_none());
        let response = browser
            .send(HttpCommunicator::new(Method::POST, "/me/?color=blue"))
            .await;
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.starts_with("sessionid="), "{cookie}");
        assert_eq!(browser.me().await["session"], json!({"color": "blue"}));
        // Not changed, not written again.
        assert!(
            browser
                .get("/me/")
                .await
                .headers()
                .get("set-cookie")
                .is_none()
        );
        // Empty again: the row and the cookie go.
        browser
            .send(HttpCommunicator::new(Method::POST, "/me/?color="))
            .await;
        assert_eq!(browser.cookie("sessionid"), None);
    }
}

#[tokio::test]
async fn a_failed_answer_saves_nothing() {
    let site = Site::new().await;
    let mut browser = site.browser();
    let request = HttpCommunicator::new(Method::POST, "/me/?color=blue&fail=1");
    let response = browser.send(request).await;
    assert_eq!(response.status(), 500);
    assert!(response.headers().get("set-cookie").is_none());
}

#[tokio::test]
async fn changes_of_different_names_both_count() {
    for store in ["sqlite:", "memory"] {
        let site = Site::with(store, "").await;
        let mut browser = site.browser();
        browser
            .send(HttpCommunicator::new(Method::POST, "/me/?start=1"))
            .await;
        let mut socket = browser.socket("/ws/me/").await.unwrap();
        socket.send("from_socket=1").await;
        socket.hear().await;
        browser
            .send(HttpCommunicator::new(Method::POST, "/me/?from_view=1"))
            .await;
        socket.send("save").await;
        socket.hear().await;
        assert_eq!(
            browser.me().await["session"],
            json!({"start": "1", "from_view": "1", "from_socket": "1"})
        );
    }
}

#[tokio::test]
async fn what_a_consumer_changed_is_saved_at_the_end() {
    let site = Site::new().await;
    let mut browser = site.browser();
    browser
        .send(HttpCommunicator::new(Method::POST, "/me/?start=1"))
        .await;
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    socket.send("last=words").await;
    socket.hear().await;
    socket.close(CloseCode::NORMAL, "").await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while browser.me().await["session"]["last"] != "words" {
        assert!(Instant::now() < deadline, "the session was not saved");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_socket_without_a_session_cannot_begin_one() {
    let site = Site::new().await;
    let mut socket = site.browser().socket("/ws/me/").await.unwrap();
    socket.send("a=b").await;
    socket.hear().await;
    socket.send("save").await;
    assert_eq!(closed_with(&mut socket).await, 1011);
}

#[tokio::test]
async fn the_same_login_counts_on_both_tables() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    socket.send("who").await;
    assert_eq!(
        socket.hear().await,
        Heard::Message(Message::text("\"anna\""))
    );
    assert_eq!(browser.get("/members/").await.status(), 200);
    assert_eq!(browser.get("/staff/").await.status(), 403);
    assert!(browser.socket("/ws/members/").await.is_ok());
    assert_eq!(
        browser.socket("/ws/staff/").await.unwrap_err().status(),
        403
    );
    let mut staff = Browser::logged_in(&site, "berta").await;
    assert_eq!(staff.get("/staff/").await.status(), 200);
    assert!(staff.socket("/ws/staff/").await.is_ok());
}

#[tokio::test]
async fn who_is_anonymous_is_sent_to_log_in_and_back() {
    let site = Site::new().await;
    let mut browser = site.browser();
    let response = browser.get("/members/?a=b&c=d").await;
    assert_eq!(response.status(), 302);
    assert_eq!(
        location(&response),
        "/login/?next=/members/%3Fa%3Db%26c%3Dd"
    );
    let request = HttpCommunicator::get("/members/").header("accept", "application/json");
    let response = browser.send(request).await;
    assert_eq!(response.status(), 401);
    assert!(response.headers().contains_key("www-authenticate"));
    assert_eq!(
        browser.socket("/ws/members/").await.unwrap_err().status(),
        403
    );
    let response = browser
        .log_in("anna", "anna-password", "/members/?a=b&c=d")
        .await;
    assert_eq!(location(&response), "/members/?a=b&c=d");
}

#[tokio::test]
async fn wrong_names_wrong_passwords_and_inactive_users_get_one_answer() {
    let site = Site::new().await;
    let file = site.directory.0.join("users.db");
    run_sql(
        &file,
        "UPDATE oneport_user SET is_active = 0 WHERE username = 'carla'",
    )
    .await;
    let mut pages = Vec::new();
    for (name, password) in [
        ("anna", "wrong-password"),
        ("nobody", "anna-password"),
        ("carla", "carla-password"),
    ] {
        let mut browser = site.browser();
        let response = browser.log_in(name, password, "").await;
        assert_eq!(response.status(), 401, "{name}");
        let page = String::from_utf8(response.body().to_vec()).unwrap();
        assert!(page.contains(&format!("|{name}|")), "{page}");
        assert!(!page.contains(password));
        pages.push(page.split('|').next().unwrap().to_owned());
        assert_eq!(browser.user().await, None);
    }
    assert!(pages[0].contains("wrong") && pages.iter().all(|page| *page == pages[0]));
}

#[tokio::test]
async fn a_store_that_nothing_asks_leaves_no_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::with("sqlite:", "").await;
    let file = site.directory.0.join("users.db");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let directory = Directory::new();
    let file = directory.0.join("unasked.db");
    let text = format!(
        "[session]\nstore = \"sqlite:{0}\"\n[auth]\nusers = \"sqlite:{0}\"\n[[http.route]]\npath = \"/\"\nview = \"respond\"\noptions = {{ body = \"hello\" }}\n",
        file.display()
    );
    let app = Application::with(&registry(), &text).unwrap_or_else(|problems| panic!("{problems}"));
    let answer = HttpCommunicator::get("/").send(&app).await;
    assert_eq!(answer.status(), 200);
    assert!(!file.exists());
}

/// Changes a database behind the server's back.
async fn run_sql(file: &std::path::Path, sql: &str) {
    let database = sqlite(file, Duration::from_secs(5), 1);
    database.execute(sql, &[]).await.unwrap();
}

fn sqlite(file: &std::path::Path, timeout: Duration, connections: u32) -> Database {
    let url = format!("sqlite:{}", file.display()).parse().unwrap();
    let settings = DatabaseSettings {
        timeout,
        connections,
    };
    Database::new(&url, settings, "test").unwrap().unwrap()
}

#[tokio::test]
async fn a_file_is_read_while_many_wait_to_write_it() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let site = Site::new().await;
    // With a limit of one connection the transaction stays on it.
    let file = site.directory.0.join("users.db");
    let other = sqlite(&file, Duration::from_secs(5), 1);
    for connections in [2, 8] {
        let database = sqlite(&file, TIMEOUT, connections);
        let read = || database.fetch("SELECT username FROM oneport_user", &[]);
        read().await.unwrap();
        other.execute("BEGIN IMMEDIATE", &[]).await.unwrap();
        let write = "DELETE FROM oneport_session WHERE key_hash = 'none'";
        // The second ones come while the first ones still have the writer's connection.
        for _ in 0..2 {
            let mut writes: FuturesUnordered<_> =
                (0..20).map(|_| database.execute(write, &[])).collect();
            let mut refused = 0;
            let mut longest = Duration::ZERO;
            while refused < 20 {
                tokio::select! {
                    Some(written) = writes.next() => {
                        assert!(written.is_err(), "{written:?}");
                        refused += 1;
                    }
                    took = async {
                        let began = Instant::now();
                        read().await.unwrap();
                        began.elapsed()
                    } => longest = longest.max(took),
                }
            }
            assert!(longest < TIMEOUT / 2, "{connections}: {longest:?}");
        }
        other.execute("ROLLBACK", &[]).await.unwrap();
        database.execute(write, &[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_planted_session_is_worth_nothing_after_the_login() {
    let site = Site::new().await;
    // An attacker's own session, planted in the victim's browser before the login.
    let mut attacker = site.browser();
    attacker
        .send(HttpCommunicator::new(Method::POST, "/me/?color=red"))
        .await;
    let planted = attacker.cookie("sessionid").unwrap().to_owned();
    let mut victim = attacker.clone();
    victim.log_in("anna", "anna-password", "").await;
    assert_eq!(victim.user().await.as_deref(), Some("anna"));
    assert_ne!(victim.cookie("sessionid").unwrap(), planted);
    assert_eq!(victim.me().await["session"], json!({"color": "red"}));
    assert_eq!(attacker.user().await, None);
    // A key that nobody has is not taken over either.
    let mut other = site.browser();
    let chosen = "a".repeat(32);
    other.cookies.push(("sessionid".to_owned(), chosen.clone()));
    other.log_in("anna", "anna-password", "").await;
    assert_eq!(other.user().await.as_deref(), Some("anna"));
    assert_ne!(other.cookie("sessionid").unwrap(), chosen);
}

#[tokio::test]
async fn another_login_forgets_what_the_first_user_left() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    browser
        .send(HttpCommunicator::new(Method::POST, "/me/?secret=annas"))
        .await;
    let before = browser.clone();
    browser.log_in("berta", "berta-password", "").await;
    assert_eq!(browser.me().await, json!({"user": "berta", "session": {}}));
    let mut before = before;
    assert_eq!(before.user().await, None);
}

#[tokio::test]
async fn forms_without_their_token_are_refused() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let good = browser.token().await;
    let cookie = browser.cookie("csrftoken").unwrap().to_owned();
    let other = site.browser().token().await;
    let attempt = |token: String| {
        let mut browser = browser.clone();
        async move {
            let fields = [("csrfmiddlewaretoken", token.as_str())];
            browser.post("/guarded/", &fields).await.status().as_u16()
        }
    };
    assert_eq!(attempt(good.clone()).await, 200);
    assert_eq!(attempt(cookie.clone()).await, 200);
    for bad in ["", "x", &other, &good[..good.len() - 4], &"A".repeat(176)] {
        assert_eq!(attempt(bad.to_owned()).await, 403, "{bad}");
    }
    // The header field does as well.
    let request = || HttpCommunicator::new(Method::POST, "/guarded/");
    assert_eq!(browser.send(request()).await.status(), 403);
    let with_header = request().header("x-csrftoken", &good);
    assert_eq!(browser.send(with_header).await.status(), 200);
    // A pair that an attacker got from his own visit does not fit to anna's session.
    let mut attacker = site.browser();
    let stolen = attacker.token().await;
    let mut planted = browser.clone();
    planted.cookies.retain(|(name, _)| name != "csrftoken");
    planted.cookies.extend(attacker.cookies.clone());
    let fields = [("csrfmiddlewaretoken", stolen.as_str())];
    assert_eq!(planted.post("/guarded/", &fields).await.status(), 403);
    // Neither does one without a signature.
    let mut forged = browser.clone();
    forged.cookies.retain(|(name, _)| name != "csrftoken");
    forged
        .cookies
        .push(("csrftoken".to_owned(), "abc.def".to_owned()));
    let fields = [("csrfmiddlewaretoken", "abc.def")];
    assert_eq!(forged.post("/guarded/", &fields).await.status(), 403);
    // Logging in and out is guarded by the views themselves.
    for path in ["/login/", "/logout/"] {
        assert_eq!(browser.post(path, &[]).await.status(), 403, "{path}");
    }
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
    assert_eq!(browser.get("/logout/").await.status(), 405);
}

/// Each place that takes the token from a header field takes it from the one of the file.
#[tokio::test]
async fn the_header_field_of_a_token_has_the_name_of_the_file() {
    for more in [
        "[csrf]\nheader = \"X-Token\"",
        "[csrf]\nheader = \"X-Token\"\nuse_sessions = true",
    ] {
        let site = Site::with("sqlite:", more).await;
        let mut browser = Browser::logged_in(&site, "anna").await;
        let token = browser.token().await;
        let is_cookie = browser.cookie("csrftoken").is_some();
        assert_eq!(is_cookie, !more.contains("use_sessions"));
        for (path, status) in [("/guarded/", 200), ("/ticket/", 200), ("/logout/", 303)] {
            let request = || HttpCommunicator::new(Method::POST, path);
            let wrong = request().header("x-csrftoken", &token);
            assert_eq!(browser.send(wrong).await.status(), 403, "{path}");
            let right = request().header("x-token", &token);
            assert_eq!(browser.send(right).await.status(), status, "{path}");
        }
    }
}

#[tokio::test]
async fn forms_of_other_origins_are_refused() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let token = browser.token().await;
    for (origin, status) in [
        ("http://localhost", 200),
        ("http://localhost:80", 403),
        ("http://LOCALHOST", 403),
        ("https://localhost", 403),
        ("http://evil.test", 403),
        ("null", 403),
        ("", 403),
    ] {
        let request = HttpCommunicator::new(Method::POST, "/guarded/")
            .header("origin", origin)
            .header("x-csrftoken", &token);
        assert_eq!(browser.send(request).await.status(), status, "{origin}");
    }
}

#[tokio::test]
async fn next_never_leads_to_another_host() {
    let site = Site::new().await;
    for next in [
        "//evil.test/",
        "https://evil.test/",
        "/\\evil.test/",
        "/\t/evil.test/",
        "javascript:alert(1)",
        "evil.test",
    ] {
        let mut browser = site.browser();
        let response = browser.log_in("anna", "anna-password", next).await;
        assert_eq!(
            (response.status().as_u16(), location(&response)),
            (303, "/"),
            "{next}"
        );
        let page = browser.get("/login/?next=%2F%2Fevil.test%2F").await;
        let page = String::from_utf8(page.body().to_vec()).unwrap();
        assert!(!page.contains("evil.test"), "{page}");
    }
    let mut browser = site.browser();
    let response = browser.log_in("anna", "anna-password", "/é/?a=b").await;
    assert_eq!(location(&response), "/%C3%A9/?a=b");
}

#[tokio::test]
async fn the_cookie_has_its_flags() {
    let flags = |response: &Response<Bytes>, name: &str| {
        let fields = response.headers().get_all("set-cookie");
        let fields = fields
            .iter()
            .map(|field| field.to_str().unwrap().to_owned());
        let found = fields.into_iter().find(|field| field.starts_with(name));
        found.unwrap_or_default()
    };
    let site = Site::new().await;
    let response = site.browser().log_in("anna", "anna-password", "").await;
    let cookie = flags(&response, "sessionid=");
    for flag in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=1209600"] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    assert!(
        !cookie.contains("Secure") && !cookie.contains("Domain"),
        "{cookie}"
    );
    let page = site.browser().get("/login/").await;
    let cookie = flags(&page, "csrftoken=");
    assert!(
        cookie.contains("SameSite=Lax") && !cookie.contains("HttpOnly"),
        "{cookie}"
    );

    let more = "secure = \"always\"\nsame_site = \"strict\"\ndomain = \"example.com\"\nmax_age = \"1h\"\npath = \"/app/\"";
    let site = Site::with("sqlite:", more).await;
    let response = site.browser().log_in("anna", "anna-password", "").await;
    let cookie = flags(&response, "sessionid=");
    for flag in [
        "HttpOnly",
        "Secure",
        "SameSite=Strict",
        "Domain=example.com",
        "Path=/app/",
        "Max-Age=3600",
    ] {
        assert!(cookie.contains(flag), "{cookie}");
    }
}

#[tokio::test]
async fn a_foreign_page_cannot_open_a_websocket_with_the_visitors_cookie() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "anna").await;
    for path in ["/ws/me/", "/ws/members/"] {
        for origin in ["http://evil.test", "null", ""] {
            let refused = WebsocketCommunicator::new(path)
                .header("cookie", &browser.cookies())
                .header("origin", origin)
                .connect(&site.app)
                .await;
            assert_eq!(refused.unwrap_err().status(), 403, "{path} {origin:?}");
        }
    }
}

#[tokio::test]
async fn strange_cookies_are_nobody() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "anna").await;
    let key = browser.cookie("sessionid").unwrap().to_owned();
    let long = "a".repeat(1024 * 1024);
    for strange in [
        "",
        &key[1..],
        &key.to_uppercase(),
        &format!("{key}x"),
        "' OR '1'='1",
        "a' UNION SELECT data FROM oneport_session --",
        &long,
        "%00",
        "é",
    ] {
        let request =
            HttpCommunicator::get("/me/").header("cookie", &format!("sessionid={strange}"));
        // Not every text can be a header field.
        let response = request.send(&site.app).await;
        let me: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(me["user"], json!(null), "{strange:.40}");
    }
}

#[tokio::test]
async fn names_and_passwords_are_never_sql() {
    let site = Site::new().await;
    for name in [
        "anna' --",
        "' OR 1=1 --",
        "anna\0",
        "\"; DROP TABLE oneport_user; --",
        "%",
        "_nna",
        "ANNA",
        " anna",
    ] {
        let mut browser = site.browser();
        let response = browser.log_in(name, "anna-password", "").await;
        assert_eq!(response.status(), 401, "{name:?}");
        let response = browser.log_in("anna", name, "").await;
        assert!([401, 429].contains(&response.status().as_u16()), "{name:?}");
    }
    assert_eq!(site.users().list().await.unwrap().len(), 3);
    // A name that looks like SQL is a name.
    let strange = "Robert'); DROP TABLE oneport_user; --";
    site.add(strange, false).await;
    let mut browser = Browser::logged_in(&site, strange).await;
    assert_eq!(browser.user().await.as_deref(), Some(strange));
}

/// A wrong name works out a hash, as a wrong password does: what is compared is the work, which differs by the factor of a hash.
#[tokio::test]
async fn an_unknown_name_takes_as_long_as_a_wrong_password() {
    let site = Site::new().await;
    let auth = &site.app.gateway().services().auth;
    auth.check_password("nobody", "x").await.unwrap(); // the first finds out which hash to work out
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..7 {
        for (name, times) in ["anna", "nobody"].iter().zip(&mut times) {
            let begun = Instant::now();
            auth.check_password(name, "wrong").await.unwrap();
            times.push(begun.elapsed());
        }
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort();
        times[0]
    });
    // Without a hash it would be hundreds of times less.
    assert!(
        unknown * 5 > known,
        "{unknown:?} for a wrong name, {known:?} for a wrong password"
    );
}

#[tokio::test]
async fn too_many_attempts_have_to_wait() {
    let site = Site::new().await;
    let mut browser = site.browser();
    for _ in 0..10 {
        assert_eq!(browser.log_in("anna", "wrong", "").await.status(), 401);
    }
    // The right password too: otherwise the answer would tell.
    let response = browser.log_in("anna", "anna-password", "").await;
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
    // Another name may still log in from here.
    assert_eq!(
        browser.log_in("berta", "berta-password", "").await.status(),
        303
    );
}

#[tokio::test]
async fn invented_names_from_many_addresses_lock_out_nobody() {
    let site = Site::new().await;
    let attempts = site.app.gateway().services().shared::<LoginRateLimit>();
    let limits = LoginLimits {
        per_name: NonZeroU32::new(10).unwrap(),
        per_address: NonZeroU32::new(30).unwrap(),
        window: Duration::from_secs(3_600),
    };
    for number in 0..200_000 {
        let address = Ipv4Addr::from_bits(number).into();
        let name = format!("invented{number}");
        let _ = attempts.count(limits, &name, Some(address)).unwrap();
    }
    let mut browser = site.browser();
    for name in ["anna", "berta"] {
        let response = browser.log_in(name, &format!("{name}-password"), "").await;
        assert_eq!(response.status(), 303);
    }
}

#[tokio::test]
async fn live_sockets_end_with_their_login() {
    let site = Site::new().await;
    let mut anna = Browser::logged_in(&site, "anna").await;
    let berta = Browser::logged_in(&site, "berta").await;
    let elsewhere = Browser::logged_in(&site, "anna").await;
    let mut of_anna = anna.socket("/ws/me/").await.unwrap();
    let mut of_elsewhere = elsewhere.socket("/ws/me/").await.unwrap();
    let mut of_berta = berta.socket("/ws/me/").await.unwrap();
    let mut anonymous = site.browser().socket("/ws/me/").await.unwrap();
    let response = anna.log_out().await;
    assert_eq!(
        (response.status().as_u16(), location(&response)),
        (303, "/")
    );
    assert_eq!(closed_with(&mut of_anna).await, 4401);
    assert_eq!(anna.user().await, None);
    // Her other login goes on.
    of_elsewhere.send("who").await;
    assert_eq!(
        of_elsewhere.hear().await,
        Heard::Message(Message::text("\"anna\""))
    );
    // A new password ends it; removing a user ends hers.
    let auth = &site.app.gateway().services().auth;
    let encoded = auth.hash("another-password").await.unwrap();
    assert!(site.users().set_password("anna", &encoded).await.unwrap());
    assert_eq!(closed_with(&mut of_elsewhere).await, 4401);
    assert!(site.users().remove("berta").await.unwrap());
    assert_eq!(closed_with(&mut of_berta).await, 4401);
    anonymous.send("who").await;
    assert_eq!(
        anonymous.hear().await,
        Heard::Message(Message::text("null"))
    );
}

#[tokio::test]
async fn a_session_that_was_ended_is_not_raised_from_the_dead() {
    let site = Site::with("sqlite:", "").await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    socket.send("late=1").await;
    socket.hear().await;
    let kept = browser.clone();
    browser.log_out().await;
    assert_eq!(closed_with(&mut socket).await, 4401);
    drop(socket);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut kept = kept;
    assert_eq!(kept.me().await, json!({"user": null, "session": {}}));
}

#[tokio::test]
async fn a_ticket_opens_one_websocket() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let anonymous = HttpCommunicator::new(Method::POST, "/ticket/")
        .send(&site.app)
        .await;
    assert_eq!(anonymous.status(), 401);
    let request = HttpCommunicator::new(Method::POST, "/ticket/");
    assert_eq!(
        browser.send(request).await.status(),
        403,
        "no token against forgery"
    );
    let token = browser.token().await;
    let mut ticket = async || {
        let request = HttpCommunicator::new(Method::POST, "/ticket/").header("x-csrftoken", &token);
        let response = browser.send(request).await;
        assert_eq!(response.headers()["cache-control"], "no-store");
        let answer: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(answer["expires_in"], 30);
        answer["ticket"].as_str().unwrap().to_owned()
    };
    let first = ticket().await;
    let open = |ticket: &str, path: &str| {
        WebsocketCommunicator::new(path).subprotocols(&["ticket", ticket])
    };
    let mut socket = open(&first, "/ws/me/").connect(&site.app).await.unwrap();
    assert_eq!(socket.subprotocol(), Some("ticket"));
    socket.send("who").await;
    assert_eq!(
        socket.hear().await,
        Heard::Message(Message::text("\"anna\""))
    );
    let again = open(&first, "/ws/me/").connect(&site.app).await;
    assert_eq!(again.unwrap_err().status(), 401);
    // In the query only where the route says so.
    let second = ticket().await;
    let path = format!("/ws/members/?ticket={second}");
    let refused = WebsocketCommunicator::new(&path).connect(&site.app).await;
    assert_eq!(refused.unwrap_err().status(), 403);
    let path = format!("/ws/query/?ticket={second}");
    let mut socket = WebsocketCommunicator::new(&path)
        .connect(&site.app)
        .await
        .unwrap();
    socket.send("who").await;
    assert_eq!(
        socket.hear().await,
        Heard::Message(Message::text("\"anna\""))
    );
}

#[tokio::test]
async fn a_program_logs_in_with_json() {
    let site = Site::new().await;
    let mut browser = site.browser();
    let token = browser.token().await;
    let login = |password: &str| {
        HttpCommunicator::new(Method::POST, "/login/")
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header("x-csrftoken", &token)
            .body(json!({"username": "anna", "password": password, "next": "/x/"}).to_string())
    };
    let wrong = browser.send(login("wrong")).await;
    assert_eq!(wrong.status(), 401);
    assert_eq!(wrong.headers()["content-type"], "application/json");
    let response = browser.send(login("anna-password")).await;
    let answer: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(answer["user"]["name"], "anna");
    assert_eq!(answer["next"], "/x/");
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
}

#[tokio::test]
async fn expired_sessions_are_not_read_and_are_swept() {
    let site = Site::with("sqlite:", "max_age = \"1s\"").await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(browser.user().await, None);
    let sessions = &site.app.gateway().services().sessions;
    assert_eq!(sessions.sweep().await.unwrap(), 1);
    assert_eq!(sessions.sweep().await.unwrap(), 0);
}

#[tokio::test]
async fn the_table_of_sessions_holds_no_keys() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "anna").await;
    let key = browser.cookie("sessionid").unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&site.directory.0).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        found.push(entry.file_name());
        let has_key = bytes
            .windows(key.len())
            .any(|bytes| bytes == key.as_bytes());
        assert!(!has_key, "{:?}", entry.file_name());
    }
    assert!(found.iter().any(|name| name == "users.db"), "{found:?}");
}

#[tokio::test]
async fn a_ticket_ends_with_the_login_it_was_issued_for() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let token = browser.token().await;
    let request = HttpCommunicator::new(Method::POST, "/ticket/").header("x-csrftoken", &token);
    let response = browser.send(request).await;
    let answer: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    let ticket = answer["ticket"].as_str().unwrap();
    browser.log_out().await;
    let late = WebsocketCommunicator::new("/ws/members/").subprotocols(&["ticket", ticket]);
    assert_eq!(late.connect(&site.app).await.unwrap_err().status(), 401);
}

#[tokio::test]
async fn a_logout_here_is_told_at_once_even_without_an_interval() {
    let site = Site::with("sqlite:", "check_interval = \"0s\"").await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    browser.log_out().await;
    assert_eq!(closed_with(&mut socket).await, 4401);
}

#[tokio::test]
async fn who_is_staff_no_more_loses_the_sockets_of_staff() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "berta").await;
    let mut socket = browser.socket("/ws/staff/").await.unwrap();
    let file = site.directory.0.join("users.db");
    run_sql(&file, "UPDATE oneport_user SET is_staff = 0").await;
    assert_eq!(closed_with(&mut socket).await, 4401);
}

#[tokio::test]
async fn a_logout_needs_post_and_may_come_twice() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    for path in ["/logout/", "/logout/get/"] {
        assert_eq!(browser.get(path).await.status(), 405, "{path}");
    }
    let token = browser.token().await;
    let fields = [("csrfmiddlewaretoken", token.as_str())];
    assert_eq!(browser.post("/logout/", &fields).await.status(), 303);
    // Once more from another tab, whose token belonged to the login.
    assert_eq!(browser.post("/logout/", &fields).await.status(), 303);
    assert_eq!(browser.user().await, None);
    // But not from another site's page, whether there is somebody to log out or not.
    let foreign =
        HttpCommunicator::new(Method::POST, "/logout/").header("origin", "http://evil.test");
    assert_eq!(browser.send(foreign).await.status(), 403);
}

#[tokio::test]
async fn a_login_whose_session_has_gone_begins_another() {
    let site = Site::new().await;
    let mut browser = site.browser();
    browser
        .send(HttpCommunicator::new(Method::POST, "/me/?color=red"))
        .await;
    let token = browser.token().await;
    let file = site.directory.0.join("users.db");
    run_sql(&file, "DELETE FROM oneport_session").await;
    let fields = [
        ("username", "anna"),
        ("password", "anna-password"),
        ("csrfmiddlewaretoken", &token),
    ];
    assert_eq!(browser.post("/login/", &fields).await.status(), 303);
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
}

#[tokio::test]
async fn a_page_without_the_session_leaves_the_token_of_who_is_logged_in() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let token = browser.token().await;
    let page = browser.get("/blind/").await;
    assert_eq!(page.status(), 200);
    assert!(page.headers().get("set-cookie").is_none());
    let vary = page.headers().get_all("vary");
    assert!(vary.iter().any(|field| field == "cookie"));
    let fields = [("csrfmiddlewaretoken", token.as_str())];
    assert_eq!(browser.post("/guarded/", &fields).await.status(), 200);
    // Without a login it gets its cookie.
    let page = site.browser().get("/blind/").await;
    assert!(page.headers().contains_key("set-cookie"));
}

#[tokio::test]
async fn pages_of_who_is_logged_in_are_not_kept_by_the_browser() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let page = browser.get("/login/").await;
    assert_eq!(page.headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn a_socket_that_needs_a_store_that_fails_is_closed_with_1013() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "anna").await;
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    socket.send("a=b").await;
    socket.hear().await;
    let file = site.directory.0.join("users.db");
    run_sql(&file, "ALTER TABLE oneport_session RENAME TO away").await;
    // Who does not need it stays.
    tokio::time::sleep(Duration::from_millis(300)).await;
    socket.send("who").await;
    socket.hear().await;
    socket.send("save").await;
    assert_eq!(closed_with(&mut socket).await, 1013);
}
