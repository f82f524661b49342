//! Files that the application asks for.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{exchange, server};
use crate::support::{Directory, RawUpstream, head_field, read_head};

async fn asking(fields: String) -> RawUpstream {
    let fields: &'static str = fields.leak();
    RawUpstream::start(move |mut stream: TcpStream| async move {
        read_head(&mut stream).await;
        let response = format!(
            "HTTP/1.1 200 OK\r\n{fields}Content-Length: 4\r\nConnection: close\r\n\r\nbody"
        );
        stream.write_all(response.as_bytes()).await.unwrap();
    })
    .await
}

#[tokio::test]
async fn a_file_takes_the_place_of_the_applications_body() {
    let directory = Directory::new().with("a b/report.txt", "0123456789");
    let dir = directory.as_path().display();
    for field in [
        "X-Accel-Redirect: /protected/a%20b/report.txt".to_owned(),
        format!("X-Sendfile: {dir}/a b/report.txt"),
        "X-Sendfile: a b/report.txt".to_owned(),
    ] {
        let fields = format!(
            "{field}\r\nContent-Disposition: attachment\r\nETag: \"app\"\r\nCache-Control: private\r\nContent-Type: text/x-app\r\nSet-Cookie: a=1\r\n"
        );
        let upstream = asking(fields).await;
        let options = format!(", accel = {{ dir = '{dir}', prefix = '/protected/' }}");
        let server = server(&upstream, "", &options).await;
        let request =
            "GET /x?y HTTP/1.1\r\nHost: a\r\nRange: bytes=2-4\r\nConnection: close\r\n\r\n";
        let response = exchange(&server, request).await;
        assert!(response.starts_with("HTTP/1.1 206"), "{response}");
        assert!(response.ends_with("\r\n\r\n234"), "{response}");
        assert_eq!(
            head_field(&response, "content-disposition"),
            Some("attachment")
        );
        assert_eq!(head_field(&response, "cache-control"), Some("private"));
        assert_eq!(head_field(&response, "content-type"), Some("text/x-app"));
        assert_eq!(head_field(&response, "set-cookie"), Some("a=1"));
        assert_ne!(head_field(&response, "etag"), Some("\"app\""));
        assert_eq!(head_field(&response, "x-accel-redirect"), None);
        assert_eq!(head_field(&response, "x-sendfile"), None);
    }
}

#[tokio::test]
async fn a_file_outside_of_the_directory_is_502_and_a_missing_one_404() {
    let directory = Directory::new()
        .with("in/a.txt", "a")
        .with("out.txt", "secret");
    let dir = directory.path("in");
    let dir = dir.display();
    for (field, status) in [
        ("X-Accel-Redirect: /../out.txt".to_owned(), "502"),
        ("X-Accel-Redirect: /%2e%2e/out.txt".to_owned(), "502"),
        (format!("X-Sendfile: {dir}/../out.txt"), "502"),
        ("X-Sendfile: /etc/passwd".to_owned(), "502"),
        ("X-Accel-Redirect: /b.txt".to_owned(), "404"),
        ("X-Accel-Redirect: /a.txt".to_owned(), "200"),
    ] {
        let upstream = asking(format!("{field}\r\n")).await;
        let server = server(&upstream, "", &format!(", accel = {{ dir = '{dir}' }}")).await;
        let response = exchange(&server, &super::get("/")).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}")),
            "{field}: {response}"
        );
        assert!(!response.contains("secret"), "{field}: {response}");
    }
}

#[tokio::test]
async fn without_the_option_the_fields_are_removed() {
    let upstream = asking("X-Sendfile: /etc/passwd\r\n".to_owned()).await;
    let server = server(&upstream, "", "").await;
    let response = exchange(&server, &super::get("/")).await;
    assert!(response.ends_with("body"), "{response}");
    assert_eq!(head_field(&response, "x-sendfile"), None);
}
