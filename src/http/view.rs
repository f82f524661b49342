//! View: a handler of HTTP requests.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use serde::de::DeserializeOwned;

use super::{Failure, Request, Response};
use crate::config::OptionErrors;
use crate::routing::RouteContext;
use crate::scope::Scope;
use crate::services::Services;
use crate::state::StateType;

/// Handles the requests of a route. One value serves all requests of its route.
///
/// ```
/// use oneport::config::{OptionError, OptionErrors};
/// use oneport::http::{Failure, Request, Response, View, respond};
///
/// struct Report { title: String }
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Options { title: String }
///
/// impl View for Report {
///     type Options = Options;
///     fn new(options: Options) -> Result<Self, OptionErrors> {
///         if options.title.is_empty() {
///             return Err(OptionError::new("title", "expected a title, found \"\"").into());
///         }
///         Ok(Self { title: options.title })
///     }
///     async fn call(&self, request: Request) -> Result<Response, Failure> {
///         Ok(respond(200, "text/plain", format!("{}: {}", self.title, request.scope.path())))
///     }
/// }
/// let registry = oneport::gateway::Registry::builtin().view::<Report>("report");
/// ```
pub trait View: Send + Sync + Sized + 'static {
    /// The route's `options` in the file; `()` takes none. Unknown keys are rejected if the type
    /// has `#[serde(deny_unknown_fields)]`.
    type Options: DeserializeOwned;

    /// The types of application state that the view needs (`Registry::state`). A route with the
    /// view is a Problem if one of them is not registered.
    const STATE: &'static [StateType] = &[];

    /// Creates the view from the route's options: at start, at every reload, and for
    /// `oneport check`.
    ///
    /// Returns an error for each option that is invalid beyond its type; `check`, `serve` and a
    /// reload report it at the line and column of its key.
    fn new(options: Self::Options) -> Result<Self, OptionErrors>;

    /// Attaches the view to its route. Called once, after `new` and before the first request.
    /// Returns an error for options that do not fit the route, such as a parameter that its path
    /// lacks.
    fn mount(&mut self, _route: &RouteContext<'_>) -> Result<(), OptionErrors> {
        Ok(())
    }

    /// Called before a route with this view is served: at the start, and after each reload.
    fn started(&self, _services: &Services) {}

    /// Returns whether `call` finishes or is cancelled if the client disconnects before the
    /// response.
    #[must_use]
    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Finish
    }

    /// Returns the target that the view maps the rest of the path onto, if any. The catch-all of
    /// such a view may be empty, and `check` compares its middleware with that of the routes inside
    /// it.
    #[must_use]
    fn maps_onto(&self) -> Option<Mapped> {
        None
    }

    /// Returns the templates that the view renders. `check` reports one that is missing or invalid.
    fn templates(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the middleware that the view requires. A route whose list lacks one of them is a
    /// problem.
    #[must_use]
    fn middleware() -> &'static [&'static str] {
        &[]
    }

    /// Returns whether the view writes sessions. With a Django project's read-only store, that is a
    /// problem.
    #[must_use]
    fn writes_sessions() -> bool {
        false
    }

    /// Returns the methods that the view handles if the route sets none. An empty list means every
    /// method.
    #[must_use]
    fn methods() -> &'static [http::Method] {
        &[http::Method::GET]
    }

    /// Returns whether `call` bounds its own time. The route's `request_timeout` then covers the
    /// middleware only.
    #[must_use]
    fn has_own_deadlines() -> bool {
        false
    }

    /// Returns the failure of a request that `call` refuses whatever else it contains, such as one
    /// whose method the view does not handle. For `oneport resolve`, which cannot call the view;
    /// the server calls only `call`.
    #[must_use]
    fn refusal(&self, _scope: &Scope) -> Option<Failure> {
        None
    }

    /// Returns whether the view has a [`respond_now`](Self::respond_now), which is never called
    /// otherwise.
    #[must_use]
    fn responds_now() -> bool {
        false
    }

    /// Returns the response to a request if it follows from the scope alone, without waiting;
    /// `None` leaves the request to [`call`](Self::call). It is not asked where middleware of the
    /// route may wait, so `call` has to respond alike. A panic ends the request with 500.
    #[must_use]
    fn respond_now(&self, _scope: &Scope) -> Option<Result<Response, Failure>> {
        None
    }

    /// Handles one request. The route's `request_timeout` ends it with 504, unless the view
    /// [`has_own_deadlines`](Self::has_own_deadlines); a panic ends it with 500.
    fn call(&self, request: Request) -> impl Future<Output = Result<Response, Failure>> + Send;
}

/// How a view's call ends if its client disconnects before the response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnDisconnect {
    /// The call runs to completion within the route's `request_timeout`. The default, because the
    /// client may rely on a side effect.
    Finish,
    /// The call is dropped. For views without side effects.
    Cancel,
}

/// The target that a view maps the rest of a path onto.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mapped {
    /// The files of a directory.
    Directory(PathBuf),
    /// Other servers.
    Servers {
        /// Their URLs.
        urls: Vec<String>,
        /// The start of the route's path that they do not get, "" for none.
        stripped: String,
        /// The start of the path that they get instead of the route's, if it is rewritten.
        rewritten: Option<String>,
    },
}

/// The future of a type-erased view.
pub(crate) type ViewFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send + 'a>>;

/// A type-erased view.
pub(crate) trait AnyView: Send + Sync {
    fn started(&self, services: &Services);

    fn respond_now(&self, scope: &Scope) -> Option<Result<Response, Failure>>;

    fn call(&self, request: Request) -> ViewFuture<'_>;

    fn refusal(&self, scope: &Scope) -> Option<Failure>;
}

impl<V: View> AnyView for V {
    fn started(&self, services: &Services) {
        View::started(self, services);
    }

    fn respond_now(&self, scope: &Scope) -> Option<Result<Response, Failure>> {
        View::respond_now(self, scope)
    }

    fn call(&self, request: Request) -> ViewFuture<'_> {
        Box::pin(View::call(self, request))
    }

    fn refusal(&self, scope: &Scope) -> Option<Failure> {
        View::refusal(self, scope)
    }
}
