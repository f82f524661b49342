//! Command line: `oneport serve`, `check`, `routes`, `resolve`, `user`, `publish`, `top`, `init`,
//! `dev-cert`, `explain-close`, `completions`, `man`.

mod arguments;
mod check;
mod dev_cert;
mod explain_close;
mod init;
mod man;
mod output;
mod publish;
mod resolve;
mod routes;
mod serve;
mod server_api;
mod top;
mod user;

use std::process::ExitCode;

use clap::Parser;

use crate::gateway::Registry;
use arguments::{Arguments, Command};

/// Success.
pub(crate) const OK: u8 = 0;
/// A failure at run time.
pub(crate) const FAILURE: u8 = 1;
/// Invalid command line (sysexits' `EX_USAGE`).
pub(crate) const USAGE: u8 = 64;
/// Invalid configuration (sysexits' `EX_CONFIG`).
pub(crate) const CONFIG: u8 = 78;

/// Parses the command line and runs the command with a registry: the whole `main` of a binary.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     oneport::cli::run(oneport::gateway::Registry::builtin())
/// }
/// ```
#[must_use]
pub fn run(registry: Registry) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { OK });
        }
    };
    ExitCode::from(match arguments.command {
        Command::Serve(serve) => serve::run(&serve, registry),
        Command::Check(check) => check::run(&check, registry),
        Command::Routes(routes) => routes::run(&routes, registry),
        Command::Resolve(resolve) => resolve::run(&resolve, registry),
        Command::User(user) => user::run(&user),
        Command::Publish(publish) => publish::run(&publish),
        Command::Top(top) => top::run(&top),
        Command::Init(init) => init::run(&init),
        Command::DevCert(dev_cert) => dev_cert::run(&dev_cert),
        Command::Man(man) => man::run(&man),
        Command::ExplainClose(explain) => explain_close::run(&explain),
        Command::Completions(completions) => arguments::print_completions(completions.shell),
    })
}
