//! `oneport publish`: sends an event to a group through the server API.

use std::io::Read;
use std::time::Duration;

use http::StatusCode;

use super::arguments::PublishArguments;
use super::output::{print, print_error, print_problems};
use super::server_api::{Caller, Unknown};
use super::{CONFIG, FAILURE, OK, USAGE};
use crate::channels::{Event, GroupName};

/// The timeout for the server's response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of bytes to read from standard input.
const EVENT_BYTES_MAX: u64 = 1 << 20;

/// The maximum number of characters shown of an event that is not JSON.
const SHOWN_CHARS_MAX: usize = 60;

pub(super) fn run(arguments: &PublishArguments) -> u8 {
    let usage = |sentence: String| {
        print_error(&format!("oneport publish: {sentence}"));
        USAGE
    };
    let group = match GroupName::new(&arguments.group) {
        Ok(group) => group,
        Err(error) => return usage(format!("group: {error}")),
    };
    let json = match read_json(&arguments.json) {
        Ok(json) => json,
        Err(error) => return usage(error),
    };
    if serde_json::from_str::<serde::de::IgnoredAny>(&json).is_err() {
        let shown: String = json.chars().take(SHOWN_CHARS_MAX).collect();
        return usage(format!("not JSON: {shown:?}"));
    }
    if let Err(error) = Event::from_json(&json) {
        return usage(error.to_string());
    }
    let caller = match Caller::find(
        &arguments.api,
        |token| token.covers(group.as_str()),
        "expected a token for that group in the route's options, or --token, found none",
    ) {
        Ok(caller) => caller,
        Err(Unknown::Problems(problems)) => {
            print_problems(&problems);
            return CONFIG;
        }
        Err(Unknown::Sentence(sentence)) => return usage(sentence),
    };
    let path = format!("groups/{group}");
    let call = match caller.call(&path, Some(json), arguments.api.ca.as_deref()) {
        Ok(call) => call,
        Err(sentence) => return usage(sentence),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answered = match runtime {
        Ok(runtime) => runtime.block_on(call.send(TIMEOUT)),
        Err(error) => Err(format!("cannot start the runtime: {error}")),
    };
    match answered {
        Ok((status, body)) if status.is_success() => {
            print(body.trim_end());
            OK
        }
        Ok((status, body)) => {
            print_error(&format!(
                "oneport publish: expected the server to take the event, found {status}: {}{}",
                body.trim_end(),
                advice(status, &body, &caller, &group)
            ));
            FAILURE
        }
        Err(sentence) => {
            print_error(&format!("oneport publish: {sentence}"));
            FAILURE
        }
    }
}

/// Returns a hint for a response that is not a success.
fn advice(status: StatusCode, body: &str, caller: &Caller, group: &GroupName) -> String {
    let url = caller.shown();
    let advice = match status {
        StatusCode::UNAUTHORIZED => "is the token one of the route's options.tokens?".to_owned(),
        StatusCode::FORBIDDEN => format!(
            "do the token's groups hold {group:?}?",
            group = group.as_str()
        ),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            format!(
                "is {url} the path of a route with view = \"publish\", without what its catch-all holds?"
            )
        }
        StatusCode::BAD_REQUEST if body.contains("host not allowed") => {
            "is the host of the URL one of server.allowed_hosts?".to_owned()
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            "the server, or what is behind it, is not ready; try again".to_owned()
        }
        status if status.is_redirection() => {
            "redirects are not followed; give the URL that they lead to".to_owned()
        }
        _ => return String::new(),
    };
    format!(" ({advice})")
}

fn read_json(argument: &str) -> Result<String, String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut json = String::new();
    let mut input = std::io::stdin().lock().take(EVENT_BYTES_MAX);
    match input.read_to_string(&mut json) {
        Ok(_) => Ok(json),
        Err(error) => Err(format!("cannot read the standard input: {error}")),
    }
}
