//! HTTP: the life of a request: preflight, route, then the pipeline around the view. Read it from
//! top to bottom.

use std::sync::Arc;

use super::pipeline::Pipeline;
use super::run_to_completion::{AbandonedRequests, RunToCompletion};
use super::table::HttpEntry;
use super::{preflight, unmatched};
use crate::http::{Body, ClientEnd, OnDisconnect, Request, Response};
use crate::scope::Scope;

/// A request before its view is known.
pub(super) struct Incoming {
    pub(super) scope: Arc<Scope>,
    pub(super) body: Body,
    pub(super) client: ClientEnd,
}

/// Takes a request through the HTTP table.
pub(super) async fn handle(
    pipeline: &Pipeline<'_>,
    mut incoming: Incoming,
    abandoned: &AbandonedRequests,
) -> Response {
    let scope = &mut incoming.scope;
    if let Some(response) = preflight::respond(pipeline, scope) {
        return response;
    }
    let (entry, index) = match pipeline.resolve(pipeline.table.http(), scope) {
        Ok(found) => found,
        Err(missed) => return unmatched::request(pipeline, scope, missed),
    };
    match entry.handler.on_disconnect {
        OnDisconnect::Cancel => call_view(pipeline, entry, incoming).await,
        OnDisconnect::Finish => {
            let (services, table) = (pipeline.services.clone(), pipeline.table.clone());
            let (tasks, started) = (services.tasks.clone(), pipeline.started);
            let work = async move {
                let entry = &table.http().routes()[index].value;
                let pipeline = Pipeline {
                    services: &services,
                    table: &table,
                    started,
                };
                call_view(&pipeline, entry, incoming).await
            };
            RunToCompletion::new(work, tasks, abandoned.clone()).await
        }
    }
}

/// Runs the view inside the route's middleware.
async fn call_view(pipeline: &Pipeline<'_>, entry: &HttpEntry, incoming: Incoming) -> Response {
    let Incoming {
        mut scope,
        body,
        client,
    } = incoming;
    let view = &entry.handler;
    let call = |scope, body| async move {
        let request = Request {
            scope,
            body,
            body_size: view.body_size,
            deadline: pipeline.started + entry.timeout,
            services: pipeline.services.clone(),
            client,
        };
        view.view.call(request).await.map(|response| (response, ()))
    };
    let (response, _) = pipeline
        .run(entry, &mut scope, body, view.body_size, call)
        .await;
    response
}
