//! `oneport user`: the accounts of the built-in user table.

use std::io::{self, BufRead};

use serde_json::json;

use super::arguments::{PasswordArgument, RoutesFormat, UserArguments, UserCommand};
use super::output::{print, print_error, print_problems};
use super::{CONFIG, FAILURE, OK};
use crate::auth::{Users, name_problem, password};
use crate::config::{Config, Problem, Problems, StoreUrl, process_environment};
use crate::database::{Database, DatabaseSettings, StoreError, diagnose};

/// The minimum length of a password.
const PASSWORD_CHARACTERS_MIN: usize = 8;

pub(super) fn run(arguments: &UserArguments) -> u8 {
    let config = match Config::load(&arguments.config, &process_environment) {
        Ok((config, _)) => config,
        Err(problems) => {
            print_problems(&problems);
            return CONFIG;
        }
    };
    if config.auth.users.is_django() {
        print_error(&format!(
            "oneport: auth.users is {}, whose users are managed by the Django project",
            config.auth.users
        ));
        return CONFIG;
    }
    if config.auth.users == StoreUrl::Memory {
        let message = "auth.users is \"memory\", which exists only inside a running server";
        let mut problems = Problems::default();
        problems.push(Problem::error(config.auth.location.key("users"), message));
        print_problems(&problems);
        return CONFIG;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(change_or_say_why(arguments, &config)),
        Err(error) => Err(format!("cannot start the runtime: {error}")),
    };
    match outcome {
        Ok(()) => OK,
        Err(sentence) => {
            print_error(&format!("oneport: {sentence}"));
            FAILURE
        }
    }
}

/// Why a change failed.
enum UserError {
    Store(StoreError),
    Sentence(String),
}

impl From<StoreError> for UserError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<String> for UserError {
    fn from(sentence: String) -> Self {
        Self::Sentence(sentence)
    }
}

/// Changes the table. A failure is diagnosed, with what to check.
async fn change_or_say_why(arguments: &UserArguments, config: &Config) -> Result<(), String> {
    match change(arguments, config).await {
        Ok(()) => Ok(()),
        Err(UserError::Sentence(sentence)) => Err(sentence),
        Err(UserError::Store(error @ StoreError::Unavailable { .. })) => {
            Err(diagnose("auth.users", &config.auth.users, &error).await)
        }
        Err(UserError::Store(error)) => Err(error.to_string()),
    }
}

async fn change(arguments: &UserArguments, config: &Config) -> Result<(), UserError> {
    let url = &config.auth.users;
    let settings = DatabaseSettings {
        timeout: config.session.timeout,
        connections: 1,
    };
    let users = match Database::new(url, settings, "users") {
        Some(Ok(database)) => Users::new(&config.auth, &config.session, database),
        Some(Err(error)) => return Err(format!("auth.users: {url}: {error}").into()),
        None => return Err(format!("{url} has no table of users").into()),
    };
    let nobody = |name: &str| UserError::Sentence(format!("no such user: {name:?}"));
    match &arguments.command {
        UserCommand::Add {
            name,
            staff,
            password,
        } => {
            if let Some(problem) = name_problem(name) {
                return Err(problem.into());
            }
            if users.find_by_name(name).await?.is_some() {
                return Err(StoreError::Taken(name.clone()).into());
            }
            let encoded = new_password(password)?;
            users.add(name, &encoded, *staff).await?;
            print(&format!("added {name}"));
        }
        UserCommand::Passwd { name, password } => {
            if users.find_by_name(name).await?.is_none() {
                return Err(nobody(name));
            }
            let encoded = new_password(password)?;
            if !users.set_password(name, &encoded).await? {
                return Err(nobody(name));
            }
            print(&format!("changed the password of {name}"));
        }
        UserCommand::Remove { name } => {
            if !users.remove(name).await? {
                return Err(nobody(name));
            }
            print(&format!("removed {name}"));
        }
        UserCommand::List { format } => {
            let all = users.list().await?;
            if *format == RoutesFormat::Json {
                let all: Vec<_> = all.iter().map(|account| json!({"id": account.user.id, "name": account.user.name, "is_active": account.is_active, "is_staff": account.user.is_staff})).collect();
                print(&serde_json::Value::from(all).to_string());
                return Ok(());
            }
            for account in all {
                let staff = if account.user.is_staff { "staff" } else { "" };
                let active = if account.is_active { "" } else { "inactive" };
                let line = format!(
                    "{:>6}  {}  {staff} {active}",
                    account.user.id, account.user.name
                );
                print(line.trim_end());
            }
        }
    }
    Ok(())
}

/// Prompts for a new password and hashes it.
fn new_password(argument: &PasswordArgument) -> Result<String, String> {
    let given = if argument.password_stdin {
        let mut line = String::new();
        io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|error| format!("cannot read the password: {error}"))?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        let ask = |prompt: &str| {
            rpassword::prompt_password(prompt).map_err(|error| {
                format!("cannot prompt for the password: {error}; use --password-stdin")
            })
        };
        let given = ask("Password: ")?;
        if ask("Repeat the password: ")? != given {
            return Err("the passwords do not match".to_owned());
        }
        given
    };
    let count = given.chars().count();
    if count < PASSWORD_CHARACTERS_MIN {
        return Err(format!(
            "the password must have at least {PASSWORD_CHARACTERS_MIN} characters; it has {count}"
        ));
    }
    password::hash(&given).map_err(|error| error.to_string())
}
