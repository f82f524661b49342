//! `oneport routes`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::arguments::{RoutesArguments, RoutesFormat};
use super::output::{columns, print, print_problems};
use super::{CONFIG, FAILURE, OK};
use crate::config::LimitsConfig;
use crate::gateway::{HttpEntry, Registry, Table, WebsocketEntry};
use crate::routing::Route;
use crate::server::Reload;

/// One printed route.
#[derive(Debug, Serialize)]
struct Row {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<Vec<String>>,
    name: Option<String>,
    target: String,
    middleware: Vec<String>,
    limits: Vec<String>,
}

pub(super) fn run(arguments: &RoutesArguments, registry: Registry) -> u8 {
    let reload = Reload {
        file: arguments.file.config.clone(),
        registry,
        bind: Vec::new(),
        watch: false,
    };
    let loaded = match reload.load() {
        Ok(loaded) => loaded,
        Err(problems) => {
            print_problems(&problems);
            return CONFIG;
        }
    };
    match arguments.format {
        RoutesFormat::Table => {
            print(&tables(&loaded.table));
            print(&limits(&loaded.config.server.limits));
        }
        RoutesFormat::Json => {
            let (http, websocket) = rows(&loaded.table);
            match serde_json::to_string_pretty(
                &serde_json::json!({"http": http, "websocket": websocket, "limits": limits_by_key(&loaded.config.server.limits)}),
            ) {
                Ok(json) => print(&json),
                Err(_) => return FAILURE,
            }
        }
    }
    OK
}

/// Returns both tables as text.
pub(super) fn tables(table: &Table) -> String {
    let (http, websocket) = rows(table);
    let mut text = String::from("\nHTTP\n");
    text.push_str(&columns(&lines(&http, "VIEW")));
    text.push_str("\n\nWebSocket\n");
    text.push_str(&columns(&lines(&websocket, "CONSUMER")));
    text.push('\n');
    text
}

/// Returns the limits of all routes together as text.
fn limits(limits: &LimitsConfig) -> String {
    let heading = vec!["LIMIT".to_owned(), "VALUE".to_owned()];
    let lines = limits.listed().into_iter();
    let lines = lines.filter_map(|(key, value, _)| Some(vec![key.to_owned(), value?]));
    let lines: Vec<_> = std::iter::once(heading).chain(lines).collect();
    format!("\nServer\n{}\n", columns(&lines))
}

fn limits_by_key(limits: &LimitsConfig) -> BTreeMap<&'static str, String> {
    let listed = limits.listed().into_iter();
    let set = listed.filter_map(|(key, value, _)| Some((key, value?)));
    set.collect()
}

fn lines(rows: &[Row], target: &str) -> Vec<Vec<String>> {
    let heading = ["PATH", "NAME", target, "MIDDLEWARE", "LIMITS"]
        .map(str::to_owned)
        .to_vec();
    let line = |row: &Row| {
        let methods = row.methods.as_ref().map(|methods| {
            if methods.is_empty() {
                "any ".to_owned()
            } else {
                format!("{} ", methods.join(","))
            }
        });
        let path = format!(
            "{}{}{}",
            methods.unwrap_or_default(),
            row.host.as_deref().unwrap_or_default(),
            row.path
        );
        vec![
            path,
            row.name.clone().unwrap_or_else(|| "-".to_owned()),
            row.target.clone(),
            row.middleware.join(", "),
            row.limits.join(", "),
        ]
    };
    std::iter::once(heading)
        .chain(rows.iter().map(line))
        .collect()
}

fn rows(table: &Table) -> (Vec<Row>, Vec<Row>) {
    (
        table.http().routes().iter().map(http_row).collect(),
        table
            .websocket()
            .routes()
            .iter()
            .map(websocket_row)
            .collect(),
    )
}

fn http_row(route: &Route<HttpEntry>) -> Row {
    Row {
        path: route.pattern.to_string(),
        host: route.host.as_ref().map(ToString::to_string),
        methods: Some(route.methods.iter().map(ToString::to_string).collect()),
        name: route.name.clone(),
        target: route.value.handler_name.clone(),
        middleware: route.value.middleware.clone(),
        limits: route.value.limits(),
    }
}

fn websocket_row(route: &Route<WebsocketEntry>) -> Row {
    Row {
        path: route.pattern.to_string(),
        host: route.host.as_ref().map(ToString::to_string),
        methods: None,
        name: route.name.clone(),
        target: route.value.handler_name.clone(),
        middleware: route.value.middleware.clone(),
        limits: route.value.limits(),
    }
}
