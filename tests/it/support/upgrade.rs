//! Upgrade: a handshake without a server, so that a test brings the stream.

use http::Request;
use oneport::gateway::{ConnectionInfo, Reply, Upgrade};
use oneport::http::Body;
use oneport::scope::Scheme;
use oneport::testing::Application;

/// Returns the response to an accepted handshake, and the upgrade that starts the socket.
pub(crate) async fn upgrade(
    app: &Application,
    path: &str,
    offer: &str,
) -> (http::Response<Body>, Box<Upgrade>) {
    let request = Request::get(path)
        .header("host", "localhost")
        .header("origin", "http://localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-extensions", offer)
        .body(Body::empty())
        .unwrap();
    let info = ConnectionInfo {
        peer: Some(([127, 0, 0, 1], 40_000).into()),
        server: None,
        security: Scheme::Plain,
        user: None,
        ..Default::default()
    };
    match app.gateway().serve(request, &info).await {
        Reply::Upgrade(response, upgrade) => (response, upgrade),
        Reply::Response(response) => panic!("expected an upgrade, found {}", response.status()),
    }
}
