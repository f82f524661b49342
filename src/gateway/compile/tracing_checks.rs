//! Tracing checks: whether spans can be sent to the collector.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::compiler::Compiler;
use crate::config::{Config, Problem};
use crate::otlp::{Exporter, OtlpError, OtlpSettings};

impl Compiler<'_> {
    pub(super) fn check_tracing(&mut self) {
        let written = &self.config.tracing;
        let location = |key| written.location.key(key);
        if written.headers.preset.is_some() {
            let message = "expected header fields, found a preset, which is for responses";
            self.problems
                .push(Problem::error(location("headers"), message));
        }
        if written.service_name.is_empty() {
            let message = "expected the name of a service, found \"\"";
            self.problems
                .push(Problem::error(location("service_name"), message));
        }
        if let Some(Err(error)) = otlp_settings(self.config).map(Exporter::new) {
            let key = match error {
                OtlpError::Url(_) => "otlp",
                OtlpError::Tls(_) => "ca",
            };
            self.problems
                .push(Problem::error(location(key), error.to_string()));
        }
    }
}

/// Returns the settings of `[tracing]`; `None` if nothing is traced.
pub(crate) fn otlp_settings(config: &Config) -> Option<OtlpSettings> {
    let written = &config.tracing;
    let mut headers = HeaderMap::new();
    for (name, value) in &*written.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_str(value)) {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    (!written.otlp.is_empty()).then(|| OtlpSettings {
        url: written.otlp.clone(),
        ca: written.ca.0.clone(),
        headers,
        timeout: written.timeout,
        sample: written.sample,
        service_name: written.service_name.clone(),
        instance: instance(config),
    })
}

/// Returns the name of this process among those of the service.
fn instance(config: &Config) -> String {
    match config.server.name.as_str() {
        "" => format!("{:016x}", fastrand::u64(..)),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{Registry, compile};

    fn config(text: &str) -> Config {
        let parsed = Config::parse("a.toml", text, ".".as_ref(), &|_| None);
        parsed.unwrap().0
    }

    #[test]
    fn what_cannot_be_sent_is_named_with_its_place() {
        for (tracing, expected) in [
            (
                "otlp = 'collector:4318'",
                "tracing.otlp: expected \"http://HOST:PORT/PATH\"",
            ),
            ("otlp = 'https://a'\nca = 'missing.pem'", "tracing.ca: "),
            (
                "headers = { preset = 'page' }",
                "tracing.headers: expected header fields",
            ),
            (
                "service_name = ''",
                "tracing.service_name: expected the name of a service",
            ),
        ] {
            let config = config(&format!("[tracing]\n{tracing}\n"));
            let problems = compile(&config, &Registry::builtin()).unwrap_err();
            assert!(problems.to_string().contains(expected), "{problems}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let text =
            "[tracing]\notlp = 'http://a/?token=hidden'\nheaders = { authorization = 'hidden' }\n";
        let config = config(text);
        let settings = otlp_settings(&config).unwrap();
        let shown = format!("{:?} {settings:?}", config.tracing);
        assert!(!shown.contains("hidden"), "{shown}");
        assert_eq!(settings.headers["authorization"], "hidden");
    }
}
