//! Auth: identifies the user of a request or handshake.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::auth::bearer::Bearer;
use crate::auth::forward::{Forward, Subject};
use crate::auth::{Identified, Login};
use crate::database::{Access, Outage};
use crate::host::HostHeader;
use crate::http::Failure;
use crate::scope::{ClientAddress, Scheme, Scope, ScopeType};
use crate::services::Services;

/// The subprotocol that a browser sends before a token. The server selects it when no other
/// subprotocol is agreed on.
pub const BEARER: &str = "bearer";
/// The subprotocol that a browser sends before a ticket.
pub const TICKET: &str = "ticket";

/// `auth`: puts the user into the scope (Channels' `AuthMiddleware`).
///
/// Tries, in order:
///
/// 1. a bearer token or a ticket, if the request has one; an invalid one is 401
/// 2. the session
/// 3. the app of `[auth.forward]`, if there is one
///
/// The first that identifies a user wins.
#[derive(Debug)]
pub struct Auth {
    bearer: Option<Arc<Bearer>>,
    forward: Option<Arc<Forward>>,
    token_in_query: bool,
    /// The outage of the app of `[auth.forward]`, if any.
    outage: Outage,
}

/// A credential in a request.
enum Credential {
    Token(String),
    Ticket(String),
}

impl Auth {
    /// Creates the step. `token_in_query` allows credentials in the query string.
    #[must_use]
    pub fn new(
        bearer: Option<Arc<Bearer>>,
        forward: Option<Arc<Forward>>,
        token_in_query: bool,
    ) -> Self {
        Self {
            bearer,
            forward,
            token_in_query,
            outage: Outage::new("forward"),
        }
    }

    pub(super) async fn before(
        &self,
        scope: &mut Scope,
        services: &Services,
    ) -> Result<(), Failure> {
        if scope.user.is_some() {
            return Ok(()); // set by the test kit
        }
        let identified = match self.credential(scope) {
            Some(Credential::Token(token)) => Some(self.of_token(&token)?),
            Some(Credential::Ticket(ticket)) => {
                let settings = services.settings();
                let (auth, sessions) = (&settings.auth, &settings.sessions);
                let identified = auth.of_ticket(&ticket);
                let is_over = match identified.as_ref().map(|found| &found.login) {
                    // The login that the ticket was issued for may have ended since.
                    Some(Some(login)) => auth.has_ended(sessions, login).await?,
                    Some(None) => false,
                    None => true,
                };
                if is_over {
                    let sentence = "invalid ticket";
                    return Err(Failure::new(StatusCode::UNAUTHORIZED, sentence));
                }
                identified
            }
            None => self.of_session(scope, services).await?,
        };
        if let Some(identified) = identified {
            scope.user = Some(identified.user);
            scope.login = identified.login;
        }
        Ok(())
    }

    /// Adds the request fields that the response depends on to `Vary`.
    pub(super) fn after(&self, scope: &Scope, headers: &mut HeaderMap) {
        if scope.scope_type == ScopeType::Http {
            if self.bearer.is_some() {
                headers.append(header::VARY, HeaderValue::from_static("authorization"));
            }
            if let Some(forward) = &self.forward {
                for name in forward.request_headers() {
                    headers.append(header::VARY, HeaderValue::from(name.clone()));
                }
            }
        }
    }

    async fn of_session(
        &self,
        scope: &Scope,
        services: &Services,
    ) -> Result<Option<Identified>, Failure> {
        if let Some(session) = &scope.session
            && let Some(identified) = services.settings().auth.of_session(session).await?
        {
            return Ok(Some(identified));
        }
        let Some(forward) = &self.forward else {
            return Ok(None);
        };
        let headers = scope.headers.to_map();
        let subject = Subject {
            method: scope.method.as_str(),
            uri: scope.target.as_str(),
            host: scope.host.as_ref().map_or("", HostHeader::name),
            scheme: match scope.security {
                Scheme::Plain => "http",
                Scheme::Secure => "https",
            },
            client: scope.client.map(ClientAddress::ip),
            headers: &headers,
        };
        match forward.ask(&subject).await {
            Ok(user) => {
                self.outage.is_over(Access::Read);
                Ok(user.map(|user| Identified { user, login: None }))
            }
            Err(error) => {
                self.outage.report(Access::Read, &error);
                let sentence = "the login cannot be checked right now; try again";
                let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
                let retry = HeaderValue::from_static("1");
                Err(failure
                    .with_header(header::RETRY_AFTER, retry)
                    .because(error))
            }
        }
    }

    fn of_token(&self, token: &str) -> Result<Identified, Failure> {
        let refuse = || {
            let sentence = "invalid bearer token";
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\""); // RFC 6750 §3
            Failure::new(StatusCode::UNAUTHORIZED, sentence)
                .with_header(header::WWW_AUTHENTICATE, challenge)
        };
        let bearer = self.bearer.as_ref().ok_or_else(refuse)?;
        let token = bearer
            .verify(token)
            .map_err(|error| refuse().because(error))?;
        let login = Login::Token {
            expires_at: token.expires_at + bearer.leeway(),
        };
        Ok(Identified {
            user: Arc::new(token.user),
            login: Some(Arc::new(login)),
        })
    }

    /// Removes a token or a ticket from the request's subprotocols, so that no consumer sees it.
    /// Returns it, or one in the header or the query.
    fn credential(&self, scope: &mut Scope) -> Option<Credential> {
        if self.bearer.is_some()
            && let Some(token) = bearer_token(scope)
        {
            return Some(Credential::Token(token));
        }
        if scope.scope_type == ScopeType::Websocket {
            if self.bearer.is_some()
                && let Some(token) = take_behind(scope, BEARER)
            {
                return Some(Credential::Token(token));
            }
            if let Some(ticket) = take_behind(scope, TICKET) {
                return Some(Credential::Ticket(ticket));
            }
        }
        if !self.token_in_query {
            return None;
        }
        let token = self
            .bearer
            .as_ref()
            .and_then(|_| scope.query("access_token"));
        token.map(Credential::Token).or_else(|| {
            let is_websocket = scope.scope_type == ScopeType::Websocket;
            let ticket = is_websocket.then(|| scope.query("ticket"));
            ticket.flatten().map(Credential::Ticket)
        })
    }
}

/// Returns the token of `Authorization: Bearer ...` (RFC 6750 §2.1). If the field is malformed or
/// repeated, returns the empty token, which is never valid.
fn bearer_token(scope: &Scope) -> Option<String> {
    let fields = scope.headers.all(&header::AUTHORIZATION);
    let mut tokens = fields.filter_map(|field| {
        let text = String::from_utf8_lossy(field);
        let mut words = text.split_ascii_whitespace();
        let is_bearer = words.next()?.eq_ignore_ascii_case("bearer");
        let token = words.next().unwrap_or_default().to_owned();
        let is_whole = words.next().is_none();
        is_bearer.then(|| if is_whole { token } else { String::new() })
    });
    let token = tokens.next()?;
    Some(match tokens.next() {
        Some(_) => String::new(),
        None => token,
    })
}

/// Removes and returns the subprotocol after `word`; `word` itself stays.
fn take_behind(scope: &mut Scope, word: &str) -> Option<String> {
    let at = scope
        .subprotocols
        .iter()
        .position(|offered| offered == word)?;
    if at + 1 >= scope.subprotocols.len() {
        return None;
    }
    let mut offered = std::mem::take(&mut scope.subprotocols).into_vec();
    let taken = offered.remove(at + 1);
    scope.subprotocols = offered.into();
    Some(taken)
}
