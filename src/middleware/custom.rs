//! Custom: an application's own middleware, registered under a name.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::context::MiddlewareContext;
use crate::config::OptionErrors;
use crate::http::{Failure, Response};
use crate::scope::Scope;
use crate::state::StateType;

/// An application's own middleware. Runs before the handler of each route that lists it, and
/// afterwards on the response.
///
/// `Registry::middleware` registers it under the name that lists in the file use. Its options are
/// the section `[middleware.NAME]`. One value serves all routes; it is created when the file is
/// compiled, at start and at every reload.
///
/// ```
/// use oneport::config::{OptionError, OptionErrors};
/// use oneport::gateway::Registry;
/// use oneport::http::Failure;
/// use oneport::middleware::{Middleware, MiddlewareContext};
///
/// /// Requires a key in a header field.
/// struct ApiKey { key: String }
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Options { key: String }
///
/// impl Middleware for ApiKey {
///     type Options = Options;
///
///     fn new(options: Options) -> Result<Self, OptionErrors> {
///         if options.key.is_empty() {
///             return Err(OptionError::new("key", "expected a key, found \"\"").into());
///         }
///         Ok(Self { key: options.key })
///     }
///
///     async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
///         match cx.scope.headers.get(&http::HeaderName::from_static("x-api-key")) {
///             Some(key) if key == self.key.as_bytes() => Ok(()),
///             _ => Err(Failure::forbidden("expected an API key")),
///         }
///     }
/// }
///
/// let registry = Registry::builtin().middleware::<ApiKey>("api_key");
/// let app = r#"
///     [middleware.api_key]
///     key = "secret"
///
///     [[http.route]]
///     path       = "/"
///     middleware = ["hosts", "api_key"]
///     view       = "health"
/// "#;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use oneport::testing::{Application, HttpCommunicator};
/// let app = Application::with(&registry, app).unwrap();
/// let request = HttpCommunicator::get("/");
/// assert_eq!(request.send(&app).await.status(), 403);
/// # });
/// ```
pub trait Middleware: Send + Sync + Sized + 'static {
    /// The section `[middleware.NAME]`; `()` takes none. Unknown keys are rejected if the type has
    /// `#[serde(deny_unknown_fields)]`.
    type Options: DeserializeOwned;

    /// The middleware that must precede it in a list. A list that lacks one of them is a Problem.
    const REQUIRES: &'static [&'static str] = &[];

    /// The types of state that it needs. A route that lists it while one of them is not registered
    /// is a Problem.
    const STATE: &'static [StateType] = &[];

    /// Creates the middleware. Each error becomes a Problem at its option.
    fn new(options: Self::Options) -> Result<Self, OptionErrors>;

    /// Runs before the view or the consumer, and may change the scope. A failure becomes the
    /// response, and the rest of the list and the handler do not run.
    ///
    /// The route's `request_timeout` or `connect_timeout` ends it with 504. A panic becomes 500.
    fn before(
        &self,
        _cx: &mut MiddlewareContext<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Runs on the response, whether it comes from the view, the consumer, middleware that refused,
    /// or a panic. A failure replaces the response.
    ///
    /// The list runs in reverse. If a step that runs later replaces the response, this runs once
    /// more on the new one, and a failure is then only logged. The handler's timeout applies again,
    /// from its start. Changing the status of a handshake's 101 refuses the handshake.
    fn after(
        &self,
        _scope: &Scope,
        _response: &mut Response,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }
}

/// A boxed future of middleware.
type Step<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// Type-erased middleware.
pub(crate) trait AnyMiddleware: Send + Sync {
    fn before<'a, 'cx: 'a>(&'a self, cx: &'a mut MiddlewareContext<'cx>) -> Step<'a>;
    fn after<'a>(&'a self, scope: &'a Scope, response: &'a mut Response) -> Step<'a>;
}

impl<M: Middleware> AnyMiddleware for M {
    fn before<'a, 'cx: 'a>(&'a self, cx: &'a mut MiddlewareContext<'cx>) -> Step<'a> {
        Box::pin(Middleware::before(self, cx))
    }

    fn after<'a>(&'a self, scope: &'a Scope, response: &'a mut Response) -> Step<'a> {
        Box::pin(Middleware::after(self, scope, response))
    }
}

/// An application's own middleware in a list.
#[derive(Clone)]
pub struct Custom {
    pub(crate) middleware: Arc<dyn AnyMiddleware>,
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}
