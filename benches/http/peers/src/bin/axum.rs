//! axum with a fixed text, and the files of the directory in the second argument by tower-http's
//! `ServeDir`.

use std::error::Error;

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use tower_http::services::ServeDir;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = http_peers::argument(2, "a directory")?;
    http_peers::runtime()?.block_on(async {
        let app = Router::new()
            .route("/plain", get(async || http_peers::TEXT))
            .nest_service("/files", ServeDir::new(directory));
        let listener = http_peers::listen()?.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        Ok(axum::serve(listener, app).await?)
    })
}
