//! Span: one operation of a trace, from its start until it is dropped.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use super::context::{SpanId, TraceContext, TraceId};
use super::current::{Current, current};
use super::tracer;

/// The most bytes of an attribute's text; a longer one is cut.
const TEXT_BYTES_MAX: usize = 1024;

/// The role of a span (OpenTelemetry's `SpanKind`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SpanKind {
    /// It answers a request.
    Server,
    /// It waits for the answer to a request.
    Client,
    /// It sends an event, and does not wait for its members.
    Producer,
    /// It handles an event.
    Consumer,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SpanValue {
    Text(String),
    Number(i64),
}

impl From<&str> for SpanValue {
    fn from(text: &str) -> Self {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX);
        Self::Text(text[..end].to_owned())
    }
}

impl From<u64> for SpanValue {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u16> for SpanValue {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// The facts of a span that has ended.
#[derive(Clone, Debug)]
pub(crate) struct SpanData {
    pub(crate) context: TraceContext,
    pub(crate) parent: Option<SpanId>,
    pub(crate) parent_is_remote: bool,
    pub(crate) kind: SpanKind,
    pub(crate) name: Cow<'static, str>,
    pub(crate) start: SystemTime,
    pub(crate) duration: Duration,
    pub(crate) attributes: Vec<(&'static str, SpanValue)>,
    pub(crate) links: Vec<TraceContext>,
    pub(crate) has_failed: bool,
}

/// One operation of a trace. It ends when it is dropped.
///
/// A span that is not sampled has an identity, which passes on, and records nothing.
#[derive(Debug)]
pub(crate) struct Span {
    context: TraceContext,
    recorded: Option<Box<Recorded>>,
}

#[derive(Debug)]
struct Recorded {
    data: SpanData,
    started: Instant,
}

impl Span {
    /// Starts the span of a request or a handshake: a child of the sender's, or a new trace. `None`
    /// while nothing is traced.
    pub(crate) fn server(parent: Option<TraceContext>) -> Option<Self> {
        let tracer = tracer::tracer()?;
        Some(match parent {
            Some(parent) => Self::child_of(&parent, SpanKind::Server, "", true),
            None => {
                let trace_id = TraceId::random();
                let is_sampled = tracer.samples(trace_id);
                Self::root(trace_id, is_sampled, SpanKind::Server, "", Vec::new())
            }
        })
    }

    /// Starts the span of a socket: a trace of its own, linked to its handshake, which may have
    /// ended days before it.
    pub(crate) fn socket(handshake: &TraceContext, name: String) -> Self {
        let links = vec![handshake.clone()];
        let is_sampled = handshake.is_sampled;
        Self::root(TraceId::random(), is_sampled, SpanKind::Server, name, links)
    }

    /// Starts a span below that of the request whose work the thread does. What a socket does is a
    /// trace of its own, linked to the socket's span. `None` while nothing is traced, and for the
    /// server's own work.
    pub(crate) fn child(kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Option<Self> {
        match current()? {
            Current::Request(parent) => Some(Self::child_of(&parent, kind, name, false)),
            Current::Socket(socket) => {
                let is_sampled = socket.is_sampled;
                let links = vec![socket];
                Some(Self::root(TraceId::random(), is_sampled, kind, name, links))
            }
        }
    }

    /// Starts a span below one of another process.
    pub(crate) fn remote_child(
        parent: &TraceContext,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::child_of(parent, kind, name, true)
    }

    fn child_of(
        parent: &TraceContext,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        parent_is_remote: bool,
    ) -> Self {
        let context = TraceContext {
            span_id: SpanId::random(),
            ..parent.clone()
        };
        let parent = Some((parent.span_id, parent_is_remote));
        Self::new(context, parent, kind, name, Vec::new())
    }

    fn root(
        trace_id: TraceId,
        is_sampled: bool,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        links: Vec<TraceContext>,
    ) -> Self {
        let context = TraceContext {
            trace_id,
            span_id: SpanId::random(),
            is_sampled,
            state: None,
        };
        Self::new(context, None, kind, name, links)
    }

    fn new(
        context: TraceContext,
        parent: Option<(SpanId, bool)>,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        links: Vec<TraceContext>,
    ) -> Self {
        let recorded = context.is_sampled.then(|| {
            Box::new(Recorded {
                data: SpanData {
                    context: context.clone(),
                    parent: parent.map(|(parent, _)| parent),
                    parent_is_remote: parent.is_some_and(|(_, is_remote)| is_remote),
                    kind,
                    name: name.into(),
                    start: SystemTime::now(),
                    duration: Duration::ZERO,
                    attributes: Vec::new(),
                    links,
                    has_failed: false,
                },
                started: Instant::now(),
            })
        });
        Self { context, recorded }
    }

    /// Returns its identity.
    pub(crate) fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Returns whether it is sampled.
    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Adds an attribute.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<SpanValue>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.data.attributes.push((name, value.into()));
        }
    }

    /// Adds an attribute, if it has a value.
    pub(crate) fn set_some(&mut self, name: &'static str, value: Option<impl Into<SpanValue>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Changes the name.
    pub(crate) fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.data.name = name.into();
        }
    }

    /// Marks it as failed, with the attribute `error.type`.
    pub(crate) fn fail(&mut self, error_type: &str) {
        self.set("error.type", error_type);
        if let Some(recorded) = &mut self.recorded {
            recorded.data.has_failed = true;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(recorded) = self.recorded.take() {
            let Recorded { mut data, started } = *recorded;
            data.duration = started.elapsed();
            if let Some(tracer) = tracer::tracer() {
                tracer.queue.push(data);
            }
        }
    }
}
