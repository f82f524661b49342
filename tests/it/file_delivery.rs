//! File delivery: the bytes of files on the wire, sent by the kernel or from the cache.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use oneport::testing::{Application, HttpCommunicator, LiveServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{DEADLINE, Directory, field, read_until};

/// Bytes of which no two ranges look alike.
fn content(len: usize) -> Vec<u8> {
    let word = |at: usize| {
        (at as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes()
    };
    (0..len.div_ceil(8)).flat_map(word).take(len).collect()
}

fn text(directory: &Directory) -> String {
    let dir = directory.as_path().display();
    format!("[[http.route]]\npath = '/{{*path}}'\nview = 'static'\noptions = {{ dir = '{dir}' }}\n")
}

/// Makes a file look as if it had not changed for an hour, so that it is kept.
fn settle(path: &Path) {
    let file = File::options().append(true).open(path).unwrap();
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    file.set_modified(hour_ago).unwrap();
}

fn request(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// Reads one response with a `Content-Length`, and returns its head and its body.
async fn read_response(stream: &mut TcpStream, before: &mut Vec<u8>) -> (String, Vec<u8>) {
    loop {
        if let Some(end) = before.windows(4).position(|at| at == b"\r\n\r\n") {
            let head = String::from_utf8(before[..end + 4].to_vec()).unwrap();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse::<usize>().unwrap());
            if before.len() >= end + 4 + length {
                let body = before[end + 4..end + 4 + length].to_vec();
                before.drain(..end + 4 + length);
                return (head, body);
            }
        }
        let mut buffer = vec![0; 64 * 1024];
        let count = timeout(DEADLINE, stream.read(&mut buffer)).await;
        let count = count.expect("an answer in time").unwrap();
        assert!(count > 0, "the response is incomplete");
        before.extend_from_slice(&buffer[..count]);
    }
}

/// How many descriptors of this process lead to a file.
fn descriptors(path: &Path) -> usize {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path))
        .count()
}

async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < DEADLINE, "it did not happen in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn files_of_each_size_arrive_as_they_are_also_pipelined() {
    let sizes = [0, 1, 100, 65_536, 65_537, 524_288, 524_289, 1_300_000];
    let mut directory = Directory::new();
    for size in sizes {
        directory = directory.with(&size.to_string(), content(size));
    }
    let server = LiveServer::start(&text(&directory)).await.unwrap();
    // The second round comes from the cache.
    for _ in 0..2 {
        for size in sizes {
            settle(&directory.path(&size.to_string()));
        }
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let all: String = sizes
            .iter()
            .rev()
            .map(|size| request(&format!("/{size}"), ""))
            .collect();
        stream.write_all(all.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        for size in sizes.into_iter().rev() {
            let (head, body) = read_response(&mut stream, &mut rest).await;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            assert!(body == content(size), "{size}");
        }
    }
}

#[tokio::test]
async fn ranges_of_a_sent_file_are_exact() {
    let whole = content(1_200_000);
    let directory = Directory::new().with("f", &whole);
    settle(&directory.path("f"));
    let server = LiveServer::start(&text(&directory)).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut rest = Vec::new();
    for (range, expected) in [
        ("0-0", 0..1),
        ("524287-524288", 524_287..524_289),
        ("1-1199998", 1..1_199_999),
        ("-7", 1_199_993..1_200_000),
        ("600000-", 600_000..1_200_000),
    ] {
        let asked = request("/f", &format!("Range: bytes={range}\r\n"));
        stream.write_all(asked.as_bytes()).await.unwrap();
        let (head, body) = read_response(&mut stream, &mut rest).await;
        assert!(head.starts_with("HTTP/1.1 206"), "{head}");
        assert!(body == whole[expected], "{range}");
    }
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    let whole = content(3_000_000);
    let directory = Directory::new().with("f", &whole);
    let server = LiveServer::start(&text(&directory)).await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8192).unwrap();
    let mut stream = socket.connect(server.address()).await.unwrap();
    let asked = request("/f", "Connection: close\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let mut buffer = vec![0; 50_000];
    loop {
        // Other tasks run between two reads, among them the server's: it finds the socket full.
        tokio::task::yield_now().await;
        match timeout(DEADLINE, stream.read(&mut buffer)).await.unwrap() {
            Ok(0) => break,
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(read.ends_with(&whole), "{}", read.len());
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_sent_ends_the_connection() {
    let directory = Directory::new().with("f", content(40_000_000));
    let server = LiveServer::start(&text(&directory)).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let asked = request("/f", "");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, |read| {
        read.windows(4).any(|at| at == b"\r\n\r\n")
    });
    let mut read = head.await;
    let file = File::options().write(true).open(directory.path("f"));
    file.unwrap().set_len(1_000).unwrap();
    let mut buffer = vec![0; 256 * 1024];
    // The end, or a reset: both tell the client that the response is incomplete.
    while let Ok(count @ 1..) = timeout(DEADLINE, stream.read(&mut buffer)).await.unwrap() {
        read.extend_from_slice(&buffer[..count]);
    }
    assert!(read.len() < 40_000_000, "{}", read.len());
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_file() {
    let directory = Directory::new().with("f", content(20_000_000));
    let path = directory.path("f").canonicalize().unwrap();
    let server = LiveServer::start(&text(&directory)).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let asked = request("/f", "");
    stream.write_all(asked.as_bytes()).await.unwrap();
    read_until(&mut stream, |read| read.len() > 1000).await;
    assert_eq!(descriptors(&path), 1);
    drop(stream);
    eventually(async || descriptors(&path) == 0).await;
}

#[tokio::test]
async fn requests_share_the_descriptor_of_a_file() {
    let directory = Directory::new().with("f", content(20_000_000));
    let path = directory.path("f").canonicalize().unwrap();
    settle(&path);
    let server = LiveServer::start(&text(&directory)).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let asked = request("/f", "");
        stream.write_all(asked.as_bytes()).await.unwrap();
        read_until(&mut stream, |read| read.len() > 1000).await;
        streams.push(stream);
    }
    assert_eq!(descriptors(&path), 1);
}

/// Asks until a response is as expected; fails if it is not within the time of a check.
async fn becomes(app: &Application, path: &str, status: u16, body: &[u8]) {
    eventually(async || {
        let response = HttpCommunicator::get(path).send(app).await;
        response.status() == status && (status != 200 || response.body() == body)
    })
    .await;
}

#[tokio::test]
async fn a_kept_file_follows_its_changes() {
    let directory = Directory::new().with("a.txt", "first");
    settle(&directory.path("a.txt"));
    let app = Application::parse(&text(&directory)).unwrap();
    for _ in 0..2 {
        becomes(&app, "/a.txt", 200, b"first").await;
    }
    // Replaced, as a deployment does; written in place with the same length and the same time.
    fs::write(directory.path("b"), "other").unwrap();
    settle(&directory.path("b"));
    fs::rename(directory.path("b"), directory.path("a.txt")).unwrap();
    becomes(&app, "/a.txt", 200, b"other").await;
    let before = fs::metadata(directory.path("a.txt")).unwrap();
    fs::write(directory.path("a.txt"), "third").unwrap();
    let file = File::options().append(true).open(directory.path("a.txt"));
    file.unwrap()
        .set_modified(before.modified().unwrap())
        .unwrap();
    becomes(&app, "/a.txt", 200, b"third").await;
    fs::remove_file(directory.path("a.txt")).unwrap();
    becomes(&app, "/a.txt", 404, b"").await;
    fs::create_dir(directory.path("a.txt")).unwrap();
    becomes(&app, "/a.txt", 308, b"").await;
}

#[tokio::test]
async fn a_precompressed_file_that_appears_later_is_found() {
    let directory = Directory::new().with("a.css", "plain");
    settle(&directory.path("a.css"));
    let app = Application::parse(&text(&directory)).unwrap();
    let coding = async || {
        let request = HttpCommunicator::get("/a.css").header("accept-encoding", "gzip, br");
        let response = request.send(&app).await;
        field(&response, "content-encoding").map(str::to_owned)
    };
    assert_eq!(coding().await, None);
    assert_eq!(coding().await, None);
    fs::write(directory.path("a.css.gz"), "packed").unwrap();
    eventually(async || coding().await.as_deref() == Some("gzip")).await;
    fs::write(directory.path("a.css.br"), "packed more").unwrap();
    eventually(async || coding().await.as_deref() == Some("br")).await;
    fs::remove_file(directory.path("a.css.br")).unwrap();
    eventually(async || coding().await.as_deref() == Some("gzip")).await;
}

/// A large file is asked for its state at each request: in place means another length.
#[tokio::test]
async fn a_large_file_that_is_written_in_place_is_noticed_at_once() {
    let directory = Directory::new().with("f", content(300_000));
    settle(&directory.path("f"));
    let app = Application::parse(&text(&directory)).unwrap();
    for len in [300_000, 300_000, 200_000] {
        let file = File::options().write(true).open(directory.path("f"));
        file.unwrap().set_len(len).unwrap();
        settle(&directory.path("f"));
        let response = HttpCommunicator::get("/f").send(&app).await;
        assert_eq!(response.body().len() as u64, len);
    }
}

#[tokio::test]
async fn nothing_is_kept_without_a_cache() {
    let directory = Directory::new().with("a", "first").with("b", "other");
    settle(&directory.path("a"));
    settle(&directory.path("b"));
    let text = format!("[server.limits]\nfile_cache = '0 B'\n{}", text(&directory));
    let app = Application::parse(&text).unwrap();
    becomes(&app, "/a", 200, b"first").await;
    fs::rename(directory.path("b"), directory.path("a")).unwrap();
    let response = HttpCommunicator::get("/a").send(&app).await;
    assert_eq!(response.body(), "other");
}

#[tokio::test]
async fn ranges_and_conditions_are_answered_from_the_cache_too() {
    let directory = Directory::new().with("a.txt", "0123456789");
    settle(&directory.path("a.txt"));
    let app = Application::parse(&text(&directory)).unwrap();
    let first = HttpCommunicator::get("/a.txt").send(&app).await;
    let tag = field(&first, "etag").unwrap();
    for _ in 0..3 {
        let request = HttpCommunicator::get("/a.txt").header("range", "bytes=2-4");
        let part = request.header("if-range", tag).send(&app).await;
        assert_eq!(
            (part.status().as_u16(), &part.body()[..]),
            (206, &b"234"[..])
        );
        assert_eq!(field(&part, "content-range"), Some("bytes 2-4/10"));
        let request = HttpCommunicator::get("/a.txt").header("if-none-match", tag);
        let same = request.send(&app).await;
        assert_eq!((same.status().as_u16(), same.body().len()), (304, 0));
        let request = HttpCommunicator::get("/a.txt").header("range", "bytes=0-1, 8-9");
        let parts = request.send(&app).await;
        let body = String::from_utf8_lossy(parts.body()).into_owned();
        assert!(
            body.contains("\r\n\r\n01\r\n--") && body.contains("\r\n\r\n89\r\n--"),
            "{body}"
        );
    }
}

/// One of many concurrent requests for a file reads it; all get it.
#[tokio::test]
async fn many_requests_for_a_new_file_all_get_it() {
    let directory = Directory::new().with("a.txt", content(50_000));
    settle(&directory.path("a.txt"));
    let app = Application::parse(&text(&directory)).unwrap();
    let requests = (0..200).map(|_| HttpCommunicator::get("/a.txt").send(&app));
    for response in futures_util::future::join_all(requests).await {
        assert_eq!(response.body(), &content(50_000));
    }
    let missing = (0..200).map(|_| HttpCommunicator::get("/b.txt").send(&app));
    for response in futures_util::future::join_all(missing).await {
        assert_eq!(response.status(), 404);
    }
}

/// The pages of a file that was written to the disk and dropped from memory come from the disk.
#[tokio::test]
async fn a_file_that_is_not_in_memory_arrives_too() {
    let whole = content(2_000_000);
    let directory = Directory::new().with("f", &whole);
    let file = File::open(directory.path("f")).unwrap();
    file.sync_all().unwrap();
    let server = LiveServer::start(&text(&directory)).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut rest = Vec::new();
    for _ in 0..3 {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        stream
            .write_all(request("/f", "").as_bytes())
            .await
            .unwrap();
        let (_, body) = read_response(&mut stream, &mut rest).await;
        assert!(body == whole);
    }
}
