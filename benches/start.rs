//! The cost of 10,000 routes at start: reading and compiling the file, compared with a file of 10.
//!
//! `cargo bench --bench start`
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints, and stops when it cannot go on"
)]

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use oneport::config::Config;
use oneport::gateway::{Registry, compile};

const ROUNDS: usize = 5;

fn main() {
    println!("reading and compiling a file, median of {ROUNDS} rounds");
    println!("| routes | time | per route |");
    println!("|---|---|---|");
    for routes in [10, 1_000, 10_000] {
        let text = file(routes);
        let mut times: Vec<Duration> = (0..ROUNDS).map(|_| start(&text)).collect();
        times.sort();
        let median = times[ROUNDS / 2];
        let each = median / u32::try_from(routes).expect("a count of routes");
        println!("| {routes} | {median:.1?} | {each:.1?} |");
    }
}

/// Half HTTP, half WebSocket; half of each literal, half with a parameter.
fn file(routes: usize) -> String {
    let mut text = String::new();
    for at in 0..routes / 4 {
        let _ = write!(
            text,
            "[[http.route]]\npath = '/page/{at}/'\nname = 'page{at}'\nview = 'respond'\noptions = {{ body = 'page {at}' }}\n\
             [[http.route]]\npath = '/section/{at}/{{id:int}}/'\nview = 'health'\n\
             [[websocket.route]]\npath = '/ws/{at}/'\nconsumer = 'echo'\n\
             [[websocket.route]]\npath = '/ws/room{at}/{{room:slug}}/'\nconsumer = 'chat'\noptions = {{ group = 'chat_{{room}}' }}\n"
        );
    }
    text
}

fn start(text: &str) -> Duration {
    let started = Instant::now();
    let (config, _) =
        Config::parse("bench.toml", text, Path::new("."), &|_| None).expect("a sound file");
    let (table, _) = compile(&config, &Registry::builtin()).expect("sound routes");
    let time = started.elapsed();
    drop(table);
    time
}
