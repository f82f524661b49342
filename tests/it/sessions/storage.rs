//! Storage: what is written to the session store, when, and for how long.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;
use oneport::testing::HttpCommunicator;
use oneport::websocket::CloseCode;
use serde_json::json;

use super::site::{Browser, Site, closed_with, registry, run_sql, sqlite};
use crate::support::{Directory, application};

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
        socket.receive_output().await;
        browser
            .send(HttpCommunicator::new(Method::POST, "/me/?from_view=1"))
            .await;
        socket.send("save").await;
        socket.receive_output().await;
        assert_eq!(
            browser.me().await["session"],
            json!({"start": "1", "from_view": "1", "from_socket": "1"})
        );
    }
}

#[tokio::test]
async fn changes_of_a_consumer_are_saved_at_the_end() {
    let site = Site::new().await;
    let mut browser = site.browser();
    browser
        .send(HttpCommunicator::new(Method::POST, "/me/?start=1"))
        .await;
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    socket.send("last=words").await;
    socket.receive_output().await;
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
    socket.receive_output().await;
    socket.send("save").await;
    assert_eq!(closed_with(&mut socket).await, 1011);
}

#[tokio::test]
async fn a_store_that_nothing_asks_leaves_no_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::with("sqlite:", "").await;
    let file = site.directory.path("users.db");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let directory = Directory::new();
    let file = directory.path("unasked.db");
    let text = format!(
        "[session]\nstore = \"sqlite:{0}\"\n[auth]\nusers = \"sqlite:{0}\"\n[[http.route]]\npath = \"/\"\nview = \"respond\"\noptions = {{ body = \"hello\" }}\n",
        file.display()
    );
    let app = application(&registry(), &text);
    let answer = HttpCommunicator::get("/").send(&app).await;
    assert_eq!(answer.status(), 200);
    assert!(!file.exists());
}

#[tokio::test]
async fn a_file_is_read_while_many_wait_to_write_it() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let site = Site::new().await;
    // With a limit of one connection the transaction stays on it.
    let file = site.directory.path("users.db");
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
async fn expired_sessions_are_not_read_and_are_swept() {
    let site = Site::with("sqlite:", "max_age = \"1s\"").await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(browser.user().await, None);
    let settings = site.app.gateway().services().settings();
    let sessions = &settings.sessions;
    assert_eq!(sessions.sweep().await.unwrap(), 1);
    assert_eq!(sessions.sweep().await.unwrap(), 0);
}

#[tokio::test]
async fn the_table_of_sessions_holds_no_keys() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "anna").await;
    let key = browser.cookie("sessionid").unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(site.directory.as_path())
        .unwrap()
        .flatten()
    {
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
async fn a_socket_that_needs_a_store_that_fails_is_closed_with_1013() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "anna").await;
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    socket.send("a=b").await;
    socket.receive_output().await;
    let file = site.directory.path("users.db");
    run_sql(&file, "ALTER TABLE oneport_session RENAME TO away").await;
    // Who does not need it stays.
    tokio::time::sleep(Duration::from_millis(300)).await;
    socket.send("who").await;
    socket.receive_output().await;
    socket.send("save").await;
    assert_eq!(closed_with(&mut socket).await, 1013);
}
