//! Logout: ends the session.

use http::{Method, StatusCode};

use super::login::see_other;
use super::{OwnPath, post_only, under_root};
use crate::config::OptionErrors;
use crate::http::csrf::{self, Csrf};
use crate::http::form::{Form, is_form, wants_json};
use crate::http::origin::AllowedOrigins;
use crate::http::{Body, Failure, Request, Response, View};
use crate::scope::Scope;

/// `view = "logout"`: ends the session and closes its open sockets with 4401.
#[derive(Debug)]
pub struct Logout {
    options: Options,
}

/// The options of `logout`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The redirect target.
    #[serde(default = "OwnPath::root")]
    redirect: OwnPath,
}

impl View for Logout {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        Ok(Self { options })
    }

    fn middleware() -> &'static [&'static str] {
        &["session"]
    }

    fn writes_sessions() -> bool {
        true
    }

    fn methods() -> &'static [Method] {
        &[Method::POST]
    }

    fn refusal(&self, scope: &Scope) -> Option<Failure> {
        post_only(scope).err()
    }

    async fn call(&self, mut request: Request) -> Result<Response, Failure> {
        post_only(&request.scope)?;
        let mut token = Csrf(&request.services).header_token(&request.scope);
        if is_form(&request.scope) {
            let form = Form::parse(&request.text().await?);
            token = form.get(csrf::FIELD).map(str::to_owned).or(token);
        }
        let (scope, services) = (&request.scope, &request.services);
        let trusted = AllowedOrigins::default();
        Csrf(services).check_origin(scope, &trusted)?;
        let session = scope.session.as_ref();
        let key = session.and_then(|session| session.key());
        let (Some(session), Some(key)) = (session, key) else {
            return self.done(scope); // already logged out, perhaps in another tab
        };
        Csrf(services).check(scope, &trusted, token.as_deref())?;
        session.flush();
        // Saved now instead of with the response, so that the sockets are closed at once.
        session.save().await?;
        services.settings().auth.logged_out(key);
        tracing::info!(id = %scope.request_id, user = scope.user.as_ref().map(|user| user.name.as_str()), "logged out");
        self.done(scope)
    }
}

impl Logout {
    fn done(&self, scope: &Scope) -> Result<Response, Failure> {
        if wants_json(scope) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        see_other(&under_root(scope, self.options.redirect.as_str()))
    }
}
