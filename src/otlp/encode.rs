//! Encode: spans as the messages of OTLP.

use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind as Kind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

use super::OtlpSettings;
use crate::telemetry::trace::{SpanData, SpanKind, SpanValue, TraceContext};

pub(super) use opentelemetry_proto::tonic::resource::v1::Resource;

/// Says that `FLAG_IS_REMOTE` has a meaning, and that the parent or the linked span is another
/// process'.
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
const FLAG_IS_REMOTE: u32 = 0x200;

/// Returns the facts of this process.
pub(super) fn resource(settings: &OtlpSettings) -> Resource {
    let text = |key: &str, value: &str| attribute(key, Value::StringValue(value.to_owned()));
    Resource {
        attributes: vec![
            text("service.name", &settings.service_name),
            text("service.instance.id", &settings.instance),
            text("service.version", env!("CARGO_PKG_VERSION")),
            attribute("process.pid", Value::IntValue(std::process::id().into())),
            text("telemetry.sdk.name", "oneport"),
            text("telemetry.sdk.language", "rust"),
            text("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ],
        ..Resource::default()
    }
}

/// Returns the body of a request with these spans.
pub(super) fn request(resource: &Resource, spans: Vec<SpanData>) -> Vec<u8> {
    let scope = InstrumentationScope {
        name: "oneport".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: spans.into_iter().map(span).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    request.encode_to_vec()
}

/// Returns how many spans the collector has rejected. A body that is no message counts as none.
pub(super) fn rejected(body: &[u8]) -> u64 {
    let response = ExportTraceServiceResponse::decode(body).ok();
    let partial = response.and_then(|response| response.partial_success);
    partial.map_or(0, |partial| {
        u64::try_from(partial.rejected_spans).unwrap_or(0)
    })
}

fn span(data: SpanData) -> Span {
    let nanos = |since: std::time::Duration| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    let start = data.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    let kind = match data.kind {
        SpanKind::Server => Kind::Server,
        SpanKind::Client => Kind::Client,
        SpanKind::Producer => Kind::Producer,
        SpanKind::Consumer => Kind::Consumer,
    };
    let code = match data.has_failed {
        true => StatusCode::Error,
        false => StatusCode::Unset,
    };
    let attributes = data.attributes.into_iter().map(|(key, value)| {
        let value = match value {
            SpanValue::Text(text) => Value::StringValue(text),
            SpanValue::Number(number) => Value::IntValue(number),
        };
        attribute(key, value)
    });
    Span {
        trace_id: data.context.trace_id.0.to_vec(),
        span_id: data.context.span_id.0.to_vec(),
        trace_state: state(&data.context),
        parent_span_id: data
            .parent
            .map_or_else(Vec::new, |parent| parent.0.to_vec()),
        flags: flags(&data.context, data.parent_is_remote),
        name: data.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(start + data.duration),
        attributes: attributes.collect(),
        links: data.links.iter().map(link).collect(),
        status: Some(Status {
            code: code.into(),
            ..Status::default()
        }),
        ..Span::default()
    }
}

fn link(context: &TraceContext) -> Link {
    Link {
        trace_id: context.trace_id.0.to_vec(),
        span_id: context.span_id.0.to_vec(),
        trace_state: state(context),
        flags: flags(context, false),
        ..Link::default()
    }
}

fn flags(context: &TraceContext, is_remote: bool) -> u32 {
    let remote = if is_remote { FLAG_IS_REMOTE } else { 0 };
    u32::from(context.is_sampled) | FLAG_HAS_IS_REMOTE | remote
}

fn state(context: &TraceContext) -> String {
    context.state.as_deref().unwrap_or_default().to_owned()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
