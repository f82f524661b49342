//! Arguments: the commands and their options.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::Bind;

/// HTTP and WebSocket on one port: a protocol type router with a TOML file.
#[derive(Debug, Parser)]
#[command(
    name = "oneport",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server.
    ///
    /// On SIGTERM or SIGINT the server lets requests finish and closes sockets with 1001 within
    /// `server.timeouts.drain`; a second signal exits at once. SIGHUP reloads the file: sockets on
    /// unchanged routes stay open, and an invalid file changes nothing.
    Serve(ServeArguments),
    /// Check the configuration and print every problem, without binding a port.
    ///
    /// Exits with 78 if there is an error, and with 0 if there are only warnings.
    Check(CheckArguments),
    /// Print both tables: path, name, target, middleware, limits.
    Routes(RoutesArguments),
    /// Show which route serves a URL, with its parameters, and why the others do not.
    Resolve(ResolveArguments),
    /// Manage the accounts of the built-in user table.
    User(UserArguments),
    /// Send an event to a group through the server API.
    Publish(PublishArguments),
    /// Show the figures of a running server in the terminal, through the server API.
    Top(TopArguments),
    /// Create a new project: a configuration, templates and a custom consumer.
    Init(InitArguments),
    /// Create a local CA and a certificate for development.
    ///
    /// The certificate is for localhost, 127.0.0.1, ::1 and the names given. A second run keeps the
    /// CA, and the certificate unless it ends soon or lacks a name.
    DevCert(DevCertArguments),
    /// Explain why a WebSocket was closed, and what to do about it.
    ///
    /// Takes the cause of a line of the access log, a close code, or the status of a refused
    /// handshake.
    ExplainClose(ExplainCloseArguments),
    /// Print shell completions.
    Completions(CompletionsArguments),
    /// Write the manual pages into a directory.
    Man(ManArguments),
}

#[derive(Args, Debug)]
pub(super) struct FileArgument {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "config/oneport.toml")]
    pub(super) config: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// Listen on this address instead of `server.bind`: HOST:PORT, unix:PATH or fd:N. Repeatable.
    #[arg(long, value_name = "ADDR")]
    pub(super) bind: Vec<Bind>,
    /// Reload when the configuration or a template changes.
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Args, Debug)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// The output format.
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub(super) format: CheckFormat,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum CheckFormat {
    /// Human-readable text.
    Text,
    /// JSON; of `check`, an array of objects: file, line, column, path, severity, message, hint.
    Json,
}

#[derive(Args, Debug)]
pub(super) struct RoutesArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// The output format.
    #[arg(long, value_enum, default_value_t = RoutesFormat::Table)]
    pub(super) format: RoutesFormat,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum RoutesFormat {
    /// Human-readable text.
    Table,
    /// A JSON object with two arrays, `http` and `websocket`.
    Json,
}

#[derive(Args, Debug)]
pub(super) struct ResolveArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// Look the URL up in the WebSocket table.
    #[arg(long)]
    pub(super) ws: bool,
    /// The host, if the URL has none.
    #[arg(long, value_name = "HOST")]
    pub(super) host: Option<String>,
    /// The origin of the page, for the `origin` middleware.
    #[arg(long, value_name = "ORIGIN")]
    pub(super) origin: Option<String>,
    /// [METHOD] URL: a path, or a full URL (ws:// and wss:// use the WebSocket table).
    #[arg(required = true, num_args = 1..=2, value_names = ["METHOD", "URL"])]
    pub(super) request: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct UserArguments {
    #[command(subcommand)]
    pub(super) command: UserCommand,
    /// The configuration.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "config/oneport.toml",
        global = true
    )]
    pub(super) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user. Prompts for the password.
    Add {
        /// The name to log in with.
        name: String,
        /// Mark the user as staff.
        #[arg(long)]
        staff: bool,
        #[command(flatten)]
        password: PasswordArgument,
    },
    /// Change a user's password. Ends all of the user's logins.
    Passwd {
        /// The user's name.
        name: String,
        #[command(flatten)]
        password: PasswordArgument,
    },
    /// List all users.
    List {
        /// The output format.
        #[arg(long, value_enum, default_value_t = RoutesFormat::Table)]
        format: RoutesFormat,
    },
    /// Remove a user. Ends all of the user's logins.
    Remove {
        /// The user's name.
        name: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct PasswordArgument {
    /// Read the password from the first line of standard input.
    #[arg(long)]
    pub(super) password_stdin: bool,
}

/// The server API of a running server.
#[derive(Args)]
pub(super) struct ServerApiArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// The URL of the server API, such as http://127.0.0.1:8000/api/. Default: from the
    /// configuration.
    #[arg(
        long,
        value_name = "URL",
        env = "ONEPORT_PUBLISH_URL",
        hide_env_values = true
    )]
    pub(super) url: Option<String>,
    /// A token of the server API. Default: the first one in the configuration that may do it.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "ONEPORT_PUBLISH_TOKEN",
        hide_env_values = true
    )]
    pub(super) token: Option<String>,
    /// The file of the certificates that are trusted with https. Default: those of the system.
    #[arg(long, value_name = "FILE", env = "ONEPORT_PUBLISH_CA")]
    pub(super) ca: Option<PathBuf>,
}

impl std::fmt::Debug for ServerApiArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerApiArguments")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[derive(Args, Debug)]
pub(super) struct PublishArguments {
    #[command(flatten)]
    pub(super) api: ServerApiArguments,
    /// The group.
    #[arg(value_name = "GROUP")]
    pub(super) group: String,
    /// The event, such as '{"type": "chat.message", "message": "hi"}'; - reads standard input.
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub(super) json: String,
}

#[derive(Args, Debug)]
pub(super) struct TopArguments {
    #[command(flatten)]
    pub(super) api: ServerApiArguments,
    /// The time between two looks at the server, such as 500ms or 5s.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(super) interval: Duration,
    /// Print the figures once, as text, and exit.
    #[arg(long)]
    pub(super) once: bool,
}

/// Parses the interval of `top`: at least a tenth of a second, at most an hour.
fn interval(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration from 100ms to 1h, such as 2s".to_owned();
    let interval: Duration = text
        .parse::<crate::config::WrittenDuration>()
        .map_err(|_| expected())?
        .0;
    match (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        true => Ok(interval),
        false => Err(expected()),
    }
}

#[derive(Args, Debug)]
pub(super) struct InitArguments {
    /// The directory, created if it does not exist. Existing files are never overwritten.
    #[arg(value_name = "DIR")]
    pub(super) dir: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct DevCertArguments {
    /// The directory of the four files, created if it does not exist.
    #[arg(value_name = "DIR", default_value = "config/tls")]
    pub(super) dir: PathBuf,
    /// Further host names and addresses, such as chat.test or 192.168.1.2.
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct ExplainCloseArguments {
    /// The cause, such as slow_client; the close code, such as 1013; or the status, such as 403.
    #[arg(value_name = "CODE|CAUSE", allow_hyphen_values = true)]
    pub(super) word: String,
    /// The output format.
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub(super) format: CheckFormat,
}

#[derive(Args, Debug)]
pub(super) struct CompletionsArguments {
    /// The shell.
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(super) struct ManArguments {
    /// The directory, created if it does not exist.
    #[arg(value_name = "DIR")]
    pub(super) dir: PathBuf,
}

pub(super) fn print_completions(shell: clap_complete::Shell) -> u8 {
    clap_complete::generate(
        shell,
        &mut Arguments::command(),
        "oneport",
        &mut std::io::stdout(),
    );
    super::OK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_take_the_file_as_an_option() {
        for command in ["serve", "check", "routes"] {
            Arguments::try_parse_from(["oneport", command, "--config", "a.toml"]).unwrap();
            Arguments::try_parse_from(["oneport", command]).unwrap();
        }
    }
}
