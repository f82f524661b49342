//! Registry: the names in the file and the code behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::config::{OptionErrors, Options, Problems};
use crate::http::view::AnyView;
use crate::http::views;
use crate::http::{Mapped, OnDisconnect, View};
use crate::routing::RouteContext;
use crate::websocket::{Consumer, ConsumerFactory, TypedFactory, consumers};

/// Names of views and consumers, and what makes them out of a route's options.
///
/// ```
/// use oneport::gateway::Registry;
/// let registry = Registry::builtin();
/// assert!(registry.view_names().any(|name| name == "template"));
/// assert!(registry.consumer_names().any(|name| name == "chat"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Registry {
    views: BTreeMap<String, MakeView>,
    consumers: BTreeMap<String, MakeConsumer>,
}

pub(super) type MakeView = fn(&Options, &Mount<'_>) -> Result<MadeView, Problems>;
pub(super) type MakeConsumer =
    fn(&Options, &Mount<'_>) -> Result<Arc<dyn ConsumerFactory>, Problems>;

/// What the constructor of a view or consumer gets beside the options.
pub(super) struct Mount<'r> {
    pub(super) route: RouteContext<'r>,
    /// Whether an option has an error already: its value is a placeholder, so the options are not checked further.
    pub(super) has_invalid_options: bool,
}

/// A view and what the file's compilation has to know of it.
pub(super) struct MadeView {
    pub(super) view: Arc<dyn AnyView>,
    pub(super) methods: &'static [http::Method],
    pub(super) templates: Vec<String>,
    pub(super) middleware: &'static [&'static str],
    pub(super) writes_sessions: bool,
    pub(super) on_disconnect: OnDisconnect,
    pub(super) maps_onto: Option<Mapped>,
}

impl Registry {
    /// A registry without names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The built-in views and consumers.
    #[must_use]
    pub fn builtin() -> Self {
        Self::new()
            .view::<views::Events>("events")
            .view::<views::Health>("health")
            .view::<views::Login>("login")
            .view::<views::Logout>("logout")
            .view::<views::Metrics>("metrics")
            .view::<views::Publish>("publish")
            .view::<views::Redirect>("redirect")
            .view::<views::Respond>("respond")
            .view::<views::Static>("static")
            .view::<views::Template>("template")
            .view::<views::Ticket>("ticket")
            .consumer::<consumers::Backend>("backend")
            .consumer::<consumers::Broadcast>("broadcast")
            .consumer::<consumers::Chat>("chat")
            .consumer::<consumers::Echo>("echo")
            .consumer::<consumers::Feed>("feed")
    }

    /// Gives a view its name; one of that name before is replaced.
    #[must_use]
    pub fn view<V: View>(mut self, name: &str) -> Self {
        self.views.insert(name.to_owned(), make_view::<V>);
        self
    }

    /// Gives a consumer its name; one of that name before is replaced.
    #[must_use]
    pub fn consumer<C: Consumer>(mut self, name: &str) -> Self {
        self.consumers.insert(name.to_owned(), make_consumer::<C>);
        self
    }

    /// Walks the names of views, sorted.
    pub fn view_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.views.keys().map(String::as_str)
    }

    /// Walks the names of consumers, sorted.
    pub fn consumer_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.consumers.keys().map(String::as_str)
    }

    pub(super) fn find_view(&self, name: &str) -> Option<MakeView> {
        self.views.get(name).copied()
    }

    pub(super) fn find_consumer(&self, name: &str) -> Option<MakeConsumer> {
        self.consumers.get(name).copied()
    }
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

/// Reads options as their type. Reports nothing about options that have an error already.
fn read<T: DeserializeOwned>(options: &Options, mount: &Mount<'_>) -> Result<T, Problems> {
    let read = options.read()?;
    match mount.has_invalid_options {
        true => Err(Problems::default()),
        false => Ok(read),
    }
}
