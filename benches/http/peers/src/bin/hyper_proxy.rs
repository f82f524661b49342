//! A reverse proxy of hyper and hyper-util's pooled client, as small as it can be: it removes no
//! header field but `Connection`, and adds none. The second argument is the upstream's port.

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::CONNECTION;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

fn main() -> Result<(), Box<dyn Error>> {
    let upstream: u16 = http_peers::argument(2, "the upstream's port")?.parse()?;
    http_peers::runtime()?.block_on(async {
        let listener = http_peers::listen()?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(256)
            .build(connector);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let client = client.clone();
            let service = service_fn(move |request| {
                let client = client.clone();
                async move { Ok::<_, Infallible>(forward(request, &client, upstream).await) }
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

async fn forward(
    mut request: Request<Incoming>,
    client: &Client<HttpConnector, Incoming>,
    upstream: u16,
) -> Answer {
    let target = request.uri().path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    let Ok(uri) = Uri::try_from(format!("http://127.0.0.1:{upstream}{target}")) else {
        return bad_gateway();
    };
    *request.uri_mut() = uri;
    request.headers_mut().remove(CONNECTION);
    match client.request(request).await {
        Ok(mut response) => {
            response.headers_mut().remove(CONNECTION);
            response.map(BodyExt::boxed)
        }
        Err(_) => bad_gateway(),
    }
}

fn bad_gateway() -> Answer {
    let empty = Empty::new().map_err(|never| match never {});
    let mut response = Response::new(empty.boxed());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
