//! Lists: the cost of a header field with many elements is linear in its length.

use oneport::testing::{Application, HttpCommunicator};

#[tokio::test]
async fn fifteen_kilobytes_of_subprotocols_are_refused_ahead_of_routing() {
    let app = Application::parse("").unwrap();
    let offer = |count: usize| {
        let words: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
        words.join(",")
    };
    for (count, status) in [(64, 404), (65, 400), (2_500, 400)] {
        let response = HttpCommunicator::get("/ws/")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", &offer(count))
            .send(&app)
            .await;
        assert_eq!(response.status().as_u16(), status, "{count}");
    }
}
