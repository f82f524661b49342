//! Tests of spans and their queue.

use std::sync::Arc;

use http::Extensions;

use super::span::SpanData;
use super::tracer::{BATCH_MAX, QUEUE_MAX};
use super::*;
use crate::telemetry::Ratio;

fn trace(sample: f64) -> Arc<SpanQueue> {
    let queue = Arc::<SpanQueue>::default();
    set_tracer(Some(Tracer {
        sample: Ratio::new(sample).unwrap(),
        queue: queue.clone(),
    }));
    queue
}

fn taken(queue: &SpanQueue) -> Vec<SpanData> {
    let mut spans = queue.take();
    spans.sort_by(|one, other| one.name.cmp(&other.name));
    spans
}

fn remote(is_sampled: bool) -> TraceContext {
    TraceContext {
        is_sampled,
        state: Some("vendor=1".into()),
        ..TraceContext::from_bytes(&[5; 24]).unwrap()
    }
}

/// One test, because the process has one tracer.
#[tokio::test]
async fn spans_have_their_parents_and_links() {
    assert!(Span::server(None).is_none(), "nothing is traced yet");
    assert!(Span::child(SpanKind::Client, "early").is_none());
    let queue = trace(1.0);

    // Without a current span, the server works for itself.
    assert!(Span::child(SpanKind::Client, "own work").is_none());

    // A request of a new trace, and a call that it makes in a task of its own.
    let mut request = Span::server(None).unwrap();
    request.rename("a request");
    let request = ScopeSpan::request(request);
    let entered = request.enter();
    let carried = carry(async {
        tokio::task::yield_now().await;
        let mut call = Span::child(SpanKind::Client, "b call").unwrap();
        call.set("n", 7_u64);
        call.fail("timeout");
    });
    assert_eq!(current_bytes(), Some(request.context().to_bytes()));
    drop(entered);
    assert_eq!(current_bytes(), None);
    carried.await;
    drop(request.take());
    let [root, call] = taken(&queue).try_into().unwrap();
    assert_eq!(
        (root.parent, call.parent),
        (None, Some(root.context.span_id))
    );
    assert_eq!(call.context.trace_id, root.context.trace_id);
    assert!(call.has_failed && !root.has_failed);
    let failed = ("error.type", SpanValue::Text("timeout".to_owned()));
    assert_eq!(call.attributes, [("n", SpanValue::Number(7)), failed]);

    // A socket is a trace of its own, and so is each of its calls.
    let socket = ScopeSpan::socket(Span::socket(&root.context, "c socket".to_owned()));
    let call = {
        let _entered = socket.enter();
        assert_eq!(current_bytes(), None);
        Span::child(SpanKind::Producer, "d send").unwrap()
    };
    assert_ne!(call.context().trace_id, socket.context().trace_id);
    drop((call, socket.take()));
    let [socket, call] = taken(&queue).try_into().unwrap();
    assert_eq!(
        (&socket.links, &call.links),
        (&vec![root.context], &vec![socket.context])
    );

    // The sender of a request decides, and its state passes on.
    let continued = Span::server(Some(remote(true))).unwrap();
    assert_eq!(continued.context().state.as_deref(), Some("vendor=1"));
    drop(continued);
    let [continued] = queue.take().try_into().unwrap();
    assert_eq!(continued.parent, Some(SpanId([5; 8])));
    assert!(continued.parent_is_remote);
    let unsampled = ScopeSpan::request(Span::server(Some(remote(false))).unwrap());
    {
        let _entered = unsampled.enter();
        let child = Span::child(SpanKind::Client, "x").unwrap();
        assert!(child.context().parent().ends_with("-00"));
        assert_eq!(current_bytes(), None);
    }
    drop(unsampled);
    assert_eq!(queue.take().len(), 0);

    // A request whose client leaves.
    let mut extensions = Extensions::new();
    extensions.insert(ScopeSpan::request(Span::server(None).unwrap()));
    assert!(ScopeSpan::of(&extensions).is_some());
    drop(extensions);
    let [cancelled] = queue.take().try_into().unwrap();
    let cancelled = &cancelled.attributes;
    assert_eq!(
        *cancelled,
        [("error.type", SpanValue::Text("cancelled".to_owned()))]
    );

    // The queue is bounded, and long texts are cut.
    for _ in 0..QUEUE_MAX + 10 {
        let mut span = Span::server(None).unwrap();
        span.set("long", &*"\u{e9}".repeat(4_000));
    }
    assert!(queue.has_batch());
    queue.batch().await;
    let mut left = 0;
    while let spans @ [_, ..] = &*queue.take() {
        assert!(spans.len() <= BATCH_MAX);
        let SpanValue::Text(text) = &spans[0].attributes[0].1 else {
            panic!("expected a text");
        };
        assert!(text.len() <= 1024);
        left += spans.len();
    }
    assert_eq!(left, QUEUE_MAX);

    // A ratio of new traces is recorded.
    let queue = trace(0.25);
    for _ in 0..1_000 {
        drop(Span::server(None));
    }
    let mut sampled = 0;
    while let spans @ [_, ..] = &*queue.take() {
        sampled += spans.len();
    }
    assert!((150..350).contains(&sampled), "{sampled}");
    set_tracer(None);
    assert!(Span::server(None).is_none());
}
