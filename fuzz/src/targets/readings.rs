//! A path that is passed on is of the same route however the application reads it: the input is that of
//! `routing`.

use oneport::routing::{Resolution, Target};

use super::routing::table;

/// The ways in which servers read a path, written without regard to the router's own.
const WAYS: [fn(&str) -> String; 8] = [
    |path| replaced(path, "%2f", "/"),
    |path| replaced(path, "%5c", "\\"),
    |path| replaced(path, "%3b", ";"),
    |path| path.replace('\\', "/"),
    without_parameters,
    merged,
    without_host,
    // Python's `urllib.parse`: the start up to the second slash pair is a host, and slashes are merged.
    |path| merged(&without_host(path)),
];

/// How many of them meet.
const DEPTH: usize = 4;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some((router, paths)) = table(text) else {
        return;
    };
    for path in paths {
        let Resolution::Found(found) = router.resolve(&target(path)) else {
            continue;
        };
        if router.is_ambiguous(&target(path), found.index) {
            continue;
        }
        let mut readings = vec![path.to_owned()];
        let mut begin = 0;
        for _ in 0..DEPTH {
            let end = readings.len();
            for at in begin..end {
                for way in WAYS {
                    let read = way(&readings[at]);
                    if !readings.contains(&read) {
                        readings.push(read);
                    }
                }
            }
            begin = end;
        }
        for read in readings {
            match router.resolve(&target(&read)) {
                Resolution::Found(other) if other.index == found.index => {}
                other => panic!(
                    "{path:?} is passed on as route {}, {read:?} is {other:?}",
                    found.index
                ),
            }
        }
    }
}

fn target(raw_path: &str) -> Target<'_> {
    Target {
        raw_path,
        host: None,
        method: None,
    }
}

/// Replaces an escape, whose one letter may be small or large.
fn replaced(path: &str, escape: &str, with: &str) -> String {
    path.replace(escape, with)
        .replace(&escape.to_uppercase(), with)
}

fn without_parameters(path: &str) -> String {
    let segments: Vec<&str> = path
        .split('/')
        .map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name))
        .collect();
    segments.join("/")
}

fn merged(path: &str) -> String {
    let mut path = path.to_owned();
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    path
}

fn without_host(path: &str) -> String {
    match path.strip_prefix("//") {
        None => path.to_owned(),
        Some(rest) => match rest.split_once('/') {
            Some((_, path)) => format!("/{path}"),
            None => "/".to_owned(),
        },
    }
}
