//! Files: the view `static`, from rejected names to ranges.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Response};
use oneport::testing::{Application, HttpCommunicator};

use crate::support::{Directory, field};

/// An application that serves a directory by one route.
fn serving(directory: &Directory, route: &str, options: &str) -> Application {
    serving_with(directory, "", route, options)
}

fn serving_with(directory: &Directory, before: &str, route: &str, options: &str) -> Application {
    let text = format!(
        "{before}\n[[http.route]]\n{route}\nview = 'static'\noptions = {{ dir = '{}', {options} }}\n",
        directory.as_path().display()
    );
    Application::parse(&text).unwrap()
}

const STATIC: &str = "path = '/static/{*path}'";

async fn get(app: &Application, path: &str) -> Response<Bytes> {
    HttpCommunicator::get(path).send(app).await
}

async fn get_with(app: &Application, path: &str, fields: &[(&str, &str)]) -> Response<Bytes> {
    let mut request = HttpCommunicator::get(path);
    for (name, value) in fields {
        request = request.header(name, value);
    }
    request.send(app).await
}

/// Issue 13, line 1: any error that a client's path causes in the file system is 404 or 403, never
/// 5xx.
#[tokio::test]
async fn a_path_that_names_no_regular_file_is_404() {
    let folder = Directory::new().with("a.txt", "a").with("empty/x/y", "y");
    symlink("loop-b", folder.path("loop-a")).unwrap();
    symlink("loop-a", folder.path("loop-b")).unwrap();
    symlink("nowhere", folder.path("dangling")).unwrap();
    symlink("a.txt", folder.path("link.txt")).unwrap();
    let made = Command::new("mkfifo").arg(folder.path("fifo")).status();
    assert!(made.unwrap().success());
    let _socket = UnixListener::bind(folder.path("socket")).unwrap();
    symlink("/dev/zero", folder.path("device")).unwrap();
    symlink("fifo", folder.path("link-to-fifo")).unwrap();
    let app = serving(&folder, STATIC, "");
    let long = "n".repeat(300);
    let deep = "d/".repeat(2100);
    for name in [
        "missing.js",
        "a.txt/below",
        "a.txt/",
        "a.txt/below/",
        "missing/deeper/still.js",
        "loop-a",
        "loop-a/x",
        "dangling",
        "fifo",
        "link-to-fifo",
        "fifo/x",
        "socket",
        "device",
        "empty/",
        "empty/x/",
        ".hidden",
        "x/.git/config",
        "a%5Cb",
        "%EF%BF%BD",
        long.as_str(),
        deep.as_str(),
    ] {
        let path = format!("/static/{name}");
        let response = get(&app, &path).await;
        assert_eq!(response.status(), 404, "{path}");
    }
    assert_eq!(get(&app, "/static/link.txt").await.body(), "a");
}

/// Issue 13, line 1: a FIFO blocks no thread. The blocking pool has 512.
#[tokio::test]
async fn many_requests_for_a_fifo_stop_nothing() {
    let folder = Directory::new().with("a.txt", "a");
    let made = Command::new("mkfifo").arg(folder.path("fifo")).status();
    assert!(made.unwrap().success());
    let app = serving(&folder, STATIC, "");
    let asked = (0..560).map(|_| get(&app, "/static/fifo"));
    for response in futures_util::future::join_all(asked).await {
        assert_eq!(response.status(), 404);
    }
    assert_eq!(get(&app, "/static/a.txt").await.body(), "a");
}

/// Issue 13, line 1: `fallback` replaces a missing file.
#[tokio::test]
async fn fallback_is_served_for_a_missing_file_and_is_never_cached_long() {
    let folder = Directory::new()
        .with("index.html", "<p>app")
        .with("assets/app.js", "1");
    let app = serving(
        &folder,
        "path = '/{*path}'",
        "fallback = 'index.html', cache_control = 'max-age=31536000'",
    );
    for path in ["/users/7", "/assets/missing.js", "/assets/", "/x/.hidden"] {
        let response = get(&app, path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.body(), "<p>app", "{path}");
        assert_eq!(field(&response, "cache-control"), Some("no-cache"));
        assert_eq!(
            field(&response, "content-type"),
            Some("text/html; charset=utf-8")
        );
    }
    let found = get(&app, "/assets/app.js").await;
    assert_eq!(field(&found, "cache-control"), Some("max-age=31536000"));
}

#[tokio::test]
async fn a_fallback_that_is_missing_itself_is_404() {
    let folder = Directory::new().with("a.txt", "a");
    let app = serving(&folder, "path = '/{*path}'", "fallback = 'nope.html'");
    assert_eq!(get(&app, "/missing").await.status(), 404);
}

/// Issue 13, line 2: the router and the view see the same path.
#[tokio::test]
async fn no_spelling_of_a_path_passes_by_the_route_that_guards_it() {
    let folder = Directory::new()
        .with("a.txt", "a")
        .with("private/secret.txt", "secret")
        .with("private/index.html", "secret index");
    let private = folder.path("private");
    let text = format!(
        "[session]\nstore = 'memory'\n[[http.route]]\npath = '/static/private/{{*path}}'\nview = 'static'\n\
         middleware = ['session', 'auth', 'login_required']\noptions = {{ dir = '{}' }}\n",
        private.display()
    );
    let app = serving_with(&folder, &text, STATIC, "");
    assert_eq!(get(&app, "/static/a.txt").await.body(), "a");
    for path in [
        "/static/private/secret.txt",
        "/static/private%2Fsecret.txt",
        "/static/private%2fsecret.txt",
        "/static//private/secret.txt",
        "/static/%2Fprivate/secret.txt",
        "/static/%2fprivate%2fsecret.txt",
        "/static/private//secret.txt",
        "/static/private%2F",
        "/static/private/",
        "/static/private",
        "/static/private%5Csecret.txt",
        "/static/x%2F..%2Fprivate/secret.txt",
        "/static/./private/secret.txt",
        "/static/%2e/private/secret.txt",
        "/static/%70rivate/secret.txt",
        "/static/private/%73ecret.txt",
        "/static/x/../private/secret.txt",
        "/static/private%252Fsecret.txt",
        "/static/PRIVATE/secret.txt",
        "/static/private./secret.txt",
    ] {
        let response = get(&app, path).await;
        let status = response.status().as_u16();
        assert!([302, 308, 400, 404].contains(&status), "{path}: {status}");
        assert!(!response.body().starts_with(b"secret"), "{path}");
    }
}

/// Issue 13, line 3.
#[tokio::test]
async fn a_directory_is_redirected_to_its_slash_with_mount_point_and_query() {
    let folder = Directory::new().with("docs/index.html", "docs");
    let root = "[server]\nroot_path = '/app'";
    let check = |app: Application, path: &'static str, expected: Option<&'static str>| async move {
        let response = get(&app, path).await;
        assert_eq!(field(&response, "location"), expected, "{path}");
        let status = if expected.is_some() { 308 } else { 404 };
        assert_eq!(response.status(), status, "{path}");
    };
    check(
        serving(&folder, STATIC, ""),
        "/static/docs?a=b&c",
        Some("/static/docs/?a=b&c"),
    )
    .await;
    check(
        serving(&folder, STATIC, ""),
        "/static/%64ocs",
        Some("/static/%64ocs/"),
    )
    .await;
    check(
        serving_with(&folder, root, STATIC, ""),
        "/app/static/docs?x",
        Some("/app/static/docs/?x"),
    )
    .await;
    check(
        serving_with(&folder, root, "path = '/{*path}'", ""),
        "/app/docs",
        Some("/app/docs/"),
    )
    .await;
    // The path with the slash would not reach this route, or find nothing: no redirect to itself.
    check(serving(&folder, STATIC, "index = ''"), "/static/docs", None).await;
    check(
        serving(&folder, STATIC, "index = ''"),
        "/static/docs/",
        None,
    )
    .await;
    check(
        serving(&folder, "path = '/files/{path}'", ""),
        "/files/docs",
        None,
    )
    .await;
    check(
        serving(&folder, "regex = '^r/(?P<path>.*)$'", ""),
        "/r/docs",
        Some("/r/docs/"),
    )
    .await;
    check(
        serving(&folder, "regex = '^r/(?P<path>[a-z]+)$'", ""),
        "/r/docs",
        None,
    )
    .await;
}

#[tokio::test]
async fn a_redirect_of_a_directory_never_leads_to_another_host() {
    let folder = Directory::new().with("evil.example/index.html", "x");
    let app = serving(&folder, "path = '/{*path}'", "");
    for path in ["//evil.example", "//evil.example/x/..", "/%2Fevil.example"] {
        let response = get(&app, path).await;
        assert_eq!(field(&response, "location"), None, "{path}");
    }
}

/// Issue 13, line 5.
#[tokio::test]
async fn a_catch_all_serves_the_index_of_its_folder_too() {
    let folder = Directory::new()
        .with("index.html", "front")
        .with("sub/index.html", "sub");
    let app = serving(&folder, "path = '/{*path}'", "");
    assert_eq!(get(&app, "/").await.body(), "front");
    assert_eq!(get(&app, "/sub/").await.body(), "sub");
    let app = serving(&folder, STATIC, "");
    assert_eq!(get(&app, "/static/").await.body(), "front");
    let response = get(&app, "/static").await;
    assert_eq!(
        (response.status().as_u16(), field(&response, "location")),
        (308, Some("/static/"))
    );
    // A route with exactly this path comes first, wherever it is in the file.
    let page = "[[http.route]]\npath = '/'\nview = 'respond'\noptions = { body = 'page' }";
    let app = serving_with(&folder, page, "path = '/{*path}'", "");
    assert_eq!(get(&app, "/").await.body(), "page");
    assert_eq!(get(&app, "/index.html").await.body(), "front");
}

/// Issue 13, line 4.
#[tokio::test]
async fn ranges_are_answered_as_the_rfc_says() {
    let folder = Directory::new().with("ten", "0123456789").with("empty", "");
    let app = serving(&folder, STATIC, "");
    let check =
        async |path: &str, range: &str, status: u16, body: &str, content_range: Option<&str>| {
            let response = get_with(&app, path, &[("range", range)]).await;
            assert_eq!(response.status(), status, "{path} {range}");
            if status != 416 {
                assert_eq!(response.body(), body, "{path} {range}");
            }
            assert_eq!(
                field(&response, "content-range"),
                content_range,
                "{path} {range}"
            );
        };
    let ten = "/static/ten";
    check(ten, "bytes=0-3", 206, "0123", Some("bytes 0-3/10")).await;
    check(ten, "bytes=4-", 206, "456789", Some("bytes 4-9/10")).await;
    check(ten, "bytes=-3", 206, "789", Some("bytes 7-9/10")).await;
    check(ten, "bytes=-99", 206, "0123456789", Some("bytes 0-9/10")).await;
    check(ten, "bytes=5-99", 206, "56789", Some("bytes 5-9/10")).await;
    check(ten, "bytes=10-", 416, "", Some("bytes */10")).await;
    check(ten, "bytes=-0", 416, "", Some("bytes */10")).await;
    check(ten, "bytes=0-1,12-", 206, "01", Some("bytes 0-1/10")).await;
    check(ten, "lines=0-3", 200, "0123456789", None).await;
    check(ten, "bytes=3-0", 200, "0123456789", None).await;
    check(ten, "bytes=0-8,2-9", 200, "0123456789", None).await;
    check("/static/empty", "bytes=0-3", 200, "", None).await;
    check("/static/empty", "bytes=-3", 200, "", None).await;
}

#[tokio::test]
async fn several_ranges_come_as_multipart() {
    let folder = Directory::new().with("a.txt", "0123456789");
    let app = serving(&folder, STATIC, "");
    let response = get_with(&app, "/static/a.txt", &[("range", "bytes=0-1, 7-")]).await;
    assert_eq!(response.status(), 206);
    assert_eq!(field(&response, "content-range"), None);
    let content_type = field(&response, "content-type").unwrap().to_owned();
    let boundary = content_type
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let expected = format!(
        "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
         \r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 7-9/10\r\n\r\n789\
         \r\n--{boundary}--\r\n"
    );
    assert_eq!(response.body(), expected.as_bytes());
}

/// A file that is longer than one reading step, whole and in parts.
#[tokio::test]
async fn a_long_file_is_served_whole_and_in_parts() {
    let content: Vec<u8> = (0..700_001_u32).map(|at| (at % 251) as u8).collect();
    let folder = Directory::new().with("long.bin", &content);
    let app = serving(&folder, STATIC, "");
    let whole = get(&app, "/static/long.bin").await;
    assert_eq!(whole.body(), &content);
    assert_eq!(
        field(&whole, "content-type"),
        Some("application/octet-stream")
    );
    let part = get_with(
        &app,
        "/static/long.bin",
        &[("range", "bytes=131071-500000")],
    )
    .await;
    assert_eq!(part.body(), &content[131_071..=500_000]);
}

/// Issue 13, line 4: validators, `If-Range`, 304 with `Vary`.
#[tokio::test]
async fn conditions_are_evaluated_and_a_304_carries_validators_and_vary() {
    let folder = Directory::new().with("a.txt", "0123456789");
    let file = fs::File::options()
        .write(true)
        .open(folder.path("a.txt"))
        .unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
        .unwrap();
    let app = serving(&folder, STATIC, "");
    let path = "/static/a.txt";
    let first = get(&app, path).await;
    let etag = field(&first, "etag").unwrap();
    let modified = field(&first, "last-modified").unwrap();
    assert_eq!(modified, "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(field(&first, "accept-ranges"), Some("bytes"));
    assert_eq!(field(&first, "vary"), Some("accept-encoding"));
    for fields in [
        [("if-none-match", etag)].as_slice(),
        &[("if-modified-since", modified)],
    ] {
        let response = get_with(&app, path, fields).await;
        assert_eq!(response.status(), 304, "{fields:?}");
        assert!(response.body().is_empty());
        for name in ["etag", "last-modified", "vary", "cache-control"] {
            assert_eq!(field(&response, name), field(&first, name), "{name}");
        }
        assert_eq!(field(&response, "content-type"), None);
    }
    let check = async |fields: &[(&str, &str)], status: u16| {
        let response = get_with(&app, path, fields).await;
        assert_eq!(response.status(), status, "{fields:?}");
    };
    let range = ("range", "bytes=0-1");
    check(&[range, ("if-range", etag)], 206).await;
    check(&[range, ("if-range", modified)], 206).await;
    check(&[range, ("if-range", "\"other\"")], 200).await;
    check(&[range, ("if-range", &format!("W/{etag}"))], 200).await;
    check(&[range, ("if-range", "Sun, 06 Nov 1994 08:49:36 GMT")], 200).await;
    check(&[("if-match", "\"other\"")], 412).await;
    check(
        &[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:36 GMT")],
        412,
    )
    .await;
    check(&[("if-modified-since", "nonsense")], 200).await;
}

#[tokio::test]
async fn a_changed_file_has_another_entity_tag() {
    let folder = Directory::new().with("a.txt", "one");
    let app = serving(&folder, STATIC, "");
    let etag = |response: &Response<Bytes>| field(response, "etag").unwrap().to_owned();
    let one = etag(&get(&app, "/static/a.txt").await);
    let file = fs::File::options()
        .write(true)
        .open(folder.path("a.txt"))
        .unwrap();
    file.set_modified(SystemTime::now() - Duration::from_millis(1))
        .unwrap();
    let two = etag(&get(&app, "/static/a.txt").await);
    assert_ne!(one, two);
}

/// Issue 13, line 4: a modification time before 1970 panicked.
#[tokio::test]
async fn a_file_from_before_1970_or_from_the_future_has_no_last_modified() {
    let folder = Directory::new().with("a.txt", "a");
    let app = serving(&folder, STATIC, "");
    let file = fs::File::options()
        .write(true)
        .open(folder.path("a.txt"))
        .unwrap();
    for time in [
        SystemTime::UNIX_EPOCH - Duration::from_secs(1_000_000_000),
        SystemTime::UNIX_EPOCH - Duration::from_millis(1),
        SystemTime::now() + Duration::from_secs(86_400),
    ] {
        file.set_modified(time).unwrap();
        let fields = [("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")];
        let response = get_with(&app, "/static/a.txt", &fields).await;
        assert_eq!(response.status(), 200, "{time:?}");
        assert_eq!(field(&response, "last-modified"), None, "{time:?}");
        assert!(field(&response, "etag").is_some());
    }
}

/// Issue 13, line 4: HEAD has what GET has; OPTIONS says what there is.
#[tokio::test]
async fn head_has_the_fields_of_get_and_options_names_the_methods() {
    let folder = Directory::new()
        .with("a.html", "0123456789")
        .with("empty.css", "");
    let app = serving(&folder, STATIC, "");
    for path in ["/static/a.html", "/static/empty.css", "/static/missing"] {
        let get = get(&app, path).await;
        let head = HttpCommunicator::new(Method::HEAD, path).send(&app).await;
        assert_eq!(head.status(), get.status(), "{path}");
        for name in [
            "content-type",
            "etag",
            "last-modified",
            "vary",
            "accept-ranges",
            "cache-control",
            "x-content-type-options",
        ] {
            assert_eq!(field(&head, name), field(&get, name), "{path} {name}");
        }
        assert_eq!(
            field(&head, "content-length").unwrap_or("0"),
            get.body().len().to_string(),
            "{path}"
        );
    }
    let head = HttpCommunicator::new(Method::HEAD, "/static/a.html")
        .header("range", "bytes=0-1")
        .send(&app)
        .await;
    assert_eq!(head.status(), 200); // RFC 9110 §14.2: a range is for GET
    let options = HttpCommunicator::new(Method::OPTIONS, "/static/a.html")
        .send(&app)
        .await;
    assert_eq!(
        (options.status().as_u16(), field(&options, "allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
    let post = HttpCommunicator::new(Method::POST, "/static/a.html")
        .send(&app)
        .await;
    assert_eq!(post.status(), 405);
}

/// Issue 13, line 4: text types name their charset.
#[tokio::test]
async fn text_has_a_charset_and_other_types_have_none() {
    let folder = Directory::new()
        .with("a.html", "a")
        .with("a.js", "a")
        .with("a.mjs", "a")
        .with("a.css", "a")
        .with("a.txt", "a")
        .with("a.json", "{}")
        .with("a.svg", "a")
        .with("a.png", "a")
        .with("a.wasm", "a")
        .with("README", "a")
        .with("A.HTML", "a");
    let app = serving(&folder, STATIC, "");
    for (name, expected) in [
        ("a.html", "text/html; charset=utf-8"),
        ("A.HTML", "text/html; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.wasm", "application/wasm"),
        ("README", "application/octet-stream"),
    ] {
        let response = get(&app, &format!("/static/{name}")).await;
        assert_eq!(field(&response, "content-type"), Some(expected), "{name}");
        assert_eq!(field(&response, "x-content-type-options"), Some("nosniff"));
    }
    let app = serving(&folder, STATIC, "charset = ''");
    let response = get(&app, "/static/a.txt").await;
    assert_eq!(field(&response, "content-type"), Some("text/plain"));
    let app = serving(&folder, STATIC, "charset = 'iso-8859-1'");
    let response = get(&app, "/static/a.txt").await;
    assert_eq!(
        field(&response, "content-type"),
        Some("text/plain; charset=iso-8859-1")
    );
}

/// The index of a directory is served under the directory's name, which has no extension: a browser
/// would download the page.
#[tokio::test]
async fn an_index_has_the_media_type_of_its_own_name() {
    let folder = Directory::new()
        .with("index.html", "front")
        .with("sub/index.html", "sub")
        .with("a.html/index.json", "{}");
    for (route, options, path, expected) in [
        (STATIC, "", "/static/", "text/html; charset=utf-8"),
        (STATIC, "", "/static/sub/", "text/html; charset=utf-8"),
        ("path = '/page/'", "", "/page/", "text/html; charset=utf-8"),
        (
            STATIC,
            "index = 'index.json'",
            "/static/a.html/",
            "application/json",
        ),
        (
            STATIC,
            "fallback = 'index.html'",
            "/static/missing.png",
            "text/html; charset=utf-8",
        ),
    ] {
        let app = serving(&folder, route, options);
        let response = get(&app, path).await;
        assert_eq!(field(&response, "content-type"), Some(expected), "{path}");
    }
}

#[tokio::test]
async fn a_precompressed_file_is_served_to_clients_that_accept_it() {
    let folder = Directory::new()
        .with("a.js", "plain")
        .with("a.js.gz", "gzip")
        .with("a.js.br", "brotli")
        .with("only.js.gz", "orphan");
    let app = serving(&folder, STATIC, "");
    let check = async |accept: &str, body: &str, encoding: Option<&str>| {
        let response = get_with(&app, "/static/a.js", &[("accept-encoding", accept)]).await;
        assert_eq!(response.body(), body, "{accept}");
        assert_eq!(field(&response, "content-encoding"), encoding, "{accept}");
        assert_eq!(field(&response, "vary"), Some("accept-encoding"));
        assert_eq!(
            field(&response, "content-type"),
            Some("text/javascript; charset=utf-8")
        );
        field(&response, "etag").unwrap().to_owned()
    };
    let plain = check("identity", "plain", None).await;
    let gzip = check("gzip", "gzip", Some("gzip")).await;
    let brotli = check("gzip, br", "brotli", Some("br")).await;
    check("zstd", "plain", None).await;
    check("gzip;q=0", "plain", None).await;
    assert!(plain != gzip && gzip != brotli);
    // Without the plain file there is none.
    let orphan = get_with(&app, "/static/only.js", &[("accept-encoding", "gzip")]).await;
    assert_eq!(orphan.status(), 404);
}

/// Issue 13, line 5: what must stay secret lies in no folder that is served.
#[test]
fn a_folder_that_holds_the_configuration_the_database_or_a_key_is_refused() {
    let folder = Directory::new()
        .with("oneport.toml", "")
        .with("public/a.txt", "a");
    let problems_of = |text: &str| {
        fs::write(folder.path("oneport.toml"), text).unwrap();
        let path = folder.path("oneport.toml");
        let loaded = oneport::config::Config::load(&path, &|_| None);
        let (config, _) = loaded.unwrap();
        match oneport::gateway::compile(&config, &oneport::gateway::Registry::builtin()) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    };
    let route = |dir: &str| {
        format!(
            "[[http.route]]\npath = '/{{*path}}'\nview = 'static'\noptions = {{ dir = '{dir}' }}\n"
        )
    };
    let check = |text: &str, expected: &str| {
        let found = problems_of(text);
        match expected {
            "" => assert_eq!(found, ""),
            _ => assert!(found.contains(expected), "{text}\n{found}"),
        }
    };
    check(&route("public"), "");
    check(&route("."), "it holds the configuration");
    check(&route("public/.."), "it holds the configuration");
    check(&route("/"), "it holds the configuration");
    let store = "[session]\nstore = 'sqlite:public/data/oneport.db'\n";
    check(
        &format!("{store}{}", route("public")),
        "it holds session.store",
    );
    let users = "[auth]\nusers = 'sqlite:public/users.db'\n";
    check(
        &format!("{users}{}", route("public")),
        "it holds auth.users",
    );
    let key = "[auth.bearer]\nalgorithms = ['HS256']\nkey_file = 'public/a.txt'\n";
    check(
        &format!("{key}{}", route("public")),
        "it holds auth.bearer.key_file",
    );
    let keys = r#"{"keys":[{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","kid":"a","alg":"HS256"}]}"#;
    fs::write(folder.path("public/keys.json"), keys).unwrap();
    let key = "[auth.bearer]\nalgorithms = ['HS256']\njwks_file = 'public/keys.json'\n";
    check(
        &format!("{key}{}", route("public")),
        "it holds auth.bearer.jwks_file",
    );
    symlink(folder.path(""), folder.path("public/up")).unwrap();
    check(&route("public/up"), "it holds the configuration");
}

/// Issue 13, line 2: `check` warns when a weaker route maps the paths of a stronger one.
#[test]
fn check_warns_of_a_weaker_route_over_the_folder_of_a_stronger_one() {
    let folder = Directory::new().with("private/x", "x").with("a.txt", "a");
    let warnings = |outer_dir: &Path,
                    inner_path: &str,
                    inner_dir: &Path,
                    outer_middleware: &str| {
        let text = format!(
            "[session]\nstore = 'memory'\n[[http.route]]\npath = '/static/{{*path}}'\nview = 'static'\n{outer_middleware}\n\
             options = {{ dir = '{}' }}\n[[http.route]]\npath = '{inner_path}'\nview = 'static'\n\
             middleware = ['hosts', 'session', 'auth', 'login_required']\noptions = {{ dir = '{}' }}\n",
            outer_dir.display(),
            inner_dir.display()
        );
        let parsed = oneport::config::Config::parse("t.toml", &text, ".".as_ref(), &|_| None);
        let (config, _) = parsed.unwrap();
        let registry = oneport::gateway::Registry::builtin();
        let (_, warnings) = oneport::gateway::compile(&config, &registry).unwrap();
        warnings.to_string()
    };
    let (all, private) = (folder.path(""), folder.path("private"));
    let found = warnings(&all, "/static/private/{*path}", &private, "");
    assert!(found.contains("login_required"), "{found}");
    assert!(found.contains("/static/private/{*path}"), "{found}");
    // The same middleware, another folder, another prefix of paths onto the same folder.
    let strong = "middleware = ['hosts', 'session', 'auth', 'login_required']";
    assert_eq!(
        warnings(&all, "/static/private/{*path}", &private, strong),
        ""
    );
    let elsewhere = Directory::new().with("y", "y");
    assert_eq!(
        warnings(&all, "/static/private/{*path}", &elsewhere.path(""), ""),
        ""
    );
    let found = warnings(&all, "/private/{*path}", &private, "");
    assert!(found.contains("login_required"), "{found}");
}
