//! hyper with hyper-util's auto builder: HTTP/1.1, and HTTP/2 by its preface. Also the upstream of
//! the proxies.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use http_peers::Bodies;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

fn main() -> Result<(), Box<dyn Error>> {
    http_peers::runtime()?.block_on(async {
        let listener = http_peers::listen()?;
        let bodies = Arc::new(Bodies::new());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let bodies = bodies.clone();
            let service = service_fn(move |request| {
                let response = respond(&bodies, &request);
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(async move {
                // A client that breaks off is its own affair.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

fn respond(bodies: &Bodies, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let body = bodies.of(request.uri().path());
    let status = match body {
        Some(_) => StatusCode::OK,
        None => StatusCode::NOT_FOUND,
    };
    let mut response = Response::new(Full::new(body.unwrap_or_default()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
