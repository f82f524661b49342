//! CSRF: accepts unsafe requests only from our own pages.
//!
//! A signed double submit: a cookie that other sites cannot read, and its masked value in the form.
//! The signature is bound to the user's session, so a planted cookie is worthless. In addition, the
//! `Origin`, or over https the `Referer`, must be our own. In front of a Django project, cookie and
//! tokens have Django's format. With `csrf.use_sessions` (Django's `CSRF_USE_SESSIONS`) the session
//! stores the secret and there is no cookie.

use std::borrow::Cow;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderValue, header};
use subtle::ConstantTimeEq;

use crate::auth::session_key;
use crate::config::MissingOrigin;
use crate::http::Failure;
use crate::http::origin::AllowedOrigins;
use crate::scope::{Scheme, Scope};
use crate::secrets;
use crate::services::Services;
use crate::session::{Session, salted_hmac_sha256};

/// The field of a form that holds the token.
pub const FIELD: &str = "csrfmiddlewaretoken";

/// Django's key of the token in a session.
const SESSION_KEY: &str = "_csrftoken";

/// A year, as in Django.
const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(31_449_600);

const SALT: &str = "oneport.csrf";

const FOREIGN_ORIGIN: &str = "the request comes from a page of another origin";

/// The random bytes of a cookie.
const NONCE_BYTES: usize = 16;

/// The number of characters in Django's cookie; a masked token has twice as many.
const DJANGO_CHARACTERS: usize = 32;
const DJANGO_ALPHABET: &[u8; 62] =
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Creates and checks cookies and tokens.
#[derive(Clone, Copy, Debug)]
pub struct Csrf<'a>(pub &'a Services);

/// The parts of a client's state that its token depends on.
#[derive(Clone, Debug)]
pub struct CsrfClient {
    cookie: Option<String>,
    session: Option<Arc<Session>>,
    /// The session of the user, which the cookie is bound to.
    bound_to: String,
}

/// A token for a page, with its cookie if the client has none yet.
#[derive(Clone, Debug)]
pub struct CsrfToken {
    /// The token for the form.
    pub token: String,
    /// The cookie's new value.
    pub(crate) new_cookie: Option<String>,
}

impl Csrf<'_> {
    /// Returns the client of a scope.
    #[must_use]
    pub fn client(self, scope: &Scope) -> CsrfClient {
        let session = scope.session.as_ref();
        let logged_in = session.filter(|session| session.get(session_key::USER_ID).is_some());
        CsrfClient {
            cookie: scope.cookie(&self.0.settings().csrf.cookie),
            session: session.cloned(),
            bound_to: logged_in
                .and_then(|session| session.key())
                .map(|key| key.to_string())
                .unwrap_or_default(),
        }
    }

    /// Returns the token in a request's header field.
    #[must_use]
    pub fn header_token(self, scope: &Scope) -> Option<String> {
        let settings = self.0.settings();
        scope.headers.text(&settings.csrf.header).map(str::to_owned)
    }

    /// Returns a token for a client's page, with a new mask each time.
    ///
    /// With `csrf.use_sessions`, a session without a token gets one. The token is empty if there is
    /// no session, or if only Django may write it.
    #[must_use]
    pub fn token(self, client: &CsrfClient) -> CsrfToken {
        let known = self.secret(client);
        let is_new = known.is_none();
        let Some(secret) = known.or_else(|| self.new_secret(client)) else {
            return CsrfToken {
                token: String::new(),
                new_cookie: None,
            };
        };
        let token = if self.is_in_djangos_form() {
            mask_django(&secret)
        } else {
            mask(&secret)
        };
        let is_cookie = is_new && !self.0.settings().csrf.use_sessions;
        CsrfToken {
            token,
            new_cookie: is_cookie.then_some(secret),
        }
    }

    /// Drops the token of a session at login: older pages have to be reloaded.
    pub(crate) fn rotate(self, session: &Session) {
        if session.get(SESSION_KEY).is_some() {
            session.remove(SESSION_KEY);
        }
    }

    /// Returns the `Set-Cookie` field for a token, if the client lacks its cookie.
    pub(crate) fn set_cookie(self, token: &CsrfToken, scope: &Scope) -> Option<HeaderValue> {
        let is_https = scope.security == Scheme::Secure;
        let value = token.new_cookie.as_deref()?;
        let settings = self.0.settings();
        let name = &settings.csrf.cookie;
        let cookie = settings.sessions.cookie_beside(name, MAX_AGE);
        cookie.header(Some(value), is_https)
    }

    /// Returns whether secrets and tokens have Django's format. Secrets in a session need no
    /// signature.
    fn is_in_djangos_form(self) -> bool {
        let settings = self.0.settings();
        settings.csrf.use_sessions || settings.sessions.is_read_only()
    }

    /// Refuses a request with 403 unless it comes from one of our own pages. `sent` is the token in
    /// its form or header field.
    pub fn check(
        self,
        scope: &Scope,
        trusted: &AllowedOrigins,
        sent: Option<&str>,
    ) -> Result<(), Failure> {
        if scope.method.is_safe() {
            return Ok(());
        }
        self.check_origin(scope, trusted)?;
        let client = self.client(scope);
        let Some(secret) = self.secret(&client) else {
            return refuse(scope, self.no_secret(&client));
        };
        let Some(sent) = sent.filter(|sent| !sent.is_empty()) else {
            let settings = self.0.settings();
            let header = &settings.csrf.header;
            let why = format!(
                "missing CSRF token: send it in the form field {FIELD} or the header field {header} (csrf.header)"
            );
            return refuse(scope, why);
        };
        let is_plain: bool = sent.as_bytes().ct_eq(secret.as_bytes()).into();
        let unmasked = if self.is_in_djangos_form() {
            unmask_django(sent)
        } else {
            unmask(sent)
        };
        let is_masked =
            unmasked.is_some_and(|sent| sent.as_bytes().ct_eq(secret.as_bytes()).into());
        if is_plain || is_masked {
            Ok(())
        } else {
            let why = "invalid CSRF token: reload the page";
            refuse(scope, why)
        }
    }

    /// Explains why a client has no secret, and which setting decides where it is stored.
    fn no_secret(self, client: &CsrfClient) -> String {
        let settings = self.0.settings();
        let name = &settings.csrf.cookie;
        let is_django = settings.sessions.is_read_only();
        if settings.csrf.use_sessions {
            let why = "no CSRF token in the session (csrf.use_sessions)";
            return match (&client.session, &client.cookie) {
                (None, _) => format!("{why}: the route has no middleware \"session\""),
                (Some(_), Some(_)) => format!("{why}, but there is a cookie {name:?}"),
                _ if is_django => format!("{why}: load a page of Django with a form first"),
                _ => format!("{why}: load a page with a form first"),
            };
        }
        if client.cookie.is_some() {
            return format!(
                "the CSRF cookie {name:?} is not valid for this login: reload the page"
            );
        }
        let why = format!("no CSRF cookie {name:?} (csrf.cookie)");
        let session = client.session.as_ref();
        if session.is_some_and(|session| session.get(SESSION_KEY).is_some()) {
            return format!("{why}, but there is a token in the session (csrf.use_sessions)");
        }
        why
    }

    /// Refuses a request of another site's page (403), whatever token it has.
    pub fn check_origin(self, scope: &Scope, trusted: &AllowedOrigins) -> Result<(), Failure> {
        match self.foreign(scope, trusted) {
            Some(why) => refuse(scope, why),
            None => Ok(()),
        }
    }

    /// Returns why a request does not come from our own pages, if it does not.
    fn foreign(self, scope: &Scope, trusted: &AllowedOrigins) -> Option<&'static str> {
        if let Some(is_foreign) = has_foreign_origin(scope, trusted) {
            return is_foreign.then_some(FOREIGN_ORIGIN);
        }
        let host = own_host(scope);
        if scope.security == Scheme::Plain {
            return None;
        }
        // Over https, a page sent by http could come from an attacker on the network.
        let Some(referer) = scope.headers.text(&header::REFERER) else {
            return Some("neither Origin nor Referer is set");
        };
        let Some(rest) = referer.strip_prefix("https://") else {
            return Some("the Referer is not an https URL");
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let name = authority.split(':').next().unwrap_or_default();
        let settings = self.0.settings();
        let domain = settings.sessions.cookie_domain().trim_start_matches('.');
        let is_of_domain = !domain.is_empty()
            && (name == domain
                || name
                    .strip_suffix(domain)
                    .is_some_and(|before| before.ends_with('.')));
        let origin = format!("https://{authority}");
        let is_trusted = || {
            trusted
                .check(Some(origin.as_bytes()), MissingOrigin::Refuse)
                .is_ok()
        };
        let is_ours = authority == host || is_of_domain || is_trusted();
        (!is_ours).then_some("the Referer is a page of another origin")
    }

    /// Returns the client's secret, if we issued it.
    fn secret(self, client: &CsrfClient) -> Option<String> {
        let settings = self.0.settings();
        if settings.csrf.use_sessions {
            let kept = client.session.as_ref()?.get(SESSION_KEY)?;
            return unmask_django(kept.as_str()?);
        }
        let cookie = client.cookie.as_deref()?;
        if self.is_in_djangos_form() {
            return unmask_django(cookie);
        }
        let (nonce, signature) = cookie.split_once('.')?;
        let is_signed = settings.secrets.keys().iter().any(|key| {
            let expected = sign(key, nonce, &client.bound_to);
            bool::from(expected.as_bytes().ct_eq(signature.as_bytes()))
        });
        is_signed.then(|| cookie.to_owned())
    }

    /// Creates a secret; `None` if it must be stored in a session and there is no writable one.
    fn new_secret(self, client: &CsrfClient) -> Option<String> {
        let settings = self.0.settings();
        if settings.csrf.use_sessions {
            let is_read_only = settings.sessions.is_read_only();
            let session = client.session.as_ref().filter(|_| !is_read_only)?;
            let secret = random_django();
            session.set(SESSION_KEY, secret.as_str());
            return Some(secret);
        }
        if self.is_in_djangos_form() {
            return Some(random_django());
        }
        let nonce = secrets::random(NONCE_BYTES);
        let signature = sign(settings.secrets.key(), &nonce, &client.bound_to);
        Some(format!("{nonce}.{signature}"))
    }
}

/// Refuses a request whose `Origin` is not ours with 403. One without `Origin` passes.
pub(crate) fn check_origin_field(scope: &Scope, trusted: &AllowedOrigins) -> Result<(), Failure> {
    match has_foreign_origin(scope, trusted) {
        Some(true) => refuse(scope, FOREIGN_ORIGIN),
        _ => Ok(()),
    }
}

/// Returns whether a request's `Origin` is another than our own; `None` without one.
fn has_foreign_origin(scope: &Scope, trusted: &AllowedOrigins) -> Option<bool> {
    let mut origins = scope.headers.all(&header::ORIGIN);
    let origin = origins.next()?;
    let own = format!("{}://{}", scope.scheme(), own_host(scope));
    let is_ours =
        origin == own.as_bytes() || trusted.check(Some(origin), MissingOrigin::Refuse).is_ok();
    Some(!is_ours || origins.next().is_some())
}

/// Returns the host of a request as an origin has it.
fn own_host(scope: &Scope) -> String {
    let host = scope.host.as_ref().map(|host| match host.port() {
        Some(port) => format!("{}:{port}", host.name()),
        None => host.name().to_owned(),
    });
    host.unwrap_or_default()
}

fn refuse(scope: &Scope, why: impl Into<Cow<'static, str>>) -> Result<(), Failure> {
    let why = why.into();
    tracing::info!(id = %scope.request_id, path = scope.raw_path(), why = &*why, "csrf refused");
    Err(Failure::forbidden(why))
}

fn sign(key: &str, nonce: &str, bound_to: &str) -> String {
    let signed = format!("{nonce}.{bound_to}");
    BASE64URL_NOPAD.encode(&salted_hmac_sha256(SALT, key, signed.as_bytes()))
}

/// Masks a secret with as many random bytes, so that the size of the compressed page reveals
/// nothing (BREACH).
fn mask(secret: &str) -> String {
    let mut bytes = vec![0; secret.len()];
    secrets::fill(&mut bytes);
    let hidden: Vec<u8> = bytes
        .iter()
        .zip(secret.bytes())
        .map(|(a, b)| a ^ b)
        .collect();
    bytes.extend(hidden);
    BASE64URL_NOPAD.encode(&bytes)
}

fn unmask(token: &str) -> Option<String> {
    let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
    let (mask, hidden) = bytes.split_at_checked(bytes.len() / 2)?;
    let secret = mask.iter().zip(hidden).map(|(a, b)| a ^ b).collect();
    String::from_utf8(secret).ok()
}

fn random_django() -> String {
    let mut secret = String::with_capacity(DJANGO_CHARACTERS);
    let mut bytes = [0; DJANGO_CHARACTERS];
    while secret.len() < DJANGO_CHARACTERS {
        secrets::fill(&mut bytes);
        // 248 is a multiple of 62, so all characters are equally likely.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        secret.extend(
            fair.take(DJANGO_CHARACTERS - secret.len())
                .map(|byte| char::from(DJANGO_ALPHABET[usize::from(byte % 62)])),
        );
    }
    secret
}

fn place(character: u8) -> Option<usize> {
    DJANGO_ALPHABET.iter().position(|known| *known == character)
}

/// Django's `_mask_cipher_secret`.
fn mask_django(secret: &str) -> String {
    let mask = random_django();
    let cipher = mask
        .bytes()
        .zip(secret.bytes())
        .filter_map(|(mask, secret)| {
            Some(char::from(
                DJANGO_ALPHABET[(place(mask)? + place(secret)?) % 62],
            ))
        });
    let cipher: String = cipher.collect();
    mask + &cipher
}

/// Returns the secret of a Django token or cookie, plain or masked.
fn unmask_django(token: &str) -> Option<String> {
    if !token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    if token.len() == DJANGO_CHARACTERS {
        return Some(token.to_owned());
    }
    if token.len() != 2 * DJANGO_CHARACTERS {
        return None;
    }
    let (mask, cipher) = token.split_at(DJANGO_CHARACTERS);
    mask.bytes()
        .zip(cipher.bytes())
        .map(|(mask, cipher)| {
            Some(char::from(
                DJANGO_ALPHABET[(place(cipher)? + 62 - place(mask)?) % 62],
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn djangos_tokens_are_unmasked_and_ours_are_like_them() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/vectors/django.json")).unwrap();
        for entry in vectors["csrf_tokens"].as_array().unwrap() {
            let text = |name: &str| entry[name].as_str().unwrap();
            assert_eq!(
                unmask_django(text("masked_token")).as_deref(),
                Some(text("secret"))
            );
            let own = mask_django(text("secret"));
            assert_eq!(own.len(), 2 * DJANGO_CHARACTERS);
            assert_eq!(unmask_django(&own).as_deref(), Some(text("secret")));
        }
        for bad in [
            "",
            "short",
            &"!".repeat(32),
            &"a".repeat(33),
            &"é".repeat(16),
        ] {
            assert_eq!(unmask_django(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_is_masked_anew_each_time() {
        let (one, other) = (mask("a secret"), mask("a secret"));
        assert_ne!(one, other);
        assert_eq!(unmask(&one).as_deref(), Some("a secret"));
        assert_eq!(unmask(&other).as_deref(), Some("a secret"));
        assert_eq!(unmask("no base64!"), None);
        assert_ne!(random_django(), random_django());
    }
}
