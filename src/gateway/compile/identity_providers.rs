//! IdentityProviders: the sources of users besides sessions: bearer tokens and the app of
//! `[auth.forward]`.

use std::sync::Arc;

use http::HeaderName;

use crate::auth::bearer::{Bearer, BearerKey, BearerSettings, BearerSettingsError};
use crate::auth::forward::{Forward, ForwardSettings, ForwardSettingsError};
use crate::config::{
    self, BearerConfig, Config, ErrorLocations, ForwardConfig, Problem, Problems, SourceLocation,
    reason,
};

/// The sources of users besides sessions.
#[derive(Default)]
pub(super) struct IdentityProviders {
    pub(super) bearer: Option<Arc<Bearer>>,
    pub(super) forward: Option<Arc<Forward>>,
}

impl IdentityProviders {
    /// Reads the keys of `[auth.bearer]` and the URL of `[auth.forward]`.
    pub(super) fn new(
        config: &Config,
        error_locations: &ErrorLocations,
        problems: &mut Problems,
    ) -> Self {
        let auth = &config.auth;
        let is_known = |key: &str| !error_locations.overlaps(&auth.location.key(key));
        let written = auth.bearer.as_ref().filter(|_| is_known("bearer"));
        let bearer = written.and_then(|written| {
            let location = auth.location.key("bearer");
            bearer(written, &location)
                .map_err(|problem| problems.push(problem))
                .ok()
        });
        let written = auth.forward.as_ref().filter(|_| is_known("forward"));
        let forward = written.and_then(|written| {
            let location = auth.location.key("forward");
            forward(written)
                .map_err(|(key, sentence)| {
                    problems.push(Problem::error(location.key(key), sentence));
                })
                .ok()
        });
        Self {
            bearer: bearer.map(Arc::new),
            forward: forward.map(Arc::new),
        }
    }
}

fn bearer(written: &BearerConfig, location: &SourceLocation) -> Result<Bearer, Problem> {
    let read = |name: &str, file: &config::ConfigPath| {
        std::fs::read_to_string(file).map_err(|error| {
            let message = format!("cannot read {}: {}", file.0.display(), reason(&error));
            Problem::error(location.key(name), message)
        })
    };
    let (name, key) = match (&written.key, &written.key_file, &written.jwks_file) {
        (Some(key), None, None) => ("key", BearerKey::Text(key.0.clone())),
        (None, Some(file), None) => {
            let text = read("key_file", file)?;
            // An editor adds the newline at the end; it is not part of the key.
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            ("key_file", BearerKey::Text(text))
        }
        (None, None, Some(file)) => ("jwks_file", BearerKey::Jwks(read("jwks_file", file)?)),
        _ => {
            let message = "expected one of \"key\", \"key_file\" and \"jwks_file\"";
            return Err(Problem::error(location.clone(), message));
        }
    };
    let set = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let settings = BearerSettings {
        algorithms: written.algorithms.clone(),
        key,
        issuer: set(&written.issuer),
        audience: set(&written.audience),
        required: written
            .required
            .iter()
            .map(|(claim, value)| (claim.clone(), value.0.clone()))
            .collect(),
        leeway: written.leeway,
        user_id: written.user_id.clone(),
        user_name: written.user_name.clone(),
        is_staff: written.is_staff.clone(),
    };
    Bearer::new(settings).map_err(|error| {
        let key = match error {
            BearerSettingsError::NoAlgorithm
            | BearerSettingsError::Algorithm { .. }
            | BearerSettingsError::Families { .. } => "algorithms",
            BearerSettingsError::UserId => "user_id",
            BearerSettingsError::Required => "required",
            _ => name,
        };
        Problem::error(location.key(key), error.to_string())
    })
}

/// Returns the key of an error besides its sentence.
fn forward(written: &ForwardConfig) -> Result<Forward, (&'static str, String)> {
    let name = |name: &str| {
        let refused = || format!("expected the name of a header field, found {name:?}");
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| ("url", refused()))
    };
    let settings = ForwardSettings {
        url: written.url.clone(),
        ca: written.ca.clone().map(Into::into),
        request_headers: written
            .request_headers
            .iter()
            .map(|field| name(field))
            .collect::<Result<_, _>>()?,
        id_header: name(&written.id_header)?,
        name_header: name(&written.name_header)?,
        staff_header: name(&written.staff_header)?,
        cache: written.cache,
        timeout: written.timeout,
    };
    Forward::new(settings).map_err(|error| {
        let key = match error {
            ForwardSettingsError::Tls(_) => "ca",
            _ => "url",
        };
        (key, error.to_string())
    })
}
