//! `oneport serve`.

use super::arguments::ServeArguments;
use super::output::{complain, complain_of, say};
use super::{CONFIG, FAILURE, OK, routes};
use crate::config::{LogFormat, Workers};
use crate::gateway::Registry;
use crate::server::{Loaded, Reload, Server};
use crate::telemetry;

pub(super) fn run(arguments: &ServeArguments, registry: Registry) -> u8 {
    let reload = Reload {
        file: arguments.file.config.clone(),
        registry,
        bind: arguments.bind.clone(),
        watch: arguments.watch,
    };
    let loaded = match reload.load() {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain_of(&problems);
            return CONFIG;
        }
    };
    complain_of(&loaded.warnings);
    let log = &loaded.config.log;
    let format = if log.format == LogFormat::Json {
        telemetry::Format::Json
    } else {
        telemetry::Format::Text
    };
    telemetry::start_log(format, &log.level, log.access);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Workers::Count(count) = loaded.config.server.workers {
        runtime.worker_threads(count.get());
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("oneport: cannot start the runtime: {error}"));
            return FAILURE;
        }
    };
    let code = runtime.block_on(serve(loaded, reload));
    // What still runs after the drain was given its time.
    runtime.shutdown_background();
    code
}

async fn serve(loaded: Loaded, reload: Reload) -> u8 {
    let Loaded { config, table, .. } = loaded;
    let tables = routes::tables(&table);
    let server = match Server::start(config, table).await {
        Ok(server) => server,
        Err(error) => {
            complain(&format!("oneport: {error}"));
            return FAILURE;
        }
    };
    let places: Vec<String> = server.listeners().iter().map(ToString::to_string).collect();
    say(&format!(
        "oneport {} listens at {}\n{tables}",
        env!("CARGO_PKG_VERSION"),
        places.join(", ")
    ));
    match server.run(reload).await {
        Ok(drained) => {
            tracing::info!(
                sockets = drained.sockets,
                cut_off = drained.cut_off,
                "stopped"
            );
            OK
        }
        Err(error) => {
            complain(&format!("oneport: {error}"));
            FAILURE
        }
    }
}
