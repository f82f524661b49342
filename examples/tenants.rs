//! Middleware, application state and a background task.
//!
//! `cargo run --example tenants -- serve --config examples/tenants.toml`, then
//! `curl -H 'x-tenant: acme' http://127.0.0.1:8000/`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oneport::config::{OptionError, OptionErrors};
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::middleware::{Middleware, MiddlewareContext};
use oneport::services::Services;
use oneport::state::StateType;
use oneport::websocket::{Close, Consumer, Context, Message};

/// The state: the tenants by name. An application would keep a pool of database connections here.
struct Tenants(BTreeMap<&'static str, Arc<Tenant>>);

struct Tenant {
    name: &'static str,
    visits: AtomicU64,
}

/// Puts the tenant that a header field names into the scope.
struct TenantByField {
    field: http::HeaderName,
}

/// The section `[middleware.tenant]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantOptions {
    field: String,
}

impl Middleware for TenantByField {
    type Options = TenantOptions;

    const REQUIRES: &'static [&'static str] = &["hosts"];
    const STATE: &'static [StateType] = &[StateType::of::<Tenants>()];

    fn new(options: TenantOptions) -> Result<Self, OptionErrors> {
        match options.field.parse() {
            Ok(field) => Ok(Self { field }),
            Err(_) => {
                let message = format!("expected a header field, found {:?}", options.field);
                Err(OptionError::new("field", message).into())
            }
        }
    }

    async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
        let name = cx.scope.headers.text(&self.field).unwrap_or_default();
        let tenant = cx.state::<Tenants>()?.0.get(name).cloned();
        let tenant = tenant.ok_or_else(|| Failure::not_found("there is no such tenant"))?;
        tenant.visits.fetch_add(1, Ordering::Relaxed);
        cx.scope.extensions.insert(tenant);
        Ok(())
    }
}

struct Visits;

impl View for Visits {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let tenant = request.scope.extensions.get::<Arc<Tenant>>();
        let tenant = tenant.ok_or("the route lacks the middleware \"tenant\"")?;
        let visits = tenant.visits.load(Ordering::Relaxed);
        let text = format!("{}: {visits} visits\n", tenant.name);
        Ok(respond(200, "text/plain; charset=utf-8", text))
    }
}

/// Answers each message with the visits of all tenants.
struct AllVisits;

impl Consumer for AllVisits {
    type Options = ();

    fn new((): &()) -> Self {
        Self
    }

    async fn receive(&mut self, cx: &mut Context<'_>, _: Message) -> Result<(), Close> {
        let tenants = cx.state::<Tenants>()?.0.values();
        let visits: u64 = tenants.map(|it| it.visits.load(Ordering::Relaxed)).sum();
        cx.send(format!("{visits} visits"));
        Ok(())
    }
}

/// Sets the counters back once an hour, until the server stops.
async fn reset_visits(services: Services) {
    let Ok(Tenants(tenants)) = services.state() else {
        return;
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(3600)) => {}
            () = services.tasks.stopping() => return,
        }
        for tenant in tenants.values() {
            tenant.visits.store(0, Ordering::Relaxed);
        }
    }
}

fn main() -> ExitCode {
    let tenant = |name| {
        let visits = AtomicU64::new(0);
        (name, Arc::new(Tenant { name, visits }))
    };
    let tenants = Tenants(["acme", "initech"].into_iter().map(tenant).collect());
    oneport::cli::run(
        Registry::builtin()
            .state(tenants)
            .middleware::<TenantByField>("tenant")
            .view::<Visits>("visits")
            .consumer::<AllVisits>("visits")
            .task("reset visits", reset_visits),
    )
}
