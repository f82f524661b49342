//! Django: what a Django project wrote is read as Django reads it.
//! `tests/interop/python/test_django.py` has the real one.

use std::time::Duration;

use http::Method;
use oneport::database::{Bind, Database, DatabaseSettings};
use oneport::gateway::Registry;
use oneport::scope::{Scope, ScopeType};
use oneport::testing::{Application, HttpCommunicator, WebsocketCommunicator};
use serde_json::Value;

use crate::support::{Directory, application};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/django.json")).unwrap()
}

fn text<'v>(entry: &'v Value, name: &str) -> &'v str {
    entry[name].as_str().unwrap_or_default()
}

#[tokio::test]
async fn requests_are_checked_against_forgery_as_django_does() {
    let vectors = vectors();
    let mut checked = 0;
    for entry in vectors["csrf_requests"].as_array().unwrap() {
        let name = text(entry, "name");
        let settings = &entry["settings"];
        let trusted: Vec<String> = settings["CSRF_TRUSTED_ORIGINS"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(|origin| origin.replace("://*.", "://."))
            .collect();
        let domain = text(settings, "CSRF_COOKIE_DOMAIN");
        let config = format!(
            "[server]\nallowed_hosts = [\"example.com\"]\ntrusted_proxies = [\"127.0.0.1\"]\nsecret_key = \"x\"\n\
             [session]\nstore = \"django+signed_cookies:\"\ndomain = {domain:?}\n\
             [auth]\nusers = \"django+postgres://127.0.0.1:1/none\"\n\
             [[http.route]]\npath = \"/\"\nmiddleware = [\"hosts\", \"csrf\"]\nallowed_origins = {trusted:?}\nview = \"respond\"\n"
        );
        let app = application(&Registry::builtin(), &config);
        let method: Method = text(entry, "method").parse().unwrap();
        let mut request = HttpCommunicator::new(method, "/")
            .header("host", text(entry, "host"))
            .header("x-forwarded-proto", text(entry, "scheme"));
        for (field, key) in [
            ("origin", "origin"),
            ("referer", "referer"),
            ("x-csrftoken", "x_csrftoken"),
        ] {
            if let Some(value) = entry[key].as_str() {
                request = request.header(field, value);
            }
        }
        if let Some(cookie) = entry["csrftoken_cookie"].as_str() {
            request = request.header("cookie", &format!("csrftoken={cookie}"));
        }
        if let Some(token) = entry["form_token"].as_str() {
            request = request
                .header("content-type", "application/x-www-form-urlencoded")
                .body(format!("csrfmiddlewaretoken={token}"));
        }
        let status = request.send(&app).await.status();
        assert_eq!(status == 200, entry["accepted"] == true, "{name}: {status}");
        checked += 1;
    }
    assert!(checked >= 24, "{checked}");
}

#[test]
fn cookies_are_read_as_django_reads_them() {
    // Python's escapes inside of quotes: no cookie that is read here has them.
    let differences = [r#"a="esc\"q""#, r#"a="\303\251""#, "=v"];
    for pair in vectors()["cookie_parse"].as_array().unwrap() {
        let field = pair[0].as_str().unwrap();
        if differences.contains(&field) {
            continue;
        }
        let mut headers = http::HeaderMap::new();
        headers.insert("cookie", field.parse().unwrap());
        let mut scope = Scope::new(ScopeType::Http, Method::GET, "/".parse().unwrap());
        scope.headers = headers.into();
        for (name, value) in pair[1].as_object().unwrap() {
            assert_eq!(scope.cookie(name).as_deref(), value.as_str(), "{field}");
        }
        assert_eq!(scope.cookie("other"), None);
    }
}

struct Project {
    directory: Directory,
}

const KEY: &str = "django-insecure-vector-key-A-0123456789-abcdefghijklmnopqrstuvwxyz";

impl Project {
    /// Tables as Django makes them in SQLite, with the vectors' sessions, all of the same user.
    async fn new(is_active: bool) -> Self {
        let directory = Directory::new().with(
            "me.html",
            "{{ user.name if user else \"nobody\" }}|{{ user.is_staff if user }}|{{ session.cart }}",
        );
        let project = Self { directory };
        let vectors = vectors();
        let password = text(&vectors["auth_hash"][0], "password");
        project
            .run(
                "CREATE TABLE django_session (session_key varchar(40) PRIMARY KEY, session_data text NOT NULL, expire_date datetime NOT NULL)",
                &[],
            )
            .await;
        project
            .run(
                "CREATE TABLE auth_user (id integer PRIMARY KEY, username varchar(150), password varchar(128), is_active bool, is_staff bool)",
                &[],
            )
            .await;
        project
            .run(
                "INSERT INTO auth_user VALUES (1, 'alice', $1, $2, 1)",
                &[Bind::Text(password), Bind::Integer(is_active.into())],
            )
            .await;
        for entry in vectors["sessions"].as_array().unwrap() {
            if !matches!(text(entry, "backend"), "db" | "cached_db") {
                continue;
            }
            let key = entry["session_key"]
                .as_str()
                .unwrap_or_else(|| text(entry, "cookie_value"));
            let binds = [Bind::Text(key), Bind::Text(text(entry, "session_data"))];
            project
                .run(
                    "INSERT INTO django_session VALUES ($1, $2, '2126-01-01 00:00:00.5')",
                    &binds,
                )
                .await;
        }
        project
    }

    fn file(&self) -> String {
        self.directory.path("db.sqlite3").display().to_string()
    }

    async fn run(&self, sql: &str, binds: &[Bind<'_>]) {
        let settings = DatabaseSettings {
            timeout: Duration::from_secs(5),
            connections: 1,
        };
        let url = format!("sqlite:{}", self.file()).parse().unwrap();
        let database = Database::new(&url, settings, "users").unwrap().unwrap();
        database.execute(sql, binds).await.unwrap();
    }

    fn app(&self, key: &str, fallbacks: &[&str]) -> Application {
        let config = format!(
            "[server]\nsecret_key = {key:?}\nsecret_key_fallbacks = {fallbacks:?}\n[templates]\ndir = {:?}\n\
             [session]\nstore = \"django+sqlite:{1}\"\ncache = \"0s\"\ncheck_interval = \"100ms\"\n[auth]\nusers = \"django+sqlite:{1}\"\n\
             [[http.route]]\npath = \"/\"\nmiddleware = [\"session\", \"auth\"]\nview = \"template\"\noptions = {{ template = \"me.html\" }}\n\
             [[websocket.route]]\npath = \"/ws/\"\nmiddleware = [\"origin\", \"session\", \"auth\", \"login_required\"]\nconsumer = \"echo\"\n",
            self.directory.as_path(),
            self.file()
        );
        application(&Registry::builtin(), &config)
    }
}

async fn page(app: &Application, key: &str) -> String {
    let request = HttpCommunicator::get("/").header("cookie", &format!("sessionid={key}"));
    let response = request.send(app).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().get("set-cookie").is_none());
    String::from_utf8(response.body().to_vec()).unwrap()
}

fn session_of(name: &str) -> String {
    let vectors = vectors();
    let sessions = vectors["sessions"].as_array().unwrap();
    let entry = sessions.iter().find(|entry| entry["name"] == name).unwrap();
    let key = entry["session_key"].as_str();
    key.unwrap_or_else(|| text(entry, "cookie_value"))
        .to_owned()
}

#[tokio::test]
async fn a_django_session_is_that_user_on_both_tables() {
    let project = Project::new(true).await;
    let app = project.app(KEY, &[]);
    let alice = session_of("auth alice");
    assert_eq!(page(&app, &alice).await, "alice|True|");
    assert_eq!(
        page(&app, &session_of("cached_db alice")).await,
        "alice|True|"
    );
    assert_eq!(
        page(&app, &session_of("tiny, not compressed")).await,
        "nobody||"
    );
    assert_eq!(page(&app, &"z".repeat(32)).await, "nobody||");
    let open = |key: &str| {
        WebsocketCommunicator::new("/ws/").header("cookie", &format!("sessionid={key}"))
    };
    let mut socket = open(&alice).connect(&app).await.unwrap();
    let anonymous = open(&session_of("tiny, not compressed"))
        .connect(&app)
        .await;
    assert_eq!(anonymous.unwrap_err().status(), 403);
    // The row goes, as Django's logout makes it go.
    let delete = "DELETE FROM django_session WHERE session_key = $1";
    project.run(delete, &[Bind::Text(&alice)]).await;
    assert_eq!(socket.receive_close().await.0, 4401);
    assert_eq!(page(&app, &alice).await, "nobody||");
}

#[tokio::test]
async fn another_password_an_inactive_user_and_another_key_are_anonymous() {
    let alice = session_of("auth alice");
    let project = Project::new(true).await;
    let app = project.app(KEY, &[]);
    let open = WebsocketCommunicator::new("/ws/").header("cookie", &format!("sessionid={alice}"));
    let mut socket = open.connect(&app).await.unwrap();
    project
        .run(
            "UPDATE auth_user SET password = 'pbkdf2_sha256$1$other$x'",
            &[],
        )
        .await;
    assert_eq!(socket.receive_close().await.0, 4401);
    assert_eq!(page(&app, &alice).await, "nobody||");

    let project = Project::new(false).await;
    assert_eq!(page(&project.app(KEY, &[]), &alice).await, "nobody||");

    let project = Project::new(true).await;
    assert_eq!(page(&project.app("another", &[]), &alice).await, "nobody||");
    assert_eq!(
        page(&project.app("another", &[KEY]), &alice).await,
        "alice|True|"
    );
    project
        .run(
            "UPDATE django_session SET expire_date = '2020-01-01 00:00:00'",
            &[],
        )
        .await;
    assert_eq!(page(&project.app(KEY, &[]), &alice).await, "nobody||");
}
