//! Trace: spans of requests, sockets and the calls that they make, in OpenTelemetry's terms.
//!
//! ```text
//! request ──► Span::server ──► ScopeSpan in the scope ──► Current while its work is polled
//!                                                              │ Span::child
//!                 client, channel layer, stores ◄──────────────┘
//! Span dropped ──► SpanQueue, at most 2,048 ──► the exporter (`crate::otlp`)
//! ```
//!
//! While nothing is traced, all of this is one load of an atomic.
//!
//! | file | subject |
//! |---|---|
//! | `context.rs` | the identity of a span; `traceparent` and `tracestate` |
//! | `span.rs` | a span from its start to its end |
//! | `method.rs` | the method of a request in its span |
//! | `scope_span.rs` | the span of a request, a handshake or a socket |
//! | `current.rs` | the span whose work a thread does |
//! | `tracer.rs` | sampling, and the queue |

mod context;
mod current;
mod method;
mod scope_span;
mod span;
#[cfg(test)]
mod tests;
mod tracer;

pub(crate) use context::TraceContext;
pub use context::{SpanId, TraceId};
pub(crate) use current::{Current, Entered, carry, current_bytes, within};
pub(crate) use method::{method_name, set_method};
pub(crate) use scope_span::ScopeSpan;
pub(crate) use span::{Span, SpanData, SpanKind, SpanValue};
pub(crate) use tracer::{SpanQueue, Tracer, is_on, set_tracer};
