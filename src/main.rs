//! The `oneport` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    oneport::cli::run(oneport::gateway::Registry::builtin())
}
