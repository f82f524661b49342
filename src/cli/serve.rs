//! `oneport serve`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::path::Path;

use super::arguments::ServeArguments;
use super::output::{print_error, print_problems};
use super::{CONFIG, FAILURE, OK, routes};
use crate::config::{Config, LogFormat, Problems, Workers, process_environment};
use crate::gateway::Registry;
use crate::net::descriptors;
use crate::server::{Loaded, OldProcess, Reload, Server, log_problems};
use crate::telemetry::{self, Flush, LogQueue};

/// The minimum number of open files: the server's own, and a share for everything except
/// connections.
const FILES_MIN: usize = 80;

pub(super) fn run(arguments: &ServeArguments, registry: Registry) -> u8 {
    let old = match OldProcess::take() {
        Ok(old) => old,
        Err(error) => {
            print_error(&format!(
                "oneport: cannot take over from the old process: {error}"
            ));
            return FAILURE;
        }
    };
    let reload = Reload {
        file: arguments.file.config.clone(),
        registry,
        bind: arguments.bind.clone(),
        watch: arguments.watch,
    };
    let loaded = match reload.load() {
        Ok(loaded) => loaded,
        Err(problems) => {
            if !old.is_some_and(|old| old.report_failure(problems.iter())) {
                refuse(&arguments.file.config, &problems);
            }
            return CONFIG;
        }
    };
    let log = &loaded.config.log;
    let format = if log.format == LogFormat::Json {
        telemetry::Format::Json
    } else {
        telemetry::Format::Text
    };
    let console = Console::new(format, log.file.0.is_some());
    if format == telemetry::Format::Text {
        print_problems(&loaded.warnings);
    }
    let _log = match telemetry::start_log_with(&log.settings()) {
        Ok(started) => started,
        Err(error) => {
            let problems = log_problems(log, &error);
            if !old.is_some_and(|old| old.report_failure(problems.iter())) {
                refuse(&arguments.file.config, &problems);
            }
            return CONFIG;
        }
    };
    std::panic::set_hook(Box::new(log_panic));
    if console.is_logged {
        loaded
            .warnings
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
    }
    descriptors::raise_limit();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Workers::Count(count) = loaded.config.server.workers {
        runtime.worker_threads(count.get());
    }
    let files = descriptors::limit();
    if files < FILES_MIN {
        let sentence = format!(
            "the limit of open files is {files}, at least {FILES_MIN} required (ulimit -n, LimitNOFILE=)"
        );
        return fail(old.as_ref(), &console, &sentence);
    }
    runtime.max_blocking_threads(descriptors::blocking_threads(files));
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let sentence = format!("cannot start the runtime: {error}");
            return fail(old.as_ref(), &console, &sentence);
        }
    };
    let code = runtime.block_on(serve(loaded, reload, old, &console));
    // Aborts what still runs after the drain.
    runtime.shutdown_background();
    code
}

/// Prints the problems that prevent the start, in the format that the file sets, if it can be read.
fn refuse(file: &Path, problems: &Problems) {
    let draft = Config::draft(file, &process_environment);
    if !draft.is_ok_and(|draft| draft.config.log.format == LogFormat::Json) {
        return print_problems(problems);
    }
    let _log = telemetry::start_log(telemetry::Format::Json, "info", false);
    problems
        .iter()
        .for_each(|problem| tracing::error!("{problem}"));
}

/// Tells why the server does not start: the old process, whose log an operator reads, if there is
/// one.
fn fail(old: Option<&OldProcess>, console: &Console, sentence: &str) -> u8 {
    if !old.is_some_and(|old| old.report_failure([sentence])) {
        console.failure(sentence);
    }
    FAILURE
}

async fn serve(
    loaded: Loaded,
    reload: Reload,
    mut old: Option<OldProcess>,
    console: &Console,
) -> u8 {
    let Loaded { config, table, .. } = loaded;
    let tables = routes::tables(&table);
    let server = match Server::take_over(config, table, &mut old).await {
        Ok(server) => server,
        Err(error) => {
            return fail(old.as_ref(), console, &error.to_string());
        }
    };
    let places: Vec<String> = server.urls().collect();
    console.banner(&places.join(", "), &tables);
    match server.run(reload).await {
        Ok(drained) => {
            tracing::info!(
                pid = std::process::id(),
                sockets = drained.sockets,
                cut_off = drained.cut_off,
                "stopped"
            );
            OK
        }
        Err(error) => {
            console.failure(&error.to_string());
            FAILURE
        }
    }
}

/// The command's own output while the server runs. With `log.format = "json"` it goes to the log,
/// so that every line of the process is JSON.
struct Console {
    format: telemetry::Format,
    /// Whether the log has it too: as its only place, or because the log is a file, which an
    /// operator reads for itself.
    is_logged: bool,
    /// Standard output, queued because it may be a pipe that is never read.
    output: Option<LogQueue>,
    _flush: Flush,
}

impl Console {
    fn new(format: telemetry::Format, has_file: bool) -> Self {
        let started = std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .and_then(|stdout| LogQueue::start(File::from(stdout), |_| {}));
        let (output, flush) = started.map_or_else(
            |_| (None, Flush::default()),
            |(queue, flush)| (Some(queue), flush),
        );
        Self {
            format,
            is_logged: has_file || format == telemetry::Format::Json,
            output,
            _flush: flush,
        }
    }

    fn banner(&self, places: &str, tables: &str) {
        let version = env!("CARGO_PKG_VERSION");
        if self.is_logged {
            let pid = std::process::id();
            tracing::info!(version, pid, listeners = places, "listening");
        }
        if let (telemetry::Format::Text, Some(output)) = (self.format, &self.output) {
            output.push(format!("oneport {version} listens at {places}\n{tables}\n").as_bytes());
        }
    }

    fn failure(&self, sentence: &str) {
        if self.is_logged {
            tracing::error!("{sentence}");
        }
        if self.format == telemetry::Format::Text {
            print_error(&format!("oneport: {sentence}"));
        }
    }
}

/// Logs a panic. The default hook writes to standard error directly and can block on its reader.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = Backtrace::capture(); // if RUST_BACKTRACE is set
    tracing::error!(
        thread = thread.name(),
        place = info.location().map(tracing::field::display),
        backtrace = (backtrace.status() == BacktraceStatus::Captured)
            .then(|| tracing::field::display(&backtrace)),
        "panicked: {}",
        info.payload_as_str().unwrap_or("(no message)")
    );
}
