//! View: the code that answers a request.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use serde::de::DeserializeOwned;

use super::{Failure, Request, Response};
use crate::config::OptionErrors;
use crate::routing::RouteContext;
use crate::state::StateType;

/// Answers the requests of a route. One value serves all requests of its route.
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
    /// The route's `options` in the file; `()` takes none. Unknown keys are refused when the type says so
    /// (`#[serde(deny_unknown_fields)]`).
    type Options: DeserializeOwned;

    /// The types of application state that it reads (`Registry::state`). A route with the view is a Problem when one was not registered.
    const STATE: &'static [StateType] = &[];

    /// Makes the view out of the route's options: at start, at every reload, and for `oneport check`.
    ///
    /// Returns an error for each option that is invalid beyond its type; `check`, `serve` and a reload report it at the
    /// line and column of its key.
    fn new(options: Self::Options) -> Result<Self, OptionErrors>;

    /// Tells the view about its route. Called once, after `new` and before the first request; refuses options that do
    /// not fit the route, such as a parameter that its path does not have.
    fn mount(&mut self, _route: &RouteContext<'_>) -> Result<(), OptionErrors> {
        Ok(())
    }

    /// Tells what becomes of `call` when the client disconnects before it has its answer.
    #[must_use]
    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Finish
    }

    /// Returns what the view maps the rest of the path onto, if it does. The catch-all of such a view may be empty, and
    /// `check` compares its middleware with that of the routes inside it.
    #[must_use]
    fn maps_onto(&self) -> Option<Mapped> {
        None
    }

    /// Returns the templates that the view renders. `check` reports one that is missing or invalid.
    fn templates(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the middleware that the view cannot do without; a route whose list lacks one of them is a Problem.
    #[must_use]
    fn middleware() -> &'static [&'static str] {
        &[]
    }

    /// Returns whether the view changes sessions: with a Django project's store it cannot, and that is a Problem.
    #[must_use]
    fn writes_sessions() -> bool {
        false
    }

    /// Returns the methods the view answers when the route names none; an empty list is every method.
    #[must_use]
    fn methods() -> &'static [http::Method] {
        &[http::Method::GET]
    }

    /// Answers one request. The route's `request_timeout` ends it with 504; a panic in it is 500.
    fn call(&self, request: Request) -> impl Future<Output = Result<Response, Failure>> + Send;
}

/// What becomes of a view's work when its client disconnects before it has its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnDisconnect {
    /// It runs to its end, within the route's `request_timeout`: the default, because the client may have been promised a
    /// side effect.
    Finish,
    /// It is dropped. For views that change nothing.
    Cancel,
}

/// What a view maps the rest of a path onto.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mapped {
    /// The files of a directory.
    Directory(PathBuf),
    /// Another server, by its URL.
    Server(String),
}

/// The future of a type-erased view.
pub(crate) type ViewFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send + 'a>>;

/// A type-erased view.
pub(crate) trait AnyView: Send + Sync {
    fn call(&self, request: Request) -> ViewFuture<'_>;
}

impl<V: View> AnyView for V {
    fn call(&self, request: Request) -> ViewFuture<'_> {
        Box::pin(View::call(self, request))
    }
}
