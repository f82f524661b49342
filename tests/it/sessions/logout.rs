//! Logout: a login that ends closes its sockets.

use std::time::Duration;

use http::Method;
use oneport::testing::{HttpCommunicator, Output};
use oneport::websocket::Message;
use serde_json::json;

use super::site::{Browser, Site, closed_with, location, run_sql};

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
        of_elsewhere.receive_output().await,
        Output::Message(Message::text("\"anna\""))
    );
    // A new password ends it; removing a user ends hers.
    let settings = site.app.gateway().services().settings();
    let auth = &settings.auth;
    let encoded = auth.hash("another-password").await.unwrap();
    assert!(site.users().set_password("anna", &encoded).await.unwrap());
    assert_eq!(closed_with(&mut of_elsewhere).await, 4401);
    assert!(site.users().remove("berta").await.unwrap());
    assert_eq!(closed_with(&mut of_berta).await, 4401);
    anonymous.send("who").await;
    assert_eq!(
        anonymous.receive_output().await,
        Output::Message(Message::text("null"))
    );
}

#[tokio::test]
async fn an_ended_session_is_not_saved_again() {
    let site = Site::with("sqlite:", "").await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    socket.send("late=1").await;
    socket.receive_output().await;
    let kept = browser.clone();
    browser.log_out().await;
    assert_eq!(closed_with(&mut socket).await, 4401);
    drop(socket);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut kept = kept;
    assert_eq!(kept.me().await, json!({"user": null, "session": {}}));
}

#[tokio::test]
async fn a_local_logout_ends_sockets_at_once_even_without_an_interval() {
    let site = Site::with("sqlite:", "check_interval = \"0s\"").await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    browser.log_out().await;
    assert_eq!(closed_with(&mut socket).await, 4401);
}

#[tokio::test]
async fn a_user_who_is_no_longer_staff_loses_staff_sockets() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "berta").await;
    let mut socket = browser.socket("/ws/staff/").await.unwrap();
    let file = site.directory.path("users.db");
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
