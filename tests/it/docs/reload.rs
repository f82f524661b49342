//! Reload: every key of the demo, once changed, is applied by a reload or named as one that needs a restart, as the
//! last column in docs/CONFIGURATION.md says.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use oneport::config::Config;
use regex::Regex;

use super::{SECTIONS, configuration, demo, is_section, rows};

/// A literal of TOML.
fn literal(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("{text:?}"),
        toml::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(literal).collect();
            format!("[{}]", items.join(", "))
        }
        toml::Value::Table(entries) => {
            let entries = entries.iter();
            let entries: Vec<String> = entries
                .map(|(key, value)| format!("{key} = {}", literal(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        toml::Value::Boolean(boolean) => boolean.to_string(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => format!("{number:?}"),
        other => panic!("expected a value of the demo, found {other:?}"),
    }
}

/// Another value that a key may have, as a literal of TOML.
fn another(path: &str, value: &toml::Value) -> String {
    let unit = Regex::new(r"^(\d+)( ?[A-Za-z]+)$").unwrap();
    let word = match path {
        "server.bind" => r#"["127.0.0.1:8001"]"#,
        "server.allowed_hosts" => r#"["example.com"]"#,
        "server.trusted_proxies" => r#"["10.0.0.1"]"#,
        "server.forwarded" => r#""forwarded""#,
        "server.workers" => "2",
        "server.drain.code" => "1012",
        "server.root_path" => r#""/app""#,
        "log.format" | "channel_layer.serializer" => r#""json""#,
        "metrics.bind" => r#"["127.0.0.1:9100"]"#,
        "log.level" => r#""debug""#,
        "log.access_format" => r#""combined""#,
        "log.access_fields" => r#"["status"]"#,
        "http.access_log" | "websocket.access_log" => "0.5",
        "tracing.sample" => "0.5",
        "tracing.traceparent_from" => r#""all""#,
        "tracing.headers" => r#"{ authorization = "Bearer x" }"#,
        "server.limits.connection_rate" | "server.limits.connection_rate_per_ip" => r#""10/s""#,
        "http.rate_limit" => r#"{ rate = "10/s" }"#,
        "websocket.rate_limit" => r#"{ rate = "10/s", by = "connection" }"#,
        "session.store" => r#""memory""#,
        "session.secure" => r#""always""#,
        "session.same_site" => r#""strict""#,
        "session.path" => r#""/app/""#,
        "session.django.time_zone" => r#""Europe/Berlin""#,
        "auth.users" => r#""sqlite:other.db""#,
        "auth.django.id_type" => r#""uuid""#,
        "channel_layer.backend" => r#""redis://127.0.0.1:6380""#,
        "channel_layer.format" => r#""channels_redis.core""#,
        "http.middleware" | "websocket.middleware" => r#"["hosts"]"#,
        "http.missing_origin" | "websocket.missing_origin" => r#""allow""#,
        "http.headers" | "websocket.headers" => r#"{ x-a = "b" }"#,
        "http.compress" => "{ level = 5 }",
        "http.cors" => "{ credentials = true }",
        "websocket.slow_client" => r#""conflate""#,
        "websocket.compression" => r#""off""#,
        _ => "",
    };
    match value {
        _ if !word.is_empty() => word.to_owned(),
        toml::Value::Boolean(boolean) => (!boolean).to_string(),
        toml::Value::Integer(1) => "2".to_owned(),
        toml::Value::Integer(number) => (number - 1).to_string(),
        toml::Value::String(text) => match unit.captures(text) {
            Some(parts) => {
                let number: u64 = parts[1].parse().unwrap();
                format!("\"{}{}\"", number + 1, &parts[2])
            }
            None => format!("\"{text}x\""),
        },
        toml::Value::Array(_) => r#"["https://example.com"]"#.to_owned(),
        other => panic!("expected a value of {path} to change, found {other:?}"),
    }
}

/// The configuration that sets one key, with a route of each table.
fn setting(section: &str, key: &str, value: &str) -> Config {
    let mut text = format!("[{section}]\n{key} = {value}\n");
    if section == "channel_layer" {
        // Some of its keys are of one format alone.
        for (other, value) in [
            ("backend", "redis://127.0.0.1:6379"),
            ("format", "channels_redis.pubsub"),
        ] {
            if key != other {
                writeln!(text, "{other} = {value:?}").unwrap();
            }
        }
    }
    text += "[[http.route]]\npath = '/'\nview = 'health'\n";
    text += "[[websocket.route]]\npath = '/'\nconsumer = 'echo'\n";
    let parsed = Config::parse("oneport.toml", &text, Path::new("config"), &|_| None);
    let (config, _) = parsed.unwrap_or_else(|problems| panic!("{text}{problems}"));
    config
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A key that comparison overlooks would make a reload miss a change.
#[test]
fn every_changed_key_is_applied_by_a_reload_or_needs_a_restart() {
    let demo = demo();
    let tables = configuration();
    for section in SECTIONS {
        let changes: BTreeMap<&str, &str> = rows(&tables, &format!("[{section}]"))
            .iter()
            .map(|row| (row.key.as_str(), row.cells.last().unwrap().as_str()))
            .collect();
        let table = section
            .split('.')
            .try_fold(&demo, |table, key| table.get(key)?.as_table())
            .unwrap();
        for (key, value) in table {
            let path = format!("{section}.{key}");
            if is_section(&path) || path.ends_with(".route") {
                continue;
            }
            let value = match path.as_str() {
                "channel_layer.backend" => &toml::Value::from("redis://127.0.0.1:6379"),
                "channel_layer.format" => &toml::Value::from("channels_redis.pubsub"),
                _ => value,
            };
            let running = setting(section, key, &literal(value));
            let read = setting(section, key, &another(&path, value));
            assert_eq!(running.needs_restart(&running), [""; 0], "{path}");
            let needs_restart = running.needs_restart(&read);
            let explained = changes[key.as_str()];
            if explained.contains("restart") {
                // Named itself, or with the section around it.
                let named = needs_restart.first().copied().unwrap_or_default();
                let is_named = path == named || path.starts_with(&format!("{named}."));
                assert!(is_named, "{path}: {needs_restart:?}");
                assert_eq!(needs_restart.len(), 1, "{path}: {needs_restart:?}");
                continue;
            }
            assert_eq!(explained, "reload", "{path}");
            assert_eq!(needs_restart, [""; 0], "{path}");
            let (one, other) = (&running.websocket_routes[0], &read.websocket_routes[0]);
            match section {
                // It keeps the sockets of the route.
                "websocket" if key == "access_log" => {
                    assert_ne!(one, other, "{path}");
                    assert_eq!(hash_of(one), hash_of(other), "{path}");
                }
                "metrics" => assert_ne!(running.metrics, read.metrics, "{path}"),
                "log" => assert_ne!(running.log, read.log, "{path}"),
                "tracing" => assert_ne!(running.tracing, read.tracing, "{path}"),
                "websocket" => assert_ne!(hash_of(one), hash_of(other), "{path}"),
                "http" => assert_ne!(running.http_routes[0], read.http_routes[0], "{path}"),
                "templates" => assert_ne!(running.templates, read.templates, "{path}"),
                "session" | "session.django" => assert_ne!(running.session, read.session, "{path}"),
                "auth" | "auth.django" => assert_ne!(running.auth, read.auth, "{path}"),
                "csrf" => assert_ne!(running.csrf, read.csrf, "{path}"),
                "channel_layer" => {
                    assert_ne!(running.channel_layer, read.channel_layer, "{path}");
                }
                _ => assert_ne!(running.server, read.server, "{path}"),
            }
        }
    }
}
