//! A view of your own next to the built-in ones.
//!
//! `cargo run --example hello -- serve --config examples/hello.toml`, then `curl
//! http://127.0.0.1:8000/hello/anna/`.

use std::process::ExitCode;

use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, Response, View, respond};

struct Hello {
    greeting: String,
}

/// The `options` of the route.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    greeting: String,
}

impl View for Hello {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        Ok(Self {
            greeting: options.greeting,
        })
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let name = request.scope.param("name");
        Ok(respond(
            200,
            "text/plain; charset=utf-8",
            format!("{}, {name}!\n", self.greeting),
        ))
    }
}

fn main() -> ExitCode {
    oneport::cli::run(Registry::builtin().view::<Hello>("hello"))
}
