//! Login: a form for name and password.

use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use metrics::counter;
use serde::Deserialize;
use serde_json::json;

use super::{OwnPath, own_path, under_root};
use crate::auth::login_rate_limit::{LoginLimits, LoginRateLimit};
use crate::config::{OptionErrors, WrittenDuration};
use crate::http::csrf::{self, Csrf};
use crate::http::form::{Form, is_json, wants_json};
use crate::http::location::location;
use crate::http::origin::AllowedOrigins;
use crate::http::page::render;
use crate::http::{Body, Failure, Request, Response, View, respond};
use crate::scope::ClientAddress;

/// The same sentence for a wrong name, a wrong password and an inactive user.
const WRONG: &str = "The name or the password is wrong.";

/// The maximum bytes kept of each field while an attempt is delayed or waits for hashing. A longer
/// name or password is wrong in any case.
const FIELD_BYTES_MAX: usize = 8 * 1024;

/// `view = "login"`: shows a form, and logs a user in by name and password.
#[derive(Debug)]
pub struct Login {
    options: Options,
    limits: LoginLimits,
}

/// The options of `login`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The page with the form.
    #[serde(default = "login_html")]
    template: String,
    /// The redirect target, if the form sets none.
    #[serde(default = "OwnPath::root")]
    redirect: OwnPath,
    /// The attempts allowed for one name from one address in a window.
    #[serde(default = "ten")]
    attempts_per_name: NonZeroU32,
    /// The attempts allowed from one address in a window.
    #[serde(default = "thirty")]
    attempts_per_address: NonZeroU32,
    /// The window.
    #[serde(default = "a_minute")]
    attempts_window: WrittenDuration,
}

fn login_html() -> String {
    "login.html".to_owned()
}

fn ten() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(9)
}

fn thirty() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(29)
}

fn a_minute() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(60))
}

/// The fields of the form, or of the same object as JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sent {
    username: String,
    password: String,
    next: String,
    #[serde(skip)]
    token: Option<String>,
}

impl View for Login {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let limits = LoginLimits {
            per_name: options.attempts_per_name,
            per_address: options.attempts_per_address,
            window: options.attempts_window.0,
        };
        Ok(Self { options, limits })
    }

    fn templates(&self) -> Vec<String> {
        vec![self.options.template.clone()]
    }

    fn middleware() -> &'static [&'static str] {
        &["session"]
    }

    fn writes_sessions() -> bool {
        true
    }

    fn methods() -> &'static [Method] {
        &[Method::GET, Method::POST]
    }

    async fn call(&self, mut request: Request) -> Result<Response, Failure> {
        if request.scope.method != Method::POST {
            let next = request.scope.query("next").unwrap_or_default();
            return self.page(&request, StatusCode::OK, "", &next, "");
        }
        let sent = Sent::read(&mut request).await?.shortened();
        let (scope, services) = (&request.scope, &request.services);
        let trusted = AllowedOrigins::default();
        Csrf(services).check(scope, &trusted, sent.token.as_deref())?;
        let address = scope.client.map(ClientAddress::ip);
        let attempts = services.shared::<LoginRateLimit>();
        let attempt = match attempts.count(self.limits, &sent.username, address) {
            Ok(attempt) => attempt,
            Err(refused) => return self.too_many(&request, &sent, refused.wait),
        };
        attempts.delay(&attempt, request.deadline).await;
        let settings = services.settings();
        let auth = &settings.auth;
        let checked = auth.check_password(&sent.username, &sent.password).await;
        let checked = checked.inspect_err(|_| attempts.give_back(&attempt));
        let Some(account) = checked? else {
            counter!("oneport_logins_total", "outcome" => "wrong").increment(1);
            // The name is not logged: users sometimes type their password there.
            tracing::info!(id = %scope.request_id, client = scope.client.map(tracing::field::display), "login refused");
            return self.refuse(&request, StatusCode::UNAUTHORIZED, &sent, WRONG);
        };
        let Some(session) = &scope.session else {
            return Err(Failure::from("the route has no session middleware"));
        };
        auth.log_in(session, &account);
        Csrf(services).rotate(session);
        // Saved now instead of with the response, so that a failed save does not count as an
        // attempt.
        let saved = session.save().await;
        saved.inspect_err(|_| attempts.give_back(&attempt))?;
        counter!("oneport_logins_total", "outcome" => "ok").increment(1);
        tracing::info!(id = %scope.request_id, user = account.user.name, "logged in");
        let next = if own_path(&sent.next) {
            sent.next.clone()
        } else {
            under_root(scope, self.options.redirect.as_str())
        };
        if wants_json(scope) {
            let body = json!({"user": &*account.user, "next": next});
            return Ok(respond(200, "application/json", format!("{body}\n")));
        }
        see_other(&next)
    }
}

impl Login {
    fn too_many(
        &self,
        request: &Request,
        sent: &Sent,
        wait: Duration,
    ) -> Result<Response, Failure> {
        counter!("oneport_logins_total", "outcome" => "limited").increment(1);
        tracing::debug!(id = %request.scope.request_id, "login limited");
        let seconds = wait.as_secs() + 1;
        let error = format!("Too many attempts. Try again in {seconds} seconds.");
        let retry = HeaderValue::from(seconds);
        let refused = self.refuse(request, StatusCode::TOO_MANY_REQUESTS, sent, &error);
        let mut response =
            refused.map_err(|failure| failure.with_header(header::RETRY_AFTER, retry.clone()))?;
        response.headers_mut().insert(header::RETRY_AFTER, retry);
        Ok(response)
    }

    fn refuse(
        &self,
        request: &Request,
        status: StatusCode,
        sent: &Sent,
        error: &str,
    ) -> Result<Response, Failure> {
        if wants_json(&request.scope) {
            return Err(Failure::new(status, error.to_owned()));
        }
        self.page(request, status, &sent.username, &sent.next, error)
    }

    fn page(
        &self,
        request: &Request,
        status: StatusCode,
        username: &str,
        next: &str,
        error: &str,
    ) -> Result<Response, Failure> {
        let next = if own_path(next) { next } else { "" };
        let form = json!({"form": {"username": username, "error": error, "next": next}});
        let (page, fields) = render(
            &request.services.templates.load(),
            &request.services,
            &request.scope,
            &self.options.template,
            form.as_object().unwrap_or(&serde_json::Map::new()),
        )?;
        let mut response = respond(status.as_u16(), "text/html; charset=utf-8", page);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(fields);
        Ok(response)
    }
}

impl Sent {
    fn shortened(mut self) -> Self {
        for field in [&mut self.username, &mut self.password] {
            if field.len() > FIELD_BYTES_MAX {
                // A copy: truncating in place would keep the whole allocation.
                *field = field[..field.floor_char_boundary(FIELD_BYTES_MAX)].to_owned();
            }
        }
        if self.next.len() > FIELD_BYTES_MAX {
            self.next = String::new();
        }
        self.token = self.token.filter(|token| token.len() <= FIELD_BYTES_MAX);
        self
    }

    async fn read(request: &mut Request) -> Result<Self, Failure> {
        let token = Csrf(&request.services).header_token(&request.scope);
        if is_json(&request.scope) {
            // Parsed as an object first: serde would also accept a list of strings.
            let fields: serde_json::Map<String, serde_json::Value> = request.json().await?;
            let sent: Self = serde_json::from_value(fields.into())
                .map_err(|error| Failure::bad_request(format!("expected JSON: {error}")))?;
            return Ok(Self { token, ..sent });
        }
        let form = Form::parse(&request.text().await?);
        let field = |name| form.get(name).unwrap_or_default().to_owned();
        Ok(Self {
            username: field("username"),
            password: field("password"),
            next: field("next"),
            token: form.get(csrf::FIELD).map(str::to_owned).or(token),
        })
    }
}

/// Redirects the client to another page, to be fetched with GET (RFC 9110 §15.4.4).
pub(super) fn see_other(to: &str) -> Result<Response, Failure> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location(to)?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
