//! Run: runs sequences in every way and collects the failures.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use oneport::gateway::{ConnectionInfo, Reply};
use oneport::http::Body;
use oneport::net::Stream;
use oneport::scope::Scheme;
use oneport::testing::{Application, LiveServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::arrival::{Pieces, Way};
use super::output::Output;
use crate::support::{HANDSHAKE, read_until};

const DEADLINE: Duration = Duration::from_secs(5);

/// After this many sequences with failures no more are run: the first ones are enough.
const FAILED_MAX: usize = 30;

/// The server's output stays plain, so that it is the same with and without compression.
const FILE: &str = "
    [websocket]
    compression_threshold = '1 MiB'
    [[websocket.route]]
    path = '/echo/'
    consumer = 'echo'
    max_message = '128 KiB'
    [[websocket.route]]
    path = '/small/'
    consumer = 'echo'
    max_message = '1 KiB'
    max_fragments = 4
";

/// A client's frames and the server's reply.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) name: String,
    path: &'static str,
    frames: Vec<Vec<u8>>,
    output: Vec<Output>,
    /// A compressed message, if compression was negotiated.
    is_plain_only: bool,
}

/// A sequence for a route that accepts 128 KiB and many fragments.
pub(super) fn row(
    name: impl Into<String>,
    frames: impl Into<Vec<Vec<u8>>>,
    output: impl Into<Vec<Output>>,
) -> Sequence {
    let mut output = output.into();
    if output.last().is_some_and(Output::is_close) {
        output.push(Output::End);
    }
    Sequence {
        name: name.into(),
        path: "/echo/",
        frames: frames.into(),
        output,
        is_plain_only: false,
    }
}

impl Sequence {
    /// For the route that accepts 1 KiB and four fragments.
    pub(super) fn small(self) -> Self {
        Self {
            path: "/small/",
            ..self
        }
    }

    /// For sockets without compression only.
    pub(super) fn plain_only(self) -> Self {
        Self {
            is_plain_only: true,
            ..self
        }
    }

    async fn run(&self, app: &Application, way: Way) -> Vec<Output> {
        let mut request = Request::get(self.path)
            .header("host", "localhost")
            .header("origin", "http://localhost")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if way.has_deflate() {
            request = request.header("sec-websocket-extensions", "permessage-deflate");
        }
        let info = ConnectionInfo {
            peer: Some(([127, 0, 0, 1], 40_000).into()),
            server: None,
            security: Scheme::Plain,
            user: None,
            ..Default::default()
        };
        let request = request.body(Body::empty()).unwrap();
        let Reply::Upgrade(response, upgrade) = app.gateway().serve(request, &info).await else {
            panic!("expected an upgrade");
        };
        assert_eq!(
            response.headers().contains_key("sec-websocket-extensions"),
            way.has_deflate()
        );
        let bytes = Bytes::from(self.frames.concat());
        let behind = way.behind_handshake(bytes.len());
        let (stream, received) = Pieces::new(way, &self.frames, bytes.clone(), behind);
        let (held, let_go) = oneshot::channel::<()>();
        let transport = Some(Stream::boxed(stream));
        upgrade.start(transport, bytes.slice(..behind), Box::new(held));
        let is_over = timeout(DEADLINE, let_go).await.is_ok();
        let received = received.lock().unwrap();
        let mut output = Output::read(&received.in_time);
        if received.ended_first {
            output.push(Output::End);
        }
        if !received.late.is_empty() {
            output.push(Output::Late(received.late.clone()));
        }
        if !is_over {
            output.push(Output::Hangs);
        }
        output
    }

    async fn run_live(&self, server: &LiveServer) -> Vec<Output> {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let handshake = HANDSHAKE.replace("/echo/", self.path);
        stream.write_all(handshake.as_bytes()).await.unwrap();
        read_until(&mut stream, |read| read.ends_with(b"\r\n\r\n")).await;
        stream.write_all(&self.frames.concat()).await.unwrap();
        let is_ended_by_server = self.output.last() == Some(&Output::End);
        if !is_ended_by_server {
            stream.shutdown().await.unwrap();
        }
        let mut output = Output::read(&read_until(&mut stream, |_| false).await);
        if is_ended_by_server {
            output.push(Output::End);
        }
        output
    }
}

/// Runs each sequence in every way.
pub(super) async fn check(sequences: &[Sequence]) {
    let app = Application::parse(FILE).unwrap();
    let mut failures = Vec::new();
    for sequence in sequences {
        let mut others = 0;
        let mut first = None;
        for way in Way::all(&sequence.frames) {
            if sequence.is_plain_only && way.has_deflate() {
                continue;
            }
            let found = sequence.run(&app, way).await;
            if found == sequence.output {
                continue;
            }
            match &first {
                None => first = Some((way, found)),
                Some(_) => others += 1,
            }
        }
        if let Some((way, found)) = first {
            failures.push(format!(
                "{}: {way:?}\n  expected {:?}\n  found    {found:?}\n  and in {others} other ways",
                sequence.name, sequence.output
            ));
        }
        if failures.len() == FAILED_MAX {
            break;
        }
    }
    report(&failures);
}

/// Runs each sequence once over TCP.
pub(super) async fn check_live<'a>(sequences: impl Iterator<Item = &'a Sequence>) {
    let server = LiveServer::start(FILE).await.unwrap();
    let mut failures = Vec::new();
    for sequence in sequences {
        let found = sequence.run_live(&server).await;
        if found != sequence.output {
            failures.push(format!(
                "{}: over TCP\n  expected {:?}\n  found    {found:?}",
                sequence.name, sequence.output
            ));
        }
    }
    report(&failures);
}

fn report(failures: &[String]) {
    assert!(
        failures.is_empty(),
        "{} sequences had another outcome:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
