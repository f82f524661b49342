//! The `[auth]` section: where users are stored, and how requests authenticate other than by a
//! session.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::read::source_location::SourceLocation;
use crate::config::values::checked::{
    HeaderNames, Identifier, LoginUrl, OptionalIdentifier, PositiveCount, PositiveDuration,
    WrittenName, via,
};
use crate::config::values::config_path::ConfigPath;
use crate::config::values::not_compared::NotCompared;
use crate::config::values::secret::Secret;
use crate::config::values::store_url::{StoreUrl, UsersUrl};
use crate::config::values::units::WrittenDuration;
use crate::net::url::hide_url;

/// `[auth]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Where users are stored. Default: `"sqlite:oneport.db"`, beside the file.
    #[serde(deserialize_with = "via::<UsersUrl, _, _>")]
    pub users: StoreUrl,
    /// Where visitors are redirected who must log in: a path or a URL. Default: `"/login/"`.
    #[serde(deserialize_with = "via::<LoginUrl, _, _>")]
    pub login_url: String,
    /// The lifetime of a ticket from the view `ticket`. Default: 30 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub ticket_max_age: Duration,
    /// The most passwords hashed at the same time. Default: 2.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub hashing_at_once: usize,
    /// `[auth.django]`.
    pub django: DjangoUsersConfig,
    /// `[auth.bearer]`; absent: no bearer tokens.
    pub bearer: Option<BearerConfig>,
    /// `[auth.forward]`; absent: no authentication by another server.
    pub forward: Option<ForwardConfig>,
    /// The section's location.
    #[serde(skip)]
    pub location: NotCompared<SourceLocation>,
}

/// `[auth.django]`: the user table of a Django project.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct DjangoUsersConfig {
    /// The table. Default: `"auth_user"`.
    #[serde(deserialize_with = "via::<Identifier, _, _>")]
    pub table: String,
    /// The column of the primary key. Default: `"id"`.
    #[serde(deserialize_with = "via::<Identifier, _, _>")]
    pub id: String,
    /// The type of that column. Default: `"integer"`.
    pub id_type: IdType,
    /// The column of the name. Default: `"username"`.
    #[serde(deserialize_with = "via::<Identifier, _, _>")]
    pub username: String,
    /// The column of the encoded password. Default: `"password"`.
    #[serde(deserialize_with = "via::<Identifier, _, _>")]
    pub password: String,
    /// The column with the permission to log in; empty: all users may. Default: `"is_active"`.
    #[serde(deserialize_with = "via::<OptionalIdentifier, _, _>")]
    pub is_active: String,
    /// The column that marks staff; empty: no user is staff. Default: `"is_staff"`.
    #[serde(deserialize_with = "via::<OptionalIdentifier, _, _>")]
    pub is_staff: String,
    /// `AUTHENTICATION_BACKENDS`. Default: `["django.contrib.auth.backends.ModelBackend"]`.
    pub backends: Vec<String>,
    /// Whether a session holds a hash of the password, as it does unless the user model overrides
    /// it. Default: `true`.
    pub session_auth_hash: bool,
}

/// The type of a primary key.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum IdType {
    /// A whole number.
    #[default]
    Integer,
    /// A UUID; in SQLite 32 hexadecimal digits.
    Uuid,
    /// Text.
    Text,
}

/// `[auth.bearer]`: JSON Web Tokens (RFC 7519).
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct BearerConfig {
    /// The accepted algorithms. Default: `["HS256"]`.
    pub algorithms: Vec<String>,
    /// A secret for HS..., or a public key in PEM. Give one of this, `key_file` and `jwks_file`.
    pub key: Option<Secret>,
    /// A file with the secret or public key.
    pub key_file: Option<ConfigPath>,
    /// A file with a JWK set (RFC 7517 §5).
    pub jwks_file: Option<ConfigPath>,
    /// The required `iss`; empty: any. Default: empty.
    pub issuer: String,
    /// The required `aud`; empty: any. Default: empty.
    pub audience: String,
    /// Claims that a token must have, with their values. Default: none.
    pub required: BTreeMap<String, ClaimValue>,
    /// The tolerated difference between clocks. Default: 30 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub leeway: Duration,
    /// The claim with the user's id. Default: `"sub"`.
    pub user_id: String,
    /// The claim with the user's name. Default: `"name"`.
    pub user_name: String,
    /// The claim that marks staff. Default: `"is_staff"`.
    pub is_staff: String,
}

/// The required value of a claim: a text, a number or a boolean.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimValue(pub serde_json::Value);

impl<'de> Deserialize<'de> for ClaimValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl Visitor<'_> for Scalar {
            type Value = ClaimValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or a boolean")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ClaimValue, E> {
                Ok(ClaimValue(text.into()))
            }

            fn visit_bool<E: de::Error>(self, boolean: bool) -> Result<ClaimValue, E> {
                Ok(ClaimValue(boolean.into()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ClaimValue, E> {
                Ok(ClaimValue(number.into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<ClaimValue, E> {
                let found = serde_json::Number::from_f64(number).ok_or_else(|| {
                    E::custom(format!("expected a finite number, found {number}"))
                })?;
                Ok(ClaimValue(found.into()))
            }
        }

        deserializer.deserialize_any(Scalar)
    }
}

/// `[auth.forward]`: a URL of the app that authenticates requests.
#[derive(Clone, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardConfig {
    /// The URL, http or https.
    pub url: String,
    /// The file of the certificates that are trusted with https. Default: those of the system.
    pub ca: Option<ConfigPath>,
    /// The request header fields that are forwarded; a request with none of them is anonymous.
    /// Default: `["cookie", "authorization"]`.
    #[serde(deserialize_with = "via::<HeaderNames, _, _>")]
    pub request_headers: Vec<String>,
    /// The response field with the user's id. Default: `"x-user-id"`.
    #[serde(deserialize_with = "via::<WrittenName, _, _>")]
    pub id_header: String,
    /// The response field with the user's name. Default: `"x-user-name"`.
    #[serde(deserialize_with = "via::<WrittenName, _, _>")]
    pub name_header: String,
    /// The response field that marks staff. Default: `"x-user-staff"`.
    #[serde(deserialize_with = "via::<WrittenName, _, _>")]
    pub staff_header: String,
    /// How long a response is reused; 0 asks each time. Default: 5 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub cache: Duration,
    /// The deadline of a response. Default: 2 s.
    #[serde(deserialize_with = "via::<PositiveDuration, _, _>")]
    pub timeout: Duration,
}

/// Displays the section without the URL's secrets.
impl fmt::Debug for ForwardConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardConfig")
            .field("url", &hide_url(&self.url))
            .finish_non_exhaustive()
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            users: StoreUrl::Sqlite(PathBuf::from("oneport.db")),
            login_url: "/login/".to_owned(),
            ticket_max_age: Duration::from_secs(30),
            hashing_at_once: 2,
            django: DjangoUsersConfig::default(),
            bearer: None,
            forward: None,
            location: NotCompared::default(),
        }
    }
}

impl Default for DjangoUsersConfig {
    fn default() -> Self {
        Self {
            table: "auth_user".to_owned(),
            id: "id".to_owned(),
            id_type: IdType::Integer,
            username: "username".to_owned(),
            password: "password".to_owned(),
            is_active: "is_active".to_owned(),
            is_staff: "is_staff".to_owned(),
            backends: vec!["django.contrib.auth.backends.ModelBackend".to_owned()],
            session_auth_hash: true,
        }
    }
}

impl Default for BearerConfig {
    fn default() -> Self {
        Self {
            algorithms: vec!["HS256".to_owned()],
            key: None,
            key_file: None,
            jwks_file: None,
            issuer: String::new(),
            audience: String::new(),
            required: BTreeMap::new(),
            leeway: Duration::from_secs(30),
            user_id: "sub".to_owned(),
            user_name: "name".to_owned(),
            is_staff: "is_staff".to_owned(),
        }
    }
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            ca: None,
            request_headers: ["cookie", "authorization"].map(str::to_owned).to_vec(),
            id_header: "x-user-id".to_owned(),
            name_header: "x-user-name".to_owned(),
            staff_header: "x-user-staff".to_owned(),
            cache: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
        }
    }
}
