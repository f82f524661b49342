//! The `[session]` section: where sessions are stored, and the cookie that holds their key.

use std::time::Duration;

use serde::Deserialize;

use crate::config::read::source_location::SourceLocation;
use crate::config::values::checked::{
    CookieDomain, CookieName, CookiePath, Identifier, PositiveCount, PositiveDuration, via,
};
use crate::config::values::not_compared::NotCompared;
use crate::config::values::store_url::StoreUrl;
use crate::config::values::time_zone::TimeZone;
use crate::config::values::units::WrittenDuration;

/// `[session]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// Where sessions are stored. Default: `"sqlite:oneport.db"`, beside the file.
    pub store: StoreUrl,
    /// The cookie's name. Default: `"sessionid"`.
    #[serde(deserialize_with = "via::<CookieName, _, _>")]
    pub cookie: String,
    /// The lifetime of a session after its last change. Default: 14 d.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub max_age: Duration,
    /// The cookie's `Path`. Default: `"/"`.
    #[serde(deserialize_with = "via::<CookiePath, _, _>")]
    pub path: String,
    /// The cookie's `Domain`; empty: this host only. Default: empty.
    #[serde(deserialize_with = "via::<CookieDomain, _, _>")]
    pub domain: String,
    /// The cookie's `Secure`. Default: `"auto"`, set if the request came over https.
    pub secure: Secure,
    /// The cookie's `HttpOnly`. Default: `true`.
    pub http_only: bool,
    /// The cookie's `SameSite`. Default: `"lax"`.
    pub same_site: SameSite,
    /// How long a row that was read may be reused; 0 reads each time. Default: 1 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub cache: Duration,
    /// How often the logins of live sockets and event streams are checked; 0 never. Default: 3 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub check_interval: Duration,
    /// The deadline of a query. Default: 2 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub timeout: Duration,
    /// The most connections to the database. Default: 8.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub connections: usize,
    /// How often expired rows are deleted; 0 never. Default: 1 h.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub sweep_interval: Duration,
    /// `[session.django]`.
    pub django: DjangoSessionConfig,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

/// Whether a cookie is sent over https only.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Secure {
    /// If the request came over https.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A cookie's `SameSite` (RFC 6265bis §5.6.7).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// With requests from the same site, and with links to it.
    #[default]
    Lax,
    /// With requests from the same site only.
    Strict,
    /// With all requests; browsers require `Secure`.
    None,
}

/// `[session.django]`: the settings in which Django projects differ.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct DjangoSessionConfig {
    /// The salt of the signature; empty: that of Django's own session store. Default: empty.
    pub salt: String,
    /// The table. Default: `"django_session"`.
    #[serde(deserialize_with = "via::<Identifier, _, _>")]
    pub table: String,
    /// `TIME_ZONE` of a project that writes local times (`USE_TZ = False`); empty: UTC. Default:
    /// empty.
    pub time_zone: TimeZone,
    /// `KEY_PREFIX` of the cache. Default: empty.
    pub cache_key_prefix: String,
    /// `VERSION` of the cache. Default: 1.
    pub cache_version: u32,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            store: StoreUrl::Sqlite("oneport.db".into()),
            cookie: "sessionid".to_owned(),
            max_age: Duration::from_secs(14 * 24 * 3600),
            path: "/".to_owned(),
            domain: String::new(),
            secure: Secure::Auto,
            http_only: true,
            same_site: SameSite::Lax,
            cache: Duration::from_secs(1),
            check_interval: Duration::from_secs(3),
            timeout: Duration::from_secs(2),
            connections: 8,
            sweep_interval: Duration::from_secs(3600),
            django: DjangoSessionConfig::default(),
            location: NotCompared::default(),
        }
    }
}

impl Default for DjangoSessionConfig {
    fn default() -> Self {
        Self {
            salt: String::new(),
            table: "django_session".to_owned(),
            time_zone: TimeZone::default(),
            cache_key_prefix: String::new(),
            cache_version: 1,
        }
    }
}
