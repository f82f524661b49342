//! Arguments: what may be typed.

use std::path::PathBuf;

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
    /// SIGTERM or SIGINT let requests finish and close sockets with 1001 over `server.timeouts.drain`; a second one ends at
    /// once. SIGHUP reads the file again: sockets on unchanged routes never notice, a bad file changes nothing.
    Serve(ServeArguments),
    /// Read and compile the file, print every problem, bind nothing.
    ///
    /// Exit code 78 when there is an error; warnings alone are 0.
    Check(CheckArguments),
    /// Print both tables: path, name, target, middleware, limits.
    Routes(RoutesArguments),
    /// Say which route would serve a URL, with its parameters, and why the others would not.
    Resolve(ResolveArguments),
    /// Keep the accounts of the built-in user table.
    User(UserArguments),
    /// Send an event to a group through the server API.
    Publish(PublishArguments),
    /// Make a new project: a configuration, templates, a consumer of your own.
    Init(InitArguments),
    /// Print completions for a shell.
    Completions(CompletionsArguments),
}

#[derive(Args, Debug)]
pub(super) struct FileArgument {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "config/oneport.toml")]
    pub(super) config: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// Listen here instead of at `server.bind`: HOST:PORT, unix:PATH or fd:N; may be given several times.
    #[arg(long, value_name = "ADDR")]
    pub(super) bind: Vec<Bind>,
    /// Reload when the configuration or a template is saved.
    #[arg(long)]
    pub(super) watch: bool,
}

#[derive(Args, Debug)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// How problems are printed.
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub(super) format: CheckFormat,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum CheckFormat {
    /// For people.
    Text,
    /// One array of objects: file, line, column, path, severity, message, hint.
    Json,
}

#[derive(Args, Debug)]
pub(super) struct RoutesArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// How the tables are printed.
    #[arg(long, value_enum, default_value_t = RoutesFormat::Table)]
    pub(super) format: RoutesFormat,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum RoutesFormat {
    /// For people.
    Table,
    /// One object: `http` and `websocket`, an array each.
    Json,
}

#[derive(Args, Debug)]
pub(super) struct ResolveArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// Ask the WebSocket table.
    #[arg(long)]
    pub(super) ws: bool,
    /// The host, when the URL has none.
    #[arg(long, value_name = "HOST")]
    pub(super) host: Option<String>,
    /// The origin of the page, for the `origin` middleware.
    #[arg(long, value_name = "ORIGIN")]
    pub(super) origin: Option<String>,
    /// [METHOD] URL: a path, or a whole URL (ws:// and wss:// ask the WebSocket table).
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
    /// Add a user; asks for the password.
    Add {
        /// The name to log in with.
        name: String,
        /// May the user see the pages for staff?
        #[arg(long)]
        staff: bool,
        #[command(flatten)]
        password: PasswordArgument,
    },
    /// Give a user another password; all of its logins end.
    Passwd {
        /// The user's name.
        name: String,
        #[command(flatten)]
        password: PasswordArgument,
    },
    /// Print all users.
    List {
        /// How they are printed.
        #[arg(long, value_enum, default_value_t = RoutesFormat::Table)]
        format: RoutesFormat,
    },
    /// Remove a user; all of its logins end.
    Remove {
        /// The user's name.
        name: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct PasswordArgument {
    /// Read the password from the standard input, up to its first line's end.
    #[arg(long)]
    pub(super) password_stdin: bool,
}

#[derive(Args)]
pub(super) struct PublishArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// The server API, such as http://127.0.0.1:8000/api/; without it what the configuration says.
    #[arg(
        long,
        value_name = "URL",
        env = "ONEPORT_PUBLISH_URL",
        hide_env_values = true
    )]
    pub(super) url: Option<String>,
    /// A token of the server API; without it the first of the configuration.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "ONEPORT_PUBLISH_TOKEN",
        hide_env_values = true
    )]
    pub(super) token: Option<String>,
    /// The group.
    #[arg(value_name = "GROUP")]
    pub(super) group: String,
    /// The event, such as '{"type": "chat.message", "message": "hi"}'; - reads the standard input.
    #[arg(value_name = "JSON", allow_hyphen_values = true)]
    pub(super) json: String,
}

impl std::fmt::Debug for PublishArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishArguments")
            .field("url", &self.url)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

#[derive(Args, Debug)]
pub(super) struct InitArguments {
    /// The directory; made if it is not there. Nothing in it is overwritten.
    #[arg(value_name = "DIR")]
    pub(super) dir: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct CompletionsArguments {
    /// The shell.
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
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
