//! The `oneport` command.

use std::process::ExitCode;

/// Holds less memory for many sockets than the system's, and gives it back.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    oneport::cli::run(oneport::gateway::Registry::builtin())
}
