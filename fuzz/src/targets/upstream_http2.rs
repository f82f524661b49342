//! HTTP/2 to an upstream: the input is what it sends behind its settings, in the last byte the size of
//! its writes.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use oneport::client::{Address, Client, ClientSettings, Protocol, RequestBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::input::{block_on, reads, split_tail};

/// An empty SETTINGS frame, and the acknowledgement of the client's.
const SETTINGS: [u8; 18] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];

const BODY_BYTES_MAX: u64 = 10_000;

struct Upstream {
    path: PathBuf,
    listener: UnixListener,
}

thread_local! {
    static UPSTREAM: OnceCell<Upstream> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    let (data, [size]) = split_tail(data);
    UPSTREAM.with(|upstream| {
        block_on(async {
            let Upstream { path, listener } = upstream.get_or_init(start);
            let settings = ClientSettings {
                protocol: Protocol::Http2,
                total_timeout: Some(Duration::from_secs(5)),
                response_bytes_max: BODY_BYTES_MAX,
                ..ClientSettings::default()
            };
            let client = Client::new(&Address::Unix(path.clone()), settings);
            let request = Request::post("http://localhost/path")
                .body(RequestBody::full("body"))
                .expect("a request");
            let respond = async {
                loop {
                    let Ok((mut stream, _)) = listener.accept().await else {
                        return;
                    };
                    let mut sent = [0; 4096];
                    let _ = stream.read(&mut sent).await;
                    let _ = stream.write_all(&SETTINGS).await;
                    for part in reads(data, size) {
                        if stream.write_all(part).await.is_err() {
                            break;
                        }
                        if size > 0 && data.len() < 512 {
                            tokio::task::yield_now().await;
                        }
                    }
                    // The client ends the connection, or its deadline ends the request.
                    while let Ok(1..) = stream.read(&mut sent).await {}
                }
            };
            let ask = async {
                let permit = client.acquire().await?;
                let response = permit.send(request).await?;
                let (parts, body) = response.into_parts();
                let body = body.collect().await?;
                Ok::<_, oneport::client::ClientError>((parts, body.to_bytes()))
            };
            let answer = tokio::select! {
                answer = ask => answer,
                () = respond => return,
            };
            let Ok((parts, body)) = answer else {
                return;
            };
            assert!(!parts.status.is_informational());
            assert!(body.len() as u64 <= BODY_BYTES_MAX);
            if let Some(length) = parts.headers.get("content-length") {
                assert!(
                    *length == body.len().to_string() || body.is_empty(),
                    "{length:?}, {}",
                    body.len()
                );
            }
        });
    });
}

fn start() -> Upstream {
    let name = format!("oneport-fuzz-{}-http2.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a listener");
    Upstream { path, listener }
}
