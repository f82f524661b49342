//! Input: the parts that targets take from the fuzzer's bytes.

use std::cell::OnceCell;
use std::future::Future;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Splits the last bytes off: they choose how the bytes before them are used, so that a corpus file is
/// readable from its start.
#[must_use]
pub fn split_tail<const N: usize>(data: &[u8]) -> (&[u8], [u8; N]) {
    data.split_last_chunk::<N>()
        .map_or((data, [0; N]), |(front, tail)| (front, *tail))
}

/// Splits bytes into reads: all at once, byte by byte, or in pieces of a size.
#[must_use]
pub fn reads(data: &[u8], size: u8) -> Vec<&[u8]> {
    match size {
        0 => vec![data],
        size => data.chunks(usize::from(size)).collect(),
    }
}

/// Returns the header fields in lines of `name: value`. Lines that are none are left out.
#[must_use]
pub fn fields(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Runs a future on the thread's runtime, whose clock stands still unless all tasks wait: a deadline
/// costs no time.
pub fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    }
    RUNTIME.with(|runtime| {
        let start = || {
            let mut builder = Builder::new_current_thread();
            builder.enable_all().start_paused(true);
            let runtime = builder.build().expect("a runtime");
            // libFuzzer's `main` leaves SIGPIPE as it is, so a peer that closes would end the process.
            let handled = runtime.block_on(async { signal(SignalKind::pipe()) });
            let _ = handled.expect("a handler");
            runtime
        };
        runtime.get_or_init(start).block_on(future)
    })
}
