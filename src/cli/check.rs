//! `oneport check`.

use super::arguments::{CheckArguments, CheckFormat};
use super::output::{print, print_problems};
use super::{CONFIG, FAILURE, OK};
use crate::gateway::Registry;
use crate::server::Reload;

pub(super) fn run(arguments: &CheckArguments, registry: Registry) -> u8 {
    let reload = Reload {
        file: arguments.file.config.clone(),
        registry,
        bind: Vec::new(),
        watch: false,
    };
    let (problems, summary) = match reload.load() {
        Ok(loaded) => {
            let (http, websocket) = (
                loaded.table.http().routes().len(),
                loaded.table.websocket().routes().len(),
            );
            // A file with warnings is not reported as sound.
            let verdict = match loaded.warnings.len() {
                0 => "sound".to_owned(),
                1 => "1 warning".to_owned(),
                count => format!("{count} warnings"),
            };
            (
                loaded.warnings,
                Some(format!(
                    "{}: {http} HTTP and {websocket} WebSocket routes, {verdict}",
                    reload.file.display()
                )),
            )
        }
        Err(problems) => (problems, None),
    };
    match arguments.format {
        CheckFormat::Text => print_problems(&problems),
        CheckFormat::Json => match serde_json::to_string_pretty(&problems) {
            Ok(json) => print(&json),
            Err(_) => return FAILURE,
        },
    }
    match summary {
        Some(summary) => {
            if arguments.format == CheckFormat::Text {
                print(&summary);
            }
            OK
        }
        None => CONFIG,
    }
}
