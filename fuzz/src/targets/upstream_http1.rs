//! The proxy's framing: the input is what an upstream sends over HTTP/1.1, and in its last two bytes the
//! request's method and the size of the upstream's writes.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use oneport::gateway::{ConnectionInfo, Reply};
use oneport::http::Body;
use oneport::testing::Application;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::input::{block_on, reads, split_tail};

/// Fields that end at a connection (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

struct Proxied {
    application: Application,
    listener: UnixListener,
}

thread_local! {
    static PROXIED: OnceCell<Proxied> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    let (data, [method, size]) = split_tail(data);
    let method = ["GET", "HEAD", "POST", "OPTIONS"][usize::from(method) % 4];
    PROXIED.with(|proxied| {
        block_on(async {
            let Proxied {
                application,
                listener,
            } = proxied.get_or_init(start);
            let request = Request::builder()
                .method(method)
                .uri("/path?query")
                .header("host", "localhost")
                .body(Body::full(if method == "POST" { "body" } else { "" }))
                .expect("a request");
            let info = ConnectionInfo::default();
            let respond = async {
                // A request that cannot have reached the upstream is sent again.
                loop {
                    let Ok((mut stream, _)) = listener.accept().await else {
                        return;
                    };
                    // Unread bytes would reset the connection, and what it has sent is lost.
                    let end = if method == "POST" {
                        &b"\r\n\r\nbody"[..]
                    } else {
                        b"\r\n\r\n"
                    };
                    let mut sent = Vec::new();
                    while !sent.ends_with(end) {
                        let Ok(1..) = stream.read_buf(&mut sent).await else {
                            break;
                        };
                    }
                    for part in reads(data, size) {
                        if stream.write_all(part).await.is_err() {
                            break;
                        }
                        if size > 0 && data.len() < 512 {
                            tokio::task::yield_now().await;
                        }
                    }
                    drop(stream);
                }
            };
            if method == "POST" {
                // The client has to see that the last input's connection is closed: a POST that it
                // has written to one is not sent again.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let ask = async {
                let answer = application.gateway().serve(request, &info).await;
                let (Reply::Response(response) | Reply::Upgrade(response, _)) = answer;
                let (parts, body) = response.into_parts();
                (
                    parts,
                    body.collect()
                        .await
                        .map(http_body_util::Collected::to_bytes),
                )
            };
            let (parts, body) = tokio::select! {
                answer = ask => answer,
                () = respond => return,
            };
            for name in HOP_BY_HOP {
                assert!(!parts.headers.contains_key(name), "{name} is passed on");
            }
            assert!(!parts.status.is_informational(), "{}", parts.status);
            let Ok(body) = body else {
                return; // the client sees that it breaks off
            };
            let lengths = parts.headers.get_all("content-length").iter().count();
            assert!(lengths <= 1);
            let is_without = method == "HEAD" || matches!(parts.status.as_u16(), 204 | 304);
            assert!(!is_without || body.is_empty());
            if let (Some(length), false) = (parts.headers.get("content-length"), is_without) {
                assert_eq!(*length, body.len().to_string());
            }
            if let Some((status, expected)) = naive(data).filter(|_| !is_without) {
                assert_eq!((parts.status.as_u16(), &body[..]), (status, expected));
            }
        });
    });
}

fn start() -> Proxied {
    let name = format!("oneport-fuzz-{}-http1.sock", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a listener");
    let config = format!(
        "[http]\nmiddleware = []\n[[http.route]]\npath = '/{{*path}}'\nview = 'proxy'\noptions = {{ upstream = ['unix:{}'], cookies = true }}\n",
        path.display()
    );
    match Application::parse(&config) {
        Ok(application) => Proxied {
            application,
            listener,
        },
        Err(problems) => panic!("{problems}"),
    }
}

/// Reads a plain response that leaves no doubt: its status and its body.
fn naive(data: &[u8]) -> Option<(u16, &[u8])> {
    let end = data.windows(4).position(|end| end == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&data[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status: u16 = lines
        .next()?
        .strip_prefix("HTTP/1.1 ")?
        .strip_suffix(" OK")?
        .parse()
        .ok()?;
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let is_plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_plain(name) || !is_plain(value) {
            return None;
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" if length.is_none() => length = Some(value.parse::<usize>().ok()?),
            "content-length" | "transfer-encoding" | "connection" | "upgrade" => return None,
            _ => {}
        }
    }
    let body = data.get(end + 4..end + 4 + length?)?;
    matches!(status, 200 | 201 | 404).then_some((status, body))
}
