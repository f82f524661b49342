//! Paths that the application may take for those of another route.

use oneport::testing::LiveServer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{exchange, get, send};
use crate::support::{HANDSHAKE, RawUpstream, closed, read_head, read_until};

/// Answers with the request line.
async fn upstream() -> RawUpstream {
    RawUpstream::start(|mut stream: TcpStream| async move {
        let (head, _) = read_head(&mut stream).await;
        let line = head.lines().next().unwrap().to_owned();
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{line}",
            line.len()
        );
        stream.write_all(response.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    })
    .await
}

/// An application of which one part needs a login.
async fn site(upstream: &RawUpstream) -> LiveServer {
    let route = |path: &str, keys: &str, options: &str| {
        let address = upstream.address;
        format!(
            "[[http.route]]\npath = '{path}'\nview = 'proxy'\n{keys}\noptions = {{ upstream = ['http://{address}']{options} }}\n"
        )
    };
    let login = "middleware = ['session', 'auth', 'login_required']";
    let routes = [
        route("/{*path}", "", ""),
        route("/admin/{*path}", login, ""),
        route("/one", login, ""),
        route("/two/", login, ""),
        route("/users/{id:int}/delete", login, ""),
        route("/page/{name}", login, ""),
        route("/api/{*path}", "", ", strip_prefix = '/api'"),
        route("/api/admin/{*path}", login, ", strip_prefix = '/api'"),
        route("/old/{*path}", "", ", rewrite = '/new/{path}'"),
    ];
    LiveServer::start(&format!(
        "[server]\nallowed_hosts = ['*']\n{}",
        routes.concat()
    ))
    .await
    .unwrap_or_else(|problems| panic!("{problems}"))
}

#[tokio::test]
async fn no_spelling_of_a_protected_path_reaches_the_application() {
    let upstream = upstream().await;
    let server = site(&upstream).await;
    for path in [
        "/admin",
        "/admin/",
        "/admin/users",
        "/%61dmin/users",
        "/admin%2Fusers",
        "/admin%2fusers",
        "//admin/users",
        "///admin//users",
        "/%2Fadmin/users",
        "/%2f%2fadmin",
        "/admin%5Cusers",
        "/admin\\users",
        "/admin;x=y/users",
        "/admin%3Bx/users",
        "/;/admin/users",
        "/x/..;/admin/users",
        "/x/%2e%2e/admin/users",
        "/x%2F..%2Fadmin/users",
        "/api/admin",
        "/api/admin/users",
        "/api/admin%2Fusers",
        "/api//admin/users",
        "/api/%2Fadmin/users",
        "/api%2Fadmin/users",
        "/old%2F..%2Fadmin",
        "//x/admin/users",
        "/\\x/admin/users",
        "/%5Cx/admin/users",
        "//x//admin/users",
        "/one",
        "/one/",
        "/one//",
        "/one%2F",
        "//one",
        "/one;x",
        "/two",
        "/two/",
        "/two%2f",
        "/users/7/delete/",
        "/users%2F7%2Fdelete;%2Fz",
        "/users\\7\\delete;\\z",
        "/page\\a%5Cb",
    ] {
        let answer = exchange(&server, &get(path)).await;
        let status = &answer[9..12];
        assert!(matches!(status, "400" | "302"), "{path}: {answer}");
        assert!(!answer.contains("GET"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn other_odd_paths_pass_as_they_are() {
    let upstream = upstream().await;
    let server = site(&upstream).await;
    for (path, expected) in [
        ("/projects/a%2Fb", "/projects/a%2Fb"),
        ("//public///x", "//public///x"),
        ("/x;v=1/y", "/x;v=1/y"),
        ("/adm%2Fin", "/adm%2Fin"),
        ("/ones", "/ones"),
        ("/one/x", "/one/x"),
        ("//one/x", "//one/x"),
        ("/page/a/b", "/page/a/b"),
        ("/?next=//admin%2Fx", "/?next=//admin%2Fx"),
        ("/api/a%2Fb", "/a%2Fb"),
        ("/api//x", "/x"),
        ("/api", "/"),
        ("/old/a%2Fb//c", "/new/a%2Fb//c"),
        ("/old", "/new/"),
    ] {
        let answer = exchange(&server, &get(path)).await;
        assert!(
            answer.ends_with(&format!("\r\n\r\nGET {expected} HTTP/1.1")),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_path_with_too_many_readings_is_refused() {
    let upstream = upstream().await;
    let server = site(&upstream).await;
    let answer = exchange(&server, &get(&"/;x%2Fy\\z%5Cb%3Bc//d".repeat(200))).await;
    assert_eq!(&answer[9..12], "400", "{answer}");
    let answer = exchange(&server, &get(&"//x".repeat(1000))).await;
    assert_eq!(&answer[9..12], "400", "{answer}");
    let answer = exchange(&server, &get(&"/x//".repeat(1000))).await;
    assert!(answer.contains("\r\n\r\nGET /x//"), "{answer}");
}

#[tokio::test]
async fn handshakes_are_held_to_the_same_rule() {
    let upstream = upstream().await;
    let address = upstream.address;
    let route = |path: &str, keys: &str| {
        format!(
            "[[websocket.route]]\npath = '{path}'\nconsumer = 'proxy'\n{keys}\noptions = {{ upstream = ['http://{address}'] }}\n"
        )
    };
    let login = "middleware = ['session', 'auth', 'login_required']";
    let routes = route("/{*path}", "") + &route("/staff/{*path}", login) + &route("/room", login);
    let text = format!("[server]\nallowed_hosts = ['*']\n{routes}");
    let server = LiveServer::start(&text).await.unwrap();
    for (path, statuses) in [
        ("/staff/x", ["401", "403"]),
        ("/staff", ["401", "403"]),
        ("/staff/", ["401", "403"]),
        ("/room", ["401", "403"]),
        ("/room/", ["401", "403"]),
        ("/room%2F", ["400"; 2]),
        ("//x/staff/y", ["400"; 2]),
        ("/staff%2Fx", ["400"; 2]),
        ("//staff/x", ["400"; 2]),
        ("/chat%2Fx", ["502"; 2]), // the upstream is no WebSocket server
    ] {
        let mut stream = send(&server, &HANDSHAKE.replacen("/echo/", path, 1)).await;
        let has_head = |read: &[u8]| read.windows(4).any(|four| four == b"\r\n\r\n");
        let head = read_until(&mut stream, has_head).await;
        let answer = String::from_utf8_lossy(&head);
        assert!(statuses.contains(&&answer[9..12]), "{path}: {answer}");
    }
}
