//! Tickets: one opens one WebSocket, for as long as its login lasts.

use http::Method;
use oneport::testing::{HttpCommunicator, Output, WebsocketCommunicator};
use oneport::websocket::Message;

use super::site::{Browser, Site};

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
        socket.receive_output().await,
        Output::Message(Message::text("\"anna\""))
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
        socket.receive_output().await,
        Output::Message(Message::text("\"anna\""))
    );
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
