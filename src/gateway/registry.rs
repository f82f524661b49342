//! Registry: the names in the file and the code behind them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Options, Problem, Problems};
use crate::http::view::AnyView;
use crate::http::views;
use crate::http::{Mapped, OnDisconnect, View};
use crate::routing::{ParamNames, RoutePattern};
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

/// What a view or consumer learns about its route.
pub(super) struct Mount<'r> {
    /// None when the route's pattern is broken, so that the table is not built anyway.
    pub(super) pattern: Option<&'r RoutePattern>,
    pub(super) params: ParamNames,
    /// Whether a value of the options is wrong already, so that what is read in its place is made up.
    pub(super) has_wrong_options: bool,
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
    let read: V::Options = options.read()?;
    refuse(options, mount, V::problems(&read, &mount.params))?;
    let templates = V::templates(&read);
    let maps_onto = V::maps_onto(&read);
    let mut view = V::new(read);
    if let Some(pattern) = mount.pattern {
        view.mount(pattern);
    }
    Ok(MadeView {
        view: Arc::new(view),
        methods: V::methods(),
        templates,
        middleware: V::middleware(),
        writes_sessions: V::writes_sessions(),
        on_disconnect: V::on_disconnect(),
        maps_onto,
    })
}

fn make_consumer<C: Consumer>(
    options: &Options,
    mount: &Mount<'_>,
) -> Result<Arc<dyn ConsumerFactory>, Problems> {
    let read: C::Options = options.read()?;
    refuse(options, mount, C::problems(&read, &mount.params))?;
    Ok(Arc::new(TypedFactory::<C> {
        options: Arc::new(read),
    }))
}

/// Tells whether this is a way to an option, such as `tokens[0].name`.
fn is_way(text: &str) -> bool {
    let is_part =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.[]".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// Sentences such as `dir: expected a directory` or `tokens[0].name: expected a name (write one)` become Problems at that
/// option, with what stands in brackets at the end as the hint. Nothing is said about options that are made up.
fn refuse(options: &Options, mount: &Mount<'_>, sentences: Vec<String>) -> Result<(), Problems> {
    if mount.has_wrong_options {
        return Err(Problems::default());
    }
    if sentences.is_empty() {
        return Ok(());
    }
    let mut problems = Problems::default();
    for sentence in sentences {
        let (location, sentence) = match sentence.split_once(": ") {
            // An option that is not written is named all the same.
            Some((way, rest)) if is_way(way) => (options.location().below(way), rest),
            _ => (options.location().clone(), sentence.as_str()),
        };
        let parts = sentence.strip_suffix(')');
        problems.push(match parts.and_then(|parts| parts.split_once(" (")) {
            Some((message, hint)) if !hint.contains('(') => {
                Problem::error(location, message).with_hint(hint)
            }
            _ => Problem::error(location, sentence),
        });
    }
    Err(problems)
}
