//! Redirects: the target of a `Location`.

use oneport::testing::{Application, HttpCommunicator};

/// Requests a path and compares the `Location`.
async fn leads(text: &str, path: &str, expected: &str) {
    let app = Application::parse(text).unwrap();
    let response = HttpCommunicator::get(path).send(&app).await;
    let found = response.headers().get("location");
    assert_eq!(
        found.map(|found| found.to_str().unwrap()),
        Some(expected),
        "{} for {path} of {text}",
        response.status()
    );
}

async fn redirects(root_path: &str, options: &str, path: &str, expected: &str) {
    let text = format!(
        "[server]\nroot_path = '{root_path}'\n[[http.route]]\npath = '/old/{{*rest}}'\nview = 'redirect'\noptions = {{ {options} }}\n"
    );
    leads(&text, &format!("{root_path}{path}"), expected).await;
}

#[tokio::test]
async fn redirect_to_a_path_stays_below_the_root_path() {
    for (to, expected) in [
        ("/new/", "/app/new/"),
        ("/", "/app/"),
        ("/new/{rest}", "/app/new/a/b"),
        ("/{rest}", "/app/a/b"),
        ("https://a.example/new/", "https://a.example/new/"),
        ("//a.example/new/", "//a.example/new/"),
        ("../new/", "../new/"),
    ] {
        redirects("/app", &format!("to = '{to}'"), "/old/a/b", expected).await;
    }
}

#[tokio::test]
async fn redirect_keeps_the_query_before_the_fragment() {
    for (to, expected) in [
        ("/new/#part", "/new/?x=1&y=2#part"),
        ("/new/?a=b#part", "/new/?a=b&x=1&y=2#part"),
        ("/new/?#part", "/new/?x=1&y=2#part"),
        ("/new/", "/new/?x=1&y=2"),
        ("https://a.example/#p?q", "https://a.example/?x=1&y=2#p?q"),
    ] {
        let options = format!("to = '{to}', keep_query = true");
        redirects("", &options, "/old/a?x=1&y=2", expected).await;
    }
    redirects(
        "",
        "to = '/new/#part', keep_query = true",
        "/old/a",
        "/new/#part",
    )
    .await;
}

#[tokio::test]
async fn redirect_encodes_what_a_url_cannot_hold() {
    for (to, path, expected) in [
        ("/café/", "/old/a", "/caf%C3%A9/"),
        ("/caf%C3%A9/", "/old/a", "/caf%C3%A9/"),
        ("/a b/?q=ü#ß", "/old/a", "/a%20b/?q=%C3%BC#%C3%9F"),
        ("https://a.example/é", "/old/a", "https://a.example/%C3%A9"),
        ("/new/{rest}", "/old/%C3%A9%3F", "/new/%C3%A9%3F"),
        ("/new/?q={rest}", "/old/a&b=c+d", "/new/?q=a%26b%3Dc%2Bd"),
    ] {
        redirects("", &format!("to = '{to}'"), path, expected).await;
    }
}

#[tokio::test]
async fn redirect_never_leads_to_a_host_that_the_client_names() {
    redirects(
        "",
        "to = '/{rest}'",
        "/old//evil.example/",
        "/evil.example/",
    )
    .await;
    let text =
        "[[http.route]]\npath = '/old/{*rest}'\nview = 'redirect'\noptions = { to = '{rest}' }\n";
    let problems = Application::parse(text).unwrap_err().to_string();
    assert!(
        problems.contains("before the first parameter"),
        "{problems}"
    );
}

/// The other sources of a `Location` in the configuration.
#[tokio::test]
async fn login_page_with_a_fragment_still_gets_next() {
    for (login_url, expected) in [
        ("/login/", "/app/login/?next=/app/a%3Fx%3D1"),
        ("/login/#form", "/app/login/?next=/app/a%3Fx%3D1#form"),
        (
            "/login/?a=b#form",
            "/app/login/?a=b&next=/app/a%3Fx%3D1#form",
        ),
        (
            "https://id.example/#form",
            "https://id.example/?next=/app/a%3Fx%3D1#form",
        ),
    ] {
        let text = format!(
            "[server]\nroot_path = '/app'\n[session]\nstore = 'memory'\n[auth]\nusers = 'sqlite::memory:'\nlogin_url = '{login_url}'\n[[http.route]]\npath = '/a'\nmiddleware = ['session', 'auth', 'login_required']\nview = 'health'\n"
        );
        leads(&text, "/app/a?x=1", expected).await;
    }
}
