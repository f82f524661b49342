//! `oneport top`: the figures of a running server in the terminal, through the server API.
//!
//! | file | subject |
//! |---|---|
//! | `look.rs` | asks the server |
//! | `view.rs` | what is shown: the last figures, the rates, the order of rows |
//! | `rows.rs` | the rows of each table |
//! | `format.rs` | figures as short texts |
//! | `plain.rs` | the figures as plain text |
//! | `screen.rs` | draws the view |
//! | `terminal.rs` | the terminal: keys, sizes, signals, and leaving it as it was |

mod format;
mod look;
mod plain;
mod rows;
mod screen;
mod terminal;
mod view;

use std::io::IsTerminal;
use std::time::Duration;

use self::look::Source;
use self::view::View;
use super::arguments::TopArguments;
use super::output::{print, print_error, print_problems};
use super::server_api::{Caller, Unknown};
use super::{CONFIG, FAILURE, OK, USAGE};

pub(super) fn run(arguments: &TopArguments) -> u8 {
    let caller = match Caller::find(
        &arguments.api,
        |token| token.connections,
        "expected a token with connections = true in the route's options, or --token, found none",
    ) {
        Ok(caller) => caller,
        Err(Unknown::Problems(problems)) => {
            print_problems(&problems);
            return CONFIG;
        }
        Err(Unknown::Sentence(sentence)) => {
            print_error(&format!("oneport top: {sentence}"));
            return USAGE;
        }
    };
    let source = Source::new(caller, arguments.api.ca.clone());
    if let Err(sentence) = source.check() {
        print_error(&format!("oneport top: {sentence}"));
        return USAGE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(&format!("oneport top: cannot start the runtime: {error}"));
            return FAILURE;
        }
    };
    let outcome = if arguments.once || !is_screen() {
        runtime.block_on(once(&source, arguments.interval))
    } else {
        runtime.block_on(terminal::show(source, arguments.interval))
    };
    // A thread that waits for a key must not delay the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => OK,
        Err(sentence) => {
            print_error(&format!("oneport top: {sentence}"));
            FAILURE
        }
    }
}

/// Returns whether a full screen can be drawn.
fn is_screen() -> bool {
    let is_dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && !is_dumb
}

/// Prints the figures and the rates of one interval.
async fn once(source: &Source, interval: Duration) -> Result<(), String> {
    let mut view = View::default();
    view.apply(source.look().await?);
    tokio::time::sleep(interval).await;
    view.apply(source.look().await?);
    print(&plain::text(&view));
    Ok(())
}
