//! Routing bench: a look-up in a small and in a large table, and how long the large one takes to
//! build.
//!
//! Run with `cargo bench --bench routing`. Look-ups alternate between both tables within each
//! round, so whatever else the machine does affects both; medians are printed.

#![allow(clippy::print_stdout, reason = "printing is what a bench is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use http::Method;
use oneport::routing::{Resolution, Route, RoutePattern, Target, UrlRouter};

const ROUNDS: usize = 200;
const LOOKUPS_PER_ROUND: usize = 2_000;
const SMALL: usize = 10;
const LARGE: usize = 10_000;

/// The sections of a small table. In a large one they show the cost of the walk alone; requests to
/// all sections of a large table add the cost of memory beyond the processor's caches.
const FEW: usize = SMALL / 4;

/// A kind of look-up: its name, and the path for a number.
type Case = (&'static str, fn(usize) -> String);

const CASES: [Case; 6] = [
    ("literal path, few", |n| {
        format!("/section-{}/about/", n % FEW)
    }),
    ("two params, few", |n| {
        format!("/section-{}/items/1234/edit/", n % FEW)
    }),
    ("literal path", |n| format!("/section-{n}/about/")),
    ("two params", |n| format!("/section-{n}/items/1234/edit/")),
    ("encoded path", |n| format!("/section-{n}/caf%C3%A9/a%20b/")),
    ("unknown path", |n| format!("/section-{n}/none/")),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let small = table(SMALL)?;
    let started = Instant::now();
    let large = table(LARGE)?;
    println!("build {LARGE} routes: {:?}", started.elapsed());
    for (name, path) in CASES {
        let (mut small_ns, mut large_ns) = (Vec::new(), Vec::new());
        let small_paths = paths(path, SMALL);
        let large_paths = paths(path, LARGE);
        for _ in 0..ROUNDS {
            small_ns.push(ns_per_lookup(&small, &small_paths));
            large_ns.push(ns_per_lookup(&large, &large_paths));
        }
        let (small, large) = (median(small_ns), median(large_ns));
        println!(
            "{name}: {small:.0} ns with {SMALL} routes, {large:.0} ns with {LARGE}, ratio {:.2}",
            large / small
        );
    }
    Ok(())
}

/// Half literal routes, half with params.
fn table(count: usize) -> Result<UrlRouter<usize>, Box<dyn std::error::Error>> {
    let mut routes = Vec::with_capacity(count);
    for index in 0..count {
        let section = index / 4;
        let path = match index % 4 {
            0 => format!("/section-{section}/about/"),
            1 => format!("/section-{section}/items/{{id:int}}/{{verb:slug}}/"),
            2 => format!("/section-{section}/café/{{dish}}/"),
            _ => format!("/section-{section}/"),
        };
        routes.push(Route::new(RoutePattern::path(&path)?, index));
    }
    UrlRouter::build(routes).map_err(|conflicts| format!("{conflicts:?}").into())
}

/// The same number of paths for any table, spread over its sections.
fn paths(path: fn(usize) -> String, routes: usize) -> Vec<String> {
    let sections = (routes / 4).max(1);
    (0..LOOKUPS_PER_ROUND)
        .map(|index| path(index * 7919 % sections))
        .collect()
}

fn ns_per_lookup(router: &UrlRouter<usize>, paths: &[String]) -> f64 {
    let started = Instant::now();
    let mut found = 0;
    for raw_path in paths {
        let target = Target {
            raw_path,
            host: Some("example.com"),
            method: Some(&Method::GET),
        };
        found += usize::from(matches!(
            black_box(router.resolve(&target)),
            Resolution::Found(_)
        ));
    }
    black_box(found);
    nanoseconds(started.elapsed()) / paths.len() as f64
}

fn nanoseconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
