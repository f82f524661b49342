//! Login: who may log in, how often, and where it leads.

use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use http::Method;
use oneport::auth::login_rate_limit::{LoginLimits, LoginRateLimit};
use oneport::testing::{HttpCommunicator, Output};
use oneport::websocket::Message;
use serde_json::json;

use super::site::{Browser, Site, location, run_sql};

#[tokio::test]
async fn the_same_login_counts_on_both_tables() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
    let mut socket = browser.socket("/ws/me/").await.unwrap();
    socket.send("who").await;
    assert_eq!(
        socket.receive_output().await,
        Output::Message(Message::text("\"anna\""))
    );
    assert_eq!(browser.get("/members/").await.status(), 200);
    assert_eq!(browser.get("/staff/").await.status(), 403);
    assert!(browser.socket("/ws/members/").await.is_ok());
    assert_eq!(
        browser.socket("/ws/staff/").await.unwrap_err().status(),
        403
    );
    let mut staff = Browser::logged_in(&site, "berta").await;
    assert_eq!(staff.get("/staff/").await.status(), 200);
    assert!(staff.socket("/ws/staff/").await.is_ok());
}

#[tokio::test]
async fn anonymous_visitors_are_sent_to_log_in_and_back() {
    let site = Site::new().await;
    let mut browser = site.browser();
    let response = browser.get("/members/?a=b&c=d").await;
    assert_eq!(response.status(), 302);
    assert_eq!(
        location(&response),
        "/login/?next=/members/%3Fa%3Db%26c%3Dd"
    );
    let request = HttpCommunicator::get("/members/").header("accept", "application/json");
    let response = browser.send(request).await;
    assert_eq!(response.status(), 401);
    assert!(response.headers().contains_key("www-authenticate"));
    assert_eq!(
        browser.socket("/ws/members/").await.unwrap_err().status(),
        403
    );
    let response = browser
        .log_in("anna", "anna-password", "/members/?a=b&c=d")
        .await;
    assert_eq!(location(&response), "/members/?a=b&c=d");
}

#[tokio::test]
async fn a_program_logs_in_with_json() {
    let site = Site::new().await;
    let mut browser = site.browser();
    let token = browser.token().await;
    let login = |password: &str| {
        HttpCommunicator::new(Method::POST, "/login/")
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header("x-csrftoken", &token)
            .body(json!({"username": "anna", "password": password, "next": "/x/"}).to_string())
    };
    let wrong = browser.send(login("wrong")).await;
    assert_eq!(wrong.status(), 401);
    assert_eq!(wrong.headers()["content-type"], "application/json");
    let response = browser.send(login("anna-password")).await;
    let answer: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(answer["user"]["name"], "anna");
    assert_eq!(answer["next"], "/x/");
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
}

#[tokio::test]
async fn next_never_leads_to_another_host() {
    let site = Site::new().await;
    for next in [
        "//evil.test/",
        "https://evil.test/",
        "/\\evil.test/",
        "/\t/evil.test/",
        "javascript:alert(1)",
        "evil.test",
    ] {
        let mut browser = site.browser();
        let response = browser.log_in("anna", "anna-password", next).await;
        assert_eq!(
            (response.status().as_u16(), location(&response)),
            (303, "/"),
            "{next}"
        );
        let page = browser.get("/login/?next=%2F%2Fevil.test%2F").await;
        let page = String::from_utf8(page.body().to_vec()).unwrap();
        assert!(!page.contains("evil.test"), "{page}");
    }
    let mut browser = site.browser();
    let response = browser.log_in("anna", "anna-password", "/é/?a=b").await;
    assert_eq!(location(&response), "/%C3%A9/?a=b");
}

#[tokio::test]
async fn wrong_names_wrong_passwords_and_inactive_users_get_one_answer() {
    let site = Site::new().await;
    let file = site.directory.path("users.db");
    run_sql(
        &file,
        "UPDATE oneport_user SET is_active = 0 WHERE username = 'carla'",
    )
    .await;
    let mut pages = Vec::new();
    for (name, password) in [
        ("anna", "wrong-password"),
        ("nobody", "anna-password"),
        ("carla", "carla-password"),
    ] {
        let mut browser = site.browser();
        let response = browser.log_in(name, password, "").await;
        assert_eq!(response.status(), 401, "{name}");
        let page = String::from_utf8(response.body().to_vec()).unwrap();
        assert!(page.contains(&format!("|{name}|")), "{page}");
        assert!(!page.contains(password));
        pages.push(page.split('|').next().unwrap().to_owned());
        assert_eq!(browser.user().await, None);
    }
    assert!(pages[0].contains("wrong") && pages.iter().all(|page| *page == pages[0]));
}

#[tokio::test]
async fn names_and_passwords_are_never_sql() {
    let site = Site::new().await;
    for name in [
        "anna' --",
        "' OR 1=1 --",
        "anna\0",
        "\"; DROP TABLE oneport_user; --",
        "%",
        "_nna",
        "ANNA",
        " anna",
    ] {
        let mut browser = site.browser();
        let response = browser.log_in(name, "anna-password", "").await;
        assert_eq!(response.status(), 401, "{name:?}");
        let response = browser.log_in("anna", name, "").await;
        assert!([401, 429].contains(&response.status().as_u16()), "{name:?}");
    }
    assert_eq!(site.users().list().await.unwrap().len(), 3);
    // A name that looks like SQL is a name.
    let strange = "Robert'); DROP TABLE oneport_user; --";
    site.add(strange, false).await;
    let mut browser = Browser::logged_in(&site, strange).await;
    assert_eq!(browser.user().await.as_deref(), Some(strange));
}

/// A wrong name works out a hash, as a wrong password does: what is compared is the work, which
/// differs by the factor of a hash.
#[tokio::test]
async fn an_unknown_name_takes_as_long_as_a_wrong_password() {
    let site = Site::new().await;
    let settings = site.app.gateway().services().settings();
    let auth = &settings.auth;
    auth.check_password("nobody", "x").await.unwrap(); // the first finds out which hash to work out
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..7 {
        for (name, times) in ["anna", "nobody"].iter().zip(&mut times) {
            let begun = Instant::now();
            auth.check_password(name, "wrong").await.unwrap();
            times.push(begun.elapsed());
        }
    }
    let [known, unknown] = times.map(|mut times| {
        times.sort();
        times[0]
    });
    // Without a hash it would be hundreds of times less.
    assert!(
        unknown * 5 > known,
        "{unknown:?} for a wrong name, {known:?} for a wrong password"
    );
}

#[tokio::test]
async fn too_many_attempts_have_to_wait() {
    let site = Site::new().await;
    let mut browser = site.browser();
    for _ in 0..10 {
        assert_eq!(browser.log_in("anna", "wrong", "").await.status(), 401);
    }
    // The right password too: otherwise the answer would tell.
    let response = browser.log_in("anna", "anna-password", "").await;
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
    // Another name may still log in from here.
    assert_eq!(
        browser.log_in("berta", "berta-password", "").await.status(),
        303
    );
}

#[tokio::test]
async fn invented_names_from_many_addresses_lock_out_no_one() {
    let site = Site::new().await;
    let attempts = site.app.gateway().services().shared::<LoginRateLimit>();
    let limits = LoginLimits {
        per_name: NonZeroU32::new(10).unwrap(),
        per_address: NonZeroU32::new(30).unwrap(),
        window: Duration::from_secs(3_600),
    };
    for number in 0..200_000 {
        let address = Ipv4Addr::from_bits(number).into();
        let name = format!("invented{number}");
        let _ = attempts.count(limits, &name, Some(address)).unwrap();
    }
    let mut browser = site.browser();
    for name in ["anna", "berta"] {
        let response = browser.log_in(name, &format!("{name}-password"), "").await;
        assert_eq!(response.status(), 303);
    }
}

#[tokio::test]
async fn a_planted_session_is_worth_nothing_after_the_login() {
    let site = Site::new().await;
    // An attacker's own session, planted in the victim's browser before the login.
    let mut attacker = site.browser();
    attacker
        .send(HttpCommunicator::new(Method::POST, "/me/?color=red"))
        .await;
    let planted = attacker.cookie("sessionid").unwrap().to_owned();
    let mut victim = attacker.clone();
    victim.log_in("anna", "anna-password", "").await;
    assert_eq!(victim.user().await.as_deref(), Some("anna"));
    assert_ne!(victim.cookie("sessionid").unwrap(), planted);
    assert_eq!(victim.me().await["session"], json!({"color": "red"}));
    assert_eq!(attacker.user().await, None);
    // A key that nobody has is not taken over either.
    let mut other = site.browser();
    let chosen = "a".repeat(32);
    other.cookies.push(("sessionid".to_owned(), chosen.clone()));
    other.log_in("anna", "anna-password", "").await;
    assert_eq!(other.user().await.as_deref(), Some("anna"));
    assert_ne!(other.cookie("sessionid").unwrap(), chosen);
}

#[tokio::test]
async fn another_login_forgets_what_the_first_user_left() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    browser
        .send(HttpCommunicator::new(Method::POST, "/me/?secret=annas"))
        .await;
    let before = browser.clone();
    browser.log_in("berta", "berta-password", "").await;
    assert_eq!(browser.me().await, json!({"user": "berta", "session": {}}));
    let mut before = before;
    assert_eq!(before.user().await, None);
}

#[tokio::test]
async fn a_login_whose_session_is_gone_starts_another() {
    let site = Site::new().await;
    let mut browser = site.browser();
    browser
        .send(HttpCommunicator::new(Method::POST, "/me/?color=red"))
        .await;
    let token = browser.token().await;
    let file = site.directory.path("users.db");
    run_sql(&file, "DELETE FROM oneport_session").await;
    let fields = [
        ("username", "anna"),
        ("password", "anna-password"),
        ("csrfmiddlewaretoken", &token),
    ];
    assert_eq!(browser.post("/login/", &fields).await.status(), 303);
    assert_eq!(browser.user().await.as_deref(), Some("anna"));
}

#[tokio::test]
async fn pages_for_a_login_are_not_stored_by_the_browser() {
    let site = Site::new().await;
    let mut browser = Browser::logged_in(&site, "anna").await;
    let page = browser.get("/login/").await;
    assert_eq!(page.headers()["cache-control"], "no-store");
}
