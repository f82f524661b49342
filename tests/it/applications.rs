//! Applications: middleware, state and background tasks of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oneport::config::{Config, OptionError, OptionErrors};
use oneport::gateway::{Registry, compile};
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::middleware::{Middleware, MiddlewareContext};
use oneport::scope::Scope;
use oneport::state::StateType;
use oneport::testing::{Application, HttpCommunicator, WebsocketCommunicator};
use oneport::websocket::{Accept, Close, Consumer, Context, Denial, Message};

use crate::support::application;

/// The tenants and their names: an application's state.
struct Tenants(&'static [(&'static str, &'static str)]);

/// The tenant of a request.
#[derive(Clone)]
struct Tenant(&'static str);

/// Finds the tenant by a header field.
struct ByField(http::HeaderName);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    field: String,
}

impl Middleware for ByField {
    type Options = Options;

    const REQUIRES: &'static [&'static str] = &["hosts"];
    const STATE: &'static [StateType] = &[StateType::of::<Tenants>()];

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let field = options.field.parse();
        let field = field.map_err(|_| {
            OptionError::new(
                "field",
                format!("expected a header field, found {:?}", options.field),
            )
        })?;
        Ok(Self(field))
    }

    async fn before(&self, cx: &mut MiddlewareContext<'_>) -> Result<(), Failure> {
        let wanted = cx.scope.headers.text(&self.0).unwrap_or_default();
        let tenants = cx.state::<Tenants>()?.0;
        let Some((_, name)) = tenants.iter().find(|(key, _)| *key == wanted) else {
            return Err(Failure::not_found("there is no such tenant"));
        };
        cx.scope.extensions.insert(Tenant(name));
        Ok(())
    }
}

struct Greeting;

impl View for Greeting {
    type Options = ();

    const STATE: &'static [StateType] = &[StateType::of::<Tenants>()];

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let tenants = request.scope.state::<Tenants>()?.0.len();
        let Tenant(name) = request.scope.extensions.get().ok_or("no tenant")?;
        Ok(respond(
            200,
            "text/plain",
            format!("{name}, one of {tenants}"),
        ))
    }
}

struct Greeter {
    tenants: usize,
}

impl Consumer for Greeter {
    type Options = ();

    const STATE: &'static [StateType] = &[StateType::of::<Tenants>()];

    fn new((): &()) -> Self {
        Self { tenants: 0 }
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        self.tenants = scope.state::<Tenants>()?.0.len();
        Ok(Accept::default())
    }

    async fn receive(&mut self, cx: &mut Context<'_>, _: Message) -> Result<(), Close> {
        let tenants = cx.state::<Tenants>()?.0.len();
        let Tenant(name) = cx.scope().extensions.get().ok_or("no tenant")?;
        let greeting = format!("{name}, one of {tenants} and {}", self.tenants);
        cx.send(greeting);
        Ok(())
    }
}

const FILE: &str = "
    [middleware.tenant]
    field = 'x-tenant'

    [[http.route]]
    path       = '/'
    middleware = ['hosts', 'tenant']
    view       = 'greeting'

    [[websocket.route]]
    path       = '/'
    middleware = ['hosts', 'tenant']
    consumer   = 'greeter'
";

fn registry() -> Registry {
    Registry::builtin()
        .middleware::<ByField>("tenant")
        .view::<Greeting>("greeting")
        .consumer::<Greeter>("greeter")
}

fn app() -> Application {
    let tenants = Tenants(&[("a", "Anna & Co"), ("b", "Bob Ltd")]);
    application(&registry().state(tenants), FILE)
}

#[tokio::test]
async fn middleware_of_an_application_guards_both_tables() {
    let app = app();
    let request = || HttpCommunicator::get("/");
    let response = request().header("x-tenant", "a").send(&app).await;
    assert_eq!(response.body(), "Anna & Co, one of 2");
    let response = request().header("x-tenant", "z").send(&app).await;
    assert_eq!(response.status(), 404);
    let mut socket = WebsocketCommunicator::new("/")
        .header("x-tenant", "b")
        .connect(&app)
        .await
        .unwrap();
    socket.send("hi").await;
    let greeting = socket.receive().await;
    assert_eq!(greeting.as_text(), Some("Bob Ltd, one of 2 and 2"));
    socket.disconnect().await;
    let refused = WebsocketCommunicator::new("/").connect(&app).await;
    assert_eq!(refused.err().unwrap().status(), 404);
}

/// All Problems of a file, as they are printed.
fn problems(registry: &Registry, text: &str) -> Vec<String> {
    let config = Config::parse("oneport.toml", text, ".".as_ref(), &|_| None);
    let found = match config {
        Ok((config, _)) => match compile(&config, registry) {
            Ok((_, warnings)) => warnings,
            Err(problems) => problems,
        },
        Err(problems) => problems,
    };
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn options_of_middleware_are_checked() {
    let registry = registry().state(Tenants(&[]));
    let check = |section: &str, list: &str, expected: &[&str]| {
        let text = format!(
            "{section}\n[[http.route]]\npath = '/'\nview = 'health'\nmiddleware = [{list}]\n"
        );
        assert_eq!(problems(&registry, &text), expected, "{text}");
    };
    check("[middleware.tenant]\nfield = 'x'", "'hosts', 'tenant'", &[]);
    check(
        "[middleware.tenant]\nfeld = 'x'",
        "'hosts', 'tenant'",
        &[
            "oneport.toml:2:1: middleware.tenant.feld: unknown key \"feld\" (did you mean \"field\"?)",
        ],
    );
    check(
        "[middleware.tenant]\nfield = 3",
        "'hosts', 'tenant'",
        &[
            "oneport.toml:2:9: middleware.tenant.field: expected a string, found integer 3 (write \"3\")",
        ],
    );
    check(
        "[middleware.tenant]\nfield = 'a b'",
        "'hosts', 'tenant'",
        &["oneport.toml:2:9: middleware.tenant.field: expected a header field, found \"a b\""],
    );
    check(
        "[middleware.tenant]\nfield = 'x'",
        "'tenant', 'hosts'",
        &[
            "oneport.toml:6:15: http.route[0].middleware[0]: \"hosts\" is listed after \"tenant\"; swap them",
        ],
    );
    check(
        "[middleware.tenant]\nfield = 'x'",
        "'tenant'",
        &[
            "oneport.toml:6:15: http.route[0].middleware[0]: expected \"hosts\" before \"tenant\", found none",
        ],
    );
    check(
        "[middleware.tenant]\nfield = 'x'",
        "'hosts'",
        &[
            "oneport.toml:1:13: middleware.tenant: warning: no route lists the middleware \"tenant\"",
        ],
    );
    check(
        "[middleware.tenent]\nfield = 'x'",
        "'hosts'",
        &[
            "oneport.toml:1:13: middleware.tenent: unknown middleware \"tenent\" (did you mean \"tenant\"?)",
        ],
    );
    check(
        "[middleware.origin]\nfield = 'x'",
        "'hosts'",
        &[
            "oneport.toml:1:13: middleware.origin: the built-in middleware \"origin\" has no section (its settings are keys of [http], [websocket] and their routes)",
        ],
    );
}

#[test]
fn state_that_was_not_registered_is_a_problem_at_each_place_that_needs_it() {
    let found = problems(&registry(), FILE);
    let needs = |at: &str, what: &str| {
        format!(
            "oneport.toml:{at}: the {what} needs application state of type {} (register it with Registry::state)",
            std::any::type_name::<Tenants>()
        )
    };
    assert_eq!(
        found,
        [
            needs("7:28: http.route[0].middleware[1]", "middleware \"tenant\""),
            needs("8:18: http.route[0].view", "view \"greeting\""),
            needs(
                "12:28: websocket.route[0].middleware[1]",
                "middleware \"tenant\""
            ),
            needs("13:18: websocket.route[0].consumer", "consumer \"greeter\""),
        ]
    );
}

/// Reads state that it does not declare.
struct Careless;

impl View for Careless {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        request.scope.state::<Tenants>()?;
        Ok(respond(200, "text/plain", "fine"))
    }
}

#[tokio::test]
async fn state_that_is_missing_is_a_500() {
    let registry = Registry::builtin().view::<Careless>("careless");
    let app = application(&registry, "[[http.route]]\npath = '/'\nview = 'careless'\n");
    assert_eq!(HttpCommunicator::get("/").send(&app).await.status(), 500);
}

#[tokio::test]
async fn background_tasks_have_the_state_and_end_with_the_server() {
    struct Ticks(Arc<AtomicUsize>);
    let ticks: Arc<AtomicUsize> = Arc::default();
    let registry = Registry::builtin()
        .state(Ticks(ticks.clone()))
        .task("ticker", |services| async move {
            let Ok(Ticks(ticks)) = services.state() else {
                return;
            };
            while !services.tasks.is_stopping() {
                ticks.fetch_add(1, Ordering::Relaxed);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                    () = services.tasks.stopping() => {}
                }
            }
            ticks.store(0, Ordering::Relaxed);
        })
        .task("broken", |_| async { panic!("in a task") });
    let app = application(&registry, "");
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if ticks.load(Ordering::Relaxed) > 2 {
            break;
        }
    }
    assert!(ticks.load(Ordering::Relaxed) > 2);
    let tasks = &app.gateway().services().tasks;
    assert_eq!(tasks.finish(Duration::from_secs(5)).await, 0);
    assert_eq!(ticks.load(Ordering::Relaxed), 0);
}
