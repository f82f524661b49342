//! Requests that the server makes over TLS and HTTP/2: to the servers of a proxy, to the app of
//! `[auth.forward]`, and by the client itself.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body::Frame;
use http_body_util::StreamBody;
use oneport::auth::forward::{Forward, ForwardSettings, Subject};
use oneport::client::{Client, ClientError, ClientSettings, EndpointUrl, RequestBody};
use oneport::config::{Config, OptionErrors};
use oneport::gateway::{Registry, compile};
use oneport::http::{Body, Failure, Response, View, respond};
use oneport::testing::LiveServer;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::Directory;

/// More than the windows and buffers on the way take.
const BIG: usize = 50 << 20;

/// Answers with the facts of the request, as the server behind a proxy sees it.
struct Facts;

impl View for Facts {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    fn methods() -> &'static [Method] {
        &[]
    }

    async fn call(&self, request: oneport::http::Request) -> Result<Response, Failure> {
        let scope = request.scope.clone();
        if scope.path() == "/big" {
            let part = Bytes::from(vec![0; 64 * 1024]);
            let parts = std::iter::repeat_n(part, BIG / (64 * 1024));
            let parts = parts.map(|part| Ok::<_, std::io::Error>(Frame::data(part)));
            let parts = futures_util::stream::iter(parts);
            return Ok(Response::new(Body::stream(StreamBody::new(parts))));
        }
        let body = http_body_util::BodyExt::collect(request.body).await;
        let body = body.map(|body| body.to_bytes().len()).unwrap_or_default();
        let certificate = scope.client_certificate();
        let subject = certificate.map_or("", |certificate| &certificate.subject);
        let text = format!("{:?} {} {body} {subject}", scope.http_version, scope.path());
        let mut response = respond(200, "text/plain", text);
        let port = scope
            .client
            .map(|client| client.to_string())
            .unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert("x-port", port.parse().unwrap());
        headers.insert("x-user-id", HeaderValue::from_static("ann"));
        Ok(response)
    }
}

/// The files of a CA, and of a server's and a client's certificate that it has signed.
struct Files(Directory);

impl Files {
    fn new() -> Self {
        let mut directory = Directory::new();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap();
        directory = directory.with("ca.pem", ca.pem());
        let issuer = Issuer::new(params, key);
        for (name, host) in [("server", "localhost"), ("client", "oneport.test")] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
            let signed = params.signed_by(&key, &issuer).unwrap();
            directory = directory
                .with(&format!("{name}.pem"), signed.pem())
                .with(&format!("{name}.key"), key.serialize_pem());
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).display().to_string()
    }

    fn ca(&self) -> String {
        self.path("ca.pem")
    }
}

/// Starts a server with TLS that asks clients for a certificate.
async fn app(files: &Files) -> LiveServer {
    let text = format!(
        "[server]\nallowed_hosts = ['*']\n[server.tls]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
         plaintext = 'serve'\n[[http.route]]\npath = '/{{*path}}'\nview = 'facts'\n",
        files.path("server.pem"),
        files.path("server.key"),
        files.ca()
    );
    let registry = Registry::builtin().view::<Facts>("facts");
    LiveServer::with(&registry, &text).await.unwrap()
}

/// Starts a server whose view `proxy` has these options.
async fn front(options: &str) -> LiveServer {
    let text = format!(
        "[server]\nallowed_hosts = ['*']\n[[http.route]]\npath = '/{{*path}}'\nview = 'proxy'\n[http.route.options]\n{options}\n"
    );
    LiveServer::start(&text).await.unwrap()
}

async fn request(server: &LiveServer, request: Request<RequestBody>) -> (u16, HeaderMap, String) {
    let url = EndpointUrl::parse(&server.url("/")).unwrap();
    let client = Client::new(&url.address, ClientSettings::default());
    let (head, body) = client.exchange(request).await.unwrap().into_parts();
    let body = String::from_utf8(body.to_vec()).unwrap();
    (head.status.as_u16(), head.headers, body)
}

async fn get(server: &LiveServer) -> (u16, String) {
    let uri = server.url("/a");
    let built = Request::get(uri).body(RequestBody::empty()).unwrap();
    let (status, _, body) = request(server, built).await;
    (status, body)
}

#[tokio::test]
async fn a_proxys_servers_are_reached_over_tls_and_checked() {
    let files = Files::new();
    let app = app(&files).await;
    let port = app.address().port();
    let (named, numbered) = (
        format!("https://localhost:{port}"),
        format!("https://127.0.0.1:{port}"),
    );
    let ca = format!("ca = {:?}", files.ca());
    let own = format!(
        "certificate = {:?}, key = {:?}",
        files.path("client.pem"),
        files.path("client.key")
    );
    for (url, tls, status, expected) in [
        (&named, ca.clone(), 200, "HTTP/2.0 /a 0 "),
        (&named, String::new(), 502, ""),
        (&named, "verify = false".to_owned(), 200, "HTTP/2.0 /a 0 "),
        (&numbered, ca.clone(), 502, ""),
        (
            &numbered,
            format!("{ca}, server_name = 'localhost'"),
            200,
            "HTTP/2.0 /a 0 ",
        ),
        (&named, format!("{ca}, {own}"), 200, "HTTP/2.0 /a 0 CN="),
    ] {
        let front = front(&format!("upstream = [{url:?}]\ntls = {{ {tls} }}")).await;
        let (found, body) = get(&front).await;
        assert_eq!(found, status, "{url} {tls}: {body}");
        assert!(body.starts_with(expected), "{url} {tls}: {body}");
        front.stop().await;
    }
    app.stop().await;
}

/// A client that does not read must not hold up the others, who share the connection.
#[tokio::test]
async fn a_body_that_is_not_read_stalls_no_other_request() {
    let files = Files::new();
    let app = app(&files).await;
    let url = format!("https://localhost:{}", app.address().port());
    let options = format!("upstream = [{url:?}]\ntls = {{ ca = {:?} }}", files.ca());
    let front = front(&options).await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(front.address()).await.unwrap();
        let request = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(request).await.unwrap();
        stream.read_exact(&mut [0; 1000]).await.unwrap();
        unread.push(stream);
    }
    let gets = async {
        for _ in 0..20 {
            assert_eq!(get(&front).await, (200, "HTTP/2.0 /a 0 ".to_owned()));
        }
    };
    let gets = tokio::time::timeout(Duration::from_secs(10), gets).await;
    gets.expect("the responses in time");
    // What was not read arrives when it is.
    let mut stream = unread.pop().unwrap();
    let mut left = BIG;
    let mut buffer = vec![0; 256 * 1024];
    while left > 0 {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await;
        let read = read.expect("the next bytes in time").unwrap();
        assert!(read > 0, "{left} bytes are missing");
        left = left.saturating_sub(read);
    }
    drop((stream, unread));
    front.stop().await;
    app.stop().await;
}

/// Starts a server over TLS that chooses HTTP/1.1. It completes its first handshake, and then only
/// as many as there are connections at the same time.
async fn http1_app(files: &Files, at_once: usize) -> (u16, JoinSet<()>) {
    let certificate = CertificateDer::from_pem_file(files.path("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(files.path("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let together = Arc::new(tokio::sync::Barrier::new(at_once));
        let mut serving = JoinSet::new();
        let mut is_first = true;
        while let Ok((stream, _)) = listener.accept().await {
            let together = (!std::mem::take(&mut is_first)).then(|| together.clone());
            let acceptor = acceptor.clone();
            serving.spawn(async move {
                if let Some(together) = together {
                    together.wait().await;
                }
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut buffer = vec![0; 64 * 1024];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    // Long enough that no connection serves a second request.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn connections_to_a_server_that_speaks_http_1_1_are_opened_at_the_same_time() {
    let files = Files::new();
    let (port, _tasks) = http1_app(&files, 7).await;
    let url = format!("https://localhost:{port}");
    let options = format!("upstream = [{url:?}]\ntls = {{ ca = {:?} }}", files.ca());
    let front = front(&options).await;
    for (status, body) in futures_util::future::join_all((0..8).map(|_| get(&front))).await {
        assert_eq!((status, &*body), (200, "hi"));
    }
    front.stop().await;
}

#[test]
fn a_proxy_that_checks_no_certificates_is_warned_of() {
    let text = "[[http.route]]\npath = '/{*path}'\nview = 'proxy'\noptions = { upstream = ['https://app.test'], tls = { verify = false } }\n";
    let (config, _) = Config::parse("test.toml", text, ".".as_ref(), &|_| None).unwrap();
    let (_, warnings) = compile(&config, &Registry::builtin()).unwrap();
    let expected = "options.tls.verify: warning: the certificates of the servers are not checked";
    assert!(warnings.to_string().contains(expected), "{warnings}");
}

#[tokio::test]
async fn http_2_without_tls_has_one_connection_for_all_requests() {
    let app = app(&Files::new()).await;
    let url = format!("h2c://{}", app.address());
    let front = front(&format!("upstream = [{url:?}]")).await;
    let uri = front.url("/upload");
    let posts = (0..20).map(|at| {
        let body = RequestBody::full(vec![b'x'; at * 10_000]);
        request(&front, Request::post(&uri).body(body).unwrap())
    });
    let answers = futures_util::future::join_all(posts).await;
    for (at, (status, _, body)) in answers.iter().enumerate() {
        let expected = format!("HTTP/2.0 /upload {} ", at * 10_000);
        assert_eq!((*status, body), (200, &expected));
    }
    let ports: HashSet<&HeaderValue> = answers.iter().map(|(_, head, _)| &head["x-port"]).collect();
    assert_eq!(ports.len(), 1, "{ports:?}");
    // The server closes the connection; the next request opens another one, or is refused.
    app.stop().await;
    let (status, _) = get(&front).await;
    assert_eq!(status, 502);
    // No task of the connection holds up the end of the server.
    let stopped = tokio::time::timeout(Duration::from_secs(10), front.stop()).await;
    assert_eq!(stopped.unwrap().cut_off, 0);
}

#[tokio::test]
async fn a_client_trusts_the_certificates_of_a_file() {
    let files = Files::new();
    let app = app(&files).await;
    let url = format!("https://localhost:{}/x", app.address().port());
    let url = EndpointUrl::parse(&url).unwrap();
    let client = |ca: Option<&Path>| {
        let settings = ClientSettings {
            protocol: url.protocol(ca).unwrap(),
            ..ClientSettings::default()
        };
        Client::new(&url.address, settings)
    };
    let get = || {
        Request::get(url.uri.clone())
            .body(RequestBody::empty())
            .unwrap()
    };
    let ca = files.ca();
    let trusting = client(Some(Path::new(&ca)));
    for _ in 0..3 {
        let response = trusting.exchange(get()).await.unwrap();
        assert_eq!(&response.body()[..], b"HTTP/1.1 /x 0 ");
    }
    let error = client(None).exchange(get()).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    assert!(url.protocol(Some(Path::new("/nowhere.pem"))).is_err());
    app.stop().await;
}

#[tokio::test]
async fn forward_asks_an_app_over_tls() {
    let files = Files::new();
    let app = app(&files).await;
    let settings = |ca: Option<String>| ForwardSettings {
        url: format!("https://localhost:{}/auth", app.address().port()),
        ca: ca.map(Into::into),
        request_headers: vec![COOKIE],
        id_header: HeaderName::from_static("x-user-id"),
        name_header: HeaderName::from_static("x-user-name"),
        staff_header: HeaderName::from_static("x-user-staff"),
        cache: Duration::ZERO,
        timeout: Duration::from_secs(5),
    };
    let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_static("sessionid=a"))]);
    let subject = Subject {
        method: "GET",
        uri: "/",
        host: "example.com",
        scheme: "https",
        client: None,
        headers: &headers,
    };
    let forward = Forward::new(settings(Some(files.ca()))).unwrap();
    let user = forward.ask(&subject).await.unwrap();
    assert_eq!(user.unwrap().id, "ann");
    let forward = Forward::new(settings(None)).unwrap();
    assert!(forward.ask(&subject).await.is_err());
    assert!(Forward::new(settings(Some("/nowhere.pem".to_owned()))).is_err());
    app.stop().await;
}
