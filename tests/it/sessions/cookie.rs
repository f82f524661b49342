//! Cookie: its flags, and cookies that other pages send or invent.

use bytes::Bytes;
use http::Response;
use oneport::testing::{HttpCommunicator, WebsocketCommunicator};
use serde_json::json;

use super::site::{Browser, Site};

#[tokio::test]
async fn the_cookie_has_its_flags() {
    let flags = |response: &Response<Bytes>, name: &str| {
        let fields = response.headers().get_all("set-cookie");
        let fields = fields
            .iter()
            .map(|field| field.to_str().unwrap().to_owned());
        let found = fields.into_iter().find(|field| field.starts_with(name));
        found.unwrap_or_default()
    };
    let site = Site::new().await;
    let response = site.browser().log_in("anna", "anna-password", "").await;
    let cookie = flags(&response, "sessionid=");
    for flag in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=1209600"] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    assert!(
        !cookie.contains("Secure") && !cookie.contains("Domain"),
        "{cookie}"
    );
    let page = site.browser().get("/login/").await;
    let cookie = flags(&page, "csrftoken=");
    assert!(
        cookie.contains("SameSite=Lax") && !cookie.contains("HttpOnly"),
        "{cookie}"
    );

    let more = "secure = \"always\"\nsame_site = \"strict\"\ndomain = \"example.com\"\nmax_age = \"1h\"\npath = \"/app/\"";
    let site = Site::with("sqlite:", more).await;
    let response = site.browser().log_in("anna", "anna-password", "").await;
    let cookie = flags(&response, "sessionid=");
    for flag in [
        "HttpOnly",
        "Secure",
        "SameSite=Strict",
        "Domain=example.com",
        "Path=/app/",
        "Max-Age=3600",
    ] {
        assert!(cookie.contains(flag), "{cookie}");
    }
}

#[tokio::test]
async fn a_foreign_page_cannot_open_a_websocket_with_the_visitors_cookie() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "anna").await;
    for path in ["/ws/me/", "/ws/members/"] {
        for origin in ["http://evil.test", "null", ""] {
            let refused = WebsocketCommunicator::new(path)
                .header("cookie", &browser.cookies())
                .header("origin", origin)
                .connect(&site.app)
                .await;
            assert_eq!(refused.unwrap_err().status(), 403, "{path} {origin:?}");
        }
    }
}

#[tokio::test]
async fn strange_cookies_are_anonymous() {
    let site = Site::new().await;
    let browser = Browser::logged_in(&site, "anna").await;
    let key = browser.cookie("sessionid").unwrap().to_owned();
    let long = "a".repeat(1024 * 1024);
    for strange in [
        "",
        &key[1..],
        &key.to_uppercase(),
        &format!("{key}x"),
        "' OR '1'='1",
        "a' UNION SELECT data FROM oneport_session --",
        &long,
        "%00",
        "é",
    ] {
        let request =
            HttpCommunicator::get("/me/").header("cookie", &format!("sessionid={strange}"));
        // Not every text can be a header field.
        let response = request.send(&site.app).await;
        let me: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(me["user"], json!(null), "{strange:.40}");
    }
}
