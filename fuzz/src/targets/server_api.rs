//! The server API: the input is a head and a body. The token is added.

use std::cell::OnceCell;

use http::HeaderValue;
use oneport::testing::Application;

use super::gateway::send;
use super::head_scanner::parse_head;

const CONFIG: &str = r#"
    [http]
    middleware = []
    [[http.route]]
    path = "/{*call}"
    view = "publish"
    options = { max_event = "1 KiB", max_batch = 5, tokens = [
        { name = "admin", token = "a-token-of-at-least-32-characters", groups = ["*"], connections = true },
        { name = "shop", token = "b-token-of-at-least-32-characters", groups = ["news_*"] },
    ] }
"#;

thread_local! {
    static APPLICATION: OnceCell<Application> = const { OnceCell::new() };
}

pub fn run(data: &[u8]) {
    let Some((mut request, length)) = parse_head(data) else {
        return;
    };
    let token = HeaderValue::from_static("Bearer a-token-of-at-least-32-characters");
    request
        .headers_mut()
        .entry("authorization")
        .or_insert(token);
    let host = HeaderValue::from_static("localhost");
    request.headers_mut().entry("host").or_insert(host);
    send(CONFIG, &APPLICATION, request, &data[length..]);
}
