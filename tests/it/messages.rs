//! Messages: what clients and operators read when something is almost right.

use oneport::testing::{Application, HttpCommunicator, WebsocketCommunicator};

const ROUTES: &str = "
    [[websocket.route]]
    path = '/ws/chat/{room:slug}/'
    consumer = 'echo'
    [[websocket.route]]
    path = '/bare'
    consumer = 'echo'
    [[http.route]]
    path = '/page/'
    view = 'health'
";

/// Case, path, and the sentences of the 404 for a handshake and for a request.
#[tokio::test]
async fn a_404_one_slash_away_from_a_websocket_names_it() {
    for (root_path, path, found) in [
        ("", "/ws/chat/lobby", Some("/ws/chat/lobby/")),
        ("", "/bare/", Some("/bare")),
        ("/app", "/app/ws/chat/lobby", Some("/app/ws/chat/lobby/")),
        ("", "/ws/chat/a.b", None),
        ("", "/none", None),
        ("", "/", None),
    ] {
        let text = format!("[server]\nroot_path = '{root_path}'\n{ROUTES}");
        let app = Application::parse(&text).unwrap();
        let ending = found.map_or(String::new(), |at| {
            format!("; there is a WebSocket at {at}")
        });
        let response = WebsocketCommunicator::new(path).connect(&app).await;
        let response = response.expect_err("a refusal");
        let said = String::from_utf8_lossy(response.body()).into_owned();
        assert_eq!(response.status(), 404, "{path}");
        assert!(
            said.contains(&format!("there is no such WebSocket{ending}")),
            "{path}: {said}"
        );
        assert_eq!(
            said.contains("there is a WebSocket at"),
            found.is_some(),
            "{path}: {said}"
        );
        let response = HttpCommunicator::get(path).send(&app).await;
        let said = String::from_utf8_lossy(response.body()).into_owned();
        assert_eq!(response.status(), 404, "{path}");
        assert!(
            said.contains(&format!("there is no such page{ending}")),
            "{path}: {said}"
        );
    }
}
