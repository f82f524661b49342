//! The fuzz targets: a function of the input for each, so that `fuzz_targets/` hands them to libFuzzer
//! and `tests/corpus.rs` runs them over the corpus without it.
//!
//! A target panics if a property does not hold. What the properties are is written at each target.

#![forbid(unsafe_code)]

pub mod input;
pub mod targets;

/// A target: a function of the input.
pub type Target = fn(&[u8]);

/// Calls a macro with the names of all targets.
#[macro_export]
macro_rules! with_targets {
    ($callback:ident) => {
        $callback! {
            backend_response,
            channels_redis,
            config,
            cookies,
            deflate,
            django_pickle,
            django_signing,
            encodings,
            events,
            forwarded,
            frames,
            gateway,
            group_patterns,
            handshake,
            head_scanner,
            layer_messages,
            proxy_protocol,
            ranges,
            readings,
            routing,
            server_api,
            tls,
            tokens,
            upstream_http1,
            upstream_http2,
        }
    };
}

macro_rules! list {
    ($($name:ident),* $(,)?) => {
        /// All targets by name.
        pub const TARGETS: &[(&str, Target)] = &[$((stringify!($name), targets::$name::run)),*];
    };
}

with_targets!(list);
