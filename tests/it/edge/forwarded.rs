//! Forwarded: the client's address that a view sees.

use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::testing::{Application, HttpCommunicator};

/// Responds with the client in the scope, and with the remaining forwarded fields.
struct Whoami;

impl View for Whoami {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let scope = &request.scope;
        let host = scope.host.as_ref().map(|host| host.name().to_owned());
        let mut left: Vec<&str> = scope
            .headers
            .iter()
            .map(|(name, _)| name)
            .filter(|name| name.contains("forwarded") || name.contains("real-ip"))
            .collect();
        left.sort_unstable();
        let client = scope.client.map(|client| client.ip().to_string());
        let body = format!(
            "{} {} {} {}",
            client.unwrap_or_default(),
            scope.scheme(),
            host.unwrap_or_default(),
            left.join(",")
        );
        Ok(respond(200, "text/plain", body))
    }
}

/// The fields from nginx with its usual lines, and the client's own `Forwarded`, which nginx passes
/// on.
const NGINX: [(&str, &str); 5] = [
    ("x-forwarded-for", "192.0.2.66, 203.0.113.9"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-host", "a.example"),
    ("x-real-ip", "203.0.113.9"),
    ("forwarded", "for=192.0.2.1;proto=https;host=evil.example"),
];

async fn whoami(server: &str) -> String {
    let registry = Registry::builtin().view::<Whoami>("whoami");
    let text = format!(
        "[server]\n{server}\n[http]\nmiddleware = []\n[[http.route]]\npath = '/'\nview = 'whoami'\n"
    );
    let app = Application::with(&registry, &text).unwrap();
    let mut request = HttpCommunicator::get("/");
    for (name, value) in NGINX {
        request = request.header(name, value);
    }
    let response = request.send(&app).await;
    String::from_utf8(response.into_body().into()).unwrap()
}

#[tokio::test]
async fn forwarded_of_the_client_does_not_win_over_the_proxys_own_fields() {
    assert_eq!(
        whoami("trusted_proxies = ['127.0.0.1']").await,
        "203.0.113.9 http a.example x-forwarded-for,x-forwarded-host,x-forwarded-proto"
    );
}

#[tokio::test]
async fn x_forwarded_fields_of_the_client_do_not_win_if_forwarded_is_trusted() {
    assert_eq!(
        whoami("trusted_proxies = ['127.0.0.1']\nforwarded = 'forwarded'").await,
        "192.0.2.1 https evil.example forwarded"
    );
}

#[tokio::test]
async fn no_forwarded_field_is_trusted_from_an_untrusted_peer() {
    for server in [
        "",
        "trusted_proxies = ['10.0.0.0/8']",
        "forwarded = 'forwarded'",
    ] {
        assert_eq!(
            whoami(server).await,
            "127.0.0.1 http localhost ",
            "{server}"
        );
    }
}

#[test]
fn unknown_family_is_a_problem_that_names_the_known_ones() {
    let text = "[server]\nforwarded = 'x-real-ip'\n";
    let problems = Application::parse(text).unwrap_err().to_string();
    assert!(
        problems.contains("x-forwarded-for") && problems.contains("found \"x-real-ip\""),
        "{problems}"
    );
}
