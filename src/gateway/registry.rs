//! Registry: the names in the file and the code behind them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::background_task::BackgroundTask;
use crate::config::{OptionErrors, Options, Problems};
use crate::http::view::AnyView;
use crate::http::views;
use crate::http::{Mapped, OnDisconnect, View};
use crate::middleware::{Custom, Middleware};
use crate::routing::RouteContext;
use crate::services::Services;
use crate::state::{State, StateType};
use crate::websocket::{Consumer, ConsumerFactory, TypedFactory, consumers};

/// The names in the file and the code behind them: views, consumers and middleware; and the state
/// and background tasks of an application.
///
/// ```
/// use oneport::gateway::Registry;
/// let registry = Registry::builtin();
/// assert!(registry.view_names().any(|name| name == "template"));
/// assert!(registry.consumer_names().any(|name| name == "chat"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Registry {
    views: BTreeMap<String, Registered<MakeView>>,
    consumers: BTreeMap<String, Registered<MakeConsumer>>,
    middleware: BTreeMap<String, RegisteredMiddleware>,
    pub(super) state: State,
    pub(super) background_tasks: Vec<BackgroundTask>,
}

/// A view or a consumer, registered by name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registered<Make> {
    pub(super) make: Make,
    /// The application state that it reads.
    pub(super) state: &'static [StateType],
}

/// Middleware of the application, registered by name.
#[derive(Clone, Copy, Debug)]
pub(super) struct RegisteredMiddleware {
    pub(super) make: fn(&Options) -> Result<Custom, Problems>,
    pub(super) requires: &'static [&'static str],
    pub(super) state: &'static [StateType],
}

pub(super) type MakeView = fn(&Options, &Mount<'_>) -> Result<MadeView, Problems>;
pub(super) type MakeConsumer =
    fn(&Options, &Mount<'_>) -> Result<Arc<dyn ConsumerFactory>, Problems>;

/// The arguments of a view's or consumer's constructor besides the options.
pub(super) struct Mount<'r> {
    pub(super) route: RouteContext<'r>,
    /// Whether an option already has an error: its value is a placeholder, so the options are not
    /// checked further.
    pub(super) has_invalid_options: bool,
}

/// A view, and the facts that compiling the file needs about it.
pub(super) struct MadeView {
    pub(super) view: Arc<dyn AnyView>,
    pub(super) methods: &'static [http::Method],
    pub(super) templates: Vec<String>,
    pub(super) middleware: &'static [&'static str],
    pub(super) writes_sessions: bool,
    pub(super) on_disconnect: OnDisconnect,
    pub(super) has_own_deadlines: bool,
    pub(super) responds_now: bool,
    pub(super) maps_onto: Option<Mapped>,
}

impl Registry {
    /// Creates an empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a registry with the built-in views and consumers.
    #[must_use]
    pub fn builtin() -> Self {
        Self::new()
            .view::<views::Dashboard>("dashboard")
            .view::<views::Events>("events")
            .view::<views::Health>("health")
            .view::<views::Login>("login")
            .view::<views::Logout>("logout")
            .view::<views::Metrics>("metrics")
            .view::<views::Proxy>("proxy")
            .view::<views::Publish>("publish")
            .view::<views::Redirect>("redirect")
            .view::<views::Respond>("respond")
            .view::<views::Static>("static")
            .view::<views::Template>("template")
            .view::<views::Ticket>("ticket")
            .consumer::<consumers::Backend>("backend")
            .consumer::<consumers::Broadcast>("broadcast")
            .consumer::<consumers::Chat>("chat")
            .consumer::<consumers::Dashboard>("dashboard")
            .consumer::<consumers::Echo>("echo")
            .consumer::<consumers::Feed>("feed")
            .tunnel("proxy")
    }

    /// Registers the consumer whose sockets are tunnels.
    fn tunnel(mut self, name: &str) -> Self {
        let registered = Registered {
            make: make_tunnel as MakeConsumer,
            state: &[],
        };
        self.consumers.insert(name.to_owned(), registered);
        self
    }

    /// Registers a view; replaces an earlier one of the same name.
    #[must_use]
    pub fn view<V: View>(mut self, name: &str) -> Self {
        let make: MakeView = make_view::<V>;
        let state = V::STATE;
        self.views
            .insert(name.to_owned(), Registered { make, state });
        self
    }

    /// Registers a consumer; replaces an earlier one of the same name.
    #[must_use]
    pub fn consumer<C: Consumer>(mut self, name: &str) -> Self {
        let make: MakeConsumer = make_consumer::<C>;
        let state = C::STATE;
        self.consumers
            .insert(name.to_owned(), Registered { make, state });
        self
    }

    /// Registers middleware; its options are the section `[middleware.NAME]`. Replaces earlier
    /// middleware of the same name, even if built in.
    #[must_use]
    pub fn middleware<M: Middleware>(mut self, name: &str) -> Self {
        let registered = RegisteredMiddleware {
            make: make_middleware::<M>,
            requires: M::REQUIRES,
            state: M::STATE,
        };
        self.middleware.insert(name.to_owned(), registered);
        self
    }

    /// Adds a value to the application's state; an earlier one of the same type is replaced. Views
    /// and middleware read it with [`Scope::state`], consumers with [`Context::state`], background
    /// tasks with [`Services::state`].
    ///
    /// The values live as long as the server: a reload of the file keeps them.
    ///
    /// [`Context::state`]: crate::websocket::Context::state
    /// [`Scope::state`]: crate::scope::Scope::state
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.state.insert(value);
        self
    }

    /// Adds a background task. It starts with the server and must return when [`Tasks::stopping`]
    /// completes: the server waits for it for `server.timeouts.drain`, and then ends without it. A
    /// task that panics is logged and not started again.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use oneport::channels::{Event, GroupName};
    /// use oneport::gateway::Registry;
    ///
    /// let registry = Registry::builtin().task("ticker", |services| async move {
    ///     let Ok(group) = GroupName::new("ticks") else { return };
    ///     let mut every = tokio::time::interval(Duration::from_secs(1));
    ///     loop {
    ///         tokio::select! {
    ///             _ = every.tick() => {
    ///                 let Ok(tick) = Event::from_json(r#"{"type": "tick"}"#) else { return };
    ///                 let _ = services.layer.group_send(&group, tick, None).await;
    ///             }
    ///             () = services.tasks.stopping() => return,
    ///         }
    ///     }
    /// });
    /// ```
    ///
    /// [`Tasks::stopping`]: crate::tasks::Tasks::stopping
    #[must_use]
    pub fn task<F, W>(mut self, name: &'static str, task: F) -> Self
    where
        F: Fn(Services) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        self.background_tasks.push(BackgroundTask::new(name, task));
        self
    }

    /// Iterates over the names of the application's middleware, sorted.
    pub fn middleware_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.middleware.keys().map(String::as_str)
    }

    /// Iterates over the names of views, sorted.
    pub fn view_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.views.keys().map(String::as_str)
    }

    /// Iterates over the names of consumers, sorted.
    pub fn consumer_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.consumers.keys().map(String::as_str)
    }

    pub(super) fn find_view(&self, name: &str) -> Option<Registered<MakeView>> {
        self.views.get(name).copied()
    }

    pub(super) fn find_middleware(&self, name: &str) -> Option<RegisteredMiddleware> {
        self.middleware.get(name).copied()
    }

    pub(super) fn find_consumer(&self, name: &str) -> Option<Registered<MakeConsumer>> {
        self.consumers.get(name).copied()
    }
}

fn make_middleware<M: Middleware>(options: &Options) -> Result<Custom, Problems> {
    let read: M::Options = options.read()?;
    let middleware = M::new(read).map_err(|errors| errors.into_problems(options))?;
    Ok(Custom {
        middleware: Arc::new(middleware),
    })
}

fn make_view<V: View>(options: &Options, mount: &Mount<'_>) -> Result<MadeView, Problems> {
    let located = |errors: OptionErrors| errors.into_problems(options);
    let mut view = V::new(read(options, mount)?).map_err(located)?;
    view.mount(&mount.route).map_err(located)?;
    Ok(MadeView {
        methods: V::methods(),
        templates: view.templates(),
        middleware: V::middleware(),
        writes_sessions: V::writes_sessions(),
        on_disconnect: V::on_disconnect(),
        has_own_deadlines: V::has_own_deadlines(),
        responds_now: V::responds_now(),
        maps_onto: view.maps_onto(),
        view: Arc::new(view),
    })
}

fn make_consumer<C: Consumer>(
    options: &Options,
    mount: &Mount<'_>,
) -> Result<Arc<dyn ConsumerFactory>, Problems> {
    let written: C::Options = read(options, mount)?;
    let mounted =
        C::mount(written, &mount.route).map_err(|errors| errors.into_problems(options))?;
    Ok(Arc::new(TypedFactory::<C> {
        options: Arc::new(mounted),
    }))
}

fn make_tunnel(options: &Options, mount: &Mount<'_>) -> Result<Arc<dyn ConsumerFactory>, Problems> {
    let written: consumers::ProxyOptions = read(options, mount)?;
    let proxy = consumers::Proxy::new(&written, &mount.route);
    Ok(Arc::new(
        proxy.map_err(|errors| errors.into_problems(options))?,
    ))
}

/// Deserializes options into their type. Reports nothing about options that already have an error.
fn read<T: DeserializeOwned>(options: &Options, mount: &Mount<'_>) -> Result<T, Problems> {
    let read = options.read()?;
    match mount.has_invalid_options {
        true => Err(Problems::default()),
        false => Ok(read),
    }
}
