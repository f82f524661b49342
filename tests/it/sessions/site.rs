//! Site: an application with three users, and browsers that keep cookies.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use oneport::config::OptionErrors;
use oneport::database::{Database, DatabaseSettings};
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, View, respond};
use oneport::testing::{Application, Connected, HttpCommunicator, Output, WebsocketCommunicator};
use oneport::websocket::{Close, Consumer, Context, Message};
use serde_json::json;

use crate::support::{Directory, application};

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

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
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

pub(super) fn registry() -> Registry {
    Registry::builtin()
        .view::<Me>("me")
        .consumer::<MyConsumer>("me")
}

/// An application with the users anna, berta (staff) and carla (may not log in), whose passwords
/// are their names and `-password`.
pub(super) struct Site {
    pub(super) app: Application,
    pub(super) directory: Directory,
}

impl Site {
    pub(super) async fn new() -> Self {
        Self::with("sqlite:", "").await
    }

    /// `store` is `memory`, or `sqlite:` for a file of its own; `more` are further keys of
    /// `[session]` and sections.
    pub(super) async fn with(store: &str, more: &str) -> Self {
        let directory = Directory::new().with("login.html", LOGIN_PAGE);
        let file = directory.path("users.db");
        let users = format!("sqlite:{}", file.display());
        let store = if store == "sqlite:" { &users } else { store };
        let interval = if more.contains("check_interval") {
            ""
        } else {
            "check_interval = \"100ms\""
        };
        let text = format!(
            "[templates]\ndir = {:?}\n[session]\nstore = {store:?}\ncache = \"0s\"\n{interval}\n{more}\n[auth]\nusers = {users:?}\n[http]\nmiddleware = [\"session\", \"auth\"]\n{ROUTES}",
            directory.as_path()
        );
        let app = application(&registry(), &text);
        let site = Self { app, directory };
        for (name, is_staff) in [("anna", false), ("berta", true), ("carla", false)] {
            site.add(name, is_staff).await;
        }
        site
    }

    pub(super) fn users(&self) -> oneport::auth::Users {
        let settings = self.app.gateway().services().settings();
        settings.auth.users().unwrap().clone()
    }

    pub(super) async fn add(&self, name: &str, is_staff: bool) {
        let settings = self.app.gateway().services().settings();
        let auth = &settings.auth;
        let encoded = auth.hash(&format!("{name}-password")).await.unwrap();
        self.users().add(name, &encoded, is_staff).await.unwrap();
    }

    pub(super) fn browser(&self) -> Browser<'_> {
        Browser {
            site: self,
            cookies: Vec::new(),
        }
    }
}

/// Keeps cookies.
#[derive(Clone)]
pub(super) struct Browser<'s> {
    pub(super) site: &'s Site,
    pub(super) cookies: Vec<(String, String)>,
}

impl<'s> Browser<'s> {
    pub(super) fn cookie(&self, name: &str) -> Option<&str> {
        let mut cookies = self.cookies.iter();
        cookies.find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    pub(super) fn cookies(&self) -> String {
        let pairs = self
            .cookies
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }

    pub(super) async fn send(&mut self, request: HttpCommunicator) -> Response<Bytes> {
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

    pub(super) async fn get(&mut self, path: &str) -> Response<Bytes> {
        self.send(HttpCommunicator::get(path)).await
    }

    pub(super) async fn me(&mut self) -> serde_json::Value {
        serde_json::from_slice(self.get("/me/").await.body()).unwrap()
    }

    pub(super) async fn user(&mut self) -> Option<String> {
        self.me().await["user"].as_str().map(str::to_owned)
    }

    /// The token of the login page.
    pub(super) async fn token(&mut self) -> String {
        let page = self.get("/login/").await;
        let text = String::from_utf8(page.body().to_vec()).unwrap();
        let (_, rest) = text.split_once("value=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    pub(super) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Response<Bytes> {
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

    pub(super) async fn log_in(
        &mut self,
        name: &str,
        password: &str,
        next: &str,
    ) -> Response<Bytes> {
        let token = self.token().await;
        let fields = [
            ("username", name),
            ("password", password),
            ("next", next),
            ("csrfmiddlewaretoken", &token),
        ];
        self.post("/login/", &fields).await
    }

    pub(super) async fn log_out(&mut self) -> Response<Bytes> {
        let token = self.token().await;
        self.post("/logout/", &[("csrfmiddlewaretoken", &token)])
            .await
    }

    pub(super) async fn logged_in(site: &'s Site, name: &str) -> Self {
        let mut browser = site.browser();
        let response = browser.log_in(name, &format!("{name}-password"), "").await;
        assert_eq!(response.status(), 303);
        browser
    }

    pub(super) async fn socket(&self, path: &str) -> Result<Connected, Response<Bytes>> {
        WebsocketCommunicator::new(path)
            .header("cookie", &self.cookies())
            .connect(&self.site.app)
            .await
    }
}

pub(super) fn location(response: &Response<Bytes>) -> &str {
    response.headers()["location"].to_str().unwrap()
}

pub(super) async fn closed_with(socket: &mut Connected) -> u16 {
    match socket.receive_output().await {
        Output::Close { code, .. } => code,
        other => panic!("expected a close frame, found {other:?}"),
    }
}

/// Changes a database behind the server's back.
pub(super) async fn run_sql(file: &std::path::Path, sql: &str) {
    let database = sqlite(file, Duration::from_secs(5), 1);
    database.execute(sql, &[]).await.unwrap();
}

pub(super) fn sqlite(file: &std::path::Path, timeout: Duration, connections: u32) -> Database {
    let url = format!("sqlite:{}", file.display()).parse().unwrap();
    let settings = DatabaseSettings {
        timeout,
        connections,
    };
    Database::new(&url, settings, "users").unwrap().unwrap()
}
