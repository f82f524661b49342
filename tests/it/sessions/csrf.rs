//! CSRF: forms are accepted only with their token and from their own origin.

use http::Method;
use oneport::testing::HttpCommunicator;

use super::site::{Browser, Site};

#[tokio::test]
async fn forms_without_their_token_are_refused() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let good = browser.token().await;
    let cookie = browser.cookie("csrftoken").unwrap().to_owned();
    let other = site.browser().token().await;
    let attempt = |token: String| {
        let mut browser = browser.clone();
        async move {
            let fields = [("csrfmiddlewaretoken", token.as_str())];
            browser.post("/guarded/", &fields).await.status().as_u16()
        }
    };
    assert_eq!(attempt(good.clone()).await, 200);
    assert_eq!(attempt(cookie.clone()).await, 200);
    for bad in ["", "x", &other, &good[..good.len() - 4], &"A".repeat(176)] {
        assert_eq!(attempt(bad.to_owned()).await, 403, "{bad}");
    }
    // The header field does as well.
    let request = || HttpCommunicator::new(Method::POST, "/guarded/");
    assert_eq!(browser.send(request()).await.status(), 403);
    let with_header = request().header("x-csrftoken", &good);
    assert_eq!(browser.send(with_header).await.status(), 200);
    // A pair that an attacker got from his own visit does not fit to anna's session.
    let mut attacker = site.browser();
    let stolen = attacker.token().await;
    let mut planted = browser.clone();
    planted.cookies.retain(|(name, _)| name != "csrftoken");
    planted.cookies.extend(attacker.cookies.clone());
    let fields = [("csrfmiddlewaretoken", stolen.as_str())];
    assert_eq!(planted.post("/guarded/", &fields).await.status(), 403);
    // Neither does one without a signature.
    let mut forged = browser.clone();
    forged.cookies.retain(|(name, _)| name != "csrftoken");
    forged
        .cookies
        .push(("csrftoken".to_owned(), "abc.def".to_owned()));
    let fields = [("csrfmiddlewaretoken", "abc.def")];
    assert_eq!(forged.post("/guarded/", &fields).await.status(), 403);
    // Logging in and out is guarded by the views themselves.
    for path in ["/login/", "/logout/"] {
        assert_eq!(browser.post(path, &[]).await.status(), 403, "{path}");
    }
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
    assert_eq!(browser.get("/logout/").await.status(), 405);
}

/// Each place that takes the token from a header field takes it from the one of the file.
#[tokio::test]
async fn the_header_field_of_a_token_has_the_name_of_the_file() {
    for more in [
        "[csrf]\nheader = \"X-Token\"",
        "[csrf]\nheader = \"X-Token\"\nuse_sessions = true",
    ] {
        let site = Site::with("sqlite:", more).await;
        let mut browser = Browser::logged_in(&site, "anna").await;
        let token = browser.token().await;
        let is_cookie = browser.cookie("csrftoken").is_some();
        assert_eq!(is_cookie, !more.contains("use_sessions"));
        for (path, status) in [("/guarded/", 200), ("/ticket/", 200), ("/logout/", 303)] {
            let request = || HttpCommunicator::new(Method::POST, path);
            let wrong = request().header("x-csrftoken", &token);
            assert_eq!(browser.send(wrong).await.status(), 403, "{path}");
            let right = request().header("x-token", &token);
            assert_eq!(browser.send(right).await.status(), status, "{path}");
        }
    }
}

#[tokio::test]
async fn forms_of_other_origins_are_refused() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let token = browser.token().await;
    for (origin, status) in [
        ("http://localhost", 200),
        ("http://localhost:80", 403),
        ("http://LOCALHOST", 403),
        ("https://localhost", 403),
        ("http://evil.test", 403),
        ("null", 403),
        ("", 403),
    ] {
        let request = HttpCommunicator::new(Method::POST, "/guarded/")
            .header("origin", origin)
            .header("x-csrftoken", &token);
        assert_eq!(browser.send(request).await.status(), status, "{origin}");
    }
}

#[tokio::test]
async fn a_page_without_the_session_keeps_the_token_of_a_login() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let token = browser.token().await;
    let page = browser.get("/blind/").await;
    assert_eq!(page.status(), 200);
    assert!(page.headers().get("set-cookie").is_none());
    let vary = page.headers().get_all("vary");
    assert!(vary.iter().any(|field| field == "cookie"));
    let fields = [("csrfmiddlewaretoken", token.as_str())];
    assert_eq!(browser.post("/guarded/", &fields).await.status(), 200);
    // Without a login it gets its cookie.
    let page = site.browser().get("/blind/").await;
    assert!(page.headers().contains_key("set-cookie"));
}
