//! Rows: the rows of each table.

use std::collections::BTreeMap;

use super::format::{bytes, count, duration, latency, rate, short};
use crate::stats::{Latency, Snapshot};
use crate::telemetry::recent_ends::{End, EndKind};

/// The columns that the routes can be sorted by.
pub(super) const SORTED_BY: [&str; 5] = ["rate", "open", "errors", "p99", "route"];

/// A table of texts.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Row>,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) is_number: bool,
    /// Left out first when there is little room.
    pub(super) is_wide: bool,
}

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) cells: Vec<String>,
    pub(super) tone: Tone,
}

/// How serious a row is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tone {
    Plain,
    Warn,
    Bad,
}

const fn text(name: &'static str) -> Column {
    Column {
        name,
        is_number: false,
        is_wide: false,
    }
}

const fn number(name: &'static str) -> Column {
    Column {
        name,
        is_number: true,
        is_wide: false,
    }
}

const fn wide(column: Column) -> Column {
    Column {
        is_wide: true,
        ..column
    }
}

const ROUTES: &[Column] = &[
    text("ROUTE"),
    wide(text("PATH")),
    text("SERVED BY"),
    number("RATE"),
    number("IN"),
    number("OUT"),
    number("OPEN"),
    wide(number("TOTAL")),
    number("4XX"),
    number("5XX"),
    number("P50"),
    number("P99"),
];

const ENDS: &[Column] = &[
    text("WHEN"),
    text("KIND"),
    text("ROUTE"),
    text("CAUSE"),
    wide(text("CLIENT")),
    wide(text("USER")),
    text("REASON"),
];

const HEALTH: &[Column] = &[text("WHAT"), text("STATE"), text("DETAIL")];

/// The figures of one route, for sorting.
struct RouteRow {
    row: Row,
    rate: f64,
    open: u64,
    errors: u64,
    p99: f64,
    label: String,
}

/// What both kinds of routes have.
struct Route<'a> {
    label: &'a str,
    path: &'a str,
    handler: &'a str,
    answers: &'a BTreeMap<String, u64>,
    answers_before: Option<&'a BTreeMap<String, u64>>,
    latency: Latency,
    /// Open sockets, and messages in and out per second.
    sockets: Option<(u64, f64, f64)>,
}

pub(super) fn routes(
    now: &Snapshot,
    before: Option<&Snapshot>,
    sort: usize,
    is_reversed: bool,
) -> Sheet {
    let before = before.filter(|before| before.node == now.node);
    let seconds = before.map_or(0.0, |before| now.uptime - before.uptime);
    let mut found = Vec::new();
    for (label, route) in &now.http {
        let earlier = before.and_then(|before| before.http.get(label));
        let route = Route {
            label,
            path: &route.path,
            handler: &route.handler,
            answers: &route.responses,
            answers_before: earlier.map(|earlier| &earlier.responses),
            latency: earlier.map_or_else(
                || route.latency.clone(),
                |earlier| route.latency.since(&earlier.latency),
            ),
            sockets: None,
        };
        found.push(route_row(&route, seconds));
    }
    for (label, route) in &now.websocket {
        let earlier = before.and_then(|before| before.websocket.get(label));
        let per_second = |now: u64, before: Option<u64>| match before {
            Some(before) if seconds > 0.0 => now.saturating_sub(before) as f64 / seconds,
            _ => 0.0,
        };
        let old = earlier.map(|earlier| &earlier.messages);
        let received = per_second(route.messages.received, old.map(|old| old.received));
        let sent = per_second(route.messages.sent, old.map(|old| old.sent));
        let route = Route {
            label,
            path: &route.path,
            handler: &route.handler,
            answers: &route.handshakes,
            answers_before: earlier.map(|earlier| &earlier.handshakes),
            latency: earlier.map_or_else(
                || route.latency.clone(),
                |earlier| route.latency.since(&earlier.latency),
            ),
            sockets: Some((route.open, received, sent)),
        };
        found.push(route_row(&route, seconds));
    }
    found.sort_by(|one, other| match SORTED_BY[sort] {
        "rate" => other.rate.total_cmp(&one.rate),
        "open" => other.open.cmp(&one.open),
        "errors" => other.errors.cmp(&one.errors),
        "p99" => other.p99.total_cmp(&one.p99),
        _ => one.label.cmp(&other.label),
    });
    if is_reversed {
        found.reverse();
    }
    Sheet {
        columns: ROUTES,
        rows: found.into_iter().map(|route| route.row).collect(),
    }
}

fn route_row(route: &Route<'_>, seconds: f64) -> RouteRow {
    let sum = |answers: &BTreeMap<String, u64>| answers.values().sum::<u64>();
    let of = |class: &str| route.answers.get(class).copied().unwrap_or_default();
    let requests = match route.answers_before {
        Some(before) if seconds > 0.0 => {
            sum(route.answers).saturating_sub(sum(before)) as f64 / seconds
        }
        _ => 0.0,
    };
    let (open, received, sent) = route.sockets.unwrap_or_default();
    let only_sockets = |text: String| match route.sockets {
        Some(_) => text,
        None => String::new(),
    };
    let p99 = route.latency.quantile(0.99);
    let cells = vec![
        route.label.to_owned(),
        route.path.to_owned(),
        route.handler.to_owned(),
        rate(requests),
        only_sockets(rate(received)),
        only_sockets(rate(sent)),
        only_sockets(count(open)),
        count(sum(route.answers)),
        count(of("4xx")),
        count(of("5xx")),
        latency(route.latency.quantile(0.5)),
        latency(p99),
    ];
    RouteRow {
        row: Row {
            cells,
            tone: if of("5xx") > 0 {
                Tone::Warn
            } else {
                Tone::Plain
            },
        },
        rate: requests + received + sent,
        open,
        errors: of("5xx"),
        p99: p99.unwrap_or_default(),
        label: route.label.to_owned(),
    }
}

pub(super) fn ends(ends: &[End]) -> Sheet {
    let row = |end: &End| {
        let (kind, tone) = match end.kind {
            EndKind::Closed => ("closed", Tone::Plain),
            EndKind::Failed => ("failed", Tone::Bad),
            EndKind::Refused => ("refused", Tone::Warn),
            EndKind::Error => ("error", Tone::Bad),
            EndKind::Connection => ("connection", Tone::Warn),
        };
        // The time of day of 2026-11-23T10:00:00.123Z.
        let at = end.at.get(11..19).unwrap_or(&end.at);
        let rule = end.rule.as_ref().map(|rule| format!("by {rule}"));
        let words = [Some(end.reason.clone()), rule];
        let words: Vec<String> = words
            .into_iter()
            .flatten()
            .filter(|word| !word.is_empty())
            .collect();
        let cells = vec![
            at.to_owned(),
            kind.to_owned(),
            end.route.clone(),
            match end.code {
                0 => end.cause.clone(),
                code => format!("{code} {}", end.cause),
            },
            end.client.clone().unwrap_or_default(),
            end.user.clone().unwrap_or_default(),
            words.join("; "),
        ];
        Row { cells, tone }
    };
    Sheet {
        columns: ENDS,
        rows: ends.iter().map(row).collect(),
    }
}

pub(super) fn health(now: &Snapshot) -> Sheet {
    let mut rows = Vec::new();
    let mut add = |what: &str, state: &str, tone: Tone, detail: String| {
        rows.push(Row {
            cells: vec![what.to_owned(), state.to_owned(), detail],
            tone,
        });
    };
    let or_bad = |is_good: bool| if is_good { Tone::Plain } else { Tone::Bad };
    let or_warn = |is_good: bool| if is_good { Tone::Plain } else { Tone::Warn };
    let layer = &now.layer;
    add(
        "channel layer",
        if layer.connected { "ok" } else { "away" },
        or_bad(layer.connected),
        match layer.backend.as_str() {
            "redis" => format!(
                "Redis: {} events out, {} in, {} not taken",
                count(layer.published),
                count(layer.received),
                count(layer.unpublished)
            ),
            _ => "in memory".to_owned(),
        },
    );
    for (store, errors) in &now.store_errors {
        let detail = format!("{} queries without an answer", count(*errors));
        add(
            &format!("store {store}"),
            "look",
            or_warn(*errors == 0),
            detail,
        );
    }
    for (url, upstream) in &now.upstreams {
        let state = format!("{} of {} up", upstream.up, upstream.servers);
        let detail = format!(
            "{} now, {} in all",
            count(upstream.active),
            count(upstream.requests.values().sum())
        );
        add(url, &state, or_bad(upstream.up == upstream.servers), detail);
    }
    for (endpoint, open) in &now.backends {
        let state = if *open == 0 { "ok" } else { "away" };
        add(endpoint, state, or_bad(*open == 0), "backend".to_owned());
    }
    for (name, seconds) in &now.certificates {
        let left = *seconds as f64;
        let is_good = left > 14.0 * 86_400.0;
        add(
            &format!("certificate {name}"),
            "valid",
            or_warn(is_good),
            format!("for {}", duration(left)),
        );
    }
    let refused: u64 = now.connections.refused.values().sum();
    let reasons = now.connections.refused.iter();
    let reasons: Vec<String> = reasons
        .map(|(reason, times)| format!("{} by {reason}", count(*times)))
        .collect();
    let open = |by: &BTreeMap<String, u64>, name| count(by.get(name).copied().unwrap_or_default());
    let (protocols, security) = (&now.connections.protocols, &now.connections.security);
    add(
        "connections of HTTP",
        &count(now.connections.http),
        Tone::Plain,
        format!(
            "{} of HTTP/1.1, {} of HTTP/2, {} of them encrypted",
            open(protocols, "http1"),
            open(protocols, "http2"),
            open(security, "tls")
        ),
    );
    add(
        "connections refused",
        &count(refused),
        or_warn(refused == 0),
        reasons.join(", "),
    );
    add(
        "messages dropped",
        &count(now.messages.dropped),
        or_warn(now.messages.dropped == 0),
        String::new(),
    );
    add(
        "panics",
        &count(now.panics),
        or_bad(now.panics == 0),
        String::new(),
    );
    add(
        "log lines dropped",
        &count(now.log_lines_dropped),
        or_warn(now.log_lines_dropped == 0),
        String::new(),
    );
    let runtime = &now.runtime;
    add(
        "runtime",
        "ok",
        Tone::Plain,
        format!(
            "{} workers, {} tasks, {} waiting",
            runtime.workers,
            count(runtime.tasks),
            runtime.queue
        ),
    );
    add(
        "process",
        "ok",
        Tone::Plain,
        format!(
            "pid {}, {} threads, {} open files",
            now.process.pid,
            now.process.threads,
            count(now.process.open_fds)
        ),
    );
    Sheet {
        columns: HEALTH,
        rows,
    }
}

/// Returns the figures of the whole process, as labels and values.
pub(super) fn figures(now: &Snapshot, rates: &crate::stats::Rates) -> Vec<(&'static str, String)> {
    let of = |class: &str| rates.requests.get(class).copied().unwrap_or_default();
    vec![
        ("connections", count(now.connections.open)),
        ("sockets", count(now.sockets.open)),
        ("requests", rate(rates.requests_in_all())),
        ("5xx", rate(of("5xx"))),
        ("p50", latency(rates.p50)),
        ("p99", latency(rates.p99)),
        ("messages in", rate(rates.messages_received)),
        ("out", rate(rates.messages_sent)),
        ("bytes in", format!("{}/s", bytes(rates.bytes_received))),
        ("out", format!("{}/s", bytes(rates.bytes_sent))),
        ("opened", rate(rates.opened)),
        ("closed", rate(rates.closed)),
        ("processor", format!("{}%", short(rates.cpu * 100.0))),
        ("memory", bytes(now.process.resident_bytes as f64)),
        ("queues", bytes(now.sockets.queue_bytes as f64)),
        ("groups", count(now.groups)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{HttpRouteStats, WebsocketRouteStats};

    fn snapshot(uptime: f64, requests: u64, received: u64) -> Snapshot {
        let mut snapshot = Snapshot {
            node: "a".to_owned(),
            uptime,
            ..Snapshot::default()
        };
        let responses = [("2xx".to_owned(), requests)].into();
        snapshot.http.insert(
            "index".to_owned(),
            HttpRouteStats {
                responses,
                ..HttpRouteStats::default()
            },
        );
        let mut chat = WebsocketRouteStats {
            open: 3,
            ..WebsocketRouteStats::default()
        };
        chat.messages.received = received;
        snapshot.websocket.insert("chat".to_owned(), chat);
        snapshot
    }

    #[test]
    fn busiest_route_comes_first() {
        let (before, now) = (snapshot(10.0, 100, 0), snapshot(12.0, 110, 100));
        let names = |sort, is_reversed| -> Vec<String> {
            let sheet = routes(&now, Some(&before), sort, is_reversed);
            sheet
                .rows
                .into_iter()
                .map(|row| row.cells[0].clone())
                .collect()
        };
        assert_eq!(names(0, false), ["chat", "index"]);
        assert_eq!(names(0, true), ["index", "chat"]);
        assert_eq!(names(4, false), ["chat", "index"]);
        let sheet = routes(&now, Some(&before), 0, false);
        assert_eq!(sheet.rows[0].cells[4], "50/s");
        assert_eq!(sheet.rows[1].cells[3], "5/s");
    }

    #[test]
    fn rows_have_a_cell_for_each_column() {
        let now = snapshot(1.0, 1, 1);
        for sheet in [routes(&now, None, 0, false), health(&now)] {
            for row in &sheet.rows {
                assert_eq!(row.cells.len(), sheet.columns.len());
            }
        }
    }
}
