//! Views: the built-in views.

mod dashboard;
mod events;
mod health;
mod login;
mod logout;
mod metrics;
pub(crate) mod proxy;
pub(crate) mod publish;
mod redirect;
mod respond;
mod static_files;
mod template;
mod ticket;

use http::{HeaderValue, Method, StatusCode, header};

pub use dashboard::Dashboard;
pub use events::Events;
pub use health::Health;
pub use login::Login;
pub use logout::Logout;
pub use metrics::Metrics;
pub use proxy::Proxy;
pub use publish::Publish;
pub use redirect::Redirect;
pub use respond::Respond;
pub use static_files::Static;
pub use template::Template;
pub use ticket::Ticket;

use crate::http::Failure;
use crate::http::location::is_own_path;
use crate::scope::Scope;

/// Refuses any method except POST, whatever `methods` the route has. For views with side effects.
fn post_only(scope: &Scope) -> Result<(), Failure> {
    if scope.method == Method::POST {
        return Ok(());
    }
    let sentence = format!("method {} is not allowed: use POST", scope.method);
    let allow = HeaderValue::from_static("POST");
    Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, sentence).with_header(header::ALLOW, allow))
}

/// Returns a configured path as the client must request it, below the root path. A URL stays
/// unchanged.
fn under_root(scope: &Scope, to: &str) -> String {
    match is_own_path(to) {
        true => format!("{}{to}", scope.root_path()),
        false => to.to_owned(),
    }
}

/// A path of this server in the options of a view. A redirect to it cannot leave the server.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(try_from = "String")]
struct OwnPath(String);

impl OwnPath {
    /// The root of the server.
    fn root() -> Self {
        Self("/".to_owned())
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for OwnPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if own_path(&text) {
            Ok(Self(text))
        } else {
            Err(format!(
                "expected a path of this server such as \"/\", found {text:?}"
            ))
        }
    }
}

/// Returns whether a text is a path of this server. Rejects what a browser could read as another
/// host: `//host`, `/\host`, or either with white space in between.
fn own_path(text: &str) -> bool {
    let is_path = text.starts_with('/') && !text.starts_with("//");
    is_path
        && text
            .chars()
            .all(|found| found > ' ' && found != '\\' && found != '\u{7f}')
}

#[cfg(test)]
mod tests {
    use super::own_path;

    #[test]
    fn only_paths_of_this_server_are_taken() {
        for path in ["/", "/a?b=c#d", "/chat/é/", "/a//b"] {
            assert!(own_path(path), "{path}");
        }
        for other in [
            "",
            "a",
            "//evil.test",
            "/\\evil.test",
            "/\t/evil.test",
            "\\\\evil.test",
            "https://evil.test/",
            "javascript:alert(1)",
            "/a\r\nset-cookie: x=y",
            " /",
            "///evil.test",
        ] {
            assert!(!own_path(other), "{other}");
        }
    }
}
