//! Protocol type router: one table for HTTP, one for WebSocket.

use crate::routing::router::UrlRouter;

/// The two tables of a server. A request's protocol type selects the table.
///
/// ```
/// use oneport::routing::{ProtocolTypeRouter, Route, RoutePattern, UrlRouter};
///
/// let tables = ProtocolTypeRouter {
///     http: UrlRouter::build(vec![Route::new(RoutePattern::path("/")?, "index")]).unwrap(),
///     websocket: UrlRouter::build(vec![Route::new(RoutePattern::path("/ws/")?, 1)]).unwrap(),
/// };
/// assert_eq!(tables.http.routes()[0].value, "index");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ProtocolTypeRouter<H, W> {
    /// The table of views.
    pub http: UrlRouter<H>,
    /// The table of consumers.
    pub websocket: UrlRouter<W>,
}
